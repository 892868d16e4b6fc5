"""A switch for the time of a `with` block."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator


class Switch(threading.local):
    """On or off, for each thread by itself."""

    def __init__(self, on: bool) -> None:
        self.on = on

    @contextlib.contextmanager
    def turned(self, on: bool) -> Iterator[None]:
        """On or off inside the `with` block, afterwards as before. Also a decorator."""
        before, self.on = self.on, on
        try:
            yield
        finally:
            self.on = before
