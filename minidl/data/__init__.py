"""Data: pictures in folders, transforms, the loader, cached features, and drawn pictures."""

from __future__ import annotations

from minidl.data.cache import FeatureCache, describe_files
from minidl.data.drawn import SHAPES, draw_cats_and_dogs, draw_shapes, save_pictures
from minidl.data.folder import ImageFolder, find_splits
from minidl.data.loader import DataLoader, TensorDataset
from minidl.data.pictures import open_picture
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
    "SHAPES",
    "CenterCrop",
    "Compose",
    "DataLoader",
    "FeatureCache",
    "ImageFolder",
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
    "TensorDataset",
    "ToArray",
    "describe_files",
    "draw_cats_and_dogs",
    "draw_shapes",
    "find_splits",
    "open_picture",
    "save_pictures",
]
