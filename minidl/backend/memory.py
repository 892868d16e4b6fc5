"""Large arrays in memory that was used before.

The operating system hands out new memory a page at a time, cleared, on the first touch of each page: for an
operation as simple as a ReLU that is most of the time. A network asks for arrays of the same sizes at every
step, so the memory of a large array that is gone is kept for the next one of its size.

Up to KEEP bytes stay with the process that way. Before `empty` asks for new memory, as much of the kept is
given back.
"""

from __future__ import annotations

import math
import threading
from typing import Any

import numpy as np

from minidl.backend.device import Array

LARGE = 1 << 20  # bytes: smaller arrays the C library serves from memory it keeps itself
KEEP = 1 << 30  # bytes kept at most, while nobody uses them

_kept: list[np.ndarray] = []  # the latest last
_one_at_a_time = threading.Lock()


class Loan:
    """What an array made by `empty` stands on. It goes with the last such array, and its memory is kept."""

    kept = _kept  # at the exit of Python the name above may be gone first

    def __init__(self, memory: np.ndarray, shape: tuple[int, ...], dtype: Any) -> None:
        self.memory = memory
        self.__array_interface__ = memory.view(dtype).reshape(shape).__array_interface__

    def __del__(self) -> None:
        if sum(memory.nbytes for memory in self.kept) + self.memory.nbytes <= KEEP:
            self.kept.append(self.memory)


def empty(xp: Any, shape: tuple[int, ...], dtype: Any) -> Array:
    """An uninitialised array; a large one in memory used before. CuPy has a memory pool of its own."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if xp is not np or size < LARGE:
        return xp.empty(shape, dtype)
    with _one_at_a_time:
        memory = _take(size)
    return np.asarray(Loan(memory, shape, dtype))


def _take(size: int) -> np.ndarray:
    for i in reversed(range(len(_kept))):  # the latest may still be in the cache
        if _kept[i].nbytes == size:
            return _kept.pop(i)
    given_back = 0
    while _kept and given_back < size:
        given_back += _kept.pop(0).nbytes
    return np.empty(size, np.uint8)


def owns_memory(x: Array) -> bool:
    """Whether no other array had this memory first."""
    return x.flags.owndata or isinstance(x.base, Loan)
