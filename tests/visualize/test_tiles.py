from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minidl import Tensor
from minidl.errors import ShapeError
from minidl.visualize.tiles import rescale, tile


@given(
    n=st.integers(1, 9),
    h=st.integers(1, 4),
    w=st.integers(1, 4),
    columns=st.integers(1, 5),
    gap=st.integers(0, 2),
)
def test_every_picture_is_in_its_place(n, h, w, columns, gap):
    pictures = np.random.default_rng(0).random((n, h, w), np.float32)
    sheet = tile(pictures, columns, gap)
    columns = min(columns, n)
    rows = -(-n // columns)
    assert sheet.shape == (rows * h + (rows - 1) * gap, columns * w + (columns - 1) * gap)
    for i in range(n):
        top, left = i // columns * (h + gap), i % columns * (w + gap)
        assert np.array_equal(sheet[top : top + h, left : left + w], pictures[i])


def test_colour_and_tensors_and_a_square_by_default():
    sheet = tile(Tensor(np.zeros((9, 5, 5, 3), np.float32)), gap=2, background=1.0)
    assert sheet.shape == (19, 19, 3)
    assert sheet[5, 0, 0] == 1.0
    assert sheet.dtype == np.float32


@pytest.mark.parametrize("shape", [(3, 3), (0, 3, 3), (2, 3, 3, 4), (1, 1, 1, 1, 1)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ShapeError, match=r"tile needs N ≥ 1 pictures \(N, H, W\) or \(N, H, W, 3\), got"):
        tile(np.zeros(shape, np.float32))


def test_rescale():
    assert np.array_equal(rescale(np.array([-2.0, 0.0, 2.0])), np.array([0, 0.5, 1], np.float32))
    assert np.array_equal(rescale(np.full(3, 7.0)), np.full(3, 0.5))
