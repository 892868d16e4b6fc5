"""Data: pictures in folders, transforms, the loader, cached features, and drawn pictures."""

from __future__ import annotations

from minidl.data.preprocessing import Preprocessing
from minidl.data.transforms import (
    CenterCrop,
    Compose,
    Normalize,
    RandomAffine,
    RandomHorizontalFlip,
    RandomResizedCrop,
    RandomRotation,
    RandomShift,
    RandomTransform,
    RandomZoom,
    Resize,
    ToArray,
)

__all__ = [
    "CenterCrop",
    "Compose",
    "Normalize",
    "Preprocessing",
    "RandomAffine",
    "RandomHorizontalFlip",
    "RandomResizedCrop",
    "RandomRotation",
    "RandomShift",
    "RandomTransform",
    "RandomZoom",
    "Resize",
    "ToArray",
]
