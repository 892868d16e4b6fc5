"""Large arrays in memory that was used before.

The operating system hands out new memory a page at a time, cleared, on the first touch of each page: for an
operation as simple as a ReLU that is most of the time. A network asks for large arrays again and again. So
the memory of one that is gone is kept for the next: for one of its size, for a part of it, or, together with
its neighbours, for a larger one.

Up to KEEP bytes stay with the process that way, and the rest of every block of which a part is in use. Before
`empty` asks for new memory, as much of the kept is given back, as far as whole blocks are idle.
"""

from __future__ import annotations

import math
import os
import threading
from collections import deque
from collections.abc import Sequence
from operator import itemgetter
from typing import Any

import numpy as np

from minidl.backend.device import Array, array_module

LARGE = 1 << 20  # bytes: smaller arrays the C library serves from memory it keeps itself
KEEP = 1 << 30  # bytes kept at most, while nobody uses them
DIVISIBLE = 1 << 27  # bytes: larger blocks are lent whole, or a small part would keep all from a large array
LINE = 64  # bytes: arrays begin where a line of the cache does


def aligned(shape: tuple[int, ...], dtype: Any, boundary: int = LINE) -> np.ndarray:
    """An uninitialised array that begins at a multiple of `boundary` bytes. NumPy's begin at one of 16."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.empty(size + boundary, np.uint8)
    start = -memory.ctypes.data % boundary
    return memory[start : start + size].view(dtype).reshape(shape)


class Block:
    """Memory from the operating system, and the parts of it that nobody uses: (start, stop), in order."""

    def __init__(self, size: int) -> None:
        self.memory = aligned((size,), np.uint8)
        self.unused = [(0, size)]

    @property
    def idle(self) -> bool:
        return self.unused == [(0, len(self.memory))]

    def lend(self, start: int, size: int) -> None:
        i, stop = next((i, stop) for i, (begin, stop) in enumerate(self.unused) if begin == start)
        self.unused[i : i + 1] = [(start + size, stop)] if start + size < stop else []

    def take_back(self, start: int, stop: int) -> None:
        i = sum(begin < start for begin, _ in self.unused)
        if i < len(self.unused) and self.unused[i][0] == stop:
            stop = self.unused.pop(i)[1]
        if i > 0 and self.unused[i - 1][1] == start:
            i -= 1
            start = self.unused.pop(i)[0]
        self.unused.insert(i, (start, stop))


class Arena:
    """Blocks, lent in parts.

    An array may go at any moment, even while this thread is in here: what comes back waits in `returned`.
    """

    def __init__(self, keep: int) -> None:
        self.keep, self.unused = keep, 0  # bytes
        self.blocks: list[Block] = []  # the oldest first
        self.returned: deque[tuple[Block, int, int]] = deque()
        self.lock = threading.Lock()

    def lend(self, size: int) -> tuple[Block, int]:
        """`size` bytes, as a block and where they start in it: of the smallest part that may be used."""
        with self.lock:
            self._note_returned()
            large_enough = [
                (stop - start, block, start)
                for block in reversed(self.blocks)  # the latest may still be in the cache
                for start, stop in block.unused
                if stop - start == size or (stop - start > size and len(block.memory) <= DIVISIBLE)
            ]
            if large_enough:
                _, block, start = min(large_enough, key=itemgetter(0))
            else:
                self._give_back(self.unused - size)
                block, start = Block(size), 0
                self.blocks.append(block)
                self.unused += size
            block.lend(start, size)
            self.unused -= size
        return block, start

    def take_back(self, block: Block, start: int, stop: int) -> None:
        self.returned.append((block, start, stop))
        if self.lock.acquire(blocking=False):
            try:
                self._note_returned()
                self._give_back(self.keep)
            finally:
                self.lock.release()

    def release(self) -> None:
        """Give back all blocks of which nothing is in use."""
        with self.lock:
            self._note_returned()
            self._give_back(0)

    def _note_returned(self) -> None:
        while self.returned:
            block, start, stop = self.returned.popleft()
            block.take_back(start, stop)
            self.unused += stop - start

    def _give_back(self, limit: int) -> None:
        """Give idle blocks back to the system, the oldest first, while more than `limit` bytes are unused."""
        for block in [*self.blocks]:
            if self.unused > limit and block.idle:
                self.blocks.remove(block)
                self.unused -= len(block.memory)


class Loan:
    """What an array made by `empty` stands on. It goes with the last such array, and the memory goes back."""

    arena = Arena(KEEP)  # found from here at the exit of Python too, when the names above may be gone
    part: tuple[Block, int, int] | None = None  # where the system had no memory left

    def __init__(self, shape: tuple[int, ...], dtype: Any) -> None:
        size = math.prod(shape) * np.dtype(dtype).itemsize
        room = -(-size // LINE) * LINE
        block, start = self.arena.lend(room)
        self.part = block, start, start + room
        memory = block.memory[start : start + size]
        self.__array_interface__ = memory.view(dtype).reshape(shape).__array_interface__

    def __del__(self) -> None:
        if self.part:
            self.arena.take_back(*self.part)


if hasattr(os, "register_at_fork"):  # no child is born while another thread is in the arena
    lock = Loan.arena.lock
    os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)


def channels_last(x: Array) -> bool:
    """Whether pictures (N, C, H, W) lie in memory as (N, H, W, C), a pixel's channels side by side.

    Winograd's convolution (`functional/winograd.py`) makes such arrays and is faster with them. What comes
    after it keeps their order: NumPy does by itself, and what asks `empty` for memory does with `like`.
    """
    return x.ndim == 4 and isinstance(x, np.ndarray) and x.strides[1] == x.itemsize < x.strides[3]


def in_memory_order(*arrays: Array) -> list[Array]:
    """Arrays of one shape, with their axes in the order in which those of the last lie in memory."""
    strides = arrays[-1].strides
    axes = sorted(range(len(strides)), key=lambda axis: -strides[axis])
    return [array.transpose(axes) for array in arrays]


def in_the_order_of(like: Array, x: Array) -> Array:
    """x, or a copy that is channels-last, if `like` is and x is not."""
    if not channels_last(like) or channels_last(x):
        return x
    y = empty_channels_last(x.shape, x.dtype)
    y[...] = x
    return y


def empty(xp: Any, shape: tuple[int, ...], dtype: Any, like: Array | None = None) -> Array:
    """An uninitialised array; a large one in memory used before. CuPy has a memory pool of its own.

    It is channels-last if `like` is.
    """
    if like is not None and channels_last(like):
        return empty_channels_last(shape, dtype)
    if xp is not np or math.prod(shape) * np.dtype(dtype).itemsize < LARGE:
        return xp.empty(shape, dtype)
    return np.asarray(Loan(shape, dtype))


def padded(x: Array, widths: Sequence[tuple[int, int]], value: float) -> Array:
    """x with (before, after) elements of `value` added along each axis; in the order of x."""
    shape = tuple(before + n + after for n, (before, after) in zip(x.shape, widths, strict=True))
    y = empty(array_module(x), shape, x.dtype, like=x)
    y[...] = value
    y[tuple(slice(before, before + n) for n, (before, _) in zip(x.shape, widths, strict=True))] = x
    return y


def empty_channels_last(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An uninitialised array (N, C, H, W) that lies in memory as (N, H, W, C)."""
    n, c, h, w = shape
    return empty(np, (n, h, w, c), dtype).transpose(0, 3, 1, 2)


def beside(a: Array, x: Array) -> Array:
    """Numbers (C,), one for each channel, as an array that broadcasts to x (N, C, …): (1, C, 1, …).

    For channels-last pictures they are repeated for each pixel of a line, (1, C, 1, W): NumPy's innermost
    loops are then as long as a line, and not only C long.
    """
    if channels_last(x):
        return np.tile(a, (1, 1, x.shape[3], 1)).transpose(0, 3, 1, 2)
    return a.reshape(1, -1, *(1,) * (x.ndim - 2))


def copied(x: Array, like: Array) -> Array:
    """A copy of x that lies in memory as `like` does."""
    y = array_module(x).empty_like(like)
    y[...] = x
    return y


def owned(x: Array, like: Array) -> bool:
    """Whether no other array had this memory first, and x lies in it as `like` does in its own."""
    return (x.flags.owndata or isinstance(x.base, Loan)) and x.strides == like.strides
