"""Picture transforms: from a Pillow picture to a float32 array (3, H, W).

A transform is any function of one picture. The random ones derive from `RandomTransform` and take a second
argument, a `numpy.random.Generator`: what they do is a function of that generator alone, so a loader that
makes one generator per (seed, epoch, picture) augments the same way with any number of threads.

Names, arguments and conventions are torchvision's where it has them (Resize, CenterCrop, …).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from minidl.errors import DataError, require

if TYPE_CHECKING:
    from PIL.Image import Image

FILTERS = ("bilinear", "bicubic", "nearest", "lanczos", "box")


class RandomTransform(ABC):
    """A transform that draws: called as `transform(picture, generator)`."""

    def __call__(self, picture: Any, generator: np.random.Generator | None = None) -> Any:
        return self.apply(picture, np.random.default_rng() if generator is None else generator)

    @abstractmethod
    def apply(self, picture: Any, generator: np.random.Generator) -> Any:
        """The transformed picture; every random number comes from `generator`."""


class Compose(RandomTransform):
    """One transform after the other; the random ones share the generator."""

    def __init__(self, transforms: Sequence[Callable]):
        self.transforms = list(transforms)

    def apply(self, picture: Any, generator: np.random.Generator) -> Any:
        for transform in self.transforms:
            random = isinstance(transform, RandomTransform)
            picture = transform(picture, generator) if random else transform(picture)
        return picture

    def __repr__(self) -> str:
        return "Compose(" + "".join(f"\n  {transform!r}," for transform in self.transforms) + "\n)"


class Resize:
    """Resize to `size`: (height, width) squashes, one number sets the shorter side and keeps proportions.

    The filter is antialiased: when shrinking, its support grows with the factor, so every source pixel counts
    (Pillow's convolution resampling). The longer side is rounded down, as torchvision does.
    """

    def __init__(self, size: int | tuple[int, int], filter: str = "bilinear"):
        self.size, self.filter = size, check_filter(filter)

    def __call__(self, picture: Image) -> Image:
        if isinstance(self.size, int):
            width, height = picture.size
            shorter = min(width, height)
            target = (int(self.size * width / shorter), int(self.size * height / shorter))
        else:
            target = (self.size[1], self.size[0])
        return picture.resize(target, _resampling(self.filter))

    def __repr__(self) -> str:
        return f"Resize({self.size}, filter={self.filter!r})"


class CenterCrop:
    """The middle `size` × `size` pixels; a smaller picture is padded with black."""

    def __init__(self, size: int):
        self.size = size

    def __call__(self, picture: Image) -> Image:
        # Rounded half to even, like torchvision: an odd margin must fall on the same side.
        left = round((picture.width - self.size) / 2)
        top = round((picture.height - self.size) / 2)
        return picture.crop((left, top, left + self.size, top + self.size))

    def __repr__(self) -> str:
        return f"CenterCrop({self.size})"


class RandomResizedCrop(RandomTransform):
    """A crop of random area and aspect ratio, resized to `size` × `size` (Szegedy et al. 2014, §6).

    Args:
        size: side of the result in pixels.
        scale: range of the crop's area, as a fraction of the picture's.
        ratio: range of width / height, drawn evenly in the logarithm.
        filter: see `Resize`.
    """

    ATTEMPTS = 10

    def __init__(
        self,
        size: int,
        scale: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        filter: str = "bilinear",
    ):
        self.size, self.scale, self.ratio, self.filter = size, scale, ratio, check_filter(filter)

    def apply(self, picture: Image, generator: np.random.Generator) -> Image:
        box = self.draw_box(picture.width, picture.height, generator)
        return picture.crop(box).resize((self.size, self.size), _resampling(self.filter))

    def draw_box(self, width: int, height: int, generator: np.random.Generator) -> tuple[int, int, int, int]:
        """(left, top, right, bottom) of the crop, within the picture."""
        for _ in range(self.ATTEMPTS):
            area = width * height * generator.uniform(*self.scale)
            ratio = math.exp(generator.uniform(math.log(self.ratio[0]), math.log(self.ratio[1])))
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                left = int(generator.integers(width - w, endpoint=True))
                top = int(generator.integers(height - h, endpoint=True))
                return left, top, left + w, top + h
        # No luck: the largest middle crop whose ratio is in range.
        ratio = min(max(width / height, self.ratio[0]), self.ratio[1])
        w, h = min(width, round(height * ratio)), min(height, round(width / ratio))
        left, top = (width - w) // 2, (height - h) // 2
        return left, top, left + w, top + h

    def __repr__(self) -> str:
        options = f"scale={self.scale}, ratio={self.ratio}, filter={self.filter!r}"
        return f"RandomResizedCrop({self.size}, {options})"


class RandomHorizontalFlip(RandomTransform):
    """Left and right exchanged with probability `p`."""

    def __init__(self, p: float = 0.5):
        self.p = p

    def apply(self, picture: Image, generator: np.random.Generator) -> Image:
        if generator.random() >= self.p:
            return picture
        return picture.transpose(require("PIL.Image", "images").Transpose.FLIP_LEFT_RIGHT)

    def __repr__(self) -> str:
        return f"RandomHorizontalFlip({self.p})"


class RandomAffine(RandomTransform):
    """Rotation, shift and zoom in one resampling, about the middle of the picture.

    An output pixel at offset p from the middle shows the input at offset R(−θ)·(p − t)/s, with
    θ ∈ [−degrees, degrees], t each up to the given fraction of width and height, s ∈ scale.

    Args:
        degrees: largest rotation either way.
        translate: largest shift as fractions (of the width, of the height).
        scale: range of the zoom factor, above 1 enlarges.
        fill: colour of what comes in from outside, (red, green, blue) or one grey, 0 to 255.
    """

    def __init__(
        self,
        degrees: float = 0.0,
        translate: tuple[float, float] = (0.0, 0.0),
        scale: tuple[float, float] = (1.0, 1.0),
        filter: str = "bilinear",
        fill: int | tuple[int, int, int] = 0,
    ):
        if filter not in ("nearest", "bilinear", "bicubic"):
            raise DataError(f"filter must be nearest, bilinear or bicubic, got {filter!r}")
        if not 0 < scale[0] <= scale[1]:
            raise DataError(f"scale must be two positive numbers, smaller one first, got {scale}")
        self.degrees, self.translate, self.scale = degrees, translate, scale
        self.filter = filter
        self.fill = (fill, fill, fill) if isinstance(fill, int) else fill

    def apply(self, picture: Image, generator: np.random.Generator) -> Image:
        angle = math.radians(generator.uniform(-self.degrees, self.degrees))
        shift_x = generator.uniform(-self.translate[0], self.translate[0]) * picture.width
        shift_y = generator.uniform(-self.translate[1], self.translate[1]) * picture.height
        zoom = generator.uniform(*self.scale)
        cos, sin = math.cos(angle) / zoom, math.sin(angle) / zoom
        middle_x, middle_y = picture.width / 2, picture.height / 2
        x, y = middle_x + shift_x, middle_y + shift_y  # where the middle of the input goes
        matrix = (cos, sin, middle_x - cos * x - sin * y, -sin, cos, middle_y + sin * x - cos * y)
        affine = require("PIL.Image", "images").Transform.AFFINE
        return picture.transform(picture.size, affine, matrix, _resampling(self.filter), fillcolor=self.fill)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(degrees={self.degrees}, translate={self.translate}, scale={self.scale}, "
            f"filter={self.filter!r}, fill={self.fill})"
        )


class RandomRotation(RandomAffine):
    """Rotation by up to `degrees` either way."""

    def __init__(self, degrees: float, **options: Any):
        super().__init__(degrees=degrees, **options)


class RandomShift(RandomAffine):
    """Shift by up to `fraction` of the width and of the height."""

    def __init__(self, fraction: float, **options: Any):
        super().__init__(translate=(fraction, fraction), **options)


class RandomZoom(RandomAffine):
    """Zoom by a factor between 1 − `fraction` and 1 + `fraction`."""

    def __init__(self, fraction: float, **options: Any):
        super().__init__(scale=(1 - fraction, 1 + fraction), **options)


class ToArray:
    """A picture, or uint8 RGB pixels (…, H, W, 3), as float32 (…, 3, H, W) = `scale` · pixel, in `order`."""

    def __init__(self, order: str = "RGB", scale: float = 1.0):
        self.order, self.scale = check_order(order), scale

    def __call__(self, picture: Image | np.ndarray) -> np.ndarray:
        pixels = np.asarray(picture)
        if pixels.ndim < 3 or pixels.shape[-1] != 3 or pixels.dtype != np.uint8:
            raise DataError(f"expected uint8 pixels (…, H, W, 3), got {pixels.dtype} {pixels.shape}")
        channels = pixels[..., ::-1] if self.order == "BGR" else pixels
        array = np.ascontiguousarray(np.moveaxis(channels, -1, -3), dtype=np.float32)
        if self.scale != 1.0:
            array *= self.scale
        return array

    def __repr__(self) -> str:
        return f"ToArray({self.order!r}, scale={self.scale:g})"


class Normalize:
    """(x − mean) / std for each channel of x (…, 3, H, W)."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        self.mean = np.array(mean, np.float32).reshape(3, 1, 1)
        self.std = np.array(std, np.float32).reshape(3, 1, 1)

    def __call__(self, array: np.ndarray) -> np.ndarray:
        return (array - self.mean) / self.std

    def __repr__(self) -> str:
        return f"Normalize(mean={self.mean.ravel().tolist()}, std={self.std.ravel().tolist()})"


def check_filter(name: str) -> str:
    """`name`, if it is one of the resampling filters."""
    if name not in FILTERS:
        raise DataError(f"filter must be one of {', '.join(FILTERS)}, got {name!r}")
    return name


def check_order(order: str) -> str:
    """`order`, if it is an order of the colour channels."""
    if order not in ("RGB", "BGR"):
        raise DataError(f"order must be RGB or BGR, got {order!r}")
    return order


def _resampling(filter: str) -> Any:
    return require("PIL.Image", "images").Resampling[filter.upper()]


__all__ = [
    "CenterCrop",
    "Compose",
    "Normalize",
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
