"""Loops in Python, compiled for the processor where Numba is installed: what NumPy has no fast call for."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType


@functools.cache
def numba() -> ModuleType | None:
    """Numba, or None where it is not installed or refuses this NumPy."""
    try:
        import numba
    except ImportError:
        return None
    return numba


@functools.cache
def compiled(function: Callable) -> Callable:
    """`function`, compiled at its first call for arrays of these types; it does not hold Python's lock.

    The machine code is kept on disk, beside the file or where Numba finds a folder to write to. As everywhere
    else, a division by zero gives infinity or NaN. A product and a sum may be rounded once (FMA).
    """
    library = numba()
    assert library is not None
    options = {"nogil": True, "error_model": "numpy", "fastmath": {"contract"}}
    try:
        return library.njit(cache=True, **options)(function)
    except RuntimeError:  # no folder that it may write to
        return library.njit(**options)(function)


__all__ = ["compiled", "numba"]
