"""Drawn pictures to learn from: a book of ten shapes, and cartoon cats and dogs.

Both books share their scenery: a colour gradient, clutter behind the figure and before it, and noise. A
network that learned from the shapes to see corners, arcs and stripes through all that has a head start on
ears, eyes and whiskers. A linear model on the pixels finds little: position, size, rotation and colours
vary, so that no single pixel says much.

A figure is drawn on the plane of complex numbers, x to the right and y down, and fills the circle |z| = 1
roughly. Multiplying by a complex number turns and scales it, adding one moves it.
"""

from __future__ import annotations

import cmath
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minidl.errors import DataError, require

OVERSAMPLING = 3  # drawn 3 × larger and averaged down: smooth edges

CIRCLE = np.exp(2j * np.pi * np.arange(24) / 24)
OUTLINE = 0.05  # width, where the figure has radius 1
Colour = tuple[int, int, int]

FUR: list[Colour] = [
    (224, 142, 62),  # ginger
    (128, 128, 136),  # grey
    (58, 54, 56),  # black
    (236, 230, 220),  # white
    (134, 88, 52),  # brown
    (228, 196, 144),  # cream
    (176, 122, 74),  # tan
    (90, 62, 48),  # chocolate
]
PINK, DARK, WHITE = (236, 146, 150), (30, 24, 26), (250, 250, 248)


class Pen:
    """Draws on a picture, at a place, with a size, a rotation and perhaps mirrored.

    Args:
        draw: a Pillow ImageDraw.
        centre: where z = 0 goes, in pixels.
        turn: the complex factor of size and rotation.
        mirrored: whether left and right are exchanged first.
    """

    def __init__(self, draw: Any, centre: complex, turn: complex, mirrored: bool = False):
        self.draw, self.centre, self.turn, self.mirrored = draw, centre, turn, mirrored

    def pixels(self, z: np.ndarray) -> list[float]:
        """x₀, y₀, x₁, y₁, … in the picture."""
        z = -z.conj() if self.mirrored else z
        return (self.centre + self.turn * z).view(np.float64).tolist()

    def polygon(self, z: np.ndarray, colour: Colour, outline: Colour | None = None) -> None:
        xy = self.pixels(z)
        self.draw.polygon(xy, fill=colour)
        if outline is not None:
            self.draw.line(xy + xy[:4], fill=outline, width=self.width(OUTLINE))

    def ellipse(
        self,
        centre: complex,
        radii: complex,
        colour: Colour,
        outline: Colour | None = None,
        tilt: float = 0.0,
    ) -> None:
        """An ellipse with horizontal and vertical radius `radii`, turned by `tilt` (radians)."""
        across, down = cmath.rect(radii.real, tilt), 1j * cmath.rect(radii.imag, tilt)
        self.polygon(centre + across * CIRCLE.real + down * CIRCLE.imag, colour, outline)

    def line(self, z: Sequence[complex] | np.ndarray, width: float, colour: Colour) -> None:
        self.draw.line(self.pixels(np.asarray(z, complex)), fill=colour, width=self.width(width))

    def width(self, width: float) -> int:
        return max(1, round(width * abs(self.turn)))


Figure = Callable[[Pen, np.random.Generator], None]


# The book of shapes ----------------------------------------------------------------------------------------

Shape = Callable[[Pen, np.random.Generator, Colour, Colour], None]


def crescent(pen: Pen, rng: np.random.Generator, colour: Colour, outline: Colour) -> None:
    angle = np.linspace(0.25 * np.pi, 1.75 * np.pi, 20)
    start, end = np.exp(1j * angle[[0, -1]])
    bite = np.linspace(0, 1, 12)[1:-1]
    inner = end + (start - end) * bite - rng.uniform(0.8, 1.1) * np.sin(np.pi * bite)
    pen.polygon(np.concatenate((np.exp(1j * angle), inner)) + 0.2, colour, outline)


def cross(pen: Pen, rng: np.random.Generator, colour: Colour, outline: Colour) -> None:
    arm = rng.uniform(0.25, 0.4)
    corner = np.array([arm - 1j, arm - arm * 1j, 1 - arm * 1j])
    pen.polygon(np.concatenate([corner * 1j**quarter for quarter in range(4)]), colour, outline)


def disc(pen: Pen, rng: np.random.Generator, colour: Colour, outline: Colour) -> None:
    pen.ellipse(0, 1 + 1j, colour, outline)


def drop(pen: Pen, rng: np.random.Generator, colour: Colour, outline: Colour) -> None:
    angle = np.angle(CIRCLE) % (2 * np.pi)
    width = rng.uniform(0.75, 0.95) * np.sin(angle) * np.sin(angle / 2) ** 2
    pen.polygon(width - 1.1j * np.cos(angle), colour, outline)


def heart(pen: Pen, rng: np.random.Generator, colour: Colour, outline: Colour) -> None:
    angle = np.angle(CIRCLE)
    y = 13 * np.cos(angle) - 5 * np.cos(2 * angle) - 2 * np.cos(3 * angle) - np.cos(4 * angle)
    pen.polygon((16 * np.sin(angle) ** 3 - 1j * y) / 16, colour, outline)


def ring(pen: Pen, rng: np.random.Generator, colour: Colour, outline: Colour) -> None:
    outer = np.append(CIRCLE, 1)
    inner = outer * rng.uniform(0.45, 0.65)
    pen.polygon(np.concatenate((outer, inner[::-1])), colour)  # out and back in along the same cut
    pen.line(outer, OUTLINE, outline)
    pen.line(inner, OUTLINE, outline)


def square(pen: Pen, rng: np.random.Generator, colour: Colour, outline: Colour) -> None:
    pen.polygon(np.array([-1 - 1j, 1 - 1j, 1 + 1j, -1 + 1j]) * 0.85, colour, outline)


def star(pen: Pen, rng: np.random.Generator, colour: Colour, outline: Colour) -> None:
    points = 1.1 * np.exp(2j * np.pi * (np.arange(10) / 10 - 0.25))
    points[1::2] *= rng.uniform(0.38, 0.5)
    pen.polygon(points, colour, outline)


def stripes(pen: Pen, rng: np.random.Generator, colour: Colour, outline: Colour) -> None:
    count = int(rng.integers(3, 5))
    bar = np.array([-1 - 0.5j / count, 1 - 0.5j / count, 1 + 0.5j / count, -1 + 0.5j / count])
    for i in range(count):
        pen.polygon(0.9 * (bar + 1j * ((2 * i + 1) / count - 1)), colour, outline)


def triangle(pen: Pen, rng: np.random.Generator, colour: Colour, outline: Colour) -> None:
    tip = rng.uniform(-0.3, 0.3) - 1j * rng.uniform(0.7, 1.1)
    pen.polygon(np.array([-1 + 0.85j, 1 + 0.85j, tip]), colour, outline)


SHAPES: dict[str, Shape] = {
    shape.__name__: shape
    for shape in (crescent, cross, disc, drop, heart, ring, square, star, stripes, triangle)
}


def _coloured(shape: Shape) -> Figure:
    def draw(pen: Pen, rng: np.random.Generator) -> None:
        colour = random_colour(rng)
        shape(pen, rng, colour, shade(colour, 0.4))

    return draw


# Cats and dogs ---------------------------------------------------------------------------------------------


def draw_cat(pen: Pen, rng: np.random.Generator) -> None:
    """Pointed ears, a wide face, slit pupils, a small pink nose, whiskers."""
    fur, patch = random_fur(rng), random_fur(rng)
    line = shade(fur, 0.5)
    spread, tip = rng.uniform(0.72, 0.9), rng.uniform(1.0, 1.25)
    for side in (-1, 1):
        ear = np.array([side * 0.88 - 0.05j, side * spread - tip * 1j, side * 0.18 - 0.66j])
        pen.polygon(ear, fur, line)
        pen.polygon(ear.mean() + (ear - ear.mean()) * 0.5, PINK)
    pen.ellipse(0.05j, 0.95 + 0.78j, fur, line)
    if rng.random() < 0.5:  # a tabby
        for x in (-0.2, 0, 0.2):
            pen.line([x - 0.68j, 0.8 * x - 0.4j], 0.07, shade(fur, 0.6))
    if rng.random() < 0.4:
        pen.ellipse(0.42j, 0.42 + 0.3j, lighter(patch))
    _eyes(pen, rng, y=-0.05, slit=True)
    pen.polygon(np.array([-0.12 + 0.24j, 0.12 + 0.24j, 0.38j]), PINK, DARK)
    pen.line([-0.24 + 0.5j, -0.1 + 0.55j, 0.38j, 0.1 + 0.55j, 0.24 + 0.5j], 0.05, DARK)
    for side in (-1, 1):
        for y in (0.26, 0.4, 0.54):
            pen.line(
                [side * 0.45 + 0.38j, side * 1.2 + (2 * y - 0.4) * 1j],
                0.035,
                WHITE if sum(fur) < 380 else DARK,
            )


def draw_dog(pen: Pen, rng: np.random.Generator) -> None:
    """Floppy ears, a long muzzle with a big dark nose, round eyes, often the tongue out."""
    fur, patch = random_fur(rng), random_fur(rng)
    line = shade(fur, 0.5)
    pen.ellipse(0.05j, 0.8 + 0.9j, fur, line)
    ear_colour = shade(fur, 0.7) if rng.random() < 0.6 else patch
    droop, lift = rng.uniform(0.1, 0.45), rng.uniform(-0.35, -0.05)
    for side in (-1, 1):
        pen.ellipse(side * 0.84 + lift * 1j, 0.27 + 0.62j, ear_colour, line, tilt=-side * droop)
    if rng.random() < 0.4:
        pen.ellipse(0.34 - 0.18j, 0.3 + 0.34j, patch)
    if rng.random() < 0.5:
        pen.ellipse(0.88j, 0.15 + 0.3j, (224, 92, 104), (150, 50, 60))
    pen.ellipse(0.5j, 0.48 + 0.42j, lighter(fur), line)
    _eyes(pen, rng, y=-0.15, slit=False)
    pen.ellipse(0.28j, 0.2 + 0.15j, DARK)
    pen.ellipse(-0.06 + 0.23j, 0.05 + 0.035j, WHITE)
    pen.line([0.4j, 0.62j], 0.05, DARK)
    pen.line([-0.26 + 0.62j, -0.12 + 0.7j, 0.62j, 0.12 + 0.7j, 0.26 + 0.62j], 0.05, DARK)


def _eyes(pen: Pen, rng: np.random.Generator, y: float, slit: bool) -> None:
    iris = ((120, 176, 72), (214, 178, 60), (92, 150, 196), (112, 70, 40))[rng.integers(4)]
    for x in (-0.36, 0.36):
        eye = x + y * 1j
        pen.ellipse(eye, 0.19 + 0.17j, iris if slit else WHITE, DARK)
        pen.ellipse(eye, 0.07 + 0.15j if slit else 0.12 + 0.13j, DARK)
        pen.ellipse(eye + 0.05 - 0.06j, 0.04 + 0.04j, WHITE)


# The scenery -----------------------------------------------------------------------------------------------


def random_colour(rng: np.random.Generator) -> Colour:
    red, green, blue = rng.random(3).tolist()
    return int(20 + 230 * red), int(20 + 230 * green), int(20 + 230 * blue)


def random_fur(rng: np.random.Generator) -> Colour:
    red, green, blue = FUR[rng.integers(len(FUR))]
    x, y, z = rng.random(3).tolist()
    return int(red - 18 + 36 * x), int(green - 18 + 36 * y), int(blue - 18 + 36 * z)


def shade(colour: Colour, factor: float) -> Colour:
    red, green, blue = colour
    return int(red * factor), int(green * factor), int(blue * factor)


def lighter(colour: Colour) -> Colour:
    red, green, blue = colour
    return (red + 255) // 2, (green + 250) // 2, (blue + 240) // 2


def _blot(pen: Pen, rng: np.random.Generator) -> None:
    """A small thing that means nothing: a bar, a disc or a triangle."""
    kind = rng.integers(3)
    if kind == 0:
        pen.line([-1.5, 1.5], 0.25, random_colour(rng))
    elif kind == 1:
        pen.ellipse(0, 1 + 0.7j, random_colour(rng))
    else:
        pen.polygon(CIRCLE[::8] * 1.2, random_colour(rng))


def _scene(size: int, figure: Figure, rng: np.random.Generator) -> np.ndarray:
    """One picture (size, size, 3), uint8."""
    image = require("PIL.Image", "images")
    side = size * OVERSAMPLING
    corners = (rng.integers(20, 256, (2, 2, 1)) + rng.integers(20, 256, (2, 2, 3))) // 2
    picture = image.fromarray(corners.astype(np.uint8)).resize((side, side), image.Resampling.BILINEAR)
    draw = require("PIL.ImageDraw", "images").Draw(picture)

    def pen(smallest: float, largest: float, reach: float, angle: float) -> Pen:
        """Radius, distance of the centre from the middle (as fractions of the side) and angle at random."""
        x, y, u, v, mirrored = rng.random(5).tolist()
        centre = complex(0.5 + reach * (2 * x - 1), 0.5 + reach * (2 * y - 1)) * side
        turn = cmath.rect((smallest + u * (largest - smallest)) * side, angle * (2 * v - 1))
        return Pen(draw, centre, turn, mirrored < 0.5)

    for _ in range(rng.integers(1, 6)):
        _blot(pen(0.04, 0.12, reach=0.5, angle=math.pi), rng)
    figure(pen(0.24, 0.38, reach=0.14, angle=math.radians(35)), rng)
    for _ in range(rng.integers(0, 2)):
        _blot(pen(0.04, 0.08, reach=0.4, angle=math.pi), rng)

    pixels = np.asarray(picture.reduce(OVERSAMPLING), np.float32)
    light = rng.uniform(0.75, 1.1)
    noise = rng.standard_normal(pixels.shape, np.float32) * rng.uniform(4, 14)
    return np.clip(pixels * light + noise, 0, 255).astype(np.uint8)


def _book(
    figures: Sequence[Figure], n: int, size: int, seed: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    if n < 1 or size < 8:
        raise DataError(f"expected n ≥ 1 pictures of size ≥ 8 pixels, got n = {n}, size = {size}")
    labels = np.arange(n, dtype=np.int64) % len(figures)
    images = np.empty((n, size, size, 3), np.uint8)
    for i, label in enumerate(labels):
        images[i] = _scene(size, figures[int(label)], np.random.default_rng((*seed, i)))
    return images, labels


def draw_shapes(n: int, size: int = 32, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """n pictures (n, size, size, 3) uint8 of the ten SHAPES, and their labels (n,) int64: 0, 1, …, 9, 0, …

    Picture i depends on (seed, i) and the size alone: a longer book begins with the shorter one.
    """
    return _book([_coloured(shape) for shape in SHAPES.values()], n, size, (seed, 0))


def draw_cats_and_dogs(n: int, size: int = 32, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """n pictures (n, size, size, 3) uint8 of cats (label 0) and dogs (label 1) in turn, labels (n,) int64."""
    return _book([draw_cat, draw_dog], n, size, (seed, 1))


def save_pictures(
    folder: str | os.PathLike,
    images: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    format: str = "png",
) -> None:
    """Write images (N, H, W, 3) uint8 as folder/class/class.0.png, …, the layout that ImageFolder reads."""
    image = require("PIL.Image", "images")
    for name in classes:
        Path(folder, name).mkdir(parents=True, exist_ok=True)
    for i, (pixels, label) in enumerate(zip(images, labels, strict=True)):
        name = classes[int(label)]
        image.fromarray(pixels).save(Path(folder, name, f"{name}.{i}.{format}"))


__all__ = ["SHAPES", "draw_cats_and_dogs", "draw_shapes", "save_pictures"]
