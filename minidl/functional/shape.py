"""Moving elements without changing them: a gradient is the same move backwards."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from minidl.autograd import Function
from minidl.backend import Array, array_module
from minidl.backend.im2col import is_integer
from minidl.backend.memory import padded
from minidl.errors import ShapeError
from minidl.functional.arithmetic import in_one_type
from minidl.tensor import Tensor


class View(Function):
    """An operation whose output may share memory with its input: a change of one counts as one of both."""

    is_view = True

    def __call__(self, *inputs: Tensor) -> Tensor:
        y = super().__call__(*inputs)
        if self.is_view:
            y._version = inputs[0].shared_version()
        return y


class Reshape(View):
    """y = x with another shape        ∂L/∂x = ∂L/∂y with the old one"""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.new_shape = shape

    def forward(self, x: Array) -> Array:
        self.x_shape = x.shape
        return x.reshape(self.new_shape)

    def backward(self, dy: Tensor) -> Tensor:
        return reshape(dy, self.x_shape)


class Permute(View):
    """y[i_p0, i_p1, …] = x[i_0, i_1, …]        ∂L/∂x = ∂L/∂y, permuted back"""

    def __init__(self, axes: tuple[int, ...]) -> None:
        self.axes = axes

    def forward(self, x: Array) -> Array:
        return x.transpose(self.axes)

    def backward(self, dy: Tensor) -> Tensor:
        back = sorted(range(len(self.axes)), key=self.axes.__getitem__)
        return permute(dy, tuple(back))


class BroadcastTo(View):
    """y = x repeated to a larger shape        ∂L/∂x = Σ ∂L/∂y over the repetitions

    The engine adds them up (`unbroadcast`), as it does for every operation that broadcasts.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.new_shape = shape

    def forward(self, x: Array) -> Array:
        return array_module(x).broadcast_to(x, self.new_shape)

    def backward(self, dy: Tensor) -> Tensor:
        return dy


class Index(View):
    """y = x[index]        ∂L/∂x = 0, with ∂L/∂y added at `index` (each time, where it repeats)"""

    def __init__(self, index: Any) -> None:
        self.index = index
        parts = index if isinstance(index, tuple) else (index,)
        # Slices and integers give a view that meets no element twice; arrays and masks a copy that may.
        basic = (int, np.integer, slice, type(None), type(...))
        self.is_view = all(isinstance(part, basic) for part in parts)

    def forward(self, x: Array) -> Array:
        self.x_shape = x.shape
        y = x[self.index]
        return array_module(x).asarray(y)

    def backward(self, dy: Tensor) -> Tensor:
        return PutAdd(self.index, self.x_shape, self.is_view)(dy)


class PutAdd(Function):
    """y = 0 with x added at `index`        ∂L/∂x = ∂L/∂y[index]"""

    def __init__(self, index: Any, shape: tuple[int, ...], distinct: bool) -> None:
        self.index, self.new_shape, self.distinct = index, shape, distinct

    def forward(self, x: Array) -> Array:
        xp = array_module(x)
        y = xp.zeros(self.new_shape, x.dtype)
        if self.distinct:
            y[self.index] = x
        else:
            xp.add.at(y, self.index, x)
        return y

    def backward(self, dy: Tensor) -> Tensor:
        return getitem(dy, self.index)


class Concatenate(Function):
    """y = [x₀ x₁ …] along `axis`        ∂L/∂xᵢ = the part of ∂L/∂y that came from xᵢ"""

    def __init__(self, axis: int) -> None:
        self.axis = axis

    def forward(self, *xs: Array) -> Array:
        self.lengths = [x.shape[self.axis] for x in xs]
        return array_module(xs[0]).concatenate(xs, axis=self.axis)

    def backward(self, dy: Tensor) -> tuple[Tensor | None, ...]:
        before = (slice(None),) * self.axis
        gradients, start = [], 0
        for length, needed in zip(self.lengths, self.needs_grad, strict=True):
            gradients.append(dy[(*before, slice(start, start + length))] if needed else None)
            start += length
        return tuple(gradients)


class Pad(Function):
    """y = x with a border of `value`        ∂L/∂x = ∂L/∂y without the border"""

    def __init__(self, widths: Sequence[tuple[int, int]], value: float) -> None:
        self.widths, self.value = widths, value

    def forward(self, x: Array) -> Array:
        return padded(x, self.widths, self.value)

    def backward(self, dy: Tensor) -> Tensor:
        inside = zip(self.widths, dy.shape, strict=True)
        return dy[tuple(slice(before, n - after) for (before, after), n in inside)]


def positive_axis(axis: int, ndim: int) -> int:
    """The axis counted from the front. Raises IndexError for one that is not there."""
    if not -ndim <= axis < ndim:
        raise IndexError(f"axis {axis} is out of bounds for a tensor of {ndim} dimensions")
    return axis % ndim


def plain(value: Any) -> Any:
    """An index or other argument as NumPy and CuPy take it: each Tensor in it by its array."""
    if isinstance(value, tuple):
        return tuple(map(plain, value))
    if isinstance(value, list):
        return [*map(plain, value)]
    return value.data if isinstance(value, Tensor) else value


def _dims(shape: tuple[Any, ...]) -> tuple[int, ...]:
    """reshape(2, 3) and reshape((2, 3)) mean the same."""
    return tuple(shape[0]) if len(shape) == 1 and not isinstance(shape[0], int) else tuple(shape)


def reshape(x: Tensor, *shape: Any) -> Tensor:
    """x in another shape with as many elements; one entry may be −1, which means "the rest"."""
    dims = _dims(shape)
    try:
        return Reshape(dims)(x)
    except ValueError:
        raise ShapeError(f"cannot reshape {x.shape} ({x.numel()} elements) to {dims}") from None


def flatten(x: Tensor, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """x with the axes start_dim … end_dim made one: (N, C, H, W) → (N, C·H·W) for start_dim = 1."""
    if x.ndim == 0:
        return reshape(x, 1)
    start, end = positive_axis(start_dim, x.ndim), positive_axis(end_dim, x.ndim)
    if start > end:
        raise ShapeError(
            f"cannot flatten {x.shape} from axis {start_dim} to axis {end_dim}: "
            "the first must not lie after the last"
        )
    return reshape(x, (*x.shape[:start], math.prod(x.shape[start : end + 1]), *x.shape[end + 1 :]))


def permute(x: Tensor, *axes: Any) -> Tensor:
    """x with its axes in the order `axes`."""
    dims = _dims(axes)
    order = tuple(positive_axis(axis, x.ndim) for axis in dims)
    if sorted(order) != list(range(x.ndim)):
        raise ShapeError(f"cannot permute {x.shape} by {dims}: each of the {x.ndim} axes must be named once")
    return Permute(order)(x)


def transpose(x: Tensor, axis0: int = -2, axis1: int = -1) -> Tensor:
    """x with two axes exchanged."""
    axes, i, j = list(range(x.ndim)), positive_axis(axis0, x.ndim), positive_axis(axis1, x.ndim)
    axes[i], axes[j] = j, i
    return permute(x, tuple(axes))


def broadcast_to(x: Tensor, *shape: Any) -> Tensor:
    """x repeated along new axes and along axes of length 1, without copying."""
    dims = _dims(shape)
    try:
        return BroadcastTo(dims)(x)
    except ValueError:
        raise ShapeError(f"cannot broadcast {x.shape} to {dims}") from None


def getitem(x: Tensor, index: Any) -> Tensor:
    """x[index] as in NumPy: integers, slices, None, ..., integer arrays and boolean masks."""
    return Index(plain(index))(x)


def concatenate(xs: Sequence[Tensor], axis: int = 0) -> Tensor:
    """Several tensors joined along an axis that they have."""
    if not len(xs):
        raise ShapeError("concatenate joins one tensor or more, got none")
    axis = positive_axis(axis, xs[0].ndim)
    try:
        return Concatenate(axis)(*in_one_type(*xs))
    except ValueError:
        shapes = ", ".join(str(x.shape) for x in xs)
        raise ShapeError(
            f"cannot concatenate {shapes} along axis {axis}: all other axes must agree"
        ) from None


def stack(xs: Sequence[Tensor], axis: int = 0) -> Tensor:
    """Several tensors of one shape joined along a new axis."""
    if not len(xs):
        raise ShapeError("stack joins one tensor or more, got none")
    if len({x.shape for x in xs}) > 1:
        raise ShapeError(f"cannot stack {', '.join(str(x.shape) for x in xs)}: the shapes must be equal")
    axis = positive_axis(axis, xs[0].ndim + 1)
    return concatenate([reshape(x, (*x.shape[:axis], 1, *x.shape[axis:])) for x in xs], axis)


def pad(x: Tensor, widths: Sequence[tuple[int, int]], value: float = 0.0) -> Tensor:
    """x with `widths[i]` = (before, after) elements of `value` added along axis i."""
    right = isinstance(widths, (list, tuple, np.ndarray)) and len(widths) == x.ndim
    if not right or not all(
        np.shape(ends) == (2,) and all(is_integer(n, 0) for n in ends) for ends in widths
    ):
        raise ShapeError(
            f"pad needs (before, after), both ≥ 0, for each of the {x.ndim} axes of {x.shape}, got {widths}"
        )
    return Pad(widths, value)(x)


def squeeze(x: Tensor, axis: int | None = None) -> Tensor:
    """x without `axis` (if its length is 1), or without every axis of length 1."""
    drop = range(x.ndim) if axis is None else (positive_axis(axis, x.ndim),)
    return reshape(x, tuple(n for i, n in enumerate(x.shape) if n != 1 or i not in drop))


def unsqueeze(x: Tensor, axis: int) -> Tensor:
    """x with a new axis of length 1 at `axis`."""
    axis = positive_axis(axis, x.ndim + 1)
    return reshape(x, (*x.shape[:axis], 1, *x.shape[axis:]))
