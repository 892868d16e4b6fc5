"""Winograd's minimal filtering: a 3×3 convolution with a quarter of the multiplications.

A tile of 4×4 outputs depends on 6×6 inputs d. Added up directly it takes 4·4·3·3 = 144 multiplications a
channel; F(4×4, 3×3) of Lavin & Gray (2015, arXiv:1509.09308, eq. 8 and §4.3) takes 6·6 = 36:

    Y = Aᵀ [ (G g Gᵀ) ⊙ (Bᵀ d B) ] A

for the filter g. It is what the convolution theorem is for Fourier's transform: go to another basis, multiply
element by element, come back; only that this basis is small and real.

Where it comes from, in one dimension: the product of two polynomials with coefficients a (degree 3) and g
(degree 2) has degree 5. So it is known from its values at six points t, and each of those is one
multiplication, a(t) · g(t). Let A and G evaluate at the points (rows 1, t, t², …; for t = ∞ the leading
coefficient) and B go back, from values to coefficients: the product is B [(G g) ⊙ (A a)]. This is linear in
a, and its transpose takes six numbers d to four,

    y = Aᵀ [ (G g) ⊙ (Bᵀ d) ],

and the transpose of multiplying by g is correlating with g. In two dimensions it is done to columns and rows.

So the sum over the channels is a matrix product for each of the 36 "frequencies",

    U = G g Gᵀ        V = Bᵀ d B        M = U V        Y = Aᵀ M A
    (36, O, C)        (36, C, T)        (36, O, T)     (16, O, T)        for T tiles,

and the transforms are one function, `transform`: X → matrix · X · matrixᵀ for many small X side by side.

Backward is the chain rule through the same matrices. For the weight,

    ∂L/∂M = A ∂L/∂Y Aᵀ        ∂L/∂U = ∂L/∂M Vᵀ        ∂L/∂g = Gᵀ ∂L/∂U G,

and for the input it is no more than a forward pass, because the transpose of a 3×3 convolution in steps of 1
is the convolution with the filter turned by 180° and its channels exchanged.

The price is accuracy, and it depends on the points. Lavin & Gray's 0, ±1, ±2, ∞ keep most entries integers;
with 0, ±2/3, ±3/2, ∞ rounding errors are five times smaller, three to seven times those of im2col, and a
product with a matrix costs the same whatever its entries are (Barabasz et al. 2020, arXiv:1803.10986). And ∞
or NaN in an input makes all 16 outputs of its tile NaN, also those whose windows do not see it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from minidl.backend import Array
from minidl.backend.blocks import positive_part
from minidl.backend.im2col import Pair, Window
from minidl.backend.kept import kept
from minidl.backend.memory import channels_last, empty
from minidl.backend.threads import parallel_for, scratch, split

POINTS = (0, 2 / 3, -2 / 3, 3 / 2, -3 / 2)  # and ∞


def _evaluate(coefficients: int) -> np.ndarray:
    """The matrix (6, coefficients) from a polynomial's coefficients to its values at POINTS and ∞."""
    finite = [[t**power for power in range(coefficients)] for t in POINTS]
    return np.array([*finite, [0] * (coefficients - 1) + [1]])


A, B, G = _evaluate(4), np.linalg.inv(_evaluate(6)), _evaluate(3)
INPUT, FILTER, TURNED, OUTPUT = (np.array(m, np.float32, order="C") for m in (B.T, G, G[:, ::-1], A.T))
FREQUENCIES = [(i, j) for i in split(6, 1) for j in split(6, 3)]
STRIP = 112  # tiles that one thread takes through all three steps; more if channels are few
BLOCK = 7168  # filters that one thread transforms at a time; tiles times channels of a strip, at least
LARGE_STRIP = 1 << 26  # multiplications: threads share rows and frequencies of a strip that is alone
ROUND_BYTES = 24 << 20  # of V and ∂L/∂M, which all threads share
SUM_BYTES = 1 << 20  # of ∂L/∂U, up to which threads add up one of their own


@dataclass(frozen=True)
class Tiles:
    """Some tiles to be worked on together: those in these rows of tiles, of these pictures."""

    pictures: slice
    rows: slice
    across: int  # tiles in a row

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.pictures.stop - self.pictures.start, self.rows.stop - self.rows.start, self.across

    def __len__(self) -> int:
        return math.prod(self.shape)


def cut(shape: tuple[int, ...], limit: int) -> Iterator[Tiles]:
    """All tiles of an output (N, O, H, W), about `limit` at a time, in two pieces at least if N > 1."""
    n, _, h, w = shape
    down, across = -(-h // 4), -(-w // 4)
    together = max(1, min(limit // (down * across), -(-n // 2)))
    for pictures in split(n, together):
        for rows in split(down, max(1, limit // across)):
            yield Tiles(pictures, rows, across)


def can(x: Array, y: Array, window: Window, groups: int) -> bool:
    """Whether this file can compute with these two arrays: 3×3 in steps of 1, float32, on the CPU."""
    return isinstance(x, np.ndarray) and fits(x, y, window, groups)


def fits(x: Array, y: Array, window: Window, groups: int) -> bool:
    """The same on any device."""
    return (
        window == Window((3, 3), padding=window.padding)
        and max(window.padding) <= 2
        and groups == 1
        and x.size > 0
        and x.dtype == y.dtype == np.float32
    )


def conv2d(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None,
    window: Window,
    groups: int,
    relu: bool = False,
    pool: bool = False,
) -> np.ndarray:
    """x ⋆ w + b:  (N, C, H, W), (O, C, 3, 3), (O,) → (N, O, OH, OW), or ⌊OH / 2⌋ and ⌊OW / 2⌋ with `pool`."""
    size = window.places(x.shape[2:])
    u = kept(weight, lambda: transform_filters(FILTER, weight.swapaxes(0, 1)))
    return _filtered(x, u, bias, relu, pool, window.padding, size)


def conv_transpose2d(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, window: Window, groups: int, size: Pair
) -> np.ndarray:
    """x ⋆ᵀ w + b:  (N, O, OH, OW), (O, C, 3, 3), (C,) → (N, C, *size)."""
    border = (2 - window.padding[0], 2 - window.padding[1])
    return _filtered(x, transform_filters(TURNED, weight), bias, False, False, border, size)


def _filtered(
    x: np.ndarray,
    u: np.ndarray,
    bias: np.ndarray | None,
    relu: bool,
    pool: bool,
    padding: Pair,
    size: Pair,
) -> np.ndarray:
    """Y for the transformed filters U (6, 6, C, O):  (N, C, H, W) → (N, O, *size), or half the size pooled."""
    n, (c, o) = len(x), u.shape[2:]
    y = channels_last((n, o, size[0] // 2, size[1] // 2) if pool else (n, o, *size), np.float32)

    def strip(here: Tiles) -> None:
        v, m = frequencies("v", len(here), c), frequencies("m", len(here), o)
        before, after = half("before", here, 6, c), half("after", here, 4, o)
        down(INPUT, x, padding, here, out=before)
        for i in range(6):
            across(INPUT, before[:, :, i], out=v)
            np.matmul(v, u[i], out=m)
            back_across(m, out=after[:, :, i])
        back_down(after, bias, relu, pool, here, out=y)

    strips = list(cut((n, o, *size), STRIP))
    parallel_for(np, strip, [(here,) for here in strips])
    return y


def conv_weight(x: np.ndarray, y: np.ndarray, window: Window, groups: int) -> np.ndarray:
    """x ⊛ y, which is ∂L/∂w for y = ∂L/∂(x ⋆ w):  (N, C, H, W), (N, O, OH, OW) → (O, C, 3, 3)."""
    c, o = x.shape[1], y.shape[1]
    add_up = _add_up_strips if 36 * 4 * o * c <= SUM_BYTES else _add_up_frequencies
    return filter_gradient(add_up(x, y, window.padding))


def _add_up_strips(x: np.ndarray, y: np.ndarray, padding: Pair) -> np.ndarray:
    """∂L/∂U (6, 6, O, C) of few channels: sums over an eighth of the strips each, and the sum of these."""
    c, o = x.shape[1], y.shape[1]
    strips = list(cut(y.shape, STRIP))
    shares = [strips[part] for part in split(len(strips), -(-len(strips) // 8))]
    sums = scratch(np, "du", (len(shares), 6, 6, o, c), np.float32)

    def add_up(share: list[Tiles], du: np.ndarray) -> None:
        du[...] = 0
        product = scratch(np, "product", du.shape[1:], np.float32)
        for here in share:
            v, dm = frequencies("v", len(here), c), frequencies("m", len(here), o)
            hx, hy = half("before", here, 6, c), half("after", here, 4, o)
            down(INPUT, x, padding, here, out=hx)
            down(OUTPUT.T, y, (0, 0), here, out=hy)
            for i in range(6):
                across(INPUT, hx[:, :, i], out=v)
                across(OUTPUT.T, hy[:, :, i], out=dm)
                np.matmul(dm.swapaxes(1, 2), v, out=product)
                du[i] += product

    parallel_for(np, add_up, list(zip(shares, sums, strict=True)))
    return sums.sum(0)


def _add_up_frequencies(x: np.ndarray, y: np.ndarray, padding: Pair) -> np.ndarray:
    """∂L/∂U (6, 6, O, C), as large as all the filters: one sum, of which threads share the frequencies."""
    c, o = x.shape[1], y.shape[1]
    du = scratch(np, "du", (6, 6, o, c), np.float32)

    def add(i: int, hx: Array, hy: Array, first: bool) -> None:
        n = math.prod(hx.shape[:2]) * (hy.shape[3] // 4)
        v, dm = frequencies("v", n, c), frequencies("m", n, o)
        across(INPUT, hx[:, :, i], out=v)
        across(OUTPUT.T, hy[:, :, i], out=dm)
        product = du[i] if first else scratch(np, "product", du[i].shape, np.float32)
        np.matmul(dm.swapaxes(1, 2), v, out=product)
        if not first:
            du[i] += product

    for number, here in enumerate(cut(y.shape, ROUND_BYTES // (36 * 4 * (c + o)))):
        hx, hy = half("before", here, 6, c), half("after", here, 4, o)
        pieces = [(INPUT, x, padding, part, place(hx, here, part)) for part in lines(here, c)]
        pieces += [(OUTPUT.T, y, (0, 0), part, place(hy, here, part)) for part in lines(here, o)]
        parallel_for(np, down, pieces)
        parallel_for(np, add, [(i, hx, hy, number == 0) for i in range(6)])
    return du


def place(h, here, part):
    p, r = here.pictures.start, here.rows.start
    return h[part.pictures.start - p : part.pictures.stop - p, part.rows.start - r : part.rows.stop - r]


def lines(here: Tiles, channels: int) -> Iterator[Tiles]:
    """`here` in pieces for the threads."""
    n, rows, across = here.shape
    limit = max(1, BLOCK * 4 // channels)
    together = max(1, limit // (rows * across))
    for p in split(n, together):
        for r in split(rows, max(1, limit // across)):
            yield Tiles(
                slice(here.pictures.start + p.start, here.pictures.start + p.stop),
                slice(here.rows.start + r.start, here.rows.start + r.stop),
                across,
            )


# The transforms


def transform_filters(matrix: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """U = matrix · filter · matrixᵀ:  (O, C, 3, 3) → (6, 6, O, C)."""
    o, c = weight.shape[:2]
    u = scratch(np, "u", (6, 6, o, c), np.float32)

    def block(part: slice) -> None:
        filters = scratch(np, "filters", (3, 3, part.stop - part.start, c), np.float32)
        filters[...] = weight[part].transpose(2, 3, 0, 1)
        half = np.matmul(matrix, filters.reshape(3, 3, -1))
        np.matmul(matrix, half.swapaxes(0, 1), out=u[:, :, part].reshape(6, 6, -1).swapaxes(0, 1))

    parallel_for(np, block, [(part,) for part in split(o, max(1, BLOCK // c))])
    return u


def filter_gradient(du: np.ndarray) -> np.ndarray:
    """∂L/∂g = Gᵀ ∂L/∂U G:  (6, 6, O, C) → (O, C, 3, 3)."""
    o, c = du.shape[2:]
    dg = empty(np, (o, c, 3, 3), np.float32)

    def block(part: slice) -> None:
        half = np.matmul(FILTER.T, du[:, :, part].reshape(6, 6, -1))
        filters = np.matmul(FILTER.T, half.swapaxes(0, 1)).swapaxes(0, 1)
        dg[part] = filters.reshape(3, 3, -1, c).transpose(2, 3, 0, 1)

    parallel_for(np, block, [(part,) for part in split(o, max(1, BLOCK // c))])
    return dg


def half(name: str, here: Tiles, size: int, channels: int) -> np.ndarray:
    pictures, rows, across = here.shape
    return scratch(np, name, (pictures, rows, 6, 4 * (across - 1) + size, channels), np.float32)


def down(matrix: np.ndarray, x: np.ndarray, padding: Pair, here: Tiles, out: np.ndarray) -> None:
    """matrix · tile for x (N, C, H, W), zero outside it, in out (n, rows, 6, width, C)."""
    size = matrix.shape[1]
    pictures, rows, across = here.shape
    height, width = 4 * (rows - 1) + size, 4 * (across - 1) + size
    seen = region(x, 4 * here.rows.start - padding[0], -padding[1], height, width, here.pictures)
    c = seen.shape[3]
    sp, sy, sx, s1 = seen.strides
    column = np.lib.stride_tricks.as_strided(seen, (pictures, rows, size, width * c), (sp, 4 * sy, sy, s1))
    np.matmul(matrix, column, out=out.reshape(pictures, rows, 6, -1))


def across(matrix: np.ndarray, half: np.ndarray, out: np.ndarray) -> None:
    """half · matrixᵀ:  (n, rows, width, C) → (6, T, C)"""
    size = matrix.shape[1]
    n, rows, width, c = half.shape
    tiles = (width - size) // 4 + 1
    s = half.strides
    seen = np.lib.stride_tricks.as_strided(half, (n, rows, tiles, size, c), (s[0], s[1], 4 * s[2], s[2], s[3]))
    np.matmul(matrix, seen, out=out.reshape(6, n, rows, tiles, c).transpose(1, 2, 3, 0, 4))


def back_across(m: np.ndarray, out: np.ndarray) -> None:
    """M · A:  (6, T, O) → (n, rows, width, O)"""
    n, rows, width, o = out.shape
    m = m.reshape(6, n, rows, width // 4, o).transpose(1, 2, 3, 0, 4)
    np.matmul(OUTPUT, m, out=out.reshape(n, rows, width // 4, 4, o))


def region(x: np.ndarray, top: int, left: int, height: int, width: int, pictures: slice) -> np.ndarray:
    """These pixels of x (N, C, H, W), zero outside it, as (n, height, width, C) with rows in one piece."""
    seen = x.transpose(0, 2, 3, 1)[pictures, max(top, 0) : max(top + height, 0), max(left, 0) : left + width]
    n, h, w, c = seen.shape
    if (h, w) == (height, width) and seen.strides[2:] == (4 * c, 4):
        return seen
    bordered = scratch(np, "bordered", (n, height, width, c), np.float32)
    bordered[...] = 0
    bordered[:, max(-top, 0) : max(-top, 0) + h, -left : -left + w] = seen
    return bordered


def back_down(
    half: np.ndarray,
    bias: np.ndarray | None,
    relu: bool,
    pool: bool,
    here: Tiles,
    out: np.ndarray,
) -> None:
    """Y = Aᵀ M A + b for M (6, 6, T, O), put into out (N, O, OH, OW).

    With `pool` two, the largest
    of 2×2 each, to which b is added later: rounding does not change which is the largest.
    """
    o, (pictures, rows, across) = half.shape[-1], here.shape
    half = half.reshape(pictures, rows, 6, -1)
    y = out.transpose(0, 2, 3, 1)
    side = 2 if pool else 4
    part = y[here.pictures, side * here.rows.start : side * here.rows.stop]
    fits = part.shape[1:3] == (side * rows, side * across)
    straight = fits and not pool
    four = (
        part.reshape(pictures, rows, 4, across * 4 * o)
        if straight
        else scratch(np, "picture", (pictures, rows, 4, across * 4 * o), np.float32)
    )
    np.matmul(OUTPUT, half, out=four)
    picture = four
    if pool:
        wide = scratch(np, "wide", (pictures, rows, 2, across * 4 * o), np.float32)
        np.maximum(four[:, :, ::2], four[:, :, 1::2], out=wide)
        pairs = wide.reshape(pictures, rows, 2, across * 2, 2, o)
        picture = scratch(np, "pooled", (pictures, rows, 2, across * 2, o), np.float32)
        np.maximum(pairs[..., 0, :], pairs[..., 1, :], out=picture)
        picture = picture.reshape(pictures, rows, 2, -1)
    if bias is not None:
        picture += np.tile(bias, side * across)
    if relu:
        positive_part(picture, out=picture)
    if not straight:
        picture = picture.reshape(pictures, side * rows, side * across, o)
        part[...] = picture[:, : part.shape[1], : part.shape[2]]


def frequencies(name: str, tiles: int, channels: int) -> np.ndarray:
    """Scratch memory (6, T, C) as (T, 6, C), the rows of each tile an odd number of cache lines apart.

    An even multiple such as 4096 bytes would put all planes into the same few places of the first cache.
    """
    lines = -(-6 * channels // 16) | 1
    memory = scratch(np, name, (tiles, 16 * lines), np.float32)[:, : 6 * channels]
    return memory.reshape(tiles, 6, channels).swapaxes(0, 1)
