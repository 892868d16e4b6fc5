"""Activations where the table of operations has no sample: at infinity, and to the last digit."""

from __future__ import annotations

import math

import numpy as np
import pytest

from minidl import Tensor, grad
from minidl import functional as F


@pytest.mark.parametrize("slope", [0.0, 0.01, 1.0, 1.5, -0.5])
def test_leaky_relu_of_infinity(slope):
    """A slope of 0 makes no NaN of what is positive."""
    with np.errstate(invalid="ignore"):
        y = F.leaky_relu(Tensor([np.inf, 2.0, -2.0]), slope).numpy()
    np.testing.assert_array_equal(y, np.array([np.inf, 2.0, -2.0 * slope], np.float32))


@pytest.mark.parametrize(("dtype", "places"), [(np.float16, 0.51), (np.float32, 0.51), (np.float64, 2.0)])
def test_softplus_to_the_last_digit(dtype, places):
    """Against ln(1 + eˣ) in NumPy's longest numbers, whose exponential does not overflow here."""
    x = np.concatenate([np.linspace(-80, 80, 20_001), np.random.default_rng(0).normal(size=20_000)]).astype(
        dtype
    )
    exact = np.log1p(np.exp(x.astype(np.longdouble)))
    found = F.softplus(Tensor(x)).numpy()
    assert found.dtype == dtype
    assert (np.abs(found - exact) <= places * np.spacing(exact.astype(dtype))).all()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_softplus_far_out(dtype):
    largest = np.finfo(dtype).max
    x = np.array([-np.inf, -largest, -10000, 10000, largest, np.inf, np.nan], dtype)
    with np.errstate(all="raise", under="ignore"):
        y = F.softplus(Tensor(x)).numpy()
    np.testing.assert_array_equal(y, np.array([0, 0, 0, 10000, largest, np.inf, np.nan], dtype))


@pytest.mark.parametrize(("dtype", "places"), [(np.float32, 3.0), (np.float64, 3.0)])
def test_sigmoid_and_the_gradient_of_softplus_are_exact_next_to_0(dtype, places):
    x = np.linspace(-80, 80, 20_001).astype(dtype)
    exact = 1 / (1 + np.exp(-x.astype(np.longdouble)))
    leaf = Tensor(x, requires_grad=True)
    (gradient,) = grad(F.softplus(leaf).sum(), [leaf])
    for found in (F.sigmoid(Tensor(x)), gradient):
        assert found.dtype == dtype
        assert (np.abs(found.numpy() - exact) <= places * np.spacing(exact.astype(dtype))).all()
    with np.errstate(all="raise", under="ignore"):
        far = F.sigmoid(Tensor(np.array([-np.inf, -10000, 10000, np.inf, np.nan], dtype)))
    np.testing.assert_array_equal(far.numpy(), np.array([0, 0, 1, 1, np.nan], dtype))


def test_gelu_of_many_and_of_pictures_with_channels_last():
    x = np.random.default_rng(0).normal(size=(3, 50, 60, 70))
    expected = 0.5 * x * (1 + np.vectorize(math.erf)(x * math.sqrt(0.5)))
    for view in (x, np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)):
        y = F.gelu(Tensor(view)).numpy()
        np.testing.assert_allclose(y, expected, rtol=1e-15, atol=1e-15)
        assert y.strides == view.strides


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("a", [2, 2.0, 3, 0.5, -0.5, 1, 0, -1, -2])
def test_a_power_is_the_same_for_a_number_and_for_an_array_of_it(dtype, a):
    x = np.array([0.0, np.finfo(dtype).tiny, 0.3, 1.0, 7.0, np.finfo(dtype).max, np.inf, np.nan], dtype)
    with np.errstate(all="ignore"):
        found, expected = (F.power(Tensor(x), e).numpy() for e in (a, np.full_like(x, a)))
    assert found.dtype == dtype
    np.testing.assert_allclose(found, expected, rtol=np.finfo(dtype).eps, atol=0)


@pytest.mark.parametrize("of", [F.gelu, F.softplus, F.softmax, F.log_softmax])
def test_integers_are_taken_as_float32(of):
    x = np.array([-2, 0, 3])
    y = of(Tensor(x))
    assert y.dtype == np.float32
    np.testing.assert_array_equal(y.numpy(), of(Tensor(x.astype(np.float32))).numpy())
