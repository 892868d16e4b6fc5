"""Hooks: functions that are called with what goes into and comes out of a module."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

_ids = itertools.count()


class RemovableHandle:
    """What registering a hook returns: `handle.remove()`, or `with handle: …`, takes the hook off again."""

    def __init__(self, hooks: dict[int, Callable], hook: Callable) -> None:
        self._hooks, self._id = hooks, next(_ids)
        hooks[self._id] = hook

    def remove(self) -> None:
        """Take the hook off; a second time changes nothing."""
        self._hooks.pop(self._id, None)

    def __enter__(self) -> RemovableHandle:
        return self

    def __exit__(self, *_: Any) -> None:
        self.remove()
