"""Pooling: each window of a feature map becomes one number, its largest or its mean.

What is done with the numbers in the windows stands in `backend/pooling.py`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minidl.autograd import Function
from minidl.backend import Array, array_module
from minidl.backend import pooling as work
from minidl.backend.im2col import Pair, Window, pair
from minidl.backend.memory import empty, in_the_order_of
from minidl.errors import ShapeError
from minidl.functional.arithmetic import floating
from minidl.functional.matmul import matmul
from minidl.functional.reduction import mean
from minidl.functional.shape import getitem, reshape
from minidl.tensor import Tensor


class MaxPool2d(Function):
    """y = max of each window        ∂L/∂x = ∂L/∂y at the pixel that was the largest, the first of several

    NaN counts as the largest, the last of several, as in PyTorch.

    Which pixel that was, counted row by row in the window, is its switch: one byte for windows up to 16×16.
    The border is −∞, or the smallest integer.  Shapes: (N, C, H, W) → (N, C, *places).
    """

    def __init__(self, window: Window, places: Pair, keep_switches: bool) -> None:
        self.window, self.places, self.keep_switches = window, places, keep_switches

    def forward(self, x: Array) -> Array:
        self.size = x.shape[2:]
        seen = work.windows_of(x, self.window, self.places, work.smallest(x.dtype))
        y = empty(array_module(x), (*x.shape[:2], *self.places), x.dtype, like=x)
        if self.keep_switches or self.needs_grad[0]:
            switches = work.first_pixels_inside(x, self.window, self.places)
            work.for_each_piece(work.largest_and_where, seen, y, switches)
            if y.dtype.kind == "f" and array_module(y).isnan(y).any():
                work.for_each_piece(work.where_nan, seen, switches)
            self.save(switches=switches)
            if self.keep_switches:
                self.switches = switches
        else:
            work.for_each_piece(work.largest, seen, y)
        return y

    def backward(self, dy: Tensor) -> Tensor:
        (switches,) = self.saved
        return Unpool(switches.data, self.window, self.size)(dy)


class Unpool(Function):
    """y = 0, with x added at the pixel of each window that its switch names        ∂L/∂x = ∂L/∂y picked there

    Shapes: (N, C, OH, OW) → (N, C, *size).
    """

    def __init__(self, switches: Array, window: Window, size: Pair) -> None:
        self.switches, self.window, self.size = switches, window, size

    def forward(self, x: Array) -> Array:
        x = in_the_order_of(self.switches, x)
        y, bordered, seen = work.empty_windows(x, self.window, self.size, like=self.switches)
        work.write_windows(self.window, work.put, work.put_apart, seen, bordered, x, self.switches)
        return y

    def backward(self, dy: Tensor) -> Tensor:
        return Pick(self.switches, self.window)(dy)


class Pick(Function):
    """y = the pixel of each window that its switch names        ∂L/∂x = ∂L/∂y added there

    Shapes: (N, C, H, W) → (N, C, OH, OW).
    """

    def __init__(self, switches: Array, window: Window) -> None:
        self.switches, self.window = switches, window

    def forward(self, x: Array) -> Array:
        self.size = x.shape[2:]
        y = empty(array_module(x), self.switches.shape, x.dtype, like=x)
        work.for_each_piece(work.pick, work.windows_of(x, self.window, y.shape[2:], 0), y, self.switches)
        return y

    def backward(self, dy: Tensor) -> Tensor:
        return Unpool(self.switches, self.window, self.size)(dy)


class AvgPool2d(Function):
    """y = Σ x / count over each window        ∂L/∂x = ∂L/∂y / count, added to every pixel of the window

    `counts` is one number, or one for each place (OH, OW).  Shapes: (N, C, H, W) → (N, C, *places).
    """

    def __init__(self, window: Window, places: Pair, counts: Any) -> None:
        self.window, self.places, self.counts = window, places, counts

    def forward(self, x: Array) -> Array:
        self.size = x.shape[2:]
        y = empty(array_module(x), (*x.shape[:2], *self.places), x.dtype, like=x)
        work.for_each_piece(work.add_up, work.windows_of(x, self.window, self.places, 0), y)
        y /= work.on_device_of(x, self.counts)
        return y

    def backward(self, dy: Tensor) -> Tensor:
        return AvgUnpool2d(self.window, self.size, self.counts)(dy)


class AvgUnpool2d(Function):
    """y = 0, with x / count added to every pixel of each window        ∂L/∂x = Σ ∂L/∂y / count

    Shapes: (N, C, OH, OW) → (N, C, *size).
    """

    def __init__(self, window: Window, size: Pair, counts: Any) -> None:
        self.window, self.size, self.counts = window, size, counts

    def forward(self, x: Array) -> Array:
        self.places = x.shape[2:]
        y, bordered, seen = work.empty_windows(x, self.window, self.size, like=x)
        x = x / work.on_device_of(x, self.counts)
        runs = work.put_everywhere, work.put_everywhere_apart
        work.write_windows(self.window, *runs, seen, bordered, x)
        return y

    def backward(self, dy: Tensor) -> Tensor:
        return AvgPool2d(self.window, self.places, self.counts)(dy)


# The functions


def _check_maps(x: Tensor) -> None:
    if x.ndim != 4:
        raise ShapeError(f"expected feature maps of (N, C, H, W), got {x.shape}")


def pooling_window(
    x: Tensor, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool
) -> tuple[Window, Pair]:
    """The window that the options mean, and how often it fits into x.

    With `ceil_mode` a last window may stick out beyond the border, if it begins on the picture or before.

    Raises:
        ShapeError: x is no batch of feature maps, the border is too wide, or the window does not fit.
    """
    _check_maps(x)
    window = Window.of(kernel_size, kernel_size if stride is None else stride, padding, dilation)
    if any(p > e // 2 for p, e in zip(window.padding, window.extent, strict=True)):
        raise ShapeError(
            f"padding must be at most half of the window, got {padding} for a kernel of {kernel_size}"
        )
    size = (x.shape[2], x.shape[3])
    oh, ow = window.places(size)
    if ceil_mode:
        oh, ow = (
            o + (o * s < n + p and (o - 1) * s + e < n + 2 * p)
            for n, o, s, p, e in zip(
                size, (oh, ow), window.stride, window.padding, window.extent, strict=True
            )
        )
    return window, (oh, ow)


def max_pool2d(
    x: Tensor,
    kernel_size: int | Pair,
    stride: int | Pair | None = None,
    padding: int | Pair = 0,
    dilation: int | Pair = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """The largest number in each window: (N, C, H, W) → (N, C, OH, OW).

    Args:
        stride: the steps of the window; its own size by default.
        padding: a border of −∞ (of the smallest integer, of integers), at most half as wide as the window.
        ceil_mode: also take a last window that sticks out.
        return_indices: return (y, indices): where in its map each number was found, as h·W + w.
    """
    window, places = pooling_window(x, kernel_size, stride, padding, dilation, ceil_mode)
    pool = MaxPool2d(window, places, return_indices)
    y = pool(x)
    if not return_indices:
        return y
    rows, cols = work.switch_origins(window, places)
    xp, switches = array_module(x.data), pool.switches.astype(np.int64)
    rows = xp.asarray(rows) + switches // window.kernel[1] * window.dilation[0]
    cols = xp.asarray(cols) + switches % window.kernel[1] * window.dilation[1]
    return y, Tensor(rows * x.shape[3] + cols)


def max_unpool2d(
    x: Tensor,
    indices: Tensor,
    kernel_size: int | Pair,
    stride: int | Pair | None = None,
    padding: int | Pair = 0,
    output_size: Pair | None = None,
) -> Tensor:
    """Each number of x put back to where max-pooling found it, among zeros: (N, C, OH, OW) → (N, C, H, W).

    `indices`, `kernel_size`, `stride` and `padding` are those of max_pool2d(…, return_indices=True). Where
    overlapping windows found the same pixel, their numbers are added, as in the gradient of max-pooling.

    Args:
        output_size: (H, W); by default the smallest size that all windows fit into.
    """
    if x.ndim != 4 or indices.shape != x.shape:
        raise ShapeError(
            f"expected x and indices of one shape (N, C, OH, OW), got {x.shape} and {indices.shape}"
        )
    window = Window.of(kernel_size, kernel_size if stride is None else stride, padding)
    places = (x.shape[2], x.shape[3])
    h, w = output_size or (
        (o - 1) * s - 2 * p + k
        for o, s, p, k in zip(places, window.stride, window.padding, window.kernel, strict=True)
    )
    xp = array_module(x.data)
    rows, cols = (xp.asarray(origins) for origins in work.switch_origins(window, places))
    rows, cols = indices.data // w - rows, indices.data % w - cols
    inside = (rows >= 0) & (rows < window.kernel[0]) & (cols >= 0) & (cols < window.kernel[1])
    if not (inside & (indices.data >= 0) & (indices.data < h * w)).all():
        raise ShapeError(
            f"the indices do not belong to windows of {kernel_size} in feature maps of {h}×{w}: give "
            "max_unpool2d the kernel_size, stride and padding of max_pool2d, and as output_size its (H, W)"
        )
    switches = (rows * window.kernel[1] + cols).astype(np.min_scalar_type(math.prod(window.kernel) - 1))
    return Unpool(switches, window, (h, w))(x)


def avg_pool2d(
    x: Tensor,
    kernel_size: int | Pair,
    stride: int | Pair | None = None,
    padding: int | Pair = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """The mean of each window: (N, C, H, W) → (N, C, OH, OW).

    Args:
        stride: the steps of the window; its own size by default.
        padding: a border of zeros, at most half as wide as the window.
        ceil_mode: also take a last window that sticks out; what is beyond the border is not counted.
        count_include_pad: count the pixels of the border.
        divisor_override: divide by this instead of the number of pixels.
    """
    window, places = pooling_window(x, kernel_size, stride, padding, 1, ceil_mode)
    if divisor_override == 0:
        raise ValueError("divisor_override must not be 0")
    counts: Any = divisor_override or math.prod(window.kernel)
    if divisor_override is None and (any(window.padding) or ceil_mode):
        down, right = (
            _counts(n, o, k, s, p, count_include_pad)
            for n, o, k, s, p in zip(
                x.shape[2:], places, window.kernel, window.stride, window.padding, strict=True
            )
        )
        counts = down[:, None] * right
    return AvgPool2d(window, places, counts)(floating(x))  # the means of integers are none


def _counts(n: int, places: int, kernel: int, stride: int, padding: int, include_pad: bool) -> np.ndarray:
    """How many pixels each window counts along one axis of n pixels."""
    start = np.arange(places) * stride - padding
    stop = np.minimum(start + kernel, n + padding)
    return stop - start if include_pad else np.minimum(stop, n) - np.maximum(start, 0)


def adaptive_avg_pool2d(x: Tensor, output_size: int | tuple[int | None, int | None]) -> Tensor:
    """The means over OH × OW windows that cover the picture: (N, C, H, W) → (N, C, OH, OW).

    Window a takes the rows ⌊a H / OH⌋ … ⌈(a + 1) H / OH⌉ − 1. Where they are not all alike: their means are
    linear in the rows and in the columns, so all of them together are y = A x Bᵀ with two small matrices, in
    which ∞ or NaN spreads to all means of its picture. None keeps an axis as it is.
    """
    _check_maps(x)
    given = output_size if isinstance(output_size, (tuple, list)) else (output_size, output_size)
    asked = tuple(n if o is None else o for n, o in zip(x.shape[2:], given, strict=False))
    size = pair(asked if len(given) == 2 else output_size, "output_size", 1)
    if size == x.shape[2:]:
        return x
    if size == (1, 1):
        return global_avg_pool2d(x)
    if x.shape[2] % size[0] == x.shape[3] % size[1] == 0:
        return avg_pool2d(x, (x.shape[2] // size[0], x.shape[3] // size[1]))
    x = floating(x)
    down, right = (averaging_matrix(n, o, x) for n, o in zip(x.shape[2:], size, strict=True))
    return matmul(matmul(down, x), right.T)


def averaging_matrix(n: int, places: int, like: Tensor) -> Tensor:
    """The (places, n) matrix whose row a averages over the pixels of window a."""
    starts = np.arange(places) * n // places
    stops = -(-(np.arange(places) + 1) * n // places)
    inside = (np.arange(n) >= starts[:, None]) & (np.arange(n) < stops[:, None])
    counted = inside.astype(like.dtype)
    matrix = counted / counted.sum(1, keepdims=True)
    return Tensor(array_module(like.data).asarray(matrix))


def global_avg_pool2d(x: Tensor) -> Tensor:
    """The mean of each feature map: (N, C, H, W) → (N, C, 1, 1)."""
    _check_maps(x)
    return mean(x, (2, 3), keepdims=True)


def global_max_pool2d(x: Tensor) -> Tensor:
    """The largest number of each feature map, the first where several are: (N, C, H, W) → (N, C, 1, 1)."""
    _check_maps(x)
    xp, (n, c, h, w) = array_module(x.data), x.shape
    maps = reshape(x, n * c, h * w)
    return reshape(getitem(maps, (xp.arange(n * c), maps.data.argmax(axis=1))), n, c, 1, 1)
