"""Large products: in strips they are what NumPy says, and rows of a Product are those of the whole."""

from __future__ import annotations

import numpy as np
import pytest

from minidl.backend import products
from minidl.backend.blocks import for_each_block
from minidl.backend.products import Product, matmul
from minidl.backend.threads import get_num_threads, set_num_threads


@pytest.fixture
def factors():
    """(x, y) of so many rows, products and columns; transposed in memory where asked."""
    rng = np.random.default_rng(0)

    def make(m, k, n, transposed=False):
        x, y = rng.standard_normal((m, k), np.float32), rng.standard_normal((k, n), np.float32)
        return x, np.asfortranarray(y) if transposed else y

    return make


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(("m", "n"), [(8, 1025), (1025, 8), (520, 530), (1, 2048)])
def test_strips_are_the_product(factors, monkeypatch, m, n, transposed):
    monkeypatch.setattr(products, "LARGE_PRODUCT", 0)
    x, y = factors(m, 30, n, transposed)
    z = matmul(x, y)
    assert z.dtype == np.float32
    assert z.flags.c_contiguous
    np.testing.assert_allclose(z, x.astype(np.float64) @ y, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("k", [1024, 10007, 25088])  # in equal parts; a prime number; VGG16's
@pytest.mark.parametrize("rows", [1, 3, 8])
def test_few_rows_times_a_matrix_is_a_sum_of_parts(factors, monkeypatch, rows, k):
    taken, original = [], products._multiply_parts
    monkeypatch.setattr(products, "_multiply_parts", lambda *a: taken.append(a) or original(*a))
    monkeypatch.setattr(products, "LARGE_PRODUCT", 0)
    x, y = factors(rows, k, 300, transposed=True)
    np.testing.assert_allclose(matmul(x, y), x.astype(np.float64) @ y, rtol=1e-4, atol=1e-4)
    assert len(taken) == (0 if k == 10007 else 3)


@pytest.mark.parametrize(("m", "n"), [(0, 2048), (2048, 0)])
def test_a_large_matrix_times_an_empty_one(factors, m, n):
    """As a wide dense layer does with a batch of no pictures."""
    x, y = factors(m, 2048, n, transposed=True)
    assert matmul(x, y).shape == (m, n)


def test_a_long_matrix_with_few_columns_stays_whole(factors, monkeypatch):
    """In strips of 512 rows it would take twice as long."""
    monkeypatch.setattr(products, "parallel_for", None)
    x, y = factors(1 << 20, 4, 4)
    np.testing.assert_array_equal(matmul(x, y), x @ y)


def test_threads_change_no_bit(factors, monkeypatch):
    monkeypatch.setattr(products, "LARGE_PRODUCT", 0)
    x, y = factors(8, 200, 1500, transposed=True)
    before = get_num_threads()
    try:
        set_num_threads(1)
        alone = matmul(x, y)
        set_num_threads(3)
        np.testing.assert_array_equal(matmul(x, y), alone)
    finally:
        set_num_threads(before)


def test_matmul_is_numpys_in_every_other_case(factors):
    x, y = factors(3, 4, 5)
    np.testing.assert_array_equal(matmul(x, y), x @ y)
    np.testing.assert_allclose(matmul(np.stack([x, 2 * x]), y), np.stack([x, 2 * x]) @ y, rtol=1e-6)


def test_rows_of_a_product_are_those_of_the_whole(factors, monkeypatch):
    monkeypatch.setitem(products.PIECE, "cpu", 7 * 300)
    x, y = factors(40, 6, 300)
    product = Product(x, y)
    assert [rows for (rows,) in product.pieces()] == products.split(40, 7)
    whole = product.whole()
    np.testing.assert_allclose(whole, x @ y, rtol=1e-5, atol=1e-6)
    for (rows,) in product.pieces():
        np.testing.assert_array_equal(product[rows], whole[rows])


def test_a_product_stays_when_its_factors_change(factors):
    x, y = factors(4, 2, 3)
    expected = x @ y
    product = Product(x, y)
    x[...] = y[...] = 0
    np.testing.assert_allclose(product.whole(), expected, rtol=1e-6)


def test_blocks_of_a_product(factors, monkeypatch):
    monkeypatch.setitem(products.PIECE, "cpu", 7 * 300)
    x, y = factors(40, 6, 300)
    product = Product(x, y)
    total, places = np.zeros((40, 300), np.float32), np.arange(12000).reshape(40, 300)
    seen = []

    def add(t, g, place):
        t += g
        seen.append(place.ravel().copy())

    for_each_block(add, total, product, places)
    np.testing.assert_array_equal(total, product.whole())
    np.testing.assert_array_equal(np.sort(np.concatenate(seen)), np.arange(12000))
