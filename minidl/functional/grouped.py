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
from minidl.backend.compiled import compiled
from minidl.backend.im2col import Pair, Window
from minidl.backend.memory import empty
from minidl.backend.threads import parallel_for, scratch, split
from minidl.functional import places
from minidl.functional.places import Places
from minidl.functional.row_conv import as_shaped

FEW = 576  # channels of a group, of x or y, times pixels of a window, at most: with more, BLAS is faster
LARGE = 25  # pixels of a window at most
AT_ONCE = 18  # multiplications for a place, of several filters with the same pixels
SPREAD = 8  # groups of all pictures at least: a thread takes whole ones

# Of indices. Those that may be negative are looked at one by one, which takes 3 to 18 times as long
U = np.uintp


class KnownPlaces(NamedTuple):
    """`Places`, three numbers as tuples of that length: it is part of a type, so the compiler knows it."""

    start: int
    every: tuple[int, ...]
    number: int
    positions: tuple[int, ...]
    first: int
    stride: tuple[int, ...]
    step: int

    @classmethod
    def of(cls, some: Places) -> KnownPlaces:
        """The same places."""
        every, positions, stride = (tuple(range(n)) for n in (some.every, len(some.positions), some.stride))
        return cls(some.start, every, some.number, positions, some.first, stride, some.step)

    @property
    def length(self) -> int:
        """Of the parts: all that the places see of one."""
        return self.number + (len(self.positions) - 1) * self.step // len(self.stride)


def can(x: Array, weight: Array, window: Window, groups: int) -> bool:
    """Whether the loops can compute x ⋆ w and x ⋆ᵀ w, and are worth it."""
    taps = math.prod(window.kernel)
    return (
        groups > 1
        and weight.shape[:2] != (groups, 1)  # which is depthwise
        and max(weight.shape[0] // groups, weight.shape[1]) * taps <= FEW
        and 1 < taps <= LARGE
        and len(x) * groups >= SPREAD
        and places.pay(x, weight, window, weight.size * math.prod(x.shape[2:]) * len(x))
    )


def multiply_groups(
    x: np.ndarray,
    w: np.ndarray,
    bias: np.ndarray,
    y: np.ndarray,
    first: int,
    rows: KnownPlaces,
    columns: KnownPlaces,
    together: tuple[int, ...],
    parts: np.ndarray,
    line: np.ndarray,
    sums: np.ndarray,
) -> None:
    """y = x ⋆ w + bias at some places of y, for group `first` and those that follow, all pictures in a row.

    Shapes: (N, Q, H, W), (G, M, Q, KH, KW), (G, M) → (N, M, OH, OW). As many filters as `together` is long
    are taken at a time. Memory for the parts of x, (Q, s, s, height, width), with a line more than any place
    sees, and for a line, (s·width,), is zero; that for the sums is (together, places).
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
            for k in range(len(together)):
                sums[k] = bias[g, m + k]
            for q in range(x.shape[1]):
                for t in range(U(sums.shape[1])):
                    for k in range(len(together)):
                        total = sums[k, t]
                        for i in range(kh):
                            for j in range(kw):
                                a, b = i * rows.step, j * columns.step
                                part = a % down * right + b % right
                                far = (part * height + a // down) * width + b // right
                                total += flat[q, t + U(far)] * w[g, m + k, q, i, j]
                        sums[k, t] = total
            for k in range(len(together)):
                for a in range(rows.number):
                    for b in range(U(columns.number)):
                        place = U(columns.start) + b * U(len(columns.every))
                        y[n, m + k, rows.start + a * len(rows.every), place] = sums[k, U(a * width) + b]


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
    parts: list[tuple[Places, Places]],
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

    seeing = [part for part in parts if all(some.positions for some in part)]
    if len(seeing) < len(parts):  # no position meets some of the pixels: a stride and gaps of two, say
        y[...] = start.reshape(-1, 1, 1)
    kinds = []
    for rows, columns in seeing:
        w = np.ascontiguousarray(filters[..., rows.in_window, columns.in_window])
        taps = math.prod(w.shape[3:])
        together = next(k for k in (4, 2, 1) if m % k == 0 and (k == 1 or k * taps <= AT_ONCE))
        kinds.append((w, KnownPlaces.of(rows), KnownPlaces.of(columns), tuple(range(together))))

    def piece(some: slice) -> None:
        for w, rows, columns, together in kinds:  # in one thread: they write to the same lines of the cache
            right = len(columns.stride)
            shape = q, len(rows.stride), right, rows.length + 1, columns.length
            parts = scratch(np, "parts", shape, x.dtype)  # a line more: junk is read beyond the last
            line = scratch(np, "line", (right * columns.length,), x.dtype)
            sums = scratch(np, "sums", (len(together), rows.number * columns.length), x.dtype)
            parts[...] = line[...] = 0
            first = some.start % groups
            multiply(x[some], w, start, out[some], first, rows, columns, together, parts, line, sums)
        if relu:
            positive_part(out[some], out=out[some])

    cut = places.pieces(len(x) * filters[0].size * math.prod(x.shape[2:]))
    parallel_for(np, piece, [(some,) for some in split(len(x), -(-len(x) // cut))])
    return y
