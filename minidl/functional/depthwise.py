"""The depthwise convolution, in loops: each channel has one filter and sees no other channel.

    y[n, a, b, c] = Σ_{i, j} x[n, a·s + i·d − p, b·s + j·d − p, c] · w[i, j, c] + bias[c]

Nine multiplications a pixel, for 3×3, are too few for a matrix product. NumPy would take each of them
through memory by itself, or multiply mostly zeros, as `row_conv.py` does. So here the loops stand as in the
formula, and Numba compiles them where it is installed; elsewhere `row_conv.py` does the work. Channels lie
side by side in memory: the innermost loop takes as many at a time as the processor can.

Which pixel a place sees is looked up (`Axis`). For ∂L/∂x the same loops look the other way, at each s-th row
and column by itself (`places.py`).

Most of the time goes to reading numbers, even from the cache. So four places that see much the same pixels
are computed together, and ∂L/∂w is read and written once for as many, or twice as many.
"""

from __future__ import annotations

import functools
import itertools
import math
from typing import NamedTuple

import numpy as np

from minidl.backend import Array
from minidl.backend.blocks import positive_part
from minidl.backend.compiled import compiled
from minidl.backend.im2col import Pair, Window
from minidl.backend.memory import aligned, empty_channels_last
from minidl.backend.threads import parallel_for, split
from minidl.functional import places
from minidl.functional.places import Places

MANY, LARGE = 2048, 49  # channels, and pixels of a window, at most
FAR = MANY + 112  # numbers from one pixel of the filters to the next. The compiler knows it, and so needs one
# address for all of them. In float32 it is an odd number of lines of the cache, so that they do not compete
NEAR = 1, 2  # positions from a place to the next: further apart they share too little
FEW = 9  # pixels of a window, up to which the processor has registers for four places at a time
AT_ONCE = 25  # and for one or two
SUMS = 4  # rows whose products are added up before ∂L/∂w is written, for windows larger than FEW


class Axis(NamedTuple):
    """Which pixel of the input some places of the result find at positions of the window, along one axis."""

    place: np.ndarray  # (places,)
    pixel: np.ndarray  # (places, positions); −1 where there is none
    whole: np.ndarray  # (places,): whether there is one at every position
    pair: np.ndarray  # (places,): whether that is so for the next place, too, and they may share some
    step: int  # pixels from one position to the next
    positions: tuple[int, ...]  # of the window: a tuple, so that the compiler knows how many
    ahead: tuple[int, ...]  # as many as the next place is positions further on, for the same reason

    @classmethod
    def of(cls, some: Places, size: int) -> Axis:
        """These places of a result, of a picture with `size` pixels."""
        k, i = np.arange(some.number), np.arange(len(some.positions))
        pixel = some.first + k[:, None] * some.stride + i * some.step
        pixel = np.where((pixel >= 0) & (pixel < size), pixel, -1)
        whole = np.all(pixel >= 0, axis=1)
        pair = np.zeros_like(whole)
        ahead = some.stride // some.step if some.stride % some.step == 0 else 0
        if ahead in NEAR:
            pair[:-1] = whole[:-1] & whole[1:]
        else:
            ahead = 0  # the same for all of them, for which the loops are compiled once
        positions, place = tuple(some.positions), some.start + k * some.every
        return cls(place, pixel, whole, pair, some.step, positions, tuple(range(ahead)))

    def part(self, places: slice) -> Axis:
        """The same for some of the places, the last of which has no next one."""
        if places.start == 0 and places.stop >= len(self.place):
            return self
        pair = self.pair[places].copy()
        pair[-1:] = False
        return self._replace(
            place=self.place[places], pixel=self.pixel[places], whole=self.whole[places], pair=pair
        )


def can(x: Array, y: Array, window: Window, groups: int) -> bool:
    """Whether the loops can compute with x and y, the filters or the other picture, and are worth it."""
    channels = len(y) if y.shape[1] == 1 else y.shape[1]
    return (
        1 < groups == x.shape[1] == channels <= MANY
        and math.prod(window.kernel) <= LARGE
        and places.pay(x, y, window, x.size * math.prod(window.kernel))
    )


# The loops


def multiply_windows(
    x: np.ndarray, w: np.ndarray, bias: np.ndarray, y: np.ndarray, rows: Axis, columns: Axis
) -> None:
    """y = x ⋆ w + bias at some places of y:  (N, H, W, C), (KH·KW·FAR,), (C,) → (N, OH, OW, C)."""
    kh, kw, down, right = len(rows.positions), len(columns.positions), rows.step, columns.step
    below = len(rows.ahead)
    at_once = kh * kw <= AT_ONCE
    wide = kh * kw <= FEW and below <= 1 and len(columns.ahead) <= 1
    for n in range(y.shape[0]):
        a = 0
        while a < len(rows.place):
            height = 2 if at_once and rows.pair[a] else 1
            b = 0
            while b < len(columns.place):
                if height == 2 and (columns.pair[b] if wide else columns.whole[b]):
                    # 2×2 places, or 2×1, whose pixels and filters are read once for all of them
                    h, v = rows.pixel[a, 0], columns.pixel[b, 0]
                    top, left = rows.place[a], columns.place[b]
                    bottom, beyond = rows.place[a + 1], columns.place[b + 1] if wide else left
                    for c in range(y.shape[3]):
                        y00 = y01 = y10 = y11 = bias[c]
                        for i in range(kh):
                            for j in range(kw):
                                factor = w[(i * kw + j) * FAR + c]
                                y00 += x[n, h + i * down, v + j * right, c] * factor
                                y10 += x[n, h + (i + below) * down, v + j * right, c] * factor
                                if wide:
                                    y01 += x[n, h + i * down, v + (j + 1) * right, c] * factor
                                    y11 += x[n, h + (i + below) * down, v + (j + 1) * right, c] * factor
                        y[n, top, left, c] = y00
                        y[n, bottom, left, c] = y10
                        if wide:
                            y[n, top, beyond, c] = y01
                            y[n, bottom, beyond, c] = y11
                    b += 2 if wide else 1
                    continue
                left = columns.place[b]
                for row in range(a, a + height):
                    top = rows.place[row]
                    if at_once and rows.whole[row] and columns.whole[b]:
                        h, v = rows.pixel[row, 0], columns.pixel[b, 0]
                        for c in range(y.shape[3]):
                            total = bias[c]
                            for i in range(kh):
                                for j in range(kw):
                                    factor = w[(i * kw + j) * FAR + c]
                                    total += x[n, h + i * down, v + j * right, c] * factor
                            y[n, top, left, c] = total
                        continue
                    for c in range(y.shape[3]):
                        y[n, top, left, c] = bias[c]
                    if at_once and rows.whole[row]:  # left or right: a column of the window at a time
                        h = rows.pixel[row, 0]
                        for j in range(kw):
                            v = columns.pixel[b, j]
                            if v >= 0:
                                for c in range(y.shape[3]):
                                    total = y[n, top, left, c]
                                    for i in range(kh):
                                        total += x[n, h + i * down, v, c] * w[(i * kw + j) * FAR + c]
                                    y[n, top, left, c] = total
                        continue
                    for i in range(kh):
                        h = rows.pixel[row, i]
                        if h >= 0 and columns.whole[b]:  # above or below, or a large window: a row at a time
                            v = columns.pixel[b, 0]
                            for c in range(y.shape[3]):
                                total = y[n, top, left, c]
                                for j in range(kw):
                                    total += x[n, h, v + j * right, c] * w[(i * kw + j) * FAR + c]
                                y[n, top, left, c] = total
                        elif h >= 0:  # in a corner: a pixel at a time
                            for j in range(kw):
                                v = columns.pixel[b, j]
                                if v >= 0:
                                    for c in range(y.shape[3]):
                                        y[n, top, left, c] += x[n, h, v, c] * w[(i * kw + j) * FAR + c]
                b += 1
            a += height


def add_windows(x: np.ndarray, y: np.ndarray, w: np.ndarray, rows: Axis, columns: Axis) -> None:
    """w += x ⊛ y:  (N, H, W, C), (N, OH, OW, C) → (KH·KW·FAR,)."""
    kh, kw, right, beside = len(rows.positions), len(columns.positions), columns.step, len(columns.ahead)
    deep, many = (kh, 2) if kh * kw <= FEW else (1, SUMS)
    for n in range(y.shape[0]):
        a = 0
        while a < y.shape[1]:
            last = a + many - 1
            if last < y.shape[1] and rows.whole[a] and rows.whole[last]:
                down = rows.pixel[a + 1, 0] - rows.pixel[a, 0]
                for top in range(0, kh, deep):
                    h = rows.pixel[a, top]
                    b = 0
                    while b < y.shape[2]:
                        if kw <= FEW and columns.pair[b]:
                            v = columns.pixel[b, 0]
                            for c in range(y.shape[3]):
                                for i in range(deep):
                                    for j in range(kw):
                                        total = w[((top + i) * kw + j) * FAR + c]
                                        for k in range(many):
                                            row = h + k * down + i * rows.step
                                            for m in range(2):
                                                pixel = x[n, row, v + (j + m * beside) * right, c]
                                                total += pixel * y[n, a + k, b + m, c]
                                        w[((top + i) * kw + j) * FAR + c] = total
                            b += 2
                            continue
                        for j in range(kw):
                            v = columns.pixel[b, j]
                            if v >= 0:
                                for c in range(y.shape[3]):
                                    for i in range(deep):
                                        total = w[((top + i) * kw + j) * FAR + c]
                                        for k in range(many):
                                            row = h + k * down + i * rows.step
                                            total += x[n, row, v, c] * y[n, a + k, b, c]
                                        w[((top + i) * kw + j) * FAR + c] = total
                        b += 1
                a += many
                continue
            for i in range(kh):  # a row of y that does not see all, or is left
                h = rows.pixel[a, i]
                if h >= 0:
                    for b in range(y.shape[2]):
                        if columns.whole[b]:
                            v = columns.pixel[b, 0]
                            for c in range(y.shape[3]):
                                for j in range(kw):
                                    w[(i * kw + j) * FAR + c] += x[n, h, v + j * right, c] * y[n, a, b, c]
                            continue
                        for j in range(kw):
                            v = columns.pixel[b, j]
                            if v >= 0:
                                for c in range(y.shape[3]):
                                    w[(i * kw + j) * FAR + c] += x[n, h, v, c] * y[n, a, b, c]
            a += 1


# The three convolutions


@functools.lru_cache(maxsize=256)
def _kinds(
    window: Window, pixels: Pair, size: Pair, transposed: bool = False
) -> list[tuple[Places, Places, Axis, Axis]]:
    """Rows and columns of a result of `size`, of all kinds, and what they see of so many pixels."""
    if transposed:
        rows, columns = (Places.transposed(window, axis, size[axis]) for axis in (0, 1))
    else:
        rows, columns = ([Places.forward(window, axis, size[axis])] for axis in (0, 1))
    return [
        (down, right, Axis.of(down, pixels[0]), Axis.of(right, pixels[1]))
        for down, right in itertools.product(rows, columns)
    ]


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
    return _multiply(x, weight, bias, _kinds(window, x.shape[2:], size), size, relu)


def conv_transpose2d(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, window: Window, groups: int, size: Pair
) -> np.ndarray:
    """y = x ⋆ᵀ w + b:  (N, C, OH, OW), (C, 1, KH, KW), (C,) → (N, C, *size)."""
    kinds = _kinds(window, x.shape[2:], size, transposed=True)
    return _multiply(x, weight[..., ::-1, ::-1], bias, kinds, size)


def _multiply(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None,
    kinds: list[tuple[Places, Places, Axis, Axis]],
    size: Pair,
    relu: bool = False,
) -> np.ndarray:
    n, c = x.shape[:2]
    y = empty_channels_last((n, c, *size), x.dtype)
    seen, lines = _lines(x), _lines(y)
    start = aligned((c,), x.dtype)
    start[...] = 0 if bias is None else bias
    multiply = compiled(multiply_windows)
    seeing = [kind for kind in kinds if kind[0].positions and kind[1].positions]
    if len(seeing) < len(kinds):  # no position meets some of the pixels: a stride and gaps of two, say
        lines[...] = start
    todo, work = [], 0
    for down, right, rows, columns in seeing:
        taps = weight[:, 0, down.in_window, right.in_window].transpose(1, 2, 0)
        w = aligned((*taps.shape[:2], FAR), x.dtype)
        w[..., :c] = taps
        todo.append((w.reshape(-1), rows, columns))
        work += taps.size * right.number

    def piece(pictures: slice, part: slice) -> None:
        for w, rows, columns in todo:
            multiply(seen[pictures], w, start, lines[pictures], rows.part(part), columns)
        if relu:
            out = lines[pictures, part]
            positive_part(out, out=out)

    parallel_for(np, piece, _pieces(n, max(down.number for down, *_ in kinds), work))
    return y


def conv_weight(x: np.ndarray, y: np.ndarray, window: Window, groups: int) -> np.ndarray:
    """w = x ⊛ y:  (N, C, H, W), (N, C, OH, OW) → (C, 1, KH, KW)."""
    ((_, _, rows, columns),) = _kinds(window, x.shape[2:], y.shape[2:])
    seen, dy, taps = _lines(x), _lines(y), math.prod(window.kernel)
    pieces = _pieces(len(dy), dy.shape[1], taps * math.prod(dy.shape[2:]))
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
