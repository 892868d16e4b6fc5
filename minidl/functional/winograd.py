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

    U = G g Gᵀ        V = Bᵀ d B        M = V U        Y = Aᵀ M A
    (36, C, O)        (36, T, C)        (36, T, O)     (16, T, O)        for T tiles.

Backward is the chain rule through the same matrices. For the weight,

    ∂L/∂M = A ∂L/∂Y Aᵀ        ∂L/∂U = ∂L/∂Mᵀ V        ∂L/∂g = Gᵀ ∂L/∂U G,

and for the input it is no more than a forward pass, because the transpose of a 3×3 convolution in steps of 1
is the convolution with the filter turned by 180° and its channels exchanged.

The transforms are small products too. They need no copy if a pixel's channels lie side by side in memory.
Then six pixels are a matrix (6, C) as they stand, which Bᵀ takes `across`; and in the result six lines are a
matrix (6, tiles · 6 · C), on which it does its part downwards for a whole row of tiles.
That is how y is made as well: its shape is (N, O, OH, OW), but its numbers lie as (N, OH, OW, O), and what
follows in a network, ReLU and pooling, keeps them so (PyTorch calls it channels-last).

The price is accuracy, and it depends on the points. Lavin & Gray's 0, ±1, ±2, ∞ keep most entries integers;
with 0, ±2/3, ±3/2, ∞ rounding errors are five times smaller, three to seven times those of im2col, and a
product with a matrix costs the same whatever its entries are (Barabasz et al. 2020, arXiv:1803.10986). And ∞
or NaN in an input makes all 16 outputs of its tile NaN, also those whose windows do not see it, and in a
narrow picture those of the whole line of tiles.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from minidl.backend import Array
from minidl.backend.im2col import Pair, Window
from minidl.backend.kept import kept
from minidl.backend.memory import empty
from minidl.backend.threads import parallel_for, scratch, split
from minidl.functional.epilogue import Epilogue

POINTS = (0, 2 / 3, -2 / 3, 3 / 2, -3 / 2)  # and ∞


def _evaluate(coefficients: int) -> np.ndarray:
    """The matrix (6, coefficients) from a polynomial's coefficients to its values at POINTS and ∞."""
    finite = [[t**power for power in range(coefficients)] for t in POINTS]
    return np.array([*finite, [0] * (coefficients - 1) + [1]])


A, B, G = _evaluate(4), np.linalg.inv(_evaluate(6)), _evaluate(3)
INPUT, FILTER, TURNED, OUTPUT = (np.array(m, np.float32, order="C") for m in (B.T, G, G[:, ::-1], A.T))
TO_FREQUENCIES = {6: INPUT, 4: OUTPUT.T.copy()}  # by the size of the tiles
FREQUENCIES = [(i, j) for i in split(6, 1) for j in split(6, 3)]
STRIP = 24 << 10  # tiles, times channels of x and y, that one thread takes through all steps: V, M in 3.5 MB
STRIPS = 4  # at least, unless one is enough: of two or three a thread that comes late would get none
ROUND = 448  # tiles whose transforms all threads share, where the filters are more than the tiles
WHOLE_LINE = 4  # tiles: a line of more has so many zeros in its matrix that tile by tile is quicker
PART = 28 << 10  # of these, times channels, that one thread transforms at a time
BLOCK = 16 << 10  # filters that one thread transforms at a time
FILTER_BYTES = 5 << 20  # of U, up to which a thread works by itself
SUM_BYTES = 5 << 19  # of ∂L/∂U, up to which it adds up one of its own
SUMS = 8  # of these
ROUND_BYTES = 32 << 20  # of V and ∂L/∂M, which all threads share


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

    def cut(self, limit: int) -> Iterator[tuple[Tiles, slice]]:
        """These tiles, about `limit` at a time, and where each piece stands among them."""
        pictures, rows, across = self.shape
        done = 0
        for some in split(pictures, max(1, limit // (rows * across))):
            for part in split(rows, max(1, limit // across)):
                piece = Tiles(_within(self.pictures, some), _within(self.rows, part), across)
                yield piece, slice(done, done + len(piece))
                done += len(piece)


def _within(whole: slice, part: slice) -> slice:
    return slice(whole.start + part.start, whole.start + part.stop)


def tiles_of(shape: tuple[int, ...], limit: int, pieces: int = 1) -> list[Tiles]:
    """All tiles of an output (N, O, H, W), at once if they are up to `limit`, else in as many `pieces`."""
    n, _, h, w = shape
    everything = Tiles(slice(0, n), slice(0, -(-h // 4)), -(-w // 4))
    if len(everything) > limit:
        limit = min(limit, -(-len(everything) // pieces))
    return [piece for piece, _ in everything.cut(limit)]


def can(x: Array, y: Array, window: Window, groups: int) -> bool:
    """Whether this file can compute with these two arrays: 3×3 in steps of 1, float32, on the CPU."""
    return isinstance(x, np.ndarray) and fits(x, y, window, groups)


def fits(x: Array, y: Array, window: Window, groups: int) -> bool:
    """The same on any device."""
    return (
        window == Window((3, 3), padding=window.padding)
        and max(window.padding) <= 2
        and groups == 1
        and min(x.size, y.size) > 0
        and x.dtype == y.dtype == np.float32
    )


def conv2d(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None,
    window: Window,
    groups: int,
    relu: bool = False,
) -> np.ndarray:
    """x ⋆ w + b:  (N, C, H, W), (O, C, 3, 3), (O,) → (N, O, OH, OW)."""
    epilogue = Epilogue((len(x), len(weight), *window.places(x.shape[2:])), bias, relu)
    conv2d_with(epilogue, x, weight, window)
    return epilogue.y


def conv2d_with(epilogue: Epilogue, x: np.ndarray, weight: np.ndarray, window: Window) -> None:
    """x ⋆ w, and what follows it."""
    u = kept(weight, lambda: transform_filters(FILTER, weight.swapaxes(0, 1)))
    _filtered(x, u, window.padding, epilogue)


def conv_transpose2d(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, window: Window, groups: int, size: Pair
) -> np.ndarray:
    """x ⋆ᵀ w + b:  (N, O, OH, OW), (O, C, 3, 3), (C,) → (N, C, *size)."""
    border = (2 - window.padding[0], 2 - window.padding[1])
    epilogue = Epilogue((len(x), weight.shape[1], *size), bias)
    _filtered(x, transform_filters(TURNED, weight), border, epilogue)
    return epilogue.y


def _filtered(x: np.ndarray, u: np.ndarray, padding: Pair, epilogue: Epilogue) -> None:
    """Y for transformed filters U (6, 6, C, O), and what follows:  (N, C, H, W) → (N, O, OH, OW)."""
    c, o = u.shape[2:]

    def strip(here: Tiles) -> None:
        v, m = frequencies("v", len(here), c), frequencies("m", len(here), o)
        transform(6, x, padding, here, out=v)
        np.matmul(v, u, out=m)
        transform_output(m, here, epilogue)

    def share(here: Tiles) -> None:
        v, m = frequencies("v", len(here), c), frequencies("m", len(here), o)

        def multiply(*f: slice) -> None:
            np.matmul(v[f], u[f], out=m[f])

        before = [(6, x, padding, part, v[:, :, place]) for part, place in here.cut(PART // c)]
        after = [(m[:, :, place], part, epilogue) for part, place in here.cut(PART // o)]
        parallel_for(np, transform, before)
        parallel_for(np, multiply, FREQUENCIES)
        parallel_for(np, transform_output, after)

    if u.nbytes <= FILTER_BYTES:
        pieces = tiles_of(epilogue.shape, STRIP // (c + o), pieces=STRIPS)
        parallel_for(np, strip, [(here,) for here in pieces])
    else:
        for here in tiles_of(epilogue.shape, ROUND):
            share(here)


def conv_weight(x: np.ndarray, y: np.ndarray, window: Window, groups: int) -> np.ndarray:
    """x ⊛ y, which is ∂L/∂w for y = ∂L/∂(x ⋆ w):  (N, C, H, W), (N, O, OH, OW) → (O, C, 3, 3)."""
    c, o = x.shape[1], y.shape[1]
    add_up = _add_up_strips if 36 * 4 * o * c <= SUM_BYTES else _add_up_rounds
    return filter_gradient(add_up(x, y, window.padding))


def _add_up_strips(x: np.ndarray, y: np.ndarray, padding: Pair) -> np.ndarray:
    """∂L/∂U of few channels, in up to SUMS parts, each the sum over some of the strips:  (S, 6, 6, O, C)."""
    c, o = x.shape[1], y.shape[1]
    strips = tiles_of(y.shape, STRIP // (c + o), pieces=STRIPS)
    shares = [strips[part] for part in split(len(strips), -(-len(strips) // SUMS))]
    sums = scratch(np, "du", (len(shares), 6, 6, o, c), np.float32)

    def add_up(share: list[Tiles], du: np.ndarray) -> None:
        for number, here in enumerate(share):
            v, dm = frequencies("v", len(here), c), frequencies("m", len(here), o)
            transform(6, x, padding, here, out=v)
            transform(4, y, (0, 0), here, out=dm)
            add_product(dm, v, du, number == 0)

    parallel_for(np, add_up, list(zip(shares, sums, strict=True)))
    return sums


def _add_up_rounds(x: np.ndarray, y: np.ndarray, padding: Pair) -> np.ndarray:
    """∂L/∂U as large as all the filters, in one part, of which threads share the frequencies."""
    c, o = x.shape[1], y.shape[1]
    du = scratch(np, "du", (6, 6, o, c), np.float32)

    for number, here in enumerate(tiles_of(y.shape, ROUND_BYTES // (36 * 4 * (c + o)))):
        v, dm = frequencies("v", len(here), c), frequencies("m", len(here), o)
        parts = [(6, x, padding, part, v[:, :, place]) for part, place in here.cut(PART // c)]
        parts += [(4, y, (0, 0), part, dm[:, :, place]) for part, place in here.cut(PART // o)]
        parallel_for(np, transform, parts)
        parallel_for(np, add_product, [(dm[f], v[f], du[f], number == 0) for f in FREQUENCIES])
    return du[None]


def add_product(dm: np.ndarray, v: np.ndarray, du: np.ndarray, first: bool) -> None:
    """∂L/∂U += ∂L/∂Mᵀ V, or = the first time:  (…, T, O), (…, T, C) → (…, O, C)."""
    product = du if first else scratch(np, "product", du.shape, np.float32)
    np.matmul(dm.swapaxes(-1, -2), v, out=product)
    if not first:
        du += product


# The transforms


def transform_filters(matrix: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """U = matrix · filter · matrixᵀ:  (O, C, 3, 3) → (6, 6, O, C)."""
    o, c = weight.shape[:2]
    u = scratch(np, "u", (6, 6, o, c), np.float32)

    def block(part: slice) -> None:
        filters = scratch(np, "filters", (3, 3, part.stop - part.start, c), np.float32)
        filters[...] = weight[part].transpose(2, 3, 0, 1)
        half = scratch(np, "half", (3, 6, filters[0, 0].size), np.float32)
        np.matmul(matrix, filters.reshape(3, 3, -1), out=half)
        np.matmul(matrix, half.swapaxes(0, 1), out=u[:, :, part].reshape(6, 6, -1).swapaxes(0, 1))

    parallel_for(np, block, [(part,) for part in split(o, max(1, BLOCK // c))])
    return u


def filter_gradient(du: np.ndarray) -> np.ndarray:
    """∂L/∂g = Gᵀ ∂L/∂U G, where ∂L/∂U is a sum of S parts:  (S, 6, 6, O, C) → (O, C, 3, 3).

    [Gᵀ Gᵀ …], times the parts one below the other, adds them up as it goes.
    """
    s, o, c = du.shape[0], *du.shape[3:]
    du, down = du.reshape(6 * s, 6, o, c).swapaxes(0, 1), np.tile(FILTER.T, s)  # (3, 6 S)
    dg = empty(np, (o, c, 3, 3), np.float32)

    def block(part: slice) -> None:
        size = (part.stop - part.start) * c
        half = scratch(np, "half", (6, 3, size), np.float32)
        filters = scratch(np, "filters", (3, 3, size), np.float32)
        np.matmul(down, du[:, :, part].reshape(6, 6 * s, -1), out=half)
        np.matmul(FILTER.T, half.swapaxes(0, 1), out=filters)
        dg[part] = filters.reshape(3, 3, -1, c).transpose(2, 3, 0, 1)

    parallel_for(np, block, [(part,) for part in split(o, max(1, BLOCK // c))])
    return dg


def transform(size: int, x: np.ndarray, padding: Pair, here: Tiles, out: np.ndarray) -> None:
    """V = Bᵀ d B for tiles d of size 6, which overlap, or A d Aᵀ for tiles of size 4.

    x (N, C, H, W), zero outside it → out (6, 6, T, C).
    """
    x = x.transpose(0, 2, 3, 1)[here.pictures]
    (n, h, _, c), (_, rows, tiles) = x.shape, here.shape
    top, height = 4 * here.rows.start - padding[0], 4 * (rows - 1) + size
    above = max(-top, 0)
    below = max(above, min(h - top, height))
    half = scratch(np, "half", (n, height, tiles, 6, c), np.float32)
    half[:, :above] = 0
    half[:, below:] = 0
    across(size, lines_of(x, top + above, top + below), padding[1], out=half[:, above:below])
    strides = (half.strides[0], 4 * half.strides[1], half.strides[1], half.strides[4])
    columns = np.lib.stride_tricks.as_strided(half, (n, rows, size, tiles * 6 * c), strides)
    place = out.swapaxes(1, 2).reshape(6, n, rows, -1)  # where the tiles · 6 · C numbers of a line go
    np.matmul(TO_FREQUENCIES[size], columns, out=place.transpose(1, 2, 0, 3))


def lines_of(x: np.ndarray, top: int, bottom: int) -> np.ndarray:
    """These lines of x (n, H, W, C), with the numbers of each side by side."""
    lines = x[:, top:bottom]
    if lines.strides[2:] == (4 * x.shape[3], 4):
        return lines
    copy = scratch(np, "lines", lines.shape, np.float32)
    copy[...] = lines
    return copy


def across(size: int, lines: np.ndarray, left: int, out: np.ndarray) -> None:
    """d B or d Aᵀ for each line of tiles:  (n, H, W, C), zero beside it → (n, H, tiles, 6, C).

    The first tile begins `left` pixels beside the lines. Columns of the matrices that would meet only zeros
    are left out.
    """
    (n, h, w, c), tiles = lines.shape, out.shape[2]
    first, last = -(-left // 4), (w + left - size) // 4 + 1  # of those that see only pixels
    if tiles <= WHOLE_LINE or last <= first:
        first = last = tiles
    for start, stop in ((0, first), (last, tiles)):
        if start < stop:
            begin, end = max(0, 4 * start - left), min(w, 4 * (stop - 1) + size - left)
            columns = slice(begin + left - 4 * start, end + left - 4 * start)
            place = out[:, :, start:stop].reshape(n, h, -1, c)
            np.matmul(side_by_side(size, stop - start)[:, columns], lines[:, :, begin:end], out=place)
    if first < last:
        sn, sy, sx, sc = lines.strides
        inside = lines[:, :, 4 * first - left :]
        shape, strides = (n, h, last - first, size, c), (sn, sy, 4 * sx, sx, sc)
        windows = np.lib.stride_tricks.as_strided(inside, shape, strides)
        np.matmul(TO_FREQUENCIES[size], windows, out=out[:, :, first:last])


@functools.cache
def side_by_side(size: int, tiles: int) -> np.ndarray:
    """The matrix that transforms several tiles of a line:  (6 · tiles, 4 · (tiles − 1) + size)."""
    several = np.zeros((6 * tiles, 4 * (tiles - 1) + size), np.float32)
    for tile in range(tiles):
        several[6 * tile : 6 * (tile + 1), 4 * tile : 4 * tile + size] = TO_FREQUENCIES[size]
    several.flags.writeable = False
    return several


def transform_output(m: np.ndarray, here: Tiles, epilogue: Epilogue) -> None:
    """Y = Aᵀ M A for M (6, 6, T, O), and what follows it."""
    o, (n, rows, tiles) = m.shape[3], here.shape
    half = scratch(np, "half", (n, rows, 6, tiles, 4, o), np.float32)
    np.matmul(OUTPUT, m.reshape(6, 6, *here.shape, o).transpose(2, 3, 0, 4, 1, 5), out=half)
    place = here.pictures, slice(4 * here.rows.start, 4 * here.rows.stop)
    lines = epilogue.lines(*place, 4 * tiles)
    np.matmul(OUTPUT, half.reshape(n, rows, 6, -1), out=lines.reshape(n, rows, 4, -1))
    epilogue.finish(lines, *place)


def frequencies(name: str, tiles: int, channels: int) -> np.ndarray:
    """Scratch memory (6, 6, T, C) for V or M, in which a tile's numbers of one line lie side by side.

    The lines are an odd number of cache lines apart: an even one such as those of 4096 bytes would put all
    of them into the same few places of the first cache.
    """
    size = 6 * tiles * channels
    memory = scratch(np, name, (6, 16 * (-(-size // 16) | 1)), np.float32)[:, :size]
    return memory.reshape(6, tiles, 6, channels).swapaxes(1, 2)
