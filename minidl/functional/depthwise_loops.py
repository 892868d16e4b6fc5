"""The loops of the depthwise convolution (`depthwise.py`), and which pixel a place sees.

Channels lie side by side in memory: the innermost loop takes as many at a time as the processor can. Most of
the time goes to reading numbers, even from the cache. So four places that see much the same pixels are
computed together, s×s pixels that find the same places with a stride, and ∂L/∂w is read and written once for
four places, or eight.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from minidl.backend.im2col import Window
from minidl.functional.places import Places

MANY = 2048  # channels at most
FAR = MANY + 112  # numbers from one pixel of the filters to the next. The compiler knows it, and so needs one
# address for all of them. In float32 it is an odd number of lines of the cache, so that they do not compete
NEAR = 1, 2  # positions from a place to the next: further apart they share too little
FEW = 9  # pixels of a window, up to which the processor has registers for four places at a time
AT_ONCE = 25  # and for one or two
SUMS = 4  # rows whose products are added up before ∂L/∂w is written, for windows larger than FEW
WRITTEN_OUT = 256  # positions of s·t pixels, up to which the compiler writes out what stands in loops,
LONG = 9  # if no side of the window is longer


class Axis(NamedTuple):
    """Which pixel of the input the places of a result find at positions of the window, along one axis."""

    pixel: np.ndarray  # (places, positions); −1 where there is none
    whole: np.ndarray  # (places,): whether there is one at every position
    pair: np.ndarray  # (places,): whether that is so for the next place, too, and they may share some
    step: int  # pixels from one position to the next
    positions: tuple[int, ...]  # of the window: a tuple, so that the compiler knows how many
    ahead: tuple[int, ...]  # as many as the next place is positions further on, for the same reason

    @classmethod
    def of(cls, some: Places, size: int) -> Axis:
        """All places of a result, of a picture with `size` pixels."""
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
        return cls(pixel, whole, pair, some.step, tuple(some.positions), tuple(range(ahead)))

    def part(self, places: slice) -> Axis:
        """The same for some of the places, the last of which has no next one."""
        if places.start == 0 and places.stop >= len(self.pixel):
            return self
        pair = self.pair[places].copy()
        pair[-1:] = False
        return self._replace(pixel=self.pixel[places], whole=self.whole[places], pair=pair)


class Spread(NamedTuple):
    """Where the pixels of x ⋆ᵀ w find places of x, along one axis, with a stride s.

    Pixel a·s + r finds at position i of the window place a + first − i·apart + (r + p' − i·d') / s, if that
    is an integer. The padding is first·s + p', and the dilation apart·s + d'. Tuples, so that the compiler
    knows which are integers.
    """

    positions: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]  # p'
    dilation: tuple[int, ...]  # d'
    first: int
    apart: int
    low: int  # for low ≤ a < high all places are there, and all s pixels
    high: int

    @classmethod
    def of(cls, window: Window, axis: int, places: int, size: int) -> Spread:
        """All pixels of a result of `size`, of so many places."""
        k, s = window.kernel[axis], window.stride[axis]
        (first, p), (apart, d) = divmod(window.padding[axis], s), divmod(window.dilation[axis], s)
        far = [first - i * apart + (r + p - i * d) / s for r in range(s) for i in range(k)]
        found = [int(place) for place in far if place.is_integer()]
        low, high = max(0, -min(found)), min(size // s, places - max(found))
        positions, stride, padding, dilation = (tuple(range(number)) for number in (k, s, p, d))
        return cls(positions, stride, padding, dilation, first, apart, low, high)

    def part(self, some: slice) -> Spread:
        """The same with a counted from the first of some."""
        k = some.start
        return self._replace(first=self.first + k, low=self.low - k, high=self.high - k)


def multiply_windows(
    x: np.ndarray, w: np.ndarray, bias: np.ndarray, y: np.ndarray, rows: Axis, columns: Axis
) -> None:
    """y = x ⋆ w + bias:  (N, H, W, C), (KH·KW·FAR,), (C,) → (N, OH, OW, C)."""
    kh, kw, down, right = len(rows.positions), len(columns.positions), rows.step, columns.step
    below = len(rows.ahead)
    at_once = kh * kw <= AT_ONCE
    wide = kh * kw <= FEW and below <= 1 and len(columns.ahead) <= 1
    for n in range(y.shape[0]):
        a = 0
        while a < y.shape[1]:
            height = 2 if at_once and rows.pair[a] else 1
            b = 0
            while b < y.shape[2]:
                if height == 2 and (columns.pair[b] if wide else columns.whole[b]):
                    # 2×2 places, or 2×1, whose pixels and filters are read once for all of them
                    h, v = rows.pixel[a, 0], columns.pixel[b, 0]
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
                        y[n, a, b, c] = y00
                        y[n, a + 1, b, c] = y10
                        if wide:
                            y[n, a, b + 1, c] = y01
                            y[n, a + 1, b + 1, c] = y11
                    b += 2 if wide else 1
                    continue
                for row in range(a, a + height):
                    if at_once and rows.whole[row] and columns.whole[b]:
                        h, v = rows.pixel[row, 0], columns.pixel[b, 0]
                        for c in range(y.shape[3]):
                            total = bias[c]
                            for i in range(kh):
                                for j in range(kw):
                                    factor = w[(i * kw + j) * FAR + c]
                                    total += x[n, h + i * down, v + j * right, c] * factor
                            y[n, row, b, c] = total
                        continue
                    for c in range(y.shape[3]):
                        y[n, row, b, c] = bias[c]
                    if at_once and rows.whole[row]:  # left or right: a column of the window at a time
                        h = rows.pixel[row, 0]
                        for j in range(kw):
                            v = columns.pixel[b, j]
                            if v >= 0:
                                for c in range(y.shape[3]):
                                    total = y[n, row, b, c]
                                    for i in range(kh):
                                        total += x[n, h + i * down, v, c] * w[(i * kw + j) * FAR + c]
                                    y[n, row, b, c] = total
                        continue
                    for i in range(kh):
                        h = rows.pixel[row, i]
                        if h >= 0 and columns.whole[b]:  # above or below, or a large window: a row at a time
                            v = columns.pixel[b, 0]
                            for c in range(y.shape[3]):
                                total = y[n, row, b, c]
                                for j in range(kw):
                                    total += x[n, h, v + j * right, c] * w[(i * kw + j) * FAR + c]
                                y[n, row, b, c] = total
                        elif h >= 0:  # in a corner: a pixel at a time
                            for j in range(kw):
                                v = columns.pixel[b, j]
                                if v >= 0:
                                    for c in range(y.shape[3]):
                                        y[n, row, b, c] += x[n, h, v, c] * w[(i * kw + j) * FAR + c]
                b += 1
            a += height


def spread_windows(
    x: np.ndarray, w: np.ndarray, bias: np.ndarray, y: np.ndarray, rows: Spread, columns: Spread
) -> None:
    """y = x ⋆ᵀ w + bias:  (N, OH, OW, C), (KH·KW·FAR,), (C,) → (N, H, W, C).

    s·t pixels are computed at a time, for strides s of rows and t of columns. Once the compiler has written
    out the loops over them and their positions, only products are left in which both places are integers.
    """
    kh, s, p, d = len(rows.positions), len(rows.stride), len(rows.padding), len(rows.dilation)
    kw, t, q, e = len(columns.positions), len(columns.stride), len(columns.padding), len(columns.dilation)
    for n in range(y.shape[0]):
        for a in range((y.shape[1] + s - 1) // s):
            for b in range((y.shape[2] + t - 1) // t):
                h, v = a + rows.first, b + columns.first
                whole = rows.low <= a < rows.high and columns.low <= b < columns.high
                if whole and max(kh, kw) <= LONG and s * t * kh * kw <= WRITTEN_OUT:
                    for c in range(y.shape[3]):
                        for r in range(s):
                            for u in range(t):
                                total = bias[c]
                                for i in range(kh):
                                    for j in range(kw):
                                        down, right = r + p - i * d, u + q - j * e
                                        if down % s == 0 and right % t == 0:
                                            place = h - i * rows.apart + down // s
                                            beside = v - j * columns.apart + right // t
                                            total += x[n, place, beside, c] * w[(i * kw + j) * FAR + c]
                                y[n, a * s + r, b * t + u, c] = total
                    continue
                for row in range(a * s, min(a * s + s, y.shape[1])):  # at the border, or too many: one by one
                    for column in range(b * t, min(b * t + t, y.shape[2])):
                        for c in range(y.shape[3]):
                            y[n, row, column, c] = bias[c]
                for i in range(kh):
                    r = (i * d - p) % s  # the one of s pixels that finds a place at this position
                    place = h - i * rows.apart + (r + p - i * d) // s
                    if 0 <= place < x.shape[1] and a * s + r < y.shape[1]:
                        for j in range(kw):
                            u = (j * e - q) % t
                            beside = v - j * columns.apart + (u + q - j * e) // t
                            if 0 <= beside < x.shape[2] and b * t + u < y.shape[2]:
                                for c in range(y.shape[3]):
                                    factor = w[(i * kw + j) * FAR + c]
                                    y[n, a * s + r, b * t + u, c] += x[n, place, beside, c] * factor


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
