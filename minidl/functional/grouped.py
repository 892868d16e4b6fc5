"""The convolution in groups of a few channels, in loops.

    y[n, g·M + m, a, b] = Σ_{q, i, j} x[n, g·Q + q, a·s + i·d − p, b·s + j·d − p] · w[g·M + m, q, i, j]

Matrix products of so few rows are slow, and what they multiply is copied KW times (`row_conv.py`). Here the
channels of a group are copied once, with a border of zeros; with a stride, rows 0, s, 2s, … lie apart from
rows 1, s + 1, …, and so do columns. Then what position (i, j) of the window sees is equally far away for all
places, across the ends of lines, too:

    y[t] = Σ_{q, i, j} part[q, t + far(i, j)] · w[q, i, j]        t = a·width + b

The innermost loop is as long as a picture, and the processor takes many places at a time. What comes out
between the end of one line and the beginning of the next is left out. ∂L/∂x is computed alike, each s-th row
and column by itself (`places.py`), and ∂L/∂w in `row_conv.py`. Numba compiles the loops; without it
`row_conv.py` does all.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import numpy as np

from minidl.backend import Array
from minidl.backend.blocks import positive_part
from minidl.backend.compiled import compiled, numba
from minidl.backend.im2col import Pair, Window
from minidl.backend.memory import empty
from minidl.backend.threads import parallel_for, scratch, split
from minidl.functional.places import Places
from minidl.functional.row_conv import as_shaped

WORTH = 1 << 20  # multiplications, from which on it pays to compile: some seconds for a kind of window, once
FEW = 576  # channels of a group, of x or y, times pixels of a window, at most: with more, BLAS is faster
LARGE = 25  # pixels of a window at most
AT_ONCE = 18  # multiplications for a place, of several filters with the same pixels
CHUNK = 1024  # places, whose sums stay in the cache while all channels are added
PIECE = 1 << 22  # multiplications in a piece of the work, about
PIECES = 4, 32  # at least and at most

LANES = 16
U = np.uintp  # The compiler asks of each index whether it is negative, one by one. Of this type none can be


class Axis(NamedTuple):
    """`Places` for the compiler, to which the lengths of tuples are known."""

    start: int
    every: tuple[int, ...]
    number: int
    positions: tuple[int, ...]
    first: int
    stride: tuple[int, ...]
    step: int

    @classmethod
    def of(cls, places: Places) -> Axis:
        """The same."""
        return cls(
            places.start,
            tuple(range(places.every)),
            places.number,
            tuple(places.positions),
            places.first,
            tuple(range(places.stride)),
            places.step,
        )

    @property
    def length(self) -> int:
        """Of the parts: all that the places see of one."""
        n = self.number + (len(self.positions) - 1) * self.step // len(self.stride)
        return n if len(self.stride) == 1 else -(-n // LANES) * LANES


def can(x: Array, weight: Array, window: Window, groups: int) -> bool:
    """Whether the loops can compute x ⋆ w and x ⋆ᵀ w, and are worth it."""
    return (
        isinstance(x, np.ndarray)
        and groups > 1
        and weight.shape[:2] != (groups, 1)  # which is depthwise
        and max(weight.shape[0] // groups, weight.shape[1]) * math.prod(window.kernel) <= FEW
        and x.dtype == weight.dtype
        and x.dtype in (np.float32, np.float64)
        and 1 < math.prod(window.kernel) <= LARGE
        and weight.size * math.prod(x.shape[2:]) * len(x) >= WORTH
        and all(s <= k for s, k in zip(window.stride, window.kernel, strict=True))
        and numba() is not None
    )


def multiply_groups(
    x: np.ndarray,
    w: np.ndarray,
    bias: np.ndarray,
    y: np.ndarray,
    first: int,
    rows: Axis,
    columns: Axis,
    together: tuple[int, ...],
    parts: np.ndarray,
    line: np.ndarray,
    sums: np.ndarray,
) -> None:
    """y = x ⋆ w + bias at some places of y, for group `first` and those that follow, all pictures in a row.

    Shapes: (N, Q, H, W), (G, M, Q, KH, KW), (G, M) → (N, M, OH, OW). So many filters are taken `together`.
    The memory for the parts of x, (Q, s, s, height + 1, width), and for a line of them, (s·width,), is zero;
    that for the sums is (M, places).
    """
    kh, kw, down, right = len(rows.positions), len(columns.positions), len(rows.stride), len(columns.stride)
    height, width = parts.shape[3:]
    flat = parts.reshape(parts.shape[0], -1)
    for n in range(x.shape[0]):
        g = (first + n) % w.shape[0]
        for q in range(x.shape[1]):
            for r in range(max(0, -rows.first), min(height * down, x.shape[2] - rows.first)):
                h = rows.first + r
                low, high = max(0, -columns.first), min(width * right, x.shape[3] - columns.first)
                to = line if right > 1 else parts[q, r % down, 0, r // down]
                for b in range(U(max(0, high - low))):
                    to[U(low) + b] = x[n, q, h, U(low + columns.first) + b]
                if right > 1:
                    for b in range(U(width)):
                        for side in range(right):
                            parts[q, r % down, side, r // down, b] = line[b * U(right) + U(side)]
        for m in range(0, w.shape[1], len(together)):
            for begin in range(0, sums.shape[1], CHUNK):
                end = min(begin + CHUNK, sums.shape[1])
                for k in range(len(together)):
                    sums[m + k, begin:end] = bias[g, m + k]
                for q in range(x.shape[1]):
                    for t in range(U(begin), U(end)):
                        for k in range(len(together)):
                            total = sums[m + k, t]
                            for i in range(kh):
                                for j in range(kw):
                                    a, b = i * rows.step, j * columns.step
                                    part = a % down * right + b % right
                                    far = (part * height + a // down) * width + b // right
                                    total += flat[q, t + U(far)] * w[g, m + k, q, i, j]
                            sums[m + k, t] = total
            for k in range(len(together)):
                for a in range(rows.number):
                    for b in range(U(columns.number)):
                        place = U(columns.start) + b * U(len(columns.every))
                        y[n, m + k, rows.start + a * len(rows.every), place] = sums[m + k, U(a * width) + b]


def conv2d(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None,
    window: Window,
    groups: int,
    relu: bool = False,
) -> np.ndarray:
    """y = x ⋆ w + b:  (N, C, H, W), (O, C/G, KH, KW), (O,) → (N, O, OH, OW)."""
    size = window.places(x.shape[2:])
    rows, columns = (Places.forward(window, axis, size[axis]) for axis in (0, 1))
    filters = weight.reshape(groups, -1, *weight.shape[1:])
    return _multiply(x, filters, bias, [(rows, columns)], size, relu)


def conv_transpose2d(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, window: Window, groups: int, size: Pair
) -> np.ndarray:
    """y = x ⋆ᵀ w + b:  (N, O, OH, OW), (O, C/G, KH, KW), (C,) → (N, C, *size)."""
    rows, columns = (Places.transposed(window, axis, size[axis]) for axis in (0, 1))
    filters = weight.reshape(groups, -1, *weight.shape[1:]).swapaxes(1, 2)[..., ::-1, ::-1]
    return _multiply(x, filters, bias, list(itertools.product(rows, columns)), size)


def _multiply(
    x: np.ndarray,
    filters: np.ndarray,
    bias: np.ndarray | None,
    places: list[tuple[Places, Places]],
    size: Pair,
    relu: bool = False,
) -> np.ndarray:
    """(N, G·Q, H, W), (G, M, Q, KH, KW), (G·M,) → (N, G·M, *size)."""
    groups, m, q = filters.shape[:3]
    y = empty(np, (len(x), groups * m, *size), x.dtype)
    x = np.ascontiguousarray(as_shaped(x, groups)).reshape(-1, q, *x.shape[2:])
    out = y.reshape(-1, m, *size)
    start = np.zeros((groups, m), x.dtype) if bias is None else np.ascontiguousarray(bias).reshape(groups, m)
    multiply = compiled(multiply_groups)

    kinds = []
    for rows, columns in places:
        w = np.ascontiguousarray(filters[..., rows.in_window, columns.in_window])
        if not w.size:  # a stride larger than the window leaves gaps
            y[:, :, rows.in_result, columns.in_result] = start.reshape(-1, 1, 1)
            continue
        taps = math.prod(w.shape[3:])
        together = next(k for k in (4, 2, 1) if m % k == 0 and (k == 1 or k * taps <= AT_ONCE))
        kinds.append((w, Axis.of(rows), Axis.of(columns), tuple(range(together))))

    def piece(some: slice) -> None:
        for w, rows, columns, together in kinds:  # in one thread: they write to the same lines of the cache
            right = len(columns.stride)
            shape = q, len(rows.stride), right, rows.length + 1, columns.length
            parts = scratch(np, "parts", shape, x.dtype)  # a line more, for what is read beyond the last
            line = scratch(np, "line", (right * columns.length,), x.dtype)
            sums = scratch(np, "sums", (m, rows.number * columns.length), x.dtype)
            parts[...] = line[...] = 0
            first = some.start % groups
            multiply(x[some], w, start, out[some], first, rows, columns, together, parts, line, sums)
        if relu:
            positive_part(out[some], out=out[some])

    least, most = PIECES
    work = len(x) * filters[0].size * math.prod(x.shape[2:])
    pieces = [(some,) for some in split(len(x), -(-len(x) // min(most, max(least, work // PIECE))))]
    parallel_for(np, piece, pieces)
    return y
