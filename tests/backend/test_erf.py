"""erf, against the C library's and against fifty digits."""

from __future__ import annotations

import math
import subprocess
import sys
from decimal import Decimal, localcontext

import numpy as np
import pytest

from minidl.backend.blocks import BLOCK, for_each_block
from minidl.backend.erf import PI, _coefficients, erf

EXACT = {np.float32: 0.62, np.float64: 2.0}  # units in the last place


def of(x):
    x = np.asarray(x)
    return erf(x, np.empty_like(x))


def to_fifty_digits(x):
    """erf x = 2/√π e^{−x²} Σ 2ᵏ x²ᵏ⁺¹ / (1 · 3 · … (2k + 1)), a series without minus signs."""
    with localcontext() as context:
        context.prec = 50
        x = Decimal(float(x))
        term = total = x
        k = 0
        while term > total * Decimal("1e-50"):
            k += 1
            term *= 2 * x * x / (2 * k + 1)
            total += term
        return 2 * total * (-x * x).exp() / Decimal(PI).sqrt()


def places(dtype, seed=0):
    rng = np.random.default_rng(seed)
    near, far = rng.uniform(0, 6, 400), np.exp(rng.uniform(-12, 2, 200))
    return np.concatenate([near, far, 10.0 ** -np.arange(0, 300, 20)]).astype(dtype)


@pytest.mark.parametrize("dtype", EXACT)
def test_against_fifty_digits(dtype):
    """In units of the last place; what is smaller than the smallest normal number has the place of that."""
    x = places(dtype)
    for a, b in zip(x, of(x), strict=True):
        exact = to_fifty_digits(a)
        error = float(abs(Decimal(float(b)) - exact))
        assert error <= EXACT[dtype] * np.spacing(dtype(exact))


@pytest.mark.parametrize(("dtype", "rtol"), [(np.float16, 5e-4), (np.float32, 8e-8), (np.float64, 4e-16)])
def test_against_the_c_library(dtype, rtol):
    x = np.concatenate([np.linspace(-30, 30, 100_001), np.geomspace(1e-300, 30, 100_000)]).astype(dtype)
    exact = np.vectorize(math.erf, otypes=[np.float64])(x)
    np.testing.assert_allclose(of(x), exact, rtol, atol=np.finfo(dtype).smallest_subnormal)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_where_there_is_nothing_to_compute(dtype):
    tiny = np.finfo(dtype).smallest_subnormal
    x = np.array([0.0, -0.0, np.inf, -np.inf, 6.0, -6.0, np.finfo(dtype).max, tiny, -tiny], dtype)
    exact = np.array([0.0, -0.0, 1.0, -1.0, 1.0, -1.0, 1.0, tiny, -tiny], dtype)
    with np.errstate(all="raise", under="ignore"):
        y = of(x)
    assert y.dtype == dtype
    np.testing.assert_array_equal(y, exact)
    np.testing.assert_array_equal(np.signbit(y), np.signbit(exact))
    assert np.isnan(of(np.array([np.nan], dtype))).all()


def test_what_is_smaller_than_normal_numbers():
    x = np.geomspace(5e-324, 1e-307, 1000)
    np.testing.assert_allclose(of(x), np.vectorize(math.erf)(x), rtol=4e-16, atol=5e-324)


def test_it_is_odd_and_never_falls():
    x = np.sort(places(np.float32))
    np.testing.assert_array_equal(of(-x), -of(x))
    assert (np.diff(of(x)) >= 0).all()


@pytest.mark.parametrize("shape", [(), (0,), (7,), (3, 5), (2, BLOCK["cpu"]), (5, 3, BLOCK["cpu"] // 3)])
@pytest.mark.parametrize("view", [lambda x: x, lambda x: x.T, lambda x: x[..., ::-1] if x.ndim else x])
def test_every_layout(shape, view):
    """Also more than is done at once, on several threads, and written over x itself."""
    x = view(np.asarray(np.random.default_rng(0).standard_normal(shape), np.float32))
    y, over = np.empty_like(x), x.copy()
    for_each_block(erf, x, y)
    for_each_block(erf, over, over)
    expected = [erf(row, np.empty_like(row)) for row in x.reshape(-1)[:1000, None]]
    np.testing.assert_array_equal(y.reshape(-1)[:1000, None], np.reshape(expected, (-1, 1)))
    np.testing.assert_array_equal(over, y)


@pytest.mark.parametrize(("degree", "end"), [(3, 2.5), (10, 3.5)])
def test_nothing_cancels(degree, end):
    p, q = _coefficients(degree, end)
    assert len(p) == len(q) == degree + 1
    assert min(p + q) > 0
    assert p[0] == pytest.approx(2 / math.sqrt(math.pi) - 1, rel=1e-7)  # v ≈ 2/√π · x near 0


def test_an_import_computes_nothing():
    code = "import sys, minidl; print('decimal' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
