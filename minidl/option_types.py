"""Types for argparse: text from the command line to a value, or one sentence on what was expected."""

from __future__ import annotations

import argparse
import math
from typing import Any


def number(kind: Any, low: float, high: float, expected: str) -> Any:
    """A number between the bounds, both excluded."""

    def convert(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not low < value < high:
            raise argparse.ArgumentTypeError(f"expected {expected}, got {text!r}")
        return value

    return convert


def shape(text: str) -> tuple[int, ...]:
    """3x4 is (3, 4)."""
    try:
        lengths = tuple(int(part) for part in text.replace("×", "x").split("x"))
    except ValueError:
        lengths = (-1,)
    if min(lengths) < 0:
        raise argparse.ArgumentTypeError(f"expected a shape such as 3x4, got {text!r}")
    return lengths


count = number(int, 0, math.inf, "a whole number above 0")
seed = number(int, -1, math.inf, "a whole number, 0 or above")
positive = number(float, 0, math.inf, "a number above 0")
share = number(float, 0, 1, "a number between 0 and 1")
bound = number(float, 0, 0.5, "a number between 0 and 0.5")
