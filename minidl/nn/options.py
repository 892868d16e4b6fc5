"""What a layer says at once to an option that it could never work with."""

from __future__ import annotations

from typing import Any

from minidl.backend.im2col import Pair, is_integer, pair
from minidl.errors import ShapeError


def check_counts(layer: Any, **counts: Any) -> None:
    """Raise ShapeError if a number of channels, features, … is no integer ≥ 1."""
    for name, n in counts.items():
        if not is_integer(n, 1):
            raise ShapeError(f"{type(layer).__name__}: {name} must be an integer ≥ 1, got {n!r}")


def pairs(layer: Any, least: int, **options: Any) -> list[Pair]:
    """Each option as (vertical, horizontal). Raises ShapeError if one is no such pair of integers ≥ least."""
    return [pair(value, f"{type(layer).__name__}: {name}", least) for name, value in options.items()]
