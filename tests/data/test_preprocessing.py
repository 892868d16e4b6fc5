"""Preprocessing: the formula, the refusals, and the way through JSON."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from minidl.data import Preprocessing, RandomHorizontalFlip, RandomResizedCrop
from minidl.errors import DataError

CAFFE = Preprocessing(order="BGR", mean=(103.939, 116.779, 123.68))
TORCHVISION = Preprocessing(
    resize="crop", scale=1 / 255, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
)


@pytest.fixture
def picture():
    pixels = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_caffe_is_bgr_minus_mean(picture):
    x = CAFFE.transform()(picture)
    pixels = np.asarray(picture.resize((224, 224), Image.Resampling.BILINEAR), np.float32)
    assert x.dtype == np.float32
    assert x.shape == (3, 224, 224)
    np.testing.assert_allclose(x[0], pixels[..., 2] - 103.939, atol=1e-4)
    np.testing.assert_allclose(x[2], pixels[..., 0] - 123.68, atol=1e-4)


def test_torchvision_is_rgb_normalised_and_cropped(picture):
    x = TORCHVISION.transform()(picture)
    pixels = np.asarray(picture.resize((341, 256), Image.Resampling.BILINEAR), np.float64)
    left, top = round((341 - 224) / 2), (256 - 224) // 2
    pixels = pixels[top : top + 224, left : left + 224]
    expected = (pixels / 255 - TORCHVISION.mean) / TORCHVISION.std
    assert x.dtype == np.float32
    np.testing.assert_allclose(x, expected.transpose(2, 0, 1), atol=1e-5)


def test_normalize_takes_a_whole_batch():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), dtype=np.uint8)
    batch = CAFFE.normalize(pixels)
    for one, array in zip(pixels, batch, strict=True):
        np.testing.assert_array_equal(array, CAFFE.transform()(Image.fromarray(one)))


def test_augmentation_comes_between_resizing_and_numbers(picture):
    plain = TORCHVISION.transform()(picture)
    flipped = TORCHVISION.transform(RandomHorizontalFlip(p=1.0))(picture)
    np.testing.assert_array_equal(flipped, plain[:, :, ::-1])


def test_random_resized_crop_replaces_the_resizing(picture):
    transform = TORCHVISION.transform([RandomResizedCrop(224), RandomHorizontalFlip()])
    assert [type(t).__name__ for t in transform.transforms] == [
        "RandomResizedCrop", "RandomHorizontalFlip", "ToArray", "Normalize",
    ]  # fmt: skip
    assert transform(picture).shape == (3, 224, 224)


@pytest.mark.parametrize("preprocessing", [CAFFE, TORCHVISION, Preprocessing(size=32)])
def test_json_and_back(preprocessing):
    assert Preprocessing.from_dict(json.loads(json.dumps(preprocessing.to_dict()))) == preprocessing


def test_unknown_keys_are_refused():
    with pytest.raises(DataError, match="preprocessing has no colour, zoom; it has size, resize, "):
        Preprocessing.from_dict({"size": 224, "zoom": 1, "colour": "red"})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"size": 0}, "size must be a whole number of pixels from 1 to 10,000, got 0"),
        ({"size": "224"}, "size must be a whole number of pixels from 1 to 10,000, got '224'"),
        ({"size": 224.5}, "size must be a whole number"),
        ({"resize": "stretch"}, "resize must be squash or crop, got 'stretch'"),
        ({"resize": "crop", "resize_to": 200}, "resize_to must be at least size, got 200 < 224"),
        ({"filter": "cubic"}, "filter must be one of bilinear, .*, got 'cubic'"),
        ({"order": "GBR"}, "order must be RGB or BGR, got 'GBR'"),
        ({"scale": float("nan")}, "scale must be a positive number, got nan"),
        ({"mean": (1.0, 2.0)}, r"mean must be three numbers, one per channel, got \(1.0, 2.0\)"),
        ({"std": (1.0, 0.0, 1.0)}, r"std must be positive, got \(1.0, 0.0, 1.0\)"),
        ({"std": "abc"}, "std must be three numbers"),
    ],
)
def test_values_that_make_no_sense(values, message):
    with pytest.raises(DataError, match=message):
        Preprocessing.from_dict(values)
