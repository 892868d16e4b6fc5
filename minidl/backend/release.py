"""Memory that is kept for the next time, given back."""

from __future__ import annotations

import sys

from minidl.backend.kept import release_kept
from minidl.backend.memory import Loan
from minidl.backend.threads import release_scratch


def release_memory() -> None:
    """Give back the memory that waits for its next use: whatever comes next takes a little longer.

    On the CPU these are the scratch memory of this thread and of the pool, filters that Winograd's
    convolution keeps as it needs them, and the memory of large arrays that are gone: some 400 MB after
    VGG16's forward pass. On the GPU it is what CuPy's pool holds and nobody uses.
    """
    release_scratch()
    release_kept()
    Loan.arena.release()
    if cupy := sys.modules.get("cupy"):
        cupy.get_default_memory_pool().free_all_blocks()
