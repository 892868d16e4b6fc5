"""A tensor that a module learns."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from minidl.backend import array_module
from minidl.tensor import Tensor


class Parameter(Tensor):
    """A leaf that belongs to a model: `module.weight = Parameter(array)` registers it under that name."""

    __slots__ = ()

    def __init__(self, data: Any, requires_grad: bool = True) -> None:
        super().__init__(data, requires_grad)


def zero_grad(parameters: Iterable[Tensor], set_to_none: bool) -> None:
    """Drop every gradient, or else put zeros in its place."""
    for p in parameters:
        if set_to_none:
            p.grad = None
        elif p.grad is not None:
            p.grad = Tensor(array_module(p.data).zeros_like(p.data))
