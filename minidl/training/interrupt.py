"""Ctrl-C that waits for a good moment: the first asks, the second insists."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class Interrupted(KeyboardInterrupt):
    """Ctrl-C was pressed, the step was finished and everything saved. The message says how to go on."""


class DeferredInterrupt:
    """Inside the `with` block the first Ctrl-C only sets `requested`; the second interrupts as ever.

        with DeferredInterrupt() as interrupt:
            for batch in batches:
                step(batch)
                if interrupt.requested:
                    save()
                    raise Interrupted("…")

    Only the main thread may handle signals: in another one `requested` stays False.
    """

    def __init__(self) -> None:
        self.requested = False
        self._before: Any = None

    def __enter__(self) -> DeferredInterrupt:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        signal.signal(signal.SIGINT, signal.default_int_handler)


__all__ = ["DeferredInterrupt", "Interrupted"]
