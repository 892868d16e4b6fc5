"""What a row of the table says about an operation."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from minidl.tensor import Tensor


class Draw:
    """Random arrays for one operation: the same in every run, whatever the other rows draw."""

    def __init__(self, name: str) -> None:
        self._rng = np.random.default_rng(zlib.crc32(name.encode()))

    def __call__(self, *shape: int) -> np.ndarray:
        """Numbers in ±[0.1, 2]: away from zero, where many functions have a kink or a pole."""
        return np.asarray(self._rng.choice([-1.0, 1.0], shape) * self.positive(*shape))

    def positive(self, *shape: int) -> np.ndarray:
        """Numbers in [0.1, 2]."""
        return np.asarray(self._rng.uniform(0.1, 2.0, shape))

    def apart(self, *shape: int) -> np.ndarray:
        """Numbers at least 0.1 from each other and from zero: a small step changes neither order nor sign."""
        count = int(np.prod(shape))
        return self._rng.permutation(0.2 * (np.arange(count) - count // 2) + 0.1).reshape(shape)

    def integers(self, high: int, *shape: int) -> np.ndarray:
        """Integers in [0, high)."""
        return np.asarray(self._rng.integers(high, size=shape))


class Sample:
    """Arguments to try an operation with.

    Floating-point arrays among the positional ones, alone or in lists, are its inputs; the rest are options.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        self.args, self.options = args, options

    @property
    def inputs(self) -> list[np.ndarray]:
        flat = [part for arg in self.args for part in (arg if isinstance(arg, list) else [arg])]
        return [part for part in flat if _is_input(part)]

    def apply(self, function: Callable[..., Any], inputs: Iterable[Any]) -> Any:
        """The function at this sample, with `inputs` in the places of its own."""
        values = iter(inputs)

        def fill(arg: Any) -> Any:
            if _is_input(arg):
                return next(values)
            return [fill(part) for part in arg] if isinstance(arg, list) else arg

        return function(*[fill(arg) for arg in self.args], **self.options)

    def __str__(self) -> str:
        return "-".join(
            [*map(_short, self.args), *(f"{name}={_short(v)}" for name, v in self.options.items())]
        )


def _is_input(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind == "f"


def _short(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return ("×".join(map(str, value.shape)) or "0-d") + ("" if _is_input(value) else f":{value.dtype}")
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_short, value))}]"
    return str(value).replace(" ", "")


def zeros(*shape: int) -> Tensor:
    """A tensor to make mistakes with."""
    return Tensor(np.zeros(shape, np.float32))


@dataclass(frozen=True)
class Mistake:
    """A call that must fail, with this message to the letter."""

    call: Callable[[], Any]
    error: type[Exception]
    message: str


@dataclass(frozen=True)
class Operation:
    """One row: an operation, what to try it with, and what it must agree with.

    Attributes:
        numpy: the same in plain NumPy: takes arrays where function takes tensors.
        torch: the same in PyTorch: takes the module `torch`, then tensors.
        differentiable: whether it has a gradient, and then its gradient one too.
        note: where it differs from PyTorch on purpose.
    """

    name: str
    function: Callable[..., Tensor]
    samples: Callable[[Draw], list[Sample]]
    numpy: Callable[..., Any] | None = None
    torch: Callable[..., Any] | None = None
    mistakes: tuple[Mistake, ...] = ()
    differentiable: bool = True
    note: str = ""

    def draw(self) -> list[Sample]:
        """The samples, the same every time."""
        return self.samples(Draw(self.name))
