"""Arrays cut into pieces that stay in the cache.

What is done to a whole array in several steps, p ← p − lr · (g + λ p), reads and writes main memory at every
step and makes temporaries of the array's size. Done piece by piece, all steps but the first find their piece
in the cache, and the temporaries are as small as a piece.
"""

from __future__ import annotations

from collections.abc import Iterator

from minidl.backend.device import Array, device_of

BLOCK = {"cpu": 1 << 15, "gpu": 1 << 24}  # elements: 128 KiB of float32; a GPU wants few and large kernels


def blocks(*arrays: Array) -> Iterator[tuple[Array, ...]]:
    """The arrays, all of one shape, in corresponding one-dimensional pieces: views, to be written into."""
    first = arrays[0]
    if first.ndim <= 1 or all(array.flags.c_contiguous for array in arrays):
        size = BLOCK[device_of(first)]
        flat = [array.reshape(-1) for array in arrays]
        for start in range(0, first.size, size):
            yield tuple(array[start : start + size] for array in flat)
    else:
        for i in range(len(first)):
            yield from blocks(*(array[i] for array in arrays))
