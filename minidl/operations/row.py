"""What a row of the table says about an operation."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from minidl.operations.draw import Draw
from minidl.tensor import Tensor


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
        """Short, for the name of a test: arrays by their shapes."""
        return "-".join(
            [*map(_short, self.args), *(f"{name}={_short(v)}" for name, v in self.options.items())]
        )

    def __repr__(self) -> str:
        """As it is called: inputs by their shapes, everything else in full."""
        options = [f"{name}={_full(v)}" for name, v in self.options.items()]
        return f"({', '.join([*map(_full, self.args), *options])})"


def _is_input(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind == "f"


def _sides(x: np.ndarray) -> str:
    return "×".join(map(str, x.shape)) or "0-d"


def _short(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return _sides(value) + ("" if _is_input(value) else f":{value.dtype}")
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_short, value))}]"
    return str(value).replace(" ", "")


def _full(value: Any) -> str:
    if _is_input(value):
        return _sides(value)
    if isinstance(value, tuple):
        return f"({', '.join(map(_full, value))}{',' * (len(value) == 1)})"
    if isinstance(value, list):
        return f"[{', '.join(map(_full, value))}]"
    return f"array({value.tolist()})" if isinstance(value, np.ndarray) else repr(value)


def torch_functional(name: str) -> Callable[..., Any]:
    """torch.nn.functional's function of that name, as a row wants it."""
    return lambda t, *args, **options: getattr(t.nn.functional, name)(*args, **options)


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
class Kink:
    """A point without a derivative, and which of the slopes around it backward takes there: ∂(Σ y)/∂input."""

    sample: Sample
    gradients: tuple[Any, ...]  # nested lists of numbers, one for each input


@dataclass(frozen=True)
class Operation:
    """One row: an operation, what to try it with, and what it must agree with.

    Attributes:
        samples: what to try it with, chosen by hand: the least that tells every rule of it.
        drawn: any sample that it accepts, by the decisions of Draw.
        numpy: the same in plain NumPy: takes arrays where function takes tensors.
        torch: the same in PyTorch: takes the module `torch`, then tensors. NotImplemented where it cannot.
        differentiable: whether it has a gradient, and then its gradient one too.
        note: where it differs from PyTorch on purpose.
    """

    name: str
    function: Callable[..., Tensor]
    samples: Callable[[Draw], list[Sample]]
    drawn: Callable[[Draw], Sample]
    numpy: Callable[..., Any]
    torch: Callable[..., Any]
    mistakes: tuple[Mistake, ...]
    kinks: tuple[Kink, ...] = ()
    differentiable: bool = True
    note: str = ""

    def listed(self) -> list[Sample]:
        """The samples chosen by hand, with the same numbers every time."""
        return self.samples(Draw(self.name))

    def draw(self, choose: Callable[[int], int]) -> Case:
        """A sample by these decisions."""
        r = Draw(self.name, choose)
        sample = self.drawn(r)
        return Case(self, r.choices, sample)


class Case:
    """A drawn sample, and the choices that led to it; printed, the line that repeats its checks."""

    def __init__(self, row: Operation, choices: list[int], sample: Sample) -> None:
        self.row, self.choices, self.sample = row, choices, sample

    def __repr__(self) -> str:
        return f"minidl.operations.replay({', '.join(map(repr, (self.row.name, *self.choices)))})"
