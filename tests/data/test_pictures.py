"""open_picture: every kind of picture becomes RGB, every kind of damage one sentence."""

from __future__ import annotations

import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from minidl.data import open_picture
from minidl.errors import DataError

GRADIENT = np.arange(0, 256, 4, dtype=np.uint8).reshape(8, 8)


def saved(path, picture, **options):
    picture.save(path, **options)
    return path


def test_rgb_comes_as_it_is(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 6, 3), dtype=np.uint8)
    picture = open_picture(saved(tmp_path / "a.png", Image.fromarray(pixels)))
    assert picture.mode == "RGB"
    np.testing.assert_array_equal(picture, pixels)


def test_content_decides_and_not_the_name(tmp_path):
    assert open_picture(saved(tmp_path / "a.jpg", Image.new("RGB", (3, 2), "red"), format="PNG")).size == (
        3,
        2,
    )


@pytest.mark.parametrize("mode", ["L", "1", "P"])
def test_grey_one_bit_and_palette(tmp_path, mode):
    source = Image.fromarray(GRADIENT).convert(mode)
    picture = open_picture(saved(tmp_path / "a.png", source))
    np.testing.assert_array_equal(picture, source.convert("RGB"))


def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path):
    deep = GRADIENT.astype(np.uint16) * 257
    picture = open_picture(saved(tmp_path / "a.png", Image.fromarray(deep)))
    np.testing.assert_array_equal(np.asarray(picture)[..., 0], GRADIENT)


def test_cmyk(tmp_path):
    picture = open_picture(saved(tmp_path / "a.jpg", Image.new("CMYK", (8, 8), (0, 255, 255, 0))))
    np.testing.assert_allclose(np.asarray(picture)[4, 4].astype(int), (255, 0, 0), atol=4)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_transparency_over_white(tmp_path, mode):
    source = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    source.paste((0, 0, 0, 255), (0, 0, 2, 4))
    if mode == "PA":
        path = saved(tmp_path / "a.gif", source)
    else:
        path = saved(tmp_path / "a.png", source.convert(mode))
    pixels = np.asarray(open_picture(path))
    assert not pixels[:, :2].any()
    assert np.all(pixels[:, 2:] == 255)


def test_a_transparent_colour_is_white_too(tmp_path):
    picture = open_picture(
        saved(tmp_path / "a.png", Image.new("RGB", (2, 2), (9, 9, 9)), transparency=(9, 9, 9))
    )
    assert np.all(np.asarray(picture) == 255)


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    picture = open_picture(saved(tmp_path / "a.gif", frames[0], save_all=True, append_images=frames[1:]))
    assert picture.getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, orientation):
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    source = Image.fromarray(np.kron(np.random.default_rng(0).integers(0, 2, (2, 3)), np.ones((8, 8))) * 255)
    path = saved(tmp_path / "a.jpg", source.convert("L"), exif=exif, quality=95)
    with Image.open(path) as stored:
        upright = ImageOps.exif_transpose(stored).convert("RGB")
    np.testing.assert_array_equal(open_picture(path), upright)


def jpeg(path):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    return saved(path, Image.fromarray(pixels))


def test_truncated(tmp_path):
    path = jpeg(tmp_path / "cut.jpg")
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(DataError, match=r"cut\.jpg: cannot be read: image file is truncated"):
        open_picture(path)


def test_missing_empty_and_not_a_picture(tmp_path):
    with pytest.raises(DataError, match=r"a\.jpg: no such file"):
        open_picture(tmp_path / "a.jpg")
    with pytest.raises(DataError, match=r": a folder, not a picture: name the pictures in it$"):
        open_picture(tmp_path)
    (tmp_path / "a.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"a\.jpg: the file is empty"):
        open_picture(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").write_text("<html>404</html>")
    with pytest.raises(DataError, match=r"a\.jpg: not a picture in a format that minidl reads \(JPEG, PNG,"):
        open_picture(tmp_path / "a.jpg")


def test_formats_that_are_not_allowed(tmp_path):
    with pytest.raises(DataError, match="not a picture in a format that minidl reads"):
        open_picture(saved(tmp_path / "a.png", Image.new("RGB", (2, 2)), format="TIFF"))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [10_000, 60_000])
def test_decompression_bomb(tmp_path, side):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    path = tmp_path / "bomb.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0"))
        + chunk(b"IEND", b"")
    )
    with pytest.raises(
        DataError, match=r"bomb\.png: (10000 × 10000 pixels are too many|cannot be read: Image size)"
    ):
        open_picture(path)


@pytest.mark.parametrize("cut", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("format", ["PNG", "WEBP", "BMP", "GIF", "JPEG"])
def test_damage_anywhere_is_a_data_error(tmp_path, format, cut):
    path = jpeg(tmp_path / "a.jpg")
    with Image.open(path) as picture:
        picture.save(path.with_suffix(".x"), format=format)
    whole = path.with_suffix(".x").read_bytes()
    path.write_bytes(whole[: int(len(whole) * cut)])
    with pytest.raises(DataError, match=r"a\.jpg"):
        open_picture(path)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts open files in /proc")
def test_no_file_stays_open(tmp_path):
    good, bad = jpeg(tmp_path / "good.jpg"), jpeg(tmp_path / "bad.jpg")
    bad.write_bytes(bad.read_bytes()[:-500])
    before = len(os.listdir("/proc/self/fd"))
    pictures = [open_picture(good) for _ in range(5)]
    for _ in range(5):
        with pytest.raises(DataError, match="truncated"):
            open_picture(bad)
    assert len(os.listdir("/proc/self/fd")) == before
    assert pictures[0].getpixel((0, 0)) is not None
