"""Pooling: each window of a feature map becomes one number, its largest or its mean.

Everything is written over a view (N, C, KH, KW, OH, OW) of what the windows see: a loop over the KH·KW pixels of
a window, each step of which works on all windows at once. Pieces that fit the cache are spread over threads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from minidl.autograd import Function
from minidl.backend import Array, array_module, device_of
from minidl.backend.im2col import Pair, Window, pair, sliding_windows
from minidl.backend.threads import parallel_for, strips
from minidl.errors import ShapeError
from minidl.functional.matmul import matmul
from minidl.functional.reduction import mean
from minidl.functional.shape import getitem, reshape
from minidl.tensor import Tensor

PIECE_BYTES = {"cpu": 1 << 19, "gpu": 1 << 40}  # of one pixel of all windows, at a time


class MaxPool2d(Function):
    """y = max of each window        ∂L/∂x = ∂L/∂y at the pixel that was the largest, the first of several

    Which pixel that was, counted row by row within the window, is its switch: one byte for windows up to 16×16.
    The border is −∞.  Shapes: (N, C, H, W) → (N, C, *places).
    """

    def __init__(self, window: Window, places: Pair, keep_switches: bool) -> None:
        self.window, self.places, self.keep_switches = window, places, keep_switches

    def forward(self, x: Array) -> Array:
        self.size = x.shape[2:]
        seen = windows_of(x, self.window, self.places, -math.inf)
        y = array_module(x).empty((*x.shape[:2], *self.places), x.dtype)
        if self.keep_switches or self.needs_grad[0]:
            switches = first_pixels_inside(x, self.window, self.places)
            for_each_piece(_largest_and_where, seen, y, switches)
            self.save(switches=switches)
            if self.keep_switches:
                self.switches = switches
        else:
            for_each_piece(_largest, seen, y)
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
        y, seen = empty_windows(x, self.window, self.size)
        for_each_piece(_add_at, seen, x, self.switches)
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
        y = array_module(x).zeros(self.switches.shape, x.dtype)
        for_each_piece(_pick, windows_of(x, self.window, y.shape[2:], 0), y, self.switches)
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
        y = array_module(x).empty((*x.shape[:2], *self.places), x.dtype)
        for_each_piece(_sum, windows_of(x, self.window, self.places, 0), y)
        y /= on_device_of(x, self.counts)
        return y

    def backward(self, dy: Tensor) -> Tensor:
        return AvgUnpool2d(self.window, self.size, self.counts)(dy)


class AvgUnpool2d(Function):
    """y = 0, with x / count added to every pixel of each window        ∂L/∂x = Σ ∂L/∂y / count over the window"""

    def __init__(self, window: Window, size: Pair, counts: Any) -> None:
        self.window, self.size, self.counts = window, size, counts

    def forward(self, x: Array) -> Array:
        self.places = x.shape[2:]
        y, seen = empty_windows(x, self.window, self.size)
        for_each_piece(_add_everywhere, seen, x / on_device_of(x, self.counts))
        return y

    def backward(self, dy: Tensor) -> Tensor:
        return AvgPool2d(self.window, self.places, self.counts)(dy)


# What is done with the pixels of the windows; `seen` is (n, c, KH, KW, OH, OW), the others (n, c, OH, OW)


def pixels(seen: Array) -> Iterator[tuple[int, Array]]:
    """(k, the k-th pixel of every window), row by row."""
    _, _, kh, kw, _, _ = seen.shape
    for k in range(kh * kw):
        yield k, seen[:, :, k // kw, k % kw]


def _largest(seen: Array, y: Array) -> None:
    maximum = array_module(y).maximum
    y[...] = seen[:, :, 0, 0]
    for _, x in pixels(seen):
        maximum(y, x, out=y)


def _largest_and_where(seen: Array, y: Array, switches: Array) -> None:
    xp = array_module(y)
    y[...] = seen[:, :, 0, 0]
    for k, x in pixels(seen):
        larger = (x > y).astype(switches.dtype)
        xp.maximum(switches, larger * switches.dtype.type(k), out=switches)  # k grows: the last one larger stays
        xp.maximum(y, x, out=y)


def _pick(seen: Array, y: Array, switches: Array) -> None:
    for k, x in pixels(seen):
        y += x * (switches == k)


def _add_at(seen: Array, x: Array, switches: Array) -> None:
    for k, y in pixels(seen):
        y += x * (switches == k)


def _sum(seen: Array, y: Array) -> None:
    y[...] = 0
    for _, x in pixels(seen):
        y += x


def _add_everywhere(seen: Array, x: Array) -> None:
    for _, y in pixels(seen):
        y += x


def for_each_piece(run: Callable[..., None], *arrays: Array) -> None:
    """run(*pieces) for the same pictures and channels of all arrays, piece by piece."""
    (n, c, *places), itemsize = arrays[1].shape, arrays[1].itemsize
    limit = PIECE_BYTES[device_of(arrays[1])]
    pieces = strips(n, c, math.prod(places) * itemsize, limit)
    parallel_for(lambda pictures, channels: run(*[a[pictures, channels] for a in arrays]), pieces)


# Windows and their places


def overhang(window: Window, size: Pair, places: Pair) -> list[int]:
    """How many pixels the last window sticks out beyond the lower and the right edge of the picture."""
    return [
        max(0, (o - 1) * s + e - p - n)
        for n, o, s, p, e in zip(size, places, window.stride, window.padding, window.extent, strict=True)
    ]


def windows_of(x: Array, window: Window, places: Pair, fill: float) -> Array:
    """What the windows see of x (N, C, H, W), and of a border of `fill` around it: (N, C, KH, KW, OH, OW)."""
    widths = list(zip(window.padding, overhang(window, x.shape[2:], places), strict=True))
    if any(map(any, widths)):
        x = array_module(x).pad(x, [(0, 0), (0, 0), *widths], constant_values=fill)
    return sliding_windows(x, window, places)


def empty_windows(x: Array, window: Window, size: Pair) -> tuple[Array, Array]:
    """A picture of zeros, (N, C, *size), and the view of it that the windows x (N, C, OH, OW) belong to have."""
    (n, c, *places), (h, w), (top, left) = x.shape, size, window.padding
    bottom, right = overhang(window, size, (places[0], places[1]))
    bordered = array_module(x).zeros((n, c, top + h + bottom, left + w + right), x.dtype)
    seen = sliding_windows(bordered, window, (places[0], places[1]))
    return bordered[:, :, top : top + h, left : left + w], seen


def first_pixels_inside(x: Array, window: Window, places: Pair) -> Array:
    """For each window the number of its first pixel that lies on the picture: (N, C, OH, OW), small integers.

    Where all pixels are −∞ none is larger than the first, and that must not be one of the border.
    """
    xp, dtype = array_module(x), np.min_scalar_type(math.prod(window.kernel) - 1)
    down, right = (
        -(-np.maximum(0, p - s * np.arange(o)) // d)
        for o, s, p, d in zip(places, window.stride, window.padding, window.dilation, strict=True)
    )
    first = xp.asarray((down[:, None] * window.kernel[1] + right).astype(dtype))
    return xp.broadcast_to(first, (*x.shape[:2], *places)).copy()


def on_device_of(x: Array, counts: Any) -> Any:
    """`counts` as it is to divide x: a Python number, or an array of x's type beside it."""
    return array_module(x).asarray(counts, dtype=x.dtype) if isinstance(counts, np.ndarray) else counts


def pooling_window(
    x: Tensor, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool
) -> tuple[Window, Pair]:
    """The window that the options mean and how often it fits into x; checks both.

    With `ceil_mode` a last window may stick out beyond the border, if it begins on the picture or the border before.
    """
    if x.ndim != 4:
        raise ShapeError(f"expected feature maps of (N, C, H, W), got {x.shape}")
    window = Window.of(kernel_size, kernel_size if stride is None else stride, padding, dilation)
    if any(p > e // 2 for p, e in zip(window.padding, window.extent, strict=True)):
        raise ShapeError(f"padding must be at most half of the window, got {padding} for a kernel of {kernel_size}")
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


# The functions


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
        padding: a border of −∞, at most half as wide as the window.
        ceil_mode: also take a last window that sticks out.
        return_indices: return (y, indices); an index h·W + w says where in its feature map the number was found.
    """
    window, places = pooling_window(x, kernel_size, stride, padding, dilation, ceil_mode)
    pool = MaxPool2d(window, places, return_indices)
    y = pool(x)
    if not return_indices:
        return y
    rows, cols = switch_origins(window, places)
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
    """Each number of x put back to where max-pooling found it, zeros elsewhere: (N, C, OH, OW) → (N, C, H, W).

    `indices`, `kernel_size`, `stride` and `padding` are those of max_pool2d(…, return_indices=True). Where windows
    overlap and found the same pixel, their numbers are added, so that this is the transpose of that choice.

    Args:
        output_size: (H, W); by default the smallest size that all windows fit into.
    """
    if x.ndim != 4 or indices.shape != x.shape:
        raise ShapeError(f"expected x and indices of one shape (N, C, H, W), got {x.shape} and {indices.shape}")
    window = Window.of(kernel_size, kernel_size if stride is None else stride, padding)
    places = (x.shape[2], x.shape[3])
    h, w = output_size or (
        (o - 1) * s - 2 * p + k
        for o, s, p, k in zip(places, window.stride, window.padding, window.kernel, strict=True)
    )
    xp = array_module(x.data)
    rows, cols = (xp.asarray(origins) for origins in switch_origins(window, places))
    rows, cols = indices.data // w - rows, indices.data % w - cols
    inside = (rows >= 0) & (rows < window.kernel[0]) & (cols >= 0) & (cols < window.kernel[1])
    if not (inside & (indices.data >= 0) & (indices.data < h * w)).all():
        raise ShapeError(
            f"the indices do not belong to windows of {kernel_size} in feature maps of ({h}, {w}): give max_unpool2d "
            "the kernel_size, stride and padding of max_pool2d, and as output_size the (H, W) that it pooled"
        )
    switches = (rows * window.kernel[1] + cols).astype(np.min_scalar_type(math.prod(window.kernel) - 1))
    return Unpool(switches, window, (h, w))(x)


def switch_origins(window: Window, places: Pair) -> tuple[np.ndarray, np.ndarray]:
    """The row (OH, 1) and the column (OW,) of each window's first pixel; negative on the border."""
    rows = np.arange(places[0])[:, None] * window.stride[0] - window.padding[0]
    return rows, np.arange(places[1]) * window.stride[1] - window.padding[1]


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
    counts: Any = divisor_override or math.prod(window.kernel)
    if divisor_override is None and (any(window.padding) or ceil_mode):
        down, right = (
            _counts(n, o, k, s, p, count_include_pad)
            for n, o, k, s, p in zip(
                x.shape[2:], places, window.kernel, window.stride, window.padding, strict=True
            )
        )
        counts = down[:, None] * right
    return AvgPool2d(window, places, counts)(x)


def _counts(n: int, places: int, kernel: int, stride: int, padding: int, include_pad: bool) -> np.ndarray:
    """How many pixels each window counts along one axis of n pixels."""
    start = np.arange(places) * stride - padding
    stop = np.minimum(start + kernel, n + padding)
    return stop - start if include_pad else np.minimum(stop, n) - np.maximum(start, 0)


def adaptive_avg_pool2d(x: Tensor, output_size: int | tuple[int | None, int | None]) -> Tensor:
    """The means over OH × OW windows that cover the picture: (N, C, H, W) → (N, C, OH, OW).

    Window a takes the rows ⌊a H / OH⌋ … ⌈(a + 1) H / OH⌉ − 1. Its mean is linear in the rows and in the columns,
    so all of them together are y = A x Bᵀ with two small matrices. None keeps an axis as long as it is.
    """
    if x.ndim != 4:
        raise ShapeError(f"expected feature maps of (N, C, H, W), got {x.shape}")
    given = output_size if isinstance(output_size, (tuple, list)) else (output_size, output_size)
    size = pair(
        tuple(n if o is None else o for n, o in zip(x.shape[2:], given, strict=True)), "output_size", 1
    )
    if size == x.shape[2:]:
        return x
    down, right = (averaging_matrix(n, o, x) for n, o in zip(x.shape[2:], size, strict=True))
    return matmul(matmul(down, x), right.T)


def averaging_matrix(n: int, places: int, like: Tensor) -> Tensor:
    """The (places, n) matrix whose row a averages over the pixels of window a."""
    starts = np.arange(places) * n // places
    stops = -(-(np.arange(places) + 1) * n // places)
    inside = (np.arange(n) >= starts[:, None]) & (np.arange(n) < stops[:, None])
    matrix = (inside / inside.sum(1, keepdims=True)).astype(like.dtype)
    return Tensor(array_module(like.data).asarray(matrix))


def global_avg_pool2d(x: Tensor) -> Tensor:
    """The mean of each feature map: (N, C, H, W) → (N, C, 1, 1)."""
    return mean(x, (2, 3), keepdims=True)


def global_max_pool2d(x: Tensor) -> Tensor:
    """The largest number of each feature map, the first where several are: (N, C, H, W) → (N, C, 1, 1)."""
    xp, (n, c, h, w) = array_module(x.data), x.shape
    maps = reshape(x, n * c, h * w)
    return reshape(getitem(maps, (xp.arange(n * c), maps.data.argmax(axis=1))), n, c, 1, 1)
