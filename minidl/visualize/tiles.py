"""Arrays as pictures: scaled to what a screen shows, and many of them laid out as one."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minidl.backend import as_numpy
from minidl.errors import ShapeError
from minidl.tensor import Tensor


def as_array(values: Any) -> np.ndarray:
    """A Tensor, a NumPy or a CuPy array as a NumPy array."""
    return as_numpy(values.data if isinstance(values, Tensor) else values)


def rescale(picture: np.ndarray) -> np.ndarray:
    """Floats of any range → [0, 1]: the smallest becomes 0, the largest 1; a constant picture becomes ½.

    Each picture is scaled by itself, so that two of them compare in pattern, not in strength.
    """
    low, high = float(picture.min()), float(picture.max())
    if high == low:
        return np.full(picture.shape, 0.5, np.float32)
    return ((picture - low) / (high - low)).astype(np.float32)


def tile(pictures: Any, columns: int | None = None, gap: int = 1, background: float = 1.0) -> np.ndarray:
    """Many pictures as one, row by row.

    Args:
        pictures: (N, H, W) grey or (N, H, W, 3) colour, values in [0, 1].
        columns: pictures in a row; None makes the whole about square.
        gap: pixels of `background` between neighbours.

    Returns:
        (R·H + (R−1)·gap, columns·W + (columns−1)·gap[, 3]) with R = ⌈N / columns⌉ rows.
    """
    pictures = as_array(pictures)
    if pictures.ndim not in (3, 4) or not len(pictures) or (pictures.ndim == 4 and pictures.shape[3] != 3):
        raise ShapeError(f"tile needs N ≥ 1 pictures (N, H, W) or (N, H, W, 3), got {pictures.shape}")
    n, h, w, *colour = pictures.shape
    columns = math.ceil(math.sqrt(n * h / w)) if columns is None else min(columns, n)
    rows = math.ceil(n / columns)
    sheet = np.full((rows * (h + gap) - gap, columns * (w + gap) - gap, *colour), background, np.float32)
    for i, picture in enumerate(pictures):
        top, left = i // columns * (h + gap), i % columns * (w + gap)
        sheet[top : top + h, left : left + w] = picture
    return sheet


__all__ = ["as_array", "rescale", "tile"]
