"""What the gradient checker says where the gradient is zero and only rounding is left to compare."""

from __future__ import annotations

import numpy as np
import pytest
from pieces import function

import minidl as dl
from minidl import functional as F
from minidl import nn

X = np.array([[0.5, -1.0, 2.0], [1.5, 0.3, -0.7], [0.9, -1.2, 0.4]])


@pytest.mark.parametrize("seed", range(8))
def test_a_bias_before_batch_normalization_has_a_gradient_of_zero(seed):
    dl.seed(seed)
    x, image = (np.random.default_rng(seed).normal(size=size) for size in ((5, 3), (2, 2, 5, 5)))
    for offset in (0.0, 100.0):  # larger sums cancel, and round more
        result = dl.gradcheck(nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Tanh()), x + offset)
        assert not any(check.wrong for check in result.checks if check.name == "0.bias"), str(result)
        assert not result.problem
    result = dl.gradcheck(nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.GELU()), image)
    assert result, str(result)


def test_what_is_zero_but_for_rounding_is_counted():
    dl.seed(1)
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Tanh())
    result = dl.gradcheck(model, np.random.default_rng(1).normal(size=(5, 3)))
    assert result, str(result)
    (check,) = [check for check in result.checks if check.name == "0.bias"]
    assert check.noise > 0
    assert f"0.bias: {check.noise} of 2 zero but for rounding: right" in str(result)
    assert f"{check.noise} of 2 zero but for rounding: right" in result._repr_html_()


def test_where_all_is_rounding_no_error_is_named():
    x = np.random.default_rng(0).normal(size=(3, 4))
    result = dl.gradcheck(lambda x: F.softmax(x, axis=1).sum(axis=1), x)
    assert result, str(result)
    assert result.checks[0].noise > 0
    assert result.error == 0.0
    assert f"input 0: {result.checks[0].noise} of 12 zero but for rounding: right" in str(result)
    result = dl.gradcheck(lambda x: F.softmax(x, axis=1).sum(), np.random.default_rng(2).normal(size=(1, 2)))
    if result.checks[0].noise == 2:  # how exp rounds is the platform's
        assert str(result).startswith("gradcheck passed: 2 of 2 derivatives tried are zero but for rounding")


@pytest.mark.parametrize("slope", [1e-2, 1e-3, 1e-5, 1e-6])
@pytest.mark.parametrize("factor", [0.0, 2.0])
def test_a_small_slope_is_no_rounding(slope, factor):
    wrong = function(lambda x: 1.0 + slope * x, lambda x: np.full(x.shape, factor * slope))
    (check,) = dl.gradcheck(wrong, X).checks
    assert (check.wrong, check.noise) == (9, 0)


def test_a_bend_within_the_step_is_no_rounding():
    x = np.array([1e-5, 2e-5])
    assert dl.gradcheck(function(lambda x: x**3, lambda x: 3 * x**2), x)
    for factor in (0.0, 2.0):
        (check,) = dl.gradcheck(function(lambda x: x**3, lambda x: factor * 3 * x**2), x).checks  # noqa: B023
        assert (check.wrong, check.noise) == (2, 0)


def test_zero_for_a_gradient_that_batch_normalization_makes_small_is_wrong():
    def forward(x):
        return (x - x.mean(axis=0)) / np.sqrt(x.var(axis=0) + 1e-5) + 1e-3 * x

    result = dl.gradcheck(function(forward, lambda x: 0.0 * x), np.random.default_rng(0).normal(size=(5, 2)))
    assert result.checks[0].wrong == 10


def test_what_passes_has_no_error_above_the_tolerances():
    """Near a kink the step is smaller and rounding counts for more: the reported error knows it."""
    for seed in range(40):
        dl.seed(seed)
        model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
        result = dl.gradcheck(model, np.random.default_rng(seed).normal(size=(5, 3)))
        assert result, str(result)
        assert result.error <= (1e-4 if any(check.finer for check in result.checks) else result.tol)
