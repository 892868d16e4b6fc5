"""blocks: every element once, as views, for every layout."""

from __future__ import annotations

import numpy as np
import pytest

from minidl.backend.blocks import BLOCK, blocks

SIZE = BLOCK["cpu"]


@pytest.mark.parametrize("shape", [(), (0,), (5,), (SIZE + 1,), (3, SIZE), (2, 0, 3), (2, 3, 4)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_every_element_once_and_written_through(shape, order):
    counts = np.zeros(shape, np.int32, order=order)
    numbers = np.arange(counts.size, dtype=np.int32).reshape(shape)
    for count, number in blocks(counts, numbers):
        assert count.shape == number.shape
        assert count.ndim == 1
        assert 0 < count.size <= SIZE
        count += number + 1
    np.testing.assert_array_equal(counts, numbers + 1)


def test_strided_views():
    whole = np.zeros((4, 6))
    for (block,) in blocks(whole[:, ::2]):
        block += 1
    np.testing.assert_array_equal(whole, np.tile([1.0, 0.0], (4, 3)))
