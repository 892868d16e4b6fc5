"""A progress bar on stderr, for whoever watches."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from minidl.errors import MissingExtraError, require


class _NoBar:
    def update(self, n: int = 1) -> None:
        """Nothing to draw."""

    def set_postfix_str(self, text: str) -> None:
        """Nothing to draw."""


def progress_bar(
    total: int, description: str, unit: str = "it", initial: int = 0
) -> AbstractContextManager[Any]:
    """A bar to advance with `update(n)` inside a `with` block; it vanishes at the end.

    It is drawn by tqdm, and not at all where stderr is no terminal or tqdm is not installed.

    Args:
        total: the count of units at the end.
        description: what is going on, before the bar.
        unit: of the speed; "B" counts bytes in kB, MB, GB.
        initial: where to begin, for work that is continued.
    """
    try:
        tqdm = require("tqdm", "progress").tqdm
    except MissingExtraError:
        return nullcontext(_NoBar())
    scaled = {"unit_scale": True} if unit == "B" else {}
    options = {"unit": unit, "initial": initial, "leave": False, "disable": None, **scaled}
    return tqdm(total=total, desc=description, **options)


__all__ = ["progress_bar"]
