"""What is computed from an array that seldom changes, kept for the next time.

Such are a convolution's filters in another basis, in a network that does not learn. Whether the array is
what it was is seen by comparing all its bits with a copy: a counter of changes would not count what is
written into `weight.data`. The first time only a few numbers are remembered, because the filters of a network
that learns never come twice: so nothing is kept of them.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from minidl.backend.threads import parallel_for, split

LIMIT = 1 << 29  # bytes kept at most, the copies too
SAMPLE = 64  # numbers that are remembered the first time, about
PIECE = 1 << 18  # numbers that a thread compares at a time


@dataclass
class Memory:
    """Of one array: some of its numbers; later a copy of all of them, and what they led to.

    These two come and go together: other threads may be reading them.
    """

    source: weakref.ref[np.ndarray]
    sample: bytes
    known: tuple[np.ndarray, np.ndarray] | None = None


_memories: dict[int, Memory] = {}  # by the array's id


def kept(source: np.ndarray, compute: Callable[[], np.ndarray]) -> np.ndarray:
    """compute(), or what it was for the same numbers in the same array, if they come a third time.

    What is returned may be returned again: it is not to be written into.
    """
    if not source.flags.c_contiguous:
        return compute()
    key, sample = id(source), source.reshape(-1)[:: max(1, source.size // SAMPLE)].tobytes()
    memory = _memories.get(key)
    if memory is None or memory.source() is not source or memory.sample != sample:
        _memories[key] = Memory(weakref.ref(source, functools.partial(_memories.pop, key)), sample)
        return compute()
    known = memory.known
    if known is not None and _same(known[0], source):
        return known[1]
    memory.known = None
    copy = source.copy()  # before, or it could be a copy of what another thread writes meanwhile
    result = compute()
    others = [array.nbytes for other in [*_memories.values()] for array in other.known or ()]
    if sum(others) + copy.nbytes + result.nbytes <= LIMIT:
        memory.known = copy, result.copy()
    return result


def release_kept() -> None:
    """Forget all: what was kept will not be needed for a while."""
    _memories.clear()


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether all bits are the same, those of NaN too."""
    a, b = (x.reshape(-1).view(f"u{x.itemsize}") for x in (a, b))
    different: list[bool] = []

    def compare(part: slice) -> None:
        if not different and not np.array_equal(a[part], b[part]):
            different.append(True)

    parallel_for(np, compare, [(part,) for part in split(a.size, PIECE)])
    return not different
