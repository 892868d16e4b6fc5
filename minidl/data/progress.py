"""A progress bar, where there is tqdm and somebody to look at it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from minidl.errors import MissingExtraError, require

T = TypeVar("T")


def progress(items: Iterable[T], total: int, description: str) -> Iterable[T]:
    """`items`, with a bar on stderr while they are gone through; silent when piped or without tqdm."""
    try:
        tqdm = require("tqdm", "progress")
    except MissingExtraError:
        return items
    return tqdm.tqdm(items, description, total, leave=False, disable=None)


__all__ = ["progress"]
