"""Sums, means, variances and extrema along axes.

`axis` is None (all), an integer or several; `keepdims` keeps each reduced axis with length 1. They may be
called `dim` and `keepdim` as in PyTorch, except in max and min, which would return a pair there.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

from minidl.autograd import Function
from minidl.backend import Array, array_module, device_of
from minidl.backend.blocks import along, sum_of
from minidl.functional.arithmetic import exp, log
from minidl.functional.shape import positive_axis
from minidl.tensor import Tensor

Axis = int | tuple[int, ...] | None


def _axes(axis: Axis, ndim: int) -> tuple[int, ...]:
    """`axis` as a tuple of non-negative integers. Raises IndexError for an axis that is not there."""
    given = range(ndim) if axis is None else (axis,) if isinstance(axis, int) else axis
    return tuple(positive_axis(a, ndim) for a in given)


def takes_dim(operation: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The operation, with `dim` and `keepdim` as other names of its `axis` and `keepdims`."""

    @functools.wraps(operation)
    def call(*inputs: Any, **options: Any) -> Tensor:
        for other, name in (("dim", "axis"), ("keepdim", "keepdims")):
            if other in options and name not in options:
                options[name] = options.pop(other)
        return operation(*inputs, **options)

    return call


class Sum(Function):
    """y = Σ x        ∂L/∂x = ∂L/∂y, copied to every element that was added"""

    def __init__(self, axis: tuple[int, ...], keepdims: bool) -> None:
        self.axis, self.keepdims = axis, keepdims

    def forward(self, x: Array) -> Array:
        self.x_shape = x.shape
        return sum_of(x, self.axis, self.keepdims)

    def backward(self, dy: Tensor) -> Tensor:
        return expand_axes(dy, self).broadcast_to(self.x_shape)


class Max(Function):
    """y = max x        ∂L/∂x = ∂L/∂y where x is the largest; where k elements tie, a k-th to each"""

    def __init__(self, axis: tuple[int, ...], keepdims: bool) -> None:
        self.axis, self.keepdims = axis, keepdims

    extremum = "max"

    def forward(self, x: Array) -> Array:
        self.x_shape = x.shape
        y = array_module(x).empty(tuple(1 if i in self.axis else n for i, n in enumerate(x.shape)), x.dtype)
        if len(self.axis) == 1:
            along(*self.axis, self.find, x, y)
        else:
            self.find(x, y, self.axis)
        if self.needs_grad[0]:
            ties = (x == y).astype(x.dtype)
            self.save(share=ties / sum_of(ties, self.axis, keepdims=True))
        return y if self.keepdims else y.squeeze(self.axis)

    def find(self, x: Array, y: Array, axis: Axis) -> None:
        if device_of(x) == "gpu":  # no `out`: CuPy 14's min takes it for the dtype
            y[...] = getattr(x, self.extremum)(axis=axis, keepdims=True)
        else:
            getattr(x, self.extremum)(axis=axis, keepdims=True, out=y)

    def backward(self, dy: Tensor) -> Tensor:
        (share,) = self.saved
        return expand_axes(dy, self) * share


class Min(Max):
    """y = min x        ∂L/∂x = ∂L/∂y where x is the smallest; where k elements tie, a k-th to each"""

    extremum = "min"


def expand_axes(dy: Tensor, reduction: Sum | Max) -> Tensor:
    """∂L/∂y with the reduced axes put back, each of length 1."""
    if reduction.keepdims:
        return dy
    return dy.reshape(tuple(1 if i in reduction.axis else n for i, n in enumerate(reduction.x_shape)))


@takes_dim
def sum(x: Tensor, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Σ x over `axis`."""
    return Sum(_axes(axis, x.ndim), keepdims)(x)


@takes_dim
def mean(x: Tensor, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Σ x / n over the n elements along `axis`."""
    n = math.prod(x.shape[a] for a in _axes(axis, x.ndim))
    return sum(x, axis, keepdims) / n


@takes_dim
def var(x: Tensor, axis: Axis = None, keepdims: bool = False, correction: int = 1) -> Tensor:
    """Σ (x − mean)² / (n − correction): unbiased with correction = 1, the batch-norm variance with 0."""
    n = math.prod(x.shape[a] for a in _axes(axis, x.ndim))
    deviation = x - mean(x, axis, keepdims=True)
    return sum(deviation * deviation, axis, keepdims) / (n - correction)


def max(x: Tensor, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The largest element along `axis`; ties share the gradient equally."""
    return Max(_axes(axis, x.ndim), keepdims)(x)


def min(x: Tensor, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The smallest element along `axis`; ties share the gradient equally."""
    return Min(_axes(axis, x.ndim), keepdims)(x)


@takes_dim
def logsumexp(x: Tensor, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """ln Σ eˣ = m + ln Σ eˣ⁻ᵐ with m = max x, so that no exponential overflows."""
    m = x.detach().max(axis, keepdims=True)
    m = Tensor(array_module(m.data).nan_to_num(m.data, posinf=0.0, neginf=0.0))  # ∞ − ∞ is no number
    y = log(sum(exp(x - m), axis, keepdims=True)) + m
    if keepdims:
        return y
    reduced = _axes(axis, x.ndim)
    return y.reshape(tuple(n for i, n in enumerate(x.shape) if i not in reduced))


@takes_dim
def argmax(x: Tensor, axis: int | None = None) -> Tensor:
    """The index of the first largest element; integers have no gradient."""
    return Tensor(x.data.argmax(axis=None if axis is None else positive_axis(axis, x.ndim)))
