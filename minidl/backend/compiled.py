"""Loops in Python, compiled for the processor where Numba is installed: what NumPy has no fast call for."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import threading
from collections.abc import Callable, Iterator
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
        config: Any = numba.config
        if not config.DISABLE_JIT:
            found.append(numba)

    thread = threading.Thread(target=find, name="minidl", daemon=True)
    thread.start()
    thread.join()
    if not found:
        return None
    if hasattr(os, "register_at_fork"):  # no child is born while another thread compiles
        lock: Any = found[0].core.compiler_lock.global_compiler_lock
        os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)
    return found[0]


@contextlib.contextmanager
def _ctrl_c_afterwards() -> Iterator[None]:
    """Holds it back: raised in what LLVM calls back, it would be lost."""
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or handler is None:
        yield
        return
    arrived = []
    signal.signal(signal.SIGINT, lambda *_: arrived.append(True))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if arrived:
            signal.raise_signal(signal.SIGINT)


@functools.cache
def compiled(function: Callable) -> Callable:
    """`function`, compiled at its first call for arrays of these types; it does not hold Python's lock.

    A product and a sum may be rounded once (FMA). No array that it writes to may share memory with another
    argument: the compiler has a flag, but no option, that says so, and else begins each innermost loop with a
    comparison of all addresses.

    The machine code is kept on disk, beside the function's file or where Numba finds a folder to write to. It
    is out of date when that file changes: a change of the options here goes unnoticed. Where it can be
    neither read nor written, because of a damaged file or a full disk, this process compiles for itself.
    """
    library = numba()
    assert library is not None
    base: Any = library.core.compiler.Compiler

    class Compiler(base):
        def define_pipelines(self) -> list:
            self.state.flags.noalias = True
            return super().define_pipelines()

        def compile_extra(self, function: Callable) -> Any:
            with _ctrl_c_afterwards():
                return super().compile_extra(function)

    compile_ = functools.partial(library.njit, nogil=True, fastmath={"contract"}, pipeline_class=Compiler)
    try:
        machine_code = compile_(cache=True)(function)
    except RuntimeError:  # no folder that it may write to
        return compile_()(function)

    def run(*arguments: Any) -> None:
        nonlocal machine_code
        try:
            machine_code(*arguments)
        except Exception:  # before anything has run: what is compiled raises nothing
            machine_code = compile_()(function)
            machine_code(*arguments)

    return run


__all__ = ["compiled", "numba"]
