"""The convolution of `im2col_conv.py` with a KH-th of its copies: shifted rows instead of columns.

For each pixel j in a row of the window, let S hold the picture as that pixel sees it:

    S[r, c, j, b] = x[c, r − p, b·s + j·d − p]        or 0 outside the picture.

What the windows of one row of y see are KH rows of S, one below the other, as a matrix that needs no copy. So
each row of y is one matrix product:

    y[:, a, :] = W · S[a·s … a·s + KH − 1]        (O, KH·C·KW) · (KH·C·KW, OW)

Where a group has few filters (in a depthwise convolution it is one), W has so few rows that BLAS would be
slow. There t rows of y are taken together. They depend on e = (t − 1)·s + KH rows of S through

    T[a, r] = w[r − a·s]        (t, e·C·KW) for each filter,

a band of copies of the filter with zeros beside it, a Toeplitz matrix. Most multiplications are by these
zeros, and still it is faster.

Backward is the chain rule through the same steps. ∂L/∂x is again such a product: S takes ∂L/∂y[r, b] to all
columns b·s + j·d − p, and T[a, r] = w[i] where row r of ∂L/∂y belongs to row a = r·s + i·d − p of ∂L/∂x. With
a stride the rows of S are mostly zeros. For ∂L/∂w, let the rows of each (c, j) in S follow one another. What
pixel row i of the window sees are OH of them, again without a copy, as one vector of P = OH·OW numbers:

    ∂L/∂w[:, :, i, :] = Σ S[:, :, i … i + OH − 1] · ∂L/∂yᵀ        (C·KW, P) · (P, O)

A thread takes some pictures, some groups, or some rows at a time. The shapes alone decide how many, so that
the results do not depend on the number of threads.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np

from minidl.backend import Array
from minidl.backend.blocks import positive_part
from minidl.backend.im2col import Pair, Window
from minidl.backend.memory import channels_last, empty
from minidl.backend.products import SMALL_PRODUCT
from minidl.backend.threads import parallel_for, scratch, split
from minidl.functional import strip_conv
from minidl.functional.epilogue import Epilogue

FEW = 4  # filters of a group: fewer take several rows of y together
TOGETHER = 8  # about as many
FAT = 16  # channels that these see at most: the zeros of a band cost too much with more
LARGE = 1 << 17  # multiplications in a window, times its stride: from here on strips are faster
COLOURS, SOME_FILTERS = 4, 16  # channels at most, and filters at least, of a first layer
PIECE_BYTES = (1 << 20, 4 << 20)  # of S that a thread takes at a time, at least and at most
PIECES = 8  # of the work, if they are large enough
SHARES = 16  # sums that make up ∂L/∂w
LONG = 128  # numbers that are multiplied and added up: with fewer it is not


def can(x: Array, window: Window) -> bool:
    """Whether this file can compute with x, and has any copies to save: on the CPU, more than 1×1 pixels."""
    return isinstance(x, np.ndarray) and x.size > 0 and window.kernel != (1, 1)


@dataclass(frozen=True)
class Shift:
    """How a row of pixels becomes KW rows of S: for each j, which places b see a pixel, and which one."""

    seen: tuple[tuple[slice, slice], ...]

    @classmethod
    def forward(cls, window: Window, width: int, places: int) -> Shift:
        """S[j, b] = x[b·s + j·d − p]"""
        s, p, d = window.stride[1], window.padding[1], window.dilation[1]
        return cls(tuple(_inside(places, s, j * d - p, width) for j in range(window.kernel[1])))

    def transposed(self) -> Shift:
        """S[j, b·s + j·d − p] = y[b]"""
        return Shift(tuple((pixels, places) for places, pixels in self.seen))

    def into(self, s: np.ndarray, x: np.ndarray, first: int, step: int = 1) -> None:
        """s[…, c, j, r, b] = S of row first + r·step of x (…, C, H, W); rows outside x are 0."""
        to_rows, rows = _inside(s.shape[-2], step, first, x.shape[-2])
        apart = any(places.step > 1 for places, _ in self.seen)
        if apart:
            s[...] = 0
        else:
            s[..., : to_rows.start, :] = 0
            s[..., to_rows.stop :, :] = 0
        for j, (places, pixels) in enumerate(self.seen):
            if not apart:
                s[..., j, to_rows, : places.start] = 0
                s[..., j, to_rows, places.stop :] = 0
            s[..., j, to_rows, places] = x[..., rows, pixels]


@dataclass(frozen=True)
class Band:
    """T for each group and filter (G, M, t, e·C·KW), and where the e rows of S begin.

    For tile k, the rows k·t … k·t + t − 1 of the result, they begin at row first + k·step of the input.
    """

    matrix: np.ndarray
    first: int
    step: int
    shift: Shift

    @classmethod
    def of(cls, filters: np.ndarray, rows: np.ndarray, t: int, first: int, step: int, shift: Shift) -> Band:
        """T[a, r] = w[i] for the triples `rows` = (a, r, i), from filters (G, M, C, KH, KW)."""
        (a, r, i), (groups, m, c, _, kw) = rows, filters.shape
        matrix = np.zeros((groups, m, t, r.max() + 1, c, kw), filters.dtype)
        matrix[:, :, a, r] = filters.transpose(0, 1, 3, 2, 4)[:, :, i]
        return cls(matrix.reshape(groups, m, t, -1), first, step, shift)


def conv2d(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None,
    window: Window,
    groups: int,
    relu: bool = False,
) -> np.ndarray:
    """y = x ⋆ w + b:  (N, C, H, W), (O, C/G, KH, KW), (O,) → (N, O, OH, OW)."""
    m, c = len(weight) // groups, weight.shape[1]
    if not _products_pay(m, c, window):
        return strip_conv.conv2d(x, weight, bias, window, groups, relu)
    size = window.places(x.shape[2:])
    return _multiply(_band(x, weight, window, groups, size), x, bias, size, relu)


def can_finish(x: np.ndarray, weight: np.ndarray, window: Window, groups: int) -> bool:
    """Whether `conv2d_with` can do it: the result is channels-last, and single rows of it are products."""
    m, c = weight.shape[:2]
    return m >= FEW and _products_pay(m, c, window) and _is_last(x, m, groups)


def conv2d_with(epilogue: Epilogue, x: np.ndarray, weight: np.ndarray, window: Window) -> None:
    """x ⋆ w, and what follows it."""
    _multiply_lines(_band(x, weight, window, 1, epilogue.shape[2:]), x, epilogue)


def _band(x: np.ndarray, weight: np.ndarray, window: Window, groups: int, size: Pair) -> Band:
    """T[a, r] = w[r − a·s] for a result of `size`, from filters (O, C/G, KH, KW)."""
    filters = weight.reshape(groups, -1, *weight.shape[1:])
    stride, padding, dilation = window.stride[0], window.padding[0], window.dilation[0]
    t = _together(size[0], 1) if filters.shape[1] < FEW else 1
    a, i = np.mgrid[:t, : window.kernel[0]].reshape(2, -1)
    rows = np.array((a, a * stride + i * dilation, i))
    return Band.of(filters, rows, t, -padding, t * stride, Shift.forward(window, x.shape[3], size[1]))


def conv_transpose2d(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, window: Window, groups: int, size: Pair
) -> np.ndarray:
    """y = x ⋆ᵀ w + b:  (N, O, OH, OW), (O, C/G, KH, KW), (C,) → (N, C, *size)."""
    filters = weight.reshape(groups, -1, *weight.shape[1:]).swapaxes(1, 2)
    m, c = filters.shape[1:3]
    if not _products_pay(m, c, window):
        return strip_conv.conv_transpose2d(x, weight, bias, window, groups, size)
    stride, padding, dilation = window.stride[0], window.padding[0], window.dilation[0]
    t = _together(size[0], stride) if m < FEW else stride
    first = -((window.extent[0] - 1 - padding) // stride)
    e = (t - 1 + padding) // stride + 1 - first
    r, i = np.mgrid[:e, : window.kernel[0]].reshape(2, -1)
    a = (first + r) * stride + i * dilation - padding
    rows = np.array((a, r, i))[:, (a >= 0) & (a < t)]
    shift = Shift.forward(window, size[1], x.shape[3]).transposed()
    return _multiply(Band.of(filters, rows, t, first, t // stride, shift), x, bias, size)


def _multiply(
    band: Band, x: np.ndarray, bias: np.ndarray | None, size: Pair, relu: bool = False
) -> np.ndarray:
    """T · S + b, a tile of rows at a time:  (N, G·C, H, W), (G·M,) → (N, G·M, *size)."""
    groups, m, t, _ = band.matrix.shape
    n, dtype = len(x), np.result_type(x, band.matrix)
    if _is_last(x, m, groups):
        epilogue = Epilogue((n, m, *size), bias, relu, dtype=dtype)
        _multiply_lines(band, x, epilogue)
        return epilogue.y
    y = empty(np, (n, groups * m, *size), dtype)
    x, targets = as_shaped(x, groups), y.reshape(n, groups, m, *size)
    x = x.reshape(n, groups, -1, *x.shape[2:])

    def piece(pictures: slice, group: slice, rows: slice) -> None:
        out = targets[pictures, group, :, rows]
        _multiply_rows(band, x[pictures, group], group, rows.start, out)
        if bias is not None:
            out += bias.reshape(groups, m, 1, 1)[group]
        if relu:
            positive_part(out, out=out)

    parallel_for(np, piece, _pieces(n, groups, size[0], _row_bytes(band, x.shape[2], y), t))
    return y


def _multiply_lines(band: Band, x: np.ndarray, epilogue: Epilogue) -> None:
    """T · S and what follows it, where the result is channels-last:  (N, C, H, W) → (N, M, OH, OW)."""
    n, _, height, width = epilogue.shape

    def piece(pictures: slice, group: slice, rows: slice) -> None:
        lines = epilogue.lines(pictures, rows, width)
        out = lines.transpose(0, 3, 1, 2)[:, None]
        _multiply_rows(band, x[pictures, None], group, rows.start, out)
        epilogue.finish(lines, pictures, rows)

    unit = band.matrix.shape[2] * (2 if epilogue.pool else 1)  # cuts through no 2×2
    parallel_for(np, piece, _pieces(n, 1, height, _row_bytes(band, x.shape[1], epilogue.y), unit))


def _multiply_rows(band: Band, x: np.ndarray, group: slice, first: int, out: np.ndarray) -> None:
    """T · S for some rows of the result, from row `first` on:  (n, g, C, H, W) → (n, g, M, rows, OW)."""
    (n, g, _, height, width), (*_, t, k) = out.shape, band.matrix.shape
    c, kw = x.shape[2], len(band.shift.seen)
    tiles = -(-height // t)
    s = scratch(np, "s", (n, g, (tiles - 1) * band.step + k // (c * kw), c, kw, width), out.dtype)
    band.shift.into(s.transpose(0, 1, 3, 4, 2, 5), x, band.first + first // t * band.step)
    sn, sg, sr, _, sj, sb = s.strides
    seen = np.lib.stride_tricks.as_strided(s, (n, g, tiles, k, width), (sn, sg, band.step * sr, sj, sb))
    whole, rest = divmod(height, t)
    _multiply_tiles(band.matrix[group], seen[:, :, :whole], out[:, :, :, : whole * t])
    if rest:
        _multiply_tiles(band.matrix[group, :, :rest], seen[:, :, whole:], out[:, :, :, whole * t :])


def _row_bytes(band: Band, channels: int, y: np.ndarray) -> int:
    """Of S, for each row of the result."""
    return -(-channels * len(band.shift.seen) * y.shape[3] * y.itemsize * band.step // band.matrix.shape[2])


def _multiply_tiles(matrix: np.ndarray, seen: np.ndarray, out: np.ndarray) -> None:
    """(G, M, t, K) · (N, G, tiles, K, W) → (N, G, M, tiles·t, W): products of M rows, or t if M is FEW."""
    (_, m, t, _), (n, g, tiles, _, w) = matrix.shape, seen.shape
    out = out.reshape(n, g, m, tiles, t, w)
    if m < FEW:
        np.matmul(matrix[:, :, None], seen[:, :, None], out=out)
    else:
        np.matmul(matrix.swapaxes(1, 2)[:, None], seen[:, :, :, None], out=out.transpose(0, 1, 3, 4, 2, 5))


def conv_weight(x: np.ndarray, y: np.ndarray, window: Window, groups: int) -> np.ndarray:
    """w = x ⊛ y, which is ∂L/∂w for y = ∂L/∂(x ⋆ w):  (N, C, H, W), (N, O, OH, OW) → (O, C/G, KH, KW)."""
    n, o, c = len(x), y.shape[1] // groups, x.shape[1] // groups
    if not _pays(o, c, window):
        return strip_conv.conv_weight(x, y, window, groups)
    kh, kw = window.kernel
    stride, padding, dilation = window.stride[0], window.padding[0], window.dilation[0]
    shift = Shift.forward(window, x.shape[3], y.shape[3])
    w = empty(np, (groups * o, c, kh, kw), np.result_type(x, y))
    # Rows i of the window that see the same rows of the picture, every stride-th, look into the same S.
    period = stride // math.gcd(stride, dilation)
    alike = [range(i, kh, period) for i in range(min(period, kh))]
    x, y = as_shaped(x, groups), as_shaped(y, groups)
    x, y = x.reshape(n, groups, c, *x.shape[2:]), y.reshape(n, groups, o, *y.shape[2:])
    pieces = _pieces(n, groups, y.shape[3], c * kw * y.shape[4] * x.itemsize)
    shares = [pieces[share] for share in split(len(pieces), -(-len(pieces) // SHARES))]
    sums = np.zeros((len(shares), groups, kh, c * kw, o), w.dtype)

    def add(share: list[tuple[slice, slice, slice]], total: np.ndarray) -> None:
        for (pictures, group, rows), i in itertools.product(share, alike):
            seen, dy = x[pictures, group], y[pictures, group, :, rows]
            p, g, _, height, width = dy.shape
            step = i.step * dilation // stride
            s = scratch(np, "s", (p, g, c, kw, height + (len(i) - 1) * step, width), w.dtype)
            shift.into(s, seen, rows.start * stride + i.start * dilation - padding, stride)
            k = _parts(height, width, o * c * kw)
            sp, sg, _, sj, sr, sb = s.strides
            vectors = np.lib.stride_tricks.as_strided(
                s,
                (p, g, len(i), k, c * kw, height // k * width),
                (sp, sg, step * sr, height // k * sr, sj, sb),
            )
            dy = dy.reshape(p, g, 1, o, k, -1).swapaxes(3, 4)
            total[group, i.start :: i.step] += _products(vectors, dy).sum((0, 3))

    parallel_for(np, add, list(zip(shares, sums, strict=True)))
    total = sums.sum(0).reshape(groups, kh, c, kw, o)
    w.reshape(groups, o, c, kh, kw)[...] = total.transpose(0, 4, 2, 1, 3)
    return w


def _products(s: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(…, K, P) · (…, O, P)ᵀ → (…, K, O), in whichever way BLAS is faster."""
    k, o = s.shape[-2], y.shape[-2]
    if o == 1:
        return np.vecdot(s, y)[..., None]
    if 2 * k <= o:
        return (y @ s.swapaxes(-1, -2)).swapaxes(-1, -2)
    return s @ y.swapaxes(-1, -2)


def _parts(rows: int, width: int, products: int) -> int:
    """In how many equal parts to multiply these rows: so many that each is a SMALL_PRODUCT, if long."""
    for parts in range(1, rows + 1):
        length = rows // parts * width
        if rows % parts == 0 and length * products <= SMALL_PRODUCT:
            return parts if length >= LONG else 1
    return 1


def as_shaped(x: np.ndarray, groups: int) -> np.ndarray:
    """x, or with several groups a copy whose channels lie one after the other, in memory too."""
    if groups == 1 or not channels_last(x):
        return x
    y = empty(np, x.shape, x.dtype)
    parallel_for(np, np.copyto, list(zip(y, x, strict=True)))
    return y


def _pays(filters: int, channels: int, window: Window) -> bool:
    """Whether rows are faster than strips for so many of them in a group."""
    return filters * channels * math.prod(window.kernel) * math.prod(window.stride) <= LARGE


def _products_pay(filters: int, channels: int, window: Window) -> bool:
    """The same for y and ∂L/∂x, where few filters take bands, with their zeros."""
    return _pays(filters, channels, window) and (filters >= FEW or channels <= FAT)


def _is_last(x: np.ndarray, filters: int, groups: int) -> bool:
    """Whether the result is channels-last: as x is, or behind a first layer, because the next wants it so."""
    first_layer = x.shape[1] <= COLOURS and filters >= SOME_FILTERS
    return groups == 1 and (first_layer or channels_last(x))


def _together(rows: int, unit: int) -> int:
    """About TOGETHER rows, a multiple of `unit`, so that tiles of so many fill `rows` evenly."""
    tiles = -(-rows // TOGETHER)
    return -(-rows // (tiles * unit)) * unit


def _pieces(
    n: int, groups: int, rows: int, row_bytes: int, unit: int = 1
) -> list[tuple[slice, slice, slice]]:
    """All (pictures, groups, rows) in pieces of about as many bytes, the rows in multiples of `unit`."""
    least, most = PIECE_BYTES
    size = min(most, max(least, n * groups * rows * row_bytes // PIECES))
    p = max(1, size // (groups * rows * row_bytes))
    if p < n:
        pieces = -(-n // p)
        p = -(-n // (pieces + pieces % 2))  # an even number of pieces: two threads get as many
    g = min(groups, max(1, size // (rows * row_bytes)))
    r = rows if rows * row_bytes <= size else -(-size // (row_bytes * unit)) * unit
    return list(itertools.product(split(n, p), split(groups, g), split(rows, r)))


def _inside(places: int, stride: int, offset: int, size: int) -> tuple[slice, slice]:
    """The places b with 0 ≤ b·stride + offset < size, and the pixels there."""
    start = max(0, -(offset // stride))
    stop = max(start, min(places, (size - 1 - offset) // stride + 1))
    first = start * stride + offset
    return slice(start, stop, 1), slice(first, first + (stop - start) * stride, stride)
