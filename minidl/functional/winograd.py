"""Winograd's minimal filtering: a 3×3 convolution with a quarter of the multiplications.

A tile of 4×4 outputs depends on 6×6 inputs d. Added up directly it takes 4·4·3·3 = 144 multiplications a
channel; F(4×4, 3×3) of Lavin & Gray (2015, arXiv:1509.09308, eq. 8 and §4.3) takes 6·6 = 36:

    Y = Aᵀ [ (G g Gᵀ) ⊙ (Bᵀ d B) ] A

for the filter g. It is what the convolution theorem is for Fourier's transform: go to another basis, multiply
element by element, come back; only that this basis is small and its numbers are rational. The transforms are
linear, so on flattened tiles each is one matrix (⊗ is the Kronecker product):

    U = (G ⊗ G) g      36×9    the filters        (36, O, C)
    V = (Bᵀ ⊗ Bᵀ) d    36×36   the input tiles    (36, C, T)
    Y = (Aᵀ ⊗ Aᵀ) M    16×36   the output tiles   (16, O, T)

and between them the sum over the channels is a matrix product for each of the 36 "frequencies": M = U V.

Backward is the chain rule through the same matrices. For the weight,

    ∂L/∂M = (A ⊗ A) ∂L/∂Y        ∂L/∂U = ∂L/∂M Vᵀ        ∂L/∂g = (Gᵀ ⊗ Gᵀ) ∂L/∂U,

and for the input it is no more than a forward pass, because the transpose of a 3×3 convolution in steps of 1
is the convolution with the filter turned by 180° and its channels exchanged.

The price is accuracy: with entries up to 8 in A and 5 in B, rounding errors are a few times those of im2col.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from minidl.backend import Array
from minidl.backend.im2col import Pair, Window
from minidl.backend.threads import parallel_for, scratch, split

B = np.array(
    [
        [4, 0, 0, 0, 0, 0],
        [0, -4, 4, -2, 2, 4],
        [-5, -4, -4, -1, -1, 0],
        [0, 1, -1, 2, -2, -5],
        [1, 1, 1, 1, 1, 0],
        [0, 0, 0, 0, 0, 1],
    ],
    np.float32,
)
G = np.array(
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ],
    np.float32,
)
A = np.array(
    [
        [1, 0, 0, 0],
        [1, 1, 1, 1],
        [1, -1, 1, -1],
        [1, 2, 4, 8],
        [1, -2, 4, -8],
        [0, 0, 0, 1],
    ],
    np.float32,
)
INPUT, FILTER, OUTPUT = np.kron(B.T, B.T), np.kron(G, G), np.kron(A.T, A.T)
FREQUENCIES = split(36, 3)
STRIP = 196  # tiles that one thread takes through all three steps: they stay in its cache
ROUND_BYTES = 24 << 20  # of V and ∂L/∂M, which all threads share
BLOCK_BYTES = 1 << 20  # of tiles that one thread transforms at a time


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
    return (
        window == Window((3, 3), padding=window.padding)
        and max(window.padding) <= 2
        and groups == 1
        and isinstance(x, np.ndarray)
        and x.dtype == y.dtype == np.float32
    )


def conv2d(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, window: Window, groups: int
) -> np.ndarray:
    """x ⋆ w + b:  (N, C, H, W), (O, C, 3, 3), (O,) → (N, O, OH, OW)."""
    (n, c), o = x.shape[:2], weight.shape[0]
    y = np.empty((n, o, *window.places(x.shape[2:])), np.float32)
    u = (FILTER @ weight.reshape(o * c, 9).T).reshape(36, o, c)

    def strip(here: Tiles) -> None:
        v = scratch(np, "v", (36, c, len(here)), np.float32)
        transform_input(x, window.padding, here, slice(0, c), v)
        m = np.matmul(u, v, out=scratch(np, "m", (36, o, len(here)), np.float32))
        transform_output(m, bias, here, y)

    parallel_for(np, strip, [(here,) for here in cut(y.shape, STRIP)])
    return y


def conv_transpose2d(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, window: Window, groups: int, size: Pair
) -> np.ndarray:
    """x ⋆ᵀ w + b:  (N, O, OH, OW), (O, C, 3, 3), (C,) → (N, C, *size)."""
    turned = np.ascontiguousarray(weight[:, :, ::-1, ::-1].swapaxes(0, 1))
    padding = (2 - window.padding[0], 2 - window.padding[1])
    return conv2d(x, turned, bias, Window((3, 3), padding=padding), groups)


def conv_weight(x: np.ndarray, y: np.ndarray, window: Window, groups: int) -> np.ndarray:
    """x ⊛ y, which is ∂L/∂w for y = ∂L/∂(x ⋆ w):  (N, C, H, W), (N, O, OH, OW) → (O, C, 3, 3).

    ∂L/∂U is as large as all the filters, so the threads share one: each adds to its own frequencies.
    """
    c, o = x.shape[1], y.shape[1]
    du = np.zeros((36, o, c), np.float32)
    row_bytes = 36 * 4 * (c + o)
    for here in cut(y.shape, max(1, ROUND_BYTES // row_bytes)):
        v = scratch(np, "v", (36, c, len(here)), np.float32)
        dm = scratch(np, "m", (36, o, len(here)), np.float32)

        def gather(from_x: bool, channels: slice, here: Tiles = here, v: Array = v, dm: Array = dm) -> None:
            if from_x:
                transform_input(x, window.padding, here, channels, v)
            else:
                transform_gradient(y, here, channels, dm)

        def multiply(f: slice, v: Array = v, dm: Array = dm) -> None:
            product = scratch(np, "product", (f.stop - f.start, o, c), np.float32)
            du[f] += np.matmul(dm[f], v[f].swapaxes(1, 2), out=product)

        width = max(1, BLOCK_BYTES // (36 * 4 * len(here)))
        blocks = [(True, part) for part in split(c, width)] + [(False, part) for part in split(o, width)]
        parallel_for(np, gather, blocks)
        parallel_for(np, multiply, [(f,) for f in FREQUENCIES])
    return (FILTER.T @ du.reshape(36, o * c)).T.reshape(o, c, 3, 3)


# The transforms, for some channels


def transform_input(x: np.ndarray, padding: Pair, here: Tiles, channels: slice, v: np.ndarray) -> None:
    """V[:, channels]: the overlapping 6×6 tiles of x (N, C, H, W), transformed, in v (36, C, T)."""
    pictures, rows, across = here.shape
    top, left = 4 * here.rows.start - padding[0], -padding[1]
    height, width = 4 * rows + 2, 4 * across + 2
    seen = x[here.pictures, channels, max(top, 0) : max(top + height, 0), : left + width]
    p, c, h, w = seen.shape
    bordered = scratch(np, "bordered", (p, c, height, width), np.float32)
    if seen.shape != bordered.shape:
        bordered[...] = 0
    bordered[:, :, max(-top, 0) : max(-top, 0) + h, -left : -left + w] = seen
    sp, sc, sy, sx = bordered.strides
    tiles = scratch(np, "tiles", (6, 6, c, pictures, rows, across), np.float32)
    tiles[...] = np.lib.stride_tricks.as_strided(bordered, tiles.shape, (sy, sx, sc, sp, 4 * sy, 4 * sx))
    np.matmul(INPUT, tiles.reshape(36, -1), out=_columns(v, channels))


def transform_output(m: np.ndarray, bias: np.ndarray | None, here: Tiles, y: np.ndarray) -> None:
    """Y: M (36, O, T), transformed back and put into y; what sticks out over its edge is dropped."""
    tiles = scratch(np, "tiles", (16, m[0].size), np.float32)
    tiles = np.matmul(OUTPUT, m.reshape(36, -1), out=tiles).reshape(4, 4, -1, *here.shape)
    if bias is not None:
        tiles += bias[:, None, None, None]
    for i, j in np.ndindex(4, 4):
        part = _every_fourth(y, slice(None), here, i, j)
        part[...] = tiles[i, j, :, :, : part.shape[2], : part.shape[3]].swapaxes(0, 1)


def transform_gradient(y: np.ndarray, here: Tiles, channels: slice, dm: np.ndarray) -> None:
    """∂L/∂M[:, channels]: the 4×4 tiles of y = ∂L/∂Y, zero beyond its edge, transformed, in dm (36, O, T)."""
    tiles = scratch(np, "tiles", (4, 4, channels.stop - channels.start, *here.shape), np.float32)
    tiles[...] = 0
    for i, j in np.ndindex(4, 4):
        part = _every_fourth(y, channels, here, i, j)
        tiles[i, j, :, :, : part.shape[2], : part.shape[3]] = part.swapaxes(0, 1)
    np.matmul(OUTPUT.T, tiles.reshape(16, -1), out=_columns(dm, channels))


def _columns(v: np.ndarray, channels: slice) -> np.ndarray:
    """(36, C, T) as a matrix (36, C·T), of it the columns of these channels."""
    return v.reshape(36, -1)[:, channels.start * v.shape[2] : channels.stop * v.shape[2]]


def _every_fourth(y: np.ndarray, channels: slice, here: Tiles, i: int, j: int) -> np.ndarray:
    """Pixel (i, j) of each tile, as a view."""
    return y[here.pictures, channels, 4 * here.rows.start + i : 4 * here.rows.stop : 4, j::4]
