"""Blocks: every element once, as views, for every layout."""

from __future__ import annotations

import numpy as np
import pytest

from minidl.backend.blocks import (
    BLOCK,
    FEW,
    ROW,
    along,
    blocks,
    for_each_block,
    masked,
    positive_part,
    sum_of,
    sum_of_centred_products,
)
from minidl.backend.memory import empty_channels_last
from minidl.backend.threads import get_num_threads, set_num_threads

SIZE = BLOCK["cpu"]


@pytest.mark.parametrize("shape", [(), (0,), (5,), (SIZE + 1,), (3, SIZE), (2, 0, 3), (2, 3, 4)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_every_element_once_and_written_through(shape, order):
    counts = np.zeros(shape, np.int32, order=order)
    numbers = np.arange(counts.size, dtype=np.int32).reshape(shape)
    for count, number in blocks(counts, numbers):
        assert count.shape == number.shape
        assert 0 < count.size <= SIZE
        assert count.ndim == 1 or not numbers.flags.c_contiguous or not counts.flags.c_contiguous
        count += number + 1
    np.testing.assert_array_equal(counts, numbers + 1)


@pytest.mark.parametrize("shape", [(4, 6), (3, SIZE), (1, 2 * SIZE), (SIZE, 4)])
def test_strided_views(shape):
    whole = np.zeros(shape)
    seen = list(blocks(whole[:, ::2]))
    for (block,) in seen:
        block += 1
    np.testing.assert_array_equal(whole, np.tile([1.0, 0.0], (shape[0], shape[1] // 2)))
    assert len(seen) <= 2 * -(-whole.size // 2 // SIZE)  # no smaller than needed


@pytest.mark.parametrize("shape", [(), (0,), (7,), (3, SIZE), (SIZE, 3)])
def test_for_each_block_is_for_the_whole_arrays(shape):
    x = np.arange(np.prod(shape, dtype=int), dtype=np.float32).reshape(shape)
    y = np.empty(shape[::-1], np.float32).T
    for_each_block(lambda x, y: np.multiply(x, 2, out=y), x, y)
    np.testing.assert_array_equal(y, 2 * x)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_masked_is_where(dtype):
    x = np.array([[1.5, -2.0, np.inf], [-np.inf, np.nan, 0.0]], dtype)
    for mask in (np.array([[True, False, True], [True, True, True]]), np.zeros((2, 3), bool)):
        out = np.empty((3, 2), dtype).T
        assert masked(x, mask, out) is out
        np.testing.assert_array_equal(out, np.where(mask, x, 0))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int32", "uint8"])
@pytest.mark.parametrize("shape", [(), (0,), (7,), (ROW,), (ROW + 1,), (3, ROW - 1), (2, ROW + 1)])
@pytest.mark.parametrize("view", [lambda x: x, lambda x: x.T, lambda x: x[..., ::-1] if x.ndim else x])
def test_the_positive_part(dtype, shape, view):
    x = np.asarray(3 * np.random.default_rng(0).standard_normal(shape)).astype(dtype)
    if x.dtype.kind == "f" and x.size > 3:
        x[..., :4] = [np.nan, -np.inf, np.inf, -0.0]
    x = view(x)
    expected = np.maximum(x, np.zeros((), dtype))
    for out in (np.full_like(x, 5), np.full(x.shape[::-1], 5, dtype).T, x):  # the last in its own place
        assert positive_part(x, out) is out
        np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("axis", [(1,), (2, 3), (1, 3), (0, 2), (0, 1, 2, 3), ()])
@pytest.mark.parametrize("view", [lambda x: x, lambda x: x.T, lambda x: x[:, :, ::-1]])
def test_the_sum_of_a_large_array_is_numpys(axis, keepdims, view):
    x = view(np.random.default_rng(0).random((30, 40, 20, 30)))
    assert x.size > BLOCK["cpu"]
    found, expected = sum_of(x, axis, keepdims), x.sum(axis=axis, keepdims=keepdims)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-13)


def test_the_sum_of_large_integers_and_of_nothing():
    x = np.full((3, SIZE), 200, np.uint8)
    np.testing.assert_array_equal(sum_of(x, (1,), False), [200 * SIZE] * 3)
    assert sum_of(np.ones((0, SIZE, 2)), (1,), False).shape == (0, 2)


@pytest.mark.parametrize("axis", [0, 1, 2, 3])
@pytest.mark.parametrize(
    "shape",
    [(2, 3, 4, 5), (3, FEW, 40, 30), (3, FEW + 1, 40, 30), (5, 4, 300, 100), (0, 3, 4, 5), (9, 9, 1, 999)],
)
@pytest.mark.parametrize(
    "view", [lambda x: x, lambda x: x.T, lambda x: x.transpose(0, 3, 1, 2), lambda x: x[:, :, ::-1]]
)
def test_along_an_axis(axis, shape, view):
    """Every line whole, whatever lies side by side, and also what is not as long as the line comes back."""
    x = view(np.random.default_rng(0).standard_normal(shape, np.float32))
    y, last = np.empty_like(x), np.empty_like(x[(slice(None),) * axis + (slice(1),)])
    along(axis, lambda x, y, axis: np.cumsum(x, axis=axis, out=y), x, y)
    np.testing.assert_array_equal(y, np.cumsum(x, axis=axis))
    if x.size:
        along(axis, lambda x, y, axis: x.max(axis=axis, keepdims=True, out=y), x, last)
        np.testing.assert_array_equal(last, x.max(axis=axis, keepdims=True))


@pytest.mark.parametrize(
    "shape", [(4, 3), (600, 20), (5, 4, 3), (9, 8, 9001), (7, 33, 50, 60), (2, 3, 700, 200)]
)
@pytest.mark.parametrize("order", ["contiguous", "channels last", "backwards"])
def test_the_sum_of_centred_products(shape, order):
    """Of differences that are small beside the numbers, the same for any number of threads."""
    x = np.random.default_rng(0).standard_normal(shape, np.float32) + 100
    if order == "channels last" and len(shape) == 4:
        x, given = empty_channels_last(shape, np.float32), x
        x[...] = given
    elif order == "backwards":
        x = x[::-1]
    axes = (0, *range(2, x.ndim))
    mean = x.mean(axes, dtype=np.float64).astype(np.float32)
    differences = x.astype(np.float64) - mean.reshape(-1, *(1,) * (x.ndim - 2))
    found = sum_of_centred_products(x, mean)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, (differences**2).sum(axes), rtol=2e-6)
    y = np.random.default_rng(1).standard_normal(shape, np.float32)  # not in the order of x
    products = differences * y
    error = np.abs(sum_of_centred_products(x, mean, y) - products.sum(axes))
    assert np.all(error <= 2e-6 * np.abs(products).sum(axes))
    threads = get_num_threads()
    try:
        set_num_threads(1)
        np.testing.assert_array_equal(sum_of_centred_products(x, mean), found)
    finally:
        set_num_threads(threads)
