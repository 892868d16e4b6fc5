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

The transforms are linear, so on flattened tiles each is one matrix (⊗ is the Kronecker product):

    U = (G ⊗ G) g      36×9    the filters        (36, O, C)
    V = (B ⊗ B)ᵀ d     36×36   the input tiles    (36, C, T)
    Y = (A ⊗ A)ᵀ M     16×36   the output tiles   (16, O, T)

and between them the sum over the channels is a matrix product for each of the 36 "frequencies": M = U V.

Backward is the chain rule through the same matrices. For the weight,

    ∂L/∂M = (A ⊗ A) ∂L/∂Y        ∂L/∂U = ∂L/∂M Vᵀ        ∂L/∂g = (Gᵀ ⊗ Gᵀ) ∂L/∂U,

and for the input it is no more than a forward pass, because the transpose of a 3×3 convolution in steps of 1
is the convolution with the filter turned by 180° and its channels exchanged.

The price is accuracy, and it depends on the points. Lavin & Gray's 0, ±1, ±2, ∞ keep most entries integers;
with 0, ±2/3, ±3/2, ∞ rounding errors are five times smaller, two to four times those of im2col, and a product
with a matrix costs the same whatever its entries are (Barabasz et al. 2020, arXiv:1803.10986).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from minidl.backend import Array
from minidl.backend.im2col import Pair, Window
from minidl.backend.memory import empty
from minidl.backend.threads import parallel_for, scratch, split

POINTS = (0, 2 / 3, -2 / 3, 3 / 2, -3 / 2)  # and ∞


def _evaluate(coefficients: int) -> np.ndarray:
    """The matrix (6, coefficients) from a polynomial's coefficients to its values at POINTS and ∞."""
    finite = [[t**power for power in range(coefficients)] for t in POINTS]
    return np.array([*finite, [0] * (coefficients - 1) + [1]])


A, B, G = _evaluate(4), np.linalg.inv(_evaluate(6)), _evaluate(3)
INPUT, FILTER, OUTPUT = (np.kron(m, m).astype(np.float32) for m in (B.T, G, A))
FOUR = np.complex128  # four float32 at once: NumPy copies by elements, and the fewer the faster
FREQUENCIES = split(36, 3)
STRIP = 196  # tiles that one thread takes through all three steps
ROUND_BYTES = 24 << 20  # of V and ∂L/∂M, which all threads share
SUM_BYTES = 1 << 20  # of ∂L/∂U, up to which threads add up one of their own
BLOCK_BYTES = 1 << 20  # of tiles or filters that one thread transforms at a time


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

    def in_order(self, x: Array) -> Array:
        """(…, pictures, rows, across) with the longer of the outer axes last, where NumPy's inner loop is."""
        return np.moveaxis(x, -3, -1) if self.shape[0] > self.across else x


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
    return (
        window == Window((3, 3), padding=window.padding)
        and max(window.padding) <= 2
        and groups == 1
        and isinstance(x, np.ndarray)
        and x.size > 0
        and x.dtype == y.dtype == np.float32
    )


def conv2d(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, window: Window, groups: int
) -> np.ndarray:
    """x ⋆ w + b:  (N, C, H, W), (O, C, 3, 3), (O,) → (N, O, OH, OW)."""
    return _filtered(x, transform_filters(FILTER, weight), bias, window.padding)


def conv_transpose2d(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, window: Window, groups: int, size: Pair
) -> np.ndarray:
    """x ⋆ᵀ w + b:  (N, O, OH, OW), (O, C, 3, 3), (C,) → (N, C, *size)."""
    turned = transform_filters(FILTER[:, ::-1], weight)  # pixel (i, j) changes places with (2 − i, 2 − j)
    return _filtered(x, turned.swapaxes(1, 2), bias, (2 - window.padding[0], 2 - window.padding[1]))


def _filtered(x: np.ndarray, u: np.ndarray, bias: np.ndarray | None, padding: Pair) -> np.ndarray:
    """Y for the transformed filters U (36, O, C):  (N, C, H, W) → (N, O, H + 2p − 2, W + 2p − 2)."""
    (n, c, h, w), o = x.shape, u.shape[1]
    y = empty(np, (n, o, h + 2 * padding[0] - 2, w + 2 * padding[1] - 2), np.float32)

    def strip(here: Tiles) -> None:
        v, m = frequencies("v", c, len(here)), frequencies("m", o, len(here))
        transform_tiles(INPUT, x, padding, here, slice(0, c), v)
        np.matmul(u, v, out=m)
        transform_output(m, bias, here, y)

    parallel_for(np, strip, [(here,) for here in cut(y.shape, STRIP)])
    return y


def conv_weight(x: np.ndarray, y: np.ndarray, window: Window, groups: int) -> np.ndarray:
    """x ⊛ y, which is ∂L/∂w for y = ∂L/∂(x ⋆ w):  (N, C, H, W), (N, O, OH, OW) → (O, C, 3, 3)."""
    c, o = x.shape[1], y.shape[1]
    add_up = _add_up_strips if 36 * 4 * o * c <= SUM_BYTES else _add_up_frequencies
    return filter_gradient(add_up(x, y, window.padding, list(cut(y.shape, STRIP))))


def _add_up_strips(x: np.ndarray, y: np.ndarray, padding: Pair, strips: list[Tiles]) -> np.ndarray:
    """∂L/∂U (36, O, C) of few channels: sums over an eighth of the strips each, and the sum of these."""
    c, o = x.shape[1], y.shape[1]
    shares = [strips[part] for part in split(len(strips), -(-len(strips) // 8))]
    sums = scratch(np, "du", (len(shares), 36, o, c), np.float32)

    def add_up(share: list[Tiles], du: np.ndarray) -> None:
        du[...] = 0
        product = scratch(np, "product", du.shape, np.float32)
        for here in share:
            v, dm = frequencies("v", c, len(here)), frequencies("m", o, len(here))
            transform_tiles(INPUT, x, padding, here, slice(0, c), v)
            transform_tiles(OUTPUT, y, (0, 0), here, slice(0, o), dm)
            du += np.matmul(dm, v.swapaxes(1, 2), out=product)

    parallel_for(np, add_up, list(zip(shares, sums, strict=True)))
    return sums.sum(0)


def _add_up_frequencies(x: np.ndarray, y: np.ndarray, padding: Pair, strips: list[Tiles]) -> np.ndarray:
    """∂L/∂U (36, O, C), as large as all the filters: one sum, of which threads share the frequencies."""
    c, o = x.shape[1], y.shape[1]
    du = scratch(np, "du", (36, o, c), np.float32)
    rounds = split(len(strips), max(1, ROUND_BYTES // (36 * 4 * (c + o) * STRIP)))
    for some in (strips[r] for r in rounds):
        stops = list(itertools.accumulate(map(len, some)))
        v, dm = frequencies("v", c, stops[-1]), frequencies("m", o, stops[-1])
        pieces = []
        for here, stop in zip(some, stops, strict=True):
            width, columns = max(1, BLOCK_BYTES // (36 * 4 * len(here))), slice(stop - len(here), stop)
            pieces += [(INPUT, x, padding, here, s, v[:, s, columns]) for s in split(c, width)]
            pieces += [(OUTPUT, y, (0, 0), here, s, dm[:, s, columns]) for s in split(o, width)]

        def multiply(f: slice, first: bool, v: Array = v, dm: Array = dm) -> None:
            if first:
                np.matmul(dm[f], v[f].swapaxes(1, 2), out=du[f])
            else:
                product = scratch(np, "product", du[f].shape, np.float32)
                du[f] += np.matmul(dm[f], v[f].swapaxes(1, 2), out=product)

        parallel_for(np, transform_tiles, pieces)
        parallel_for(np, multiply, [(f, some[0] is strips[0]) for f in FREQUENCIES])
    return du


# The transforms


def transform_filters(matrix: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """U = matrix · filters:  (36, 9), (O, C, 3, 3) → (36, O, C)."""
    o, c = weight.shape[:2]
    u = scratch(np, "u", (36, o, c), np.float32)

    def block(part: slice) -> None:
        filters = scratch(np, "filters", (3, 3, part.stop - part.start, c), np.float32)
        filters[...] = weight[part].transpose(2, 3, 0, 1)
        _each_channel(matrix, filters.reshape(9, -1, c), out=u[:, part])

    parallel_for(np, block, [(part,) for part in _filter_blocks(o, c)])
    return u


def filter_gradient(du: np.ndarray) -> np.ndarray:
    """∂L/∂g = (Gᵀ ⊗ Gᵀ) ∂L/∂U:  (36, O, C) → (O, C, 3, 3)."""
    dg = empty(np, (*du.shape[1:], 9), np.float32)

    def block(part: slice) -> None:
        np.matmul(du[:, part].transpose(1, 2, 0), FILTER, out=dg[part])

    parallel_for(np, block, [(part,) for part in _filter_blocks(*du.shape[1:])])
    return dg.reshape(*du.shape[1:], 3, 3)


def transform_tiles(
    matrix: np.ndarray, x: np.ndarray, padding: Pair, here: Tiles, channels: slice, out: np.ndarray
) -> None:
    """matrix · tiles of these channels of x (N, C, H, W), zero outside it, in out (36, C, T).

    INPUT takes 6×6 tiles, which overlap; OUTPUT takes 4×4 tiles.
    """
    size = math.isqrt(matrix.shape[1])
    pictures, rows, across = here.shape
    top, left = 4 * here.rows.start - padding[0], -padding[1]
    height, width = 4 * (rows - 1) + size, 4 * (across - 1) + size
    seen = x[here.pictures, channels, max(top, 0) : max(top + height, 0), : left + width]
    p, c, h, w = seen.shape
    if (h, w) != (height, width):
        bordered = scratch(np, "bordered", (p, c, height, width), np.float32)
        bordered[...] = 0
        bordered[:, :, max(-top, 0) : max(-top, 0) + h, -left : -left + w] = seen
        seen = bordered
    sp, sc, sy, sx = seen.strides
    shape, strides = (size, size, c, pictures, rows, across), (sy, sx, sc, sp, 4 * sy, 4 * sx)
    windows = here.in_order(np.lib.stride_tricks.as_strided(seen, shape, strides))
    tiles = frequencies("tiles", c, len(here), size**2)
    tiles.reshape(windows.shape)[...] = windows
    _each_channel(matrix, tiles, out=out)


def transform_output(m: np.ndarray, bias: np.ndarray | None, here: Tiles, y: np.ndarray) -> None:
    """Y: M (36, O, T), transformed back and put into y; what sticks out over its edge is dropped."""
    o, (pictures, rows, across) = m.shape[1], here.shape
    tiles = scratch(np, "tiles", (o, len(here), 16), np.float32)
    np.matmul(m.transpose(1, 2, 0), OUTPUT, out=tiles)
    picture = scratch(np, "picture", (o, pictures, 4 * rows, 4 * across), np.float32)
    lines = here.in_order(picture.view(FOUR).reshape(o, pictures, rows, 4, across).transpose(0, 3, 1, 2, 4))
    lines[...] = np.moveaxis(tiles.view(FOUR).reshape(o, *lines.shape[2:], 4), -1, 1)
    part = y[here.pictures, :, 4 * here.rows.start : 4 * here.rows.stop]
    inside = picture[:, :, : part.shape[2], : part.shape[3]].swapaxes(0, 1)
    np.add(inside, 0 if bias is None else bias[:, None, None], out=part)


def _filter_blocks(o: int, c: int) -> list[slice]:
    return split(o, max(1, BLOCK_BYTES // (36 * 4 * c)))


def _each_channel(matrix: np.ndarray, tiles: np.ndarray, out: np.ndarray) -> None:
    """matrix · tiles, (J, K) · (K, C, T) → (J, C, T), as C small products: for those BLAS has faster code."""
    np.matmul(matrix, tiles.swapaxes(0, 1), out=out.swapaxes(0, 1))


def frequencies(name: str, channels: int, tiles: int, k: int = 36) -> np.ndarray:
    """Scratch memory (k, channels, tiles) whose k rows are an odd number of cache lines apart.

    An even multiple such as 4096 bytes would put all rows into the same few places of the first cache.
    """
    lines = -(-channels * tiles // 16) | 1
    rows = scratch(np, name, (k, 16 * lines), np.float32)
    return rows[:, : channels * tiles].reshape(k, channels, tiles)
