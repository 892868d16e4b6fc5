"""The depthwise convolution, in loops: each channel has one filter and sees no other channel.

    y[n, a, b, c] = Σ_{i, j} x[n, a·s + i·d − p, b·s + j·d − p, c] · w[i, j, c] + bias[c]

Nine multiplications a pixel, for 3×3, are too few for a matrix product. NumPy would take each of them
through memory by itself, or multiply mostly zeros, as `row_conv.py` does. So in `depthwise_loops.py` the
loops stand as in the formula, and Numba compiles them where it is installed; elsewhere `row_conv.py` does the
work.

Without a stride, ∂L/∂x is the same sum with the filters turned round. With one, it is s×s such sums, each of
every s-th pixel and with some of the positions, computed together.
"""

from __future__ import annotations

import functools
import math

import numpy as np

from minidl.backend import Array
from minidl.backend.blocks import positive_part
from minidl.backend.compiled import compiled
from minidl.backend.im2col import Pair, Window
from minidl.backend.memory import aligned, empty_channels_last
from minidl.backend.threads import parallel_for, split
from minidl.functional import places
from minidl.functional.depthwise_loops import (
    FAR,
    MANY,
    Axis,
    Spread,
    add_windows,
    multiply_windows,
    spread_windows,
)
from minidl.functional.places import Places

LARGE = 49  # pixels of a window at most

Axes = tuple[Axis, Axis] | tuple[Spread, Spread]


def can(x: Array, y: Array, window: Window, groups: int) -> bool:
    """Whether the loops can compute with x and y, the filters or the other picture, and are worth it."""
    channels = len(y) if y.shape[1] == 1 else y.shape[1]
    return (
        1 < groups == x.shape[1] == channels <= MANY
        and math.prod(window.kernel) <= LARGE
        and places.pay(x, y, window, x.size * math.prod(window.kernel))
    )


@functools.lru_cache(maxsize=256)
def _axes(window: Window, pixels: Pair, size: Pair, transposed: bool = False) -> Axes:
    """What rows and columns of x ⋆ w, or of x ⋆ᵀ w, see of so many pixels."""
    if transposed and window.stride != (1, 1):
        return Spread.of(window, 0, pixels[0], size[0]), Spread.of(window, 1, pixels[1], size[1])
    if transposed:  # of one kind, without a stride
        (rows,), (columns,) = (Places.transposed(window, axis, size[axis]) for axis in (0, 1))
    else:
        rows, columns = (Places.forward(window, axis, size[axis]) for axis in (0, 1))
    return Axis.of(rows, pixels[0]), Axis.of(columns, pixels[1])


def conv2d(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None,
    window: Window,
    groups: int,
    relu: bool = False,
) -> np.ndarray:
    """y = x ⋆ w + b:  (N, C, H, W), (C, 1, KH, KW), (C,) → (N, C, OH, OW)."""
    size = window.places(x.shape[2:])
    return _multiply(x, weight, bias, _axes(window, x.shape[2:], size), size, relu)


def conv_transpose2d(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, window: Window, groups: int, size: Pair
) -> np.ndarray:
    """y = x ⋆ᵀ w + b:  (N, C, OH, OW), (C, 1, KH, KW), (C,) → (N, C, *size)."""
    if window.stride == (1, 1):
        weight = weight[..., ::-1, ::-1]
    return _multiply(x, weight, bias, _axes(window, x.shape[2:], size, transposed=True), size)


def _multiply(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None,
    axes: Axes,
    size: Pair,
    relu: bool = False,
) -> np.ndarray:
    """Either of them, as the axes say."""
    n, c = x.shape[:2]
    rows, columns = axes
    together = len(rows.stride) if isinstance(rows, Spread) else 1  # rows
    multiply = compiled(spread_windows if isinstance(rows, Spread) else multiply_windows)
    y = empty_channels_last((n, c, *size), x.dtype)
    seen, lines = _lines(x), _lines(y)
    w, start = aligned((weight[0].size, FAR), x.dtype), aligned((c,), x.dtype)
    w[:, :c] = weight.reshape(c, -1).T
    start[...] = 0 if bias is None else bias

    def piece(pictures: slice, part: slice) -> None:
        out = lines[pictures, part.start * together : part.stop * together]
        multiply(seen[pictures], w.reshape(-1), start, out, rows.part(part), columns)
        if relu:
            positive_part(out, out=out)

    work = weight.size * min(x.shape[3], size[1])
    parallel_for(np, piece, _pieces(n, -(-size[0] // together), work))
    return y


def conv_weight(x: np.ndarray, y: np.ndarray, window: Window, groups: int) -> np.ndarray:
    """w = x ⊛ y:  (N, C, H, W), (N, C, OH, OW) → (C, 1, KH, KW)."""
    rows, columns = _axes(window, x.shape[2:], y.shape[2:])
    seen, dy, taps = _lines(x), _lines(y), math.prod(window.kernel)
    pieces = _pieces(len(dy), dy.shape[1], taps * groups * dy.shape[2])
    sums = aligned((len(pieces), taps, FAR), x.dtype)
    add_up = compiled(add_windows)

    def add(number: int, pictures: slice, part: slice) -> None:
        sums[number, :, :groups] = 0
        add_up(seen[pictures], dy[pictures, part], sums[number].reshape(-1), rows.part(part), columns)

    parallel_for(np, add, [(number, *piece) for number, piece in enumerate(pieces)])
    total = sums[..., :groups].sum(0)
    return np.ascontiguousarray(total.T).reshape(groups, 1, *window.kernel)


def _lines(x: np.ndarray) -> np.ndarray:
    """(N, C, H, W) → (N, H, W, C) in one piece of memory: a view of channels-last pictures, or a copy."""
    lines = x.transpose(0, 2, 3, 1)
    if lines.flags.c_contiguous:
        return lines
    copy = np.empty(lines.shape, x.dtype)
    parallel_for(np, np.copyto, list(zip(copy, lines, strict=True)))
    return copy


def _pieces(n: int, rows: int, work: int) -> list[tuple[slice, slice]]:
    """(pictures, rows), rows of one picture or all of some, of n pictures with so much work in each row."""
    pieces = places.pieces(n * rows * work)
    if n >= pieces:
        return [(pictures, slice(0, rows)) for pictures in split(n, -(-n // pieces))]
    parts = split(rows, -(-rows // -(-pieces // n)))
    return [(slice(k, k + 1), part) for k in range(n) for part in parts]
