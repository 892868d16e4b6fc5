"""What a network expects of a picture: its size, its channel order, its scale. Kept with the weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from minidl.data.transforms import (
    CenterCrop,
    Compose,
    Normalize,
    RandomResizedCrop,
    Resize,
    ToArray,
    check_filter,
    check_order,
)
from minidl.errors import DataError


@dataclass(frozen=True)
class Preprocessing:
    """How a picture becomes the input of a network: x = (scale · pixel − mean) / std, pixel in 0 … 255.

    Attributes:
        size: height and width of the input in pixels.
        resize: "squash" resizes both sides to `size`; "crop" resizes the shorter side to `resize_to` and
            cuts the middle out, which keeps the proportions.
        resize_to: the shorter side before the crop; unused by "squash".
        filter: the (antialiased) filter of the resizing.
        order: order of the channels, "RGB" or "BGR".
        scale: what the pixels are multiplied by first.
        mean, std: one number per channel, in the order of `order`, after scaling.

    Raises:
        DataError: a value that makes no sense, named.
    """

    size: int = 224
    resize: str = "squash"
    resize_to: int = 256
    filter: str = "bilinear"
    order: str = "RGB"
    scale: float = 1.0
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        for name in ("size", "resize_to"):
            value = getattr(self, name)
            if not _is_number(value) or value != int(value) or not 1 <= value <= 10_000:
                raise DataError(f"{name} must be a whole number of pixels from 1 to 10,000, got {value!r}")
            object.__setattr__(self, name, int(value))
        if self.resize not in ("squash", "crop"):
            raise DataError(f"resize must be squash or crop, got {self.resize!r}")
        if self.resize == "crop" and self.resize_to < self.size:
            raise DataError(f"resize_to must be at least size, got {self.resize_to} < {self.size}")
        check_filter(self.filter)
        check_order(self.order)
        if not _is_number(self.scale) or self.scale <= 0:
            raise DataError(f"scale must be a positive number, got {self.scale!r}")
        for name in ("mean", "std"):
            value = getattr(self, name)
            # Lists are what JSON gives back.
            if not isinstance(value, tuple | list) or len(value) != 3 or not all(map(_is_number, value)):
                raise DataError(f"{name} must be three numbers, one per channel, got {value!r}")
            object.__setattr__(self, name, tuple(float(channel) for channel in value))
        if min(self.std) <= 0:
            raise DataError(f"std must be positive, got {self.std}")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `from_dict` is the way back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocessing:
        """The preprocessing that `to_dict` described.

        Raises:
            DataError: an unknown key, or a value that makes no sense.
        """
        known = [field.name for field in fields(cls)]
        if unknown := sorted(set(values) - set(known)):
            raise DataError(f"preprocessing has no {', '.join(unknown)}; it has {', '.join(known)}")
        return cls(**values)

    def transform(self, augment: Callable | Sequence[Callable] | None = None) -> Compose:
        """The transform from a Pillow RGB picture to a float32 array (3, size, size).

        Args:
            augment: one transform or several, applied after resizing and before the pixels become numbers.
                They keep the size. If the first is a RandomResizedCrop, it takes the place of the resizing.
        """
        if augment is None:
            augment = []
        elif callable(augment):
            augment = [augment]
        resizing: list[Callable]
        if augment and isinstance(augment[0], RandomResizedCrop):
            resizing = []
        elif self.resize == "squash":
            resizing = [Resize((self.size, self.size), self.filter)]
        else:
            resizing = [Resize(self.resize_to, self.filter), CenterCrop(self.size)]
        return Compose([*resizing, *augment, *self._numbers()])

    def normalize(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 RGB pixels (…, H, W, 3) as network input, float32 (…, 3, H, W); nothing is resized."""
        return Compose(self._numbers())(pixels)

    def _numbers(self) -> list[Callable]:
        return [ToArray(self.order, self.scale), Normalize(self.mean, self.std)]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


__all__ = ["Preprocessing"]
