"""Loops in Python, compiled for the processor where Numba is installed: what NumPy has no fast call for."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any


@functools.cache
def numba() -> ModuleType | None:
    """Numba, or None where it is not installed, refuses this NumPy, or is told not to compile.

    It is imported by a thread of its own, which Ctrl-C does not reach: half of it would be of no use.
    """
    found: list[ModuleType] = []

    def find() -> None:
        try:
            import numba
        except ImportError:
            return
        if not numba.config.DISABLE_JIT:
            found.append(numba)

    thread = threading.Thread(target=find, name="minidl", daemon=True)
    thread.start()
    thread.join()
    return found[0] if found else None


@functools.cache
def compiled(function: Callable) -> Callable:
    """`function`, compiled at its first call for arrays of these types; it does not hold Python's lock.

    A product and a sum may be rounded once (FMA). The machine code is kept on disk, beside the function's
    file or where Numba finds a folder to write to. It is out of date when that file changes: a change of the
    options here goes unnoticed.

    No array that it writes to may share memory with another argument. The compiler has a flag that says so,
    for which there is no option: else each innermost loop would begin with a comparison of all addresses.
    """
    library = numba()
    assert library is not None

    base: Any = library.core.compiler.Compiler

    class Compiler(base):
        def define_pipelines(self) -> list:
            self.state.flags.noalias = True
            return super().define_pipelines()

    options = {"nogil": True, "fastmath": {"contract"}, "pipeline_class": Compiler}
    try:
        return library.njit(cache=True, **options)(function)
    except RuntimeError:  # no folder that it may write to
        return library.njit(**options)(function)


__all__ = ["compiled", "numba"]
