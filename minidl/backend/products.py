"""Products of matrices: small ones on one thread, large ones in strips, or a few rows at a time.

BLAS would spread a product over the cores by itself, but see `threads.one_blas_thread`. So each strip of the
result is a product of its own, on one thread.
"""

from __future__ import annotations

import contextlib

import numpy as np

from minidl.backend.device import Array, array_module, device_of
from minidl.backend.memory import empty
from minidl.backend.threads import one_blas_thread, parallel_for, scratch, split

SMALL_PRODUCT = 10**6  # multiplications: up to here OpenBLAS does not copy into another order first
LARGE_PRODUCT = 1 << 27  # multiplications: a few milliseconds on one core
LARGE_MATRIX = 1 << 22  # elements, which take as long to read, if they are added up in long sums
STRIP = 512  # rows or columns of the result
FEW_ROWS, FEW_COLUMNS = 128, 8  # of the result: with more OpenBLAS copies first, however small the product
PIECE = {"cpu": 1 << 21, "gpu": 1 << 24}  # elements: of a Product, so many are computed at once


def matmul(x: Array, y: Array) -> Array:
    """x @ y        (…, M, K) (…, K, N) → (…, M, N)"""
    k, n = y.shape[-2:]
    large = x.size * n >= LARGE_PRODUCT or (k > FEW_ROWS and max(x.size, y.size) >= LARGE_MATRIX)
    if not large or x.ndim > 2 or y.ndim > 2 or device_of(x) == "gpu":
        xp = array_module(x)
        shape = (*np.broadcast_shapes(x.shape[:-2], y.shape[:-2]), x.shape[-2], y.shape[-1])
        out = empty(xp, shape, xp.result_type(x, y))
        with contextlib.nullcontext() if large or device_of(x) == "gpu" else one_blas_thread():
            return xp.matmul(x, y, out=out)
    if len(x) < n and y.flags.f_contiguous:  # x Wᵀ: W as it lies in memory, a fifth faster
        return np.ascontiguousarray(matmul(y.T, x.T).T)
    out = empty(np, (len(x), n), np.result_type(x, y))
    if 0 < n <= FEW_COLUMNS and (width := _part(k, n)):
        y = y.reshape(-1, width, n)
        parallel_for(np, _multiply_parts, [(x[rows], y, out[rows]) for rows in split(len(x), FEW_ROWS)])
        return out
    if len(x) >= n:
        strips = [(x[rows], y, out[rows]) for rows in split(len(x), STRIP)]
    else:
        strips = [(x, y[:, columns], out[:, columns]) for columns in split(n, STRIP)]
    parallel_for(np, np.matmul, strips)
    return out


def _part(k: int, columns: int) -> int | None:
    """How long equal parts of K are at most for SMALL_PRODUCTs of FEW_ROWS; None if that is too short."""
    longest = SMALL_PRODUCT // (FEW_ROWS * columns)
    return next((n for n in range(min(k, longest), FEW_ROWS, -1) if k % n == 0), None)


def _multiply_parts(x: np.ndarray, y: np.ndarray, out: np.ndarray) -> None:
    """X Y as a sum of small products, for which X is read once:  (M, K), (parts, K / parts, N) → (M, N)."""
    parts = x.reshape(len(x), len(y), -1).swapaxes(0, 1)
    np.matmul(parts, y).sum(0, out=out)


class Product:
    """X Y        (M, K) (K, N) → (M, N), where M and N are large and K is small: a sum of K outer products

    It is computed a few rows at a time, and whatever those are needed for, they are the same to the bit.
    The factors are copied, so that they stay what they are.
    """

    def __init__(self, x: Array, y: Array) -> None:
        self.x, self.y = x.copy(), y.copy()
        self.shape = (len(x), y.shape[1])
        self.dtype = array_module(x).result_type(x, y)

    def pieces(self) -> list[tuple[slice]]:
        """All rows, so many at a time as are computed at once."""
        height = max(1, PIECE[device_of(self.x)] // self.shape[1])
        return [(rows,) for rows in split(self.shape[0], height)]

    def __getitem__(self, rows: slice) -> Array:
        """These rows, in scratch memory: valid until this thread asks for others."""
        xp, x = array_module(self.x), self.x[rows]
        return xp.matmul(x, self.y, out=scratch(xp, "product", (len(x), self.shape[1]), self.dtype))

    def whole(self) -> Array:
        """All rows, in memory of their own."""
        xp = array_module(self.x)
        whole = empty(xp, self.shape, self.dtype)

        def compute(rows: slice) -> None:
            xp.matmul(self.x[rows], self.y, out=whole[rows])

        parallel_for(xp, compute, self.pieces())
        return whole
