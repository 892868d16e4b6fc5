"""Random decisions, and random arrays that follow from them."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

Shape = tuple[int, ...]


class Draw:
    """What a row draws its samples with: shapes and options by decision, then numbers that suit its domain.

    A decision asks `choose(n)` for one of 0, 1, …, n − 1, the simplest first; `choices` keeps the answers.
    The numbers follow from the operation's name and the choices before them. So a drawn sample is a name and
    a few small integers: hypothesis, which chooses in the tests, makes them smaller; `replay` repeats them.
    """

    def __init__(self, name: str, choose: Callable[[int], int] = lambda n: 0) -> None:
        self.choices: list[int] = []
        self._seed = zlib.crc32(name.encode())
        self._choose = choose
        self._rng = np.random.default_rng([self._seed])

    # Decisions

    def pick(self, *options: Any) -> Any:
        """One of the options, of which the first is the simplest."""
        choice = self._choose(len(options))
        self.choices.append(choice)
        self._rng = np.random.default_rng([self._seed, *self.choices])
        return options[choice]

    def number(self, low: int, high: int) -> int:
        """An integer, low and high included."""
        return self.pick(*range(low, high + 1))

    def flag(self) -> bool:
        return self.pick(False, True)

    def options(self, **values: tuple[Any, ...]) -> dict[str, Any]:
        """Some of the keyword arguments, each with one of its values; the others keep their defaults."""
        return {name: self.pick(*choices) for name, choices in values.items() if self.flag()}

    def shape(self, least: int = 0, most: int = 3, sides: Shape = (2, 1, 3, 0)) -> Shape:
        """The shape of an array of `least` to `most` axes; empty if a side is 0."""
        return tuple(self.pick(*sides) for _ in range(self.number(least, most)))

    def full_shape(self, least: int = 0, most: int = 3) -> Shape:
        """The shape of an array that is not empty."""
        return self.shape(least, most, sides=(2, 1, 3))

    def broadcast(self, shape: Shape) -> Shape:
        """A shape that broadcasts to `shape`: without its first axes, and with 1 for some others."""
        return tuple(self.pick(n, 1) for n in shape[self.number(0, len(shape)) :])

    def axis(self, ndim: int) -> int:
        """One of the axes, counted from the front or from the back."""
        return self.pick(*range(ndim), *range(-ndim, 0))

    def axes(self, ndim: int) -> int | tuple[int, ...] | None:
        """What a reduction takes: no axis in particular, one, or several in any order."""
        if ndim == 0 or self.flag():
            return None
        first = self.axis(ndim)
        if self.flag():
            return first
        others = [axis for axis in range(ndim) if axis != first % ndim and self.flag()]
        return tuple(self.pick([first, *others], [*others, first]))

    def order(self, ndim: int) -> tuple[int, ...]:
        """The axes in any order."""
        left = list(range(ndim))
        return tuple(left.pop(self.number(0, len(left) - 1)) for _ in range(ndim))

    def pair(self, low: int, high: int) -> int | tuple[int, int]:
        """A number for both axes of a picture, or one for each."""
        return (self.number(low, high), self.number(low, high)) if self.flag() else self.number(low, high)

    def picture(self, kernel: Any, dilation: Any = 1, padding: Any = 0, **_: Any) -> tuple[int, int]:
        """The size of a picture that a window with these options just fits into, or a larger one."""
        spans = zip(both(kernel), both(dilation), both(padding), strict=True)
        height, width = (max(1, d * (k - 1) + 1 - 2 * p) + self.number(0, 3) for k, d, p in spans)
        return height, width

    # Numbers, which float32 holds exactly: so both types compute with the same

    def __call__(self, *shape: int) -> np.ndarray:
        """Numbers in ±[0.1, 2]: away from zero, where many functions have a kink or a pole."""
        return np.asarray(self._rng.choice([-1.0, 1.0], shape) * self.positive(*shape))

    def positive(self, *shape: int) -> np.ndarray:
        """Numbers in [0.1, 2]."""
        return np.asarray(self._rng.uniform(0.1, 2.0, shape).astype(np.float32).astype(np.float64))

    def fractions(self, *shape: int) -> np.ndarray:
        """Numbers in [0.05, 1]."""
        return np.asarray(self.positive(*shape) / 2)

    def apart(self, *shape: int) -> np.ndarray:
        """Odd sixteenths, 1/8 apart and 1/16 from zero: a small step changes neither order nor sign."""
        count = int(np.prod(shape))
        return self._rng.permutation((2 * (np.arange(count) - count // 2) + 1) / 16).reshape(shape)

    def between(self, *shape: int) -> np.ndarray:
        """Even sixteenths, which `apart` never gives."""
        return np.asarray(self.apart(*shape) + 1 / 16)

    def integers(self, high: int, *shape: int) -> np.ndarray:
        """Integers in [0, high)."""
        return np.asarray(self._rng.integers(high, size=shape))

    def mask(self, *shape: int) -> np.ndarray:
        """Booleans."""
        return np.asarray(self.integers(2, *shape) == 1)


def both(value: int | tuple[int, int]) -> tuple[int, int]:
    """What a number or a pair means for the two axes of a picture."""
    return value if isinstance(value, tuple) else (value, value)
