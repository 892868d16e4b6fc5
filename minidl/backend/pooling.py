"""What pooling does with arrays.

Everything is written over a view (N, C, KH, KW, OH, OW) of what the windows see: a loop over the KH·KW pixels
of a window, each step of which works on all windows at once, in pieces that fit the cache.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from minidl.backend import kernels
from minidl.backend.blocks import ALONE, masked
from minidl.backend.device import Array, array_module, device_of
from minidl.backend.im2col import Pair, Window, sliding_windows
from minidl.backend.memory import empty, padded
from minidl.backend.threads import parallel_for, scratch, split, strips

PIECE_BYTES = {"cpu": 1 << 19, "gpu": 1 << 40}  # of one pixel of all windows, at a time


# What is done with the pixels of the windows. `seen` is (n, c, KH, KW, OH, OW), the windows' view of
# `picture`; the others are (n, c, OH, OW)


def pixels(seen: Array) -> Iterator[tuple[int, Array]]:
    """(k, the k-th pixel of every window), row by row."""
    _, _, kh, kw, _, _ = seen.shape
    for k in range(kh * kw):
        yield k, seen[:, :, k // kw, k % kw]


def largest(seen: Array, y: Array) -> None:
    if device_of(y) == "gpu":
        kernels.max_pool(seen, y, array_module(y).empty(y.shape, np.uint8))
        return
    maximum = array_module(y).maximum
    y[...] = seen[:, :, 0, 0]
    for _, x in pixels(seen):
        maximum(y, x, out=y)


def largest_and_where(seen: Array, y: Array, switches: Array) -> None:
    if device_of(y) == "gpu":
        kernels.max_pool(seen, y, switches)
        return
    xp = array_module(y)
    y[...] = seen[:, :, 0, 0]
    x = scratch(xp, "pixels", y.shape, y.dtype)
    for k, pixel in itertools.islice(pixels(seen), 1, None):
        x[...] = pixel  # it is read twice, and side by side it is read quickly
        larger = (x > y).view(np.uint8)
        xp.maximum(switches, larger * switches.dtype.type(k), out=switches)  # k grows: the latest stays
        xp.maximum(y, x, out=y)


def where_nan(seen: Array, switches: Array) -> None:
    """Switch to NaN, to the last one of a window. No number is larger than it, nor is it than any number."""
    for k, x in pixels(seen):
        switches[array_module(x).isnan(x)] = k


def pick(seen: Array, y: Array, switches: Array) -> None:
    y[...] = 0
    picked = scratch(array_module(y), "pixels", y.shape, y.dtype)
    for k, x in pixels(seen):
        y += masked(x, switches == k, out=picked)


def put(seen: Array, x: Array, switches: Array, picture: Array) -> None:
    picture[...] = 0
    added = scratch(array_module(x), "pixels", x.shape, x.dtype)
    for k, y in pixels(seen):
        y += masked(x, switches == k, out=added)


def put_apart(seen: Array, x: Array, switches: Array, picture: Array | None = None) -> None:
    """As `put`, for windows that do not overlap: there is nothing to add to. Without gaps, no `picture`."""
    if picture is not None:
        picture[...] = 0
    if device_of(x) == "gpu":
        kernels.put_apart(seen, x, switches)
        return
    for k, y in pixels(seen):
        masked(x, switches == k, out=y)


def add_up(seen: Array, y: Array) -> None:
    y[...] = 0
    for _, x in pixels(seen):
        y += x


def put_everywhere(seen: Array, x: Array, picture: Array) -> None:
    picture[...] = 0
    for _, y in pixels(seen):
        y += x


def put_everywhere_apart(seen: Array, x: Array, picture: Array | None = None) -> None:
    """As `put_everywhere`, for windows that do not overlap."""
    if picture is not None:
        picture[...] = 0
    for _, y in pixels(seen):
        y[...] = x


def for_each_piece(run: Callable[..., None], seen: Array, *maps: Array, picture: Array | None = None) -> None:
    """run(seen, *maps, picture) for the same pictures and channels of all, piece by piece.

    Of channels-last pictures these are lines, with the axes as they lie in memory, (n, OH, KH, KW, OW, C) and
    (n, OH, OW, C); where `picture` is written too, which has other lines, they are whole pictures.
    """
    last = seen.strides[1] < seen.strides[5]
    if last:
        seen = seen.transpose(0, 4, 2, 3, 5, 1)
        maps = tuple(array.transpose(0, 2, 3, 1) for array in maps)
    n, parts = maps[0].shape[:2]
    pieces = strips(n, parts, maps[0].nbytes // max(1, n * parts), PIECE_BYTES[device_of(seen)])
    if last and picture is not None:
        pieces = [(one, slice(0, parts)) for one in split(n, 1)]

    def piece(pictures: slice, part: slice) -> None:
        arrays = [array[pictures, part] for array in (seen, *maps)]
        if picture is not None:
            arrays.append(picture[pictures] if last else picture[pictures, part])
        run(*arrays)

    if seen.size <= ALONE:
        for part in pieces:
            piece(*part)
    else:
        parallel_for(array_module(seen), piece, pieces)


def write_windows(
    window: Window,
    overlapping: Callable[..., None],
    apart: Callable[..., None],
    seen: Array,
    bordered: Array,
    *maps: Array,
) -> None:
    """`overlapping` for each piece, which begins with a picture of zeros; `apart` if no windows overlap.

    That writes each pixel once, and needs the zeros only where pixels lie between the windows.
    """
    if all(s >= e for s, e in zip(window.stride, window.extent, strict=True)):
        for_each_piece(apart, seen, *maps, picture=bordered if bordered.size > seen.size else None)
    else:
        for_each_piece(overlapping, seen, *maps, picture=bordered)


def smallest(dtype: np.dtype) -> Any:
    """What no number of a type is below: −∞, the least integer, False."""
    if dtype.kind == "f":
        return -math.inf
    return np.iinfo(dtype).min if dtype.kind in "iu" else False


# Windows and their places


def overhang(window: Window, size: Pair, places: Pair) -> list[int]:
    """How many pixels the last window sticks out beyond the lower and the right edge of the picture."""
    return [
        max(0, (o - 1) * s + e - p - n)
        for n, o, s, p, e in zip(size, places, window.stride, window.padding, window.extent, strict=True)
    ]


def windows_of(x: Array, window: Window, places: Pair, fill: float) -> Array:
    """What the windows see of x (N, C, H, W), and of a border of `fill` around it: (N, C, KH, KW, OH, OW)."""
    widths = list(zip(window.padding, overhang(window, x.shape[2:], places), strict=True))
    if any(map(any, widths)):
        x = padded(x, [(0, 0), (0, 0), *widths], fill)
    return sliding_windows(x, window, places)


def empty_windows(x: Array, window: Window, size: Pair, like: Array) -> tuple[Array, Array, Array]:
    """A picture (N, C, *size), the same with its border, and the view that the windows of x have of that.

    Nothing is written yet: that is quickest piece by piece.
    """
    (n, c, *places), (h, w), (top, left) = x.shape, size, window.padding
    bottom, right = overhang(window, size, (places[0], places[1]))
    bordered = empty(array_module(x), (n, c, top + h + bottom, left + w + right), x.dtype, like)
    seen = sliding_windows(bordered, window, (places[0], places[1]))
    return bordered[:, :, top : top + h, left : left + w], bordered, seen


def first_pixels_inside(x: Array, window: Window, places: Pair) -> Array:
    """For each window the number of its first pixel that lies on the picture: (N, C, OH, OW), small integers.

    Where all pixels are −∞ none is larger than the first, and that must not be one of the border.
    """
    xp, dtype = array_module(x), np.min_scalar_type(math.prod(window.kernel) - 1)
    first = empty(xp, (*x.shape[:2], *places), dtype, like=x)
    first[...] = 0
    if any(window.padding):
        down, right = (
            -(-np.maximum(0, p - s * np.arange(o)) // d)
            for o, s, p, d in zip(places, window.stride, window.padding, window.dilation, strict=True)
        )
        first += xp.asarray((down[:, None] * window.kernel[1] + right).astype(dtype))
    return first


def switch_origins(window: Window, places: Pair) -> tuple[np.ndarray, np.ndarray]:
    """The row (OH, 1) and the column (OW,) of each window's first pixel; negative on the border."""
    rows = np.arange(places[0])[:, None] * window.stride[0] - window.padding[0]
    return rows, np.arange(places[1]) * window.stride[1] - window.padding[1]


def on_device_of(x: Array, counts: Any) -> Any:
    """`counts` as it is to divide x: a Python number, or an array of x's type beside it."""
    return array_module(x).asarray(counts, dtype=x.dtype) if isinstance(counts, np.ndarray) else counts
