"""What an operation notes of the moment it is called in: is the graph recorded, where, in which module."""

from __future__ import annotations

import contextlib
import linecache
import os
import sys
import threading
from collections.abc import Iterator
from types import CodeType
from typing import Any, NamedTuple


class State:
    """The moment, for one thread.

    Attributes:
        recording: is the graph recorded?
        call: the call of a Module that is running (`nn.ModuleCall`), None outside of modules.
        anomaly: who looks at every result (`anomaly.py`), None where nobody does.
    """

    __slots__ = ("anomaly", "call", "recording")

    def __init__(self) -> None:
        self.recording, self.call, self.anomaly = True, None, None


class _Here(threading.local):
    def __init__(self) -> None:
        self.state: Any = State()


here = _Here()


@contextlib.contextmanager
def set_grad_enabled(enabled: bool) -> Iterator[None]:
    """Record the graph, or do not, in this thread inside the `with` block. Also a decorator."""
    state = here.state
    before, state.recording = state.recording, enabled
    try:
        yield
    finally:
        state.recording = before


def no_grad(function: Any = None) -> Any:
    """Compute without recording: for evaluation, and for writing into parameters.

    `with no_grad():` for a block; `@no_grad()` or `@no_grad` for a function.
    """
    off = set_grad_enabled(False)
    return off if function is None else off(function)


def is_grad_enabled() -> bool:
    return here.state.recording


class Place(NamedTuple):
    """An instruction in user code. Which line it is on is found out only when somebody asks."""

    code: CodeType
    instruction: int

    @property
    def file(self) -> str:
        return self.code.co_filename

    @property
    def line(self) -> int:
        lines = (line for start, stop, line in self.code.co_lines() if start <= self.instruction < stop)
        return next(lines, None) or self.code.co_firstlineno

    @property
    def source(self) -> str:
        """The text of the line, "" where it is not to be had."""
        return linecache.getline(self.file, self.line).strip()

    def __str__(self) -> str:
        """As in `train.py:12`."""
        return f"{os.path.basename(self.file)}:{self.line}"


class _OfMinidl(dict[str, bool]):
    """For each file of source, whether it belongs to minidl."""

    def __missing__(self, file: str) -> bool:
        self[file] = answer = file.startswith(os.path.dirname(__file__) + os.sep)
        return answer


_of_minidl = _OfMinidl()


def calling_place(depth: int) -> tuple[CodeType, int]:
    """The last place in user code on the way here, what `Place` is made of; sought from `depth` calls up.

    A frame itself would keep every variable of the caller alive.
    """
    try:
        frame: Any = sys._getframe(depth)
    except ValueError:  # there are fewer
        frame = sys._getframe(1)
    code = frame.f_code
    while _of_minidl[code.co_filename] and frame.f_back is not None:
        frame = frame.f_back
        code = frame.f_code
    return code, frame.f_lasti
