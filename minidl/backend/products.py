"""Large products of matrices: cut into strips for all threads, or computed a few rows at a time.

BLAS would spread a product over the cores by itself, but its threads then spin for some 30 ms in wait of the
next one, on cores that somebody else needs by then. So each strip of the result is a product of its own, on
one thread.
"""

from __future__ import annotations

import numpy as np

from minidl.backend import threads
from minidl.backend.device import Array, array_module, device_of
from minidl.backend.memory import empty
from minidl.backend.threads import parallel_for, scratch, split

SMALL_PRODUCT = 10**6  # multiplications: up to here OpenBLAS does not copy into another order first
STRIP = 512  # rows or columns of the result
PIECE = {"cpu": 1 << 21, "gpu": 1 << 24}  # elements: of a Product, so many are computed at once


def matmul(x: Array, y: Array) -> Array:
    """x @ y        (…, M, K) (…, K, N) → (…, M, N)"""
    if x.ndim > 2 or y.ndim > 2 or x.size * y.shape[1] < threads.LARGE_PRODUCT or device_of(x) == "gpu":
        return threads.matmul(x, y)
    if len(x) < y.shape[1] and y.flags.f_contiguous:  # x Wᵀ: W as it lies in memory, a fifth faster
        return np.ascontiguousarray(matmul(y.T, x.T).T)
    out = empty(np, (len(x), y.shape[1]), np.result_type(x, y))
    if len(x) >= y.shape[1]:
        strips = [(x[rows], y, out[rows]) for rows in split(len(x), STRIP)]
    else:
        strips = [(x, y[:, columns], out[:, columns]) for columns in split(y.shape[1], STRIP)]
    parallel_for(np, np.matmul, strips)
    return out


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
