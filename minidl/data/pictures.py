"""One picture from one file, as RGB, whatever the file holds; or one sentence that says why not."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np

from minidl.errors import DataError, require

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")
MAX_PIXELS = 89_478_485  # where Pillow begins to warn: 256 MiB of RGB


def open_picture(path: str | os.PathLike) -> Image:
    """The picture in the file `path`, decoded whole and upright, as a Pillow RGB image.

    The content decides the format, one of FORMATS, whatever the name says; of an animation the first frame
    counts. EXIF orientation is applied. Transparency is laid over white, 16-bit greys are scaled to 8 bits,
    CMYK, palette, grey and black-and-white pictures are converted. The file is closed again.

    Raises:
        DataError: no such file, not a picture, truncated, more than MAX_PIXELS, or damaged in any other way.
    """
    image = require("PIL.Image", "images")
    try:
        with open(path, "rb") as file, image.open(file, formats=FORMATS) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise DataError(f"{picture.width} × {picture.height} pixels are too many")
            picture.load()  # only decoding finds out that a JPEG is truncated
            return _upright(_to_rgb(picture), picture)
    except Exception as error:  # a damaged file can make a decoder raise anything
        raise DataError(f"{os.fspath(path)}: {_cause(error, path)}") from error


def _to_rgb(picture: Image) -> Image:
    image = require("PIL.Image", "images")
    if picture.mode == "I" or picture.mode.startswith("I;16"):
        # convert() would clip at 255: nearly every pixel becomes white.
        picture = image.fromarray((np.asarray(picture) // 256).astype(np.uint8))
    elif picture.has_transparency_data:
        white = image.new("RGBA", picture.size, "white")
        picture = image.alpha_composite(white, picture.convert("RGBA"))
    return picture.convert("RGB")


def _upright(rgb: Image, picture: Image) -> Image:
    """`rgb` turned as the EXIF orientation of `picture`, the file it came from, demands."""
    try:
        orientation = picture.getexif().get(0x0112)
    except Exception:  # the camera's notes are damaged, the picture is not
        return rgb
    turn = require("PIL.Image", "images").Transpose
    turns = {
        2: turn.FLIP_LEFT_RIGHT,
        3: turn.ROTATE_180,
        4: turn.FLIP_TOP_BOTTOM,
        5: turn.TRANSPOSE,
        6: turn.ROTATE_270,
        7: turn.TRANSVERSE,
        8: turn.ROTATE_90,
    }
    return rgb.transpose(turns[orientation]) if orientation in turns else rgb


def _cause(error: Exception, path: str | os.PathLike) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if os.path.isdir(path):
        return "a folder, not a picture: name the pictures in it"
    if type(error).__name__ == "UnidentifiedImageError":
        if os.path.getsize(path) == 0:
            return "the file is empty"
        return f"not a picture in a format that minidl reads ({', '.join(FORMATS)})"
    return str(error) if isinstance(error, DataError) else f"cannot be read: {error}"


__all__ = ["EXTENSIONS", "FORMATS", "MAX_PIXELS", "open_picture"]
