"""Transforms: torchvision's conventions, and randomness that comes from the generator alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from minidl.data import (
    CenterCrop,
    Compose,
    Normalize,
    RandomAffine,
    RandomHorizontalFlip,
    RandomResizedCrop,
    RandomRotation,
    RandomShift,
    RandomZoom,
    Resize,
    ToArray,
)
from minidl.errors import DataError


def picture(height=40, width=60, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_resize_by_the_shorter_side_rounds_the_longer_down():
    assert Resize(256)(picture(375, 500)).size == (341, 256)
    assert Resize(20)(picture(60, 40)).size == (20, 30)
    assert Resize((10, 30))(picture()).size == (30, 10)


def test_resize_is_antialiased():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    small = np.asarray(Resize((8, 8))(Image.fromarray(stripes)))
    assert np.all(np.abs(small.astype(int) - 127) <= 16)  # grey, and not the one or the other stripe


def test_centre_crop_cuts_the_middle_and_pads_what_is_missing():
    source = picture(41, 61)
    np.testing.assert_array_equal(CenterCrop(20)(source), np.asarray(source)[10:30, 20:40])
    padded = np.asarray(CenterCrop(50)(picture(50, 40)))
    assert padded.shape == (50, 50, 3)
    assert not padded[:, :5].any()
    assert padded[:, 5:45].any()


@given(st.integers(1, 90), st.integers(1, 90), st.integers(0, 2**32))
def test_random_resized_crop_stays_inside(width, height, seed):
    left, top, right, bottom = RandomResizedCrop(8).draw_box(width, height, np.random.default_rng(seed))
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height


def test_random_resized_crop_of_a_panorama_falls_back_to_the_middle():
    box = RandomResizedCrop(8, scale=(1.0, 1.0)).draw_box(400, 30, np.random.default_rng(0))
    assert box == (180, 0, 220, 30)


def test_affine_identity_changes_nothing():
    source = picture()
    np.testing.assert_array_equal(RandomAffine()(source), source)


def test_quarter_turns_and_whole_shifts_are_exact():
    class Fixed:
        """A generator that always draws the upper end."""

        def uniform(self, low, high):
            return high

    source = picture(32, 32)
    turned = np.asarray(RandomRotation(90).apply(source, Fixed()))
    clockwise = np.rot90(np.asarray(source), -1)
    np.testing.assert_allclose(turned.astype(int), clockwise, atol=1)  # bilinear weights truncate
    shifted = np.asarray(RandomShift(0.25, fill=7).apply(source, Fixed()))
    np.testing.assert_array_equal(shifted[8:, 8:], np.asarray(source)[:-8, :-8])
    assert np.all(shifted[:8] == 7)
    doubled = np.asarray(RandomAffine(scale=(2.0, 2.0), filter="nearest").apply(source, Fixed()))
    np.testing.assert_array_equal(doubled[::2, ::2], np.asarray(source)[8:24, 8:24])


@pytest.mark.parametrize(
    "transform",
    [
        RandomHorizontalFlip(),
        RandomResizedCrop(16),
        RandomRotation(15),
        RandomShift(0.1),
        RandomZoom(0.1),
        Compose([RandomRotation(15), RandomHorizontalFlip(), ToArray()]),
    ],
    ids=lambda t: type(t).__name__,
)
def test_the_generator_decides_alone(transform):
    source = picture()

    def draw(seed):
        return np.asarray(transform(source, np.random.default_rng(seed)))

    np.testing.assert_array_equal(draw(1), draw(1))
    assert any(not np.array_equal(draw(0), draw(seed)) for seed in range(1, 9))
    assert transform(source) is not None  # without a generator it draws its own


def test_compose_takes_plain_functions():
    transform = Compose([ToArray(), lambda x: x + 1, Normalize((1, 2, 3), (2, 2, 2))])
    x = transform(picture())
    pixels = np.asarray(picture(), np.float32).transpose(2, 0, 1)
    expected = (pixels + 1 - np.array([1, 2, 3]).reshape(3, 1, 1)) / 2
    assert x.dtype == np.float32
    np.testing.assert_allclose(x, expected)
    assert repr(transform).startswith("Compose(\n  ToArray('RGB', scale=1),")


def test_to_array_reverses_channels_and_scales():
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    x = ToArray("BGR", scale=0.5)(pixels)
    np.testing.assert_array_equal(x, pixels.transpose(2, 0, 1)[::-1] * 0.5)
    assert x.flags.c_contiguous


def test_refusals():
    with pytest.raises(DataError, match=r"expected uint8 pixels \(…, H, W, 3\), got float64 \(4, 4, 3\)"):
        ToArray()(np.zeros((4, 4, 3)))
    with pytest.raises(DataError, match=r"got uint8 \(4, 4\)"):
        ToArray()(Image.new("L", (4, 4)))
    with pytest.raises(DataError, match="filter must be nearest, bilinear or bicubic, got 'box'"):
        RandomAffine(filter="box")
    with pytest.raises(DataError, match="scale must be two positive numbers, smaller one first"):
        RandomZoom(1.5)
