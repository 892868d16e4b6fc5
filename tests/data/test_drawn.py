"""The drawn pictures: the same every time, and too varied for a linear model."""

from __future__ import annotations

import numpy as np
import pytest

from minidl.data import SHAPES, ImageFolder, draw_cats_and_dogs, draw_shapes, save_pictures
from minidl.errors import DataError


@pytest.mark.parametrize(("draw", "classes"), [(draw_shapes, len(SHAPES)), (draw_cats_and_dogs, 2)])
def test_a_book(draw, classes):
    images, labels = draw(21, size=24, seed=3)
    assert (images.shape, images.dtype) == ((21, 24, 24, 3), np.uint8)
    assert labels.dtype == np.int64
    assert labels.tolist() == [i % classes for i in range(21)]
    again, _ = draw(5, size=24, seed=3)
    np.testing.assert_array_equal(again, images[:5])  # a longer book begins with the shorter one
    assert not np.array_equal(draw(5, size=24, seed=4)[0], again)
    assert len({picture.tobytes() for picture in images}) == 21


def test_ten_shapes():
    assert list(SHAPES) == [
        "crescent", "cross", "disc", "drop", "heart", "ring", "square", "star", "stripes", "triangle",
    ]  # fmt: skip


def linear_accuracy(train, valid):
    """The best validation accuracy that logistic regression on the pixels passes through.

    Gradient descent on w = Xᵀa is done on a, with the kernel matrix X·Xᵀ: 2,000 numbers instead of 3,072 by
    2,000. The best step of the best penalty counts, which flatters the linear model.
    """
    (x, y), (u, v) = train, valid
    x, u = (pixels.reshape(len(pixels), -1).astype(np.float32) for pixels in (x, u))
    mean, std = x.mean(axis=0), x.std(axis=0)
    x, u = (x - mean) / std, (u - mean) / std
    kernel, across = x @ x.T + 1, u @ x.T + 1
    direction = np.ones(len(x), np.float32)
    for _ in range(10):  # power iteration: the largest eigenvalue bounds the step
        direction = kernel @ (direction / np.linalg.norm(direction))
    curvature = float(np.linalg.norm(direction)) / len(x) / 4
    best = 0.0
    for penalty in (0.0, 1.0):
        a = np.zeros(len(x), np.float32)
        step = 1 / (curvature + penalty)
        for k in range(150):
            p = 1 / (1 + np.exp(-np.clip(kernel @ a, -50, 50)))
            a -= step * ((p - y) / len(x) + penalty * a)
            if k % 10 == 9:
                best = max(best, float(((across @ a > 0) == v).mean()))
    return best


@pytest.mark.slow
@pytest.mark.parametrize("n", [300, 2000])
def test_a_linear_model_is_not_enough(n):
    accuracy = linear_accuracy(draw_cats_and_dogs(n, seed=0), draw_cats_and_dogs(1000, seed=1))
    assert 0.5 < accuracy < 0.75


def test_saved_as_a_folder(tmp_path):
    images, labels = draw_cats_and_dogs(6, size=16)
    save_pictures(tmp_path / "train", images, labels, ["cats", "dogs"])
    folder = ImageFolder(tmp_path / "train")
    assert folder.classes == ["cats", "dogs"]
    assert [path.rpartition("cats.")[2] for path, _ in folder.samples[:3]] == ["0.png", "2.png", "4.png"]
    np.testing.assert_array_equal(folder[3][0], images[1].transpose(2, 0, 1))
    save_pictures(tmp_path / "jpeg", images, labels, ["cats", "dogs"], format="jpg")
    assert len(ImageFolder(tmp_path / "jpeg")) == 6


def test_refusals():
    with pytest.raises(DataError, match="expected n ≥ 1 pictures of size ≥ 8 pixels, got n = 0, size = 32"):
        draw_shapes(0)
