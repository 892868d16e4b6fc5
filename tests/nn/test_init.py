"""The initialisers: their variance, their source of randomness, their memory."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest

import minidl as dl
from minidl import nn
from minidl.nn import init

SHAPES = [(300, 200), (60, 40, 3, 3)]  # (fan_in, fan_out) = (200, 300) and (360, 540)


def weight(shape):
    return nn.Parameter(np.zeros(shape, np.float32))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("initialiser", "options", "variance"),
    [
        ("xavier_uniform_", {}, lambda i, o: 2 / (i + o)),
        ("xavier_normal_", {"gain": 2.0}, lambda i, o: 8 / (i + o)),
        ("kaiming_uniform_", {}, lambda i, o: 2 / i),
        ("kaiming_normal_", {"mode": "fan_out", "nonlinearity": "relu"}, lambda i, o: 2 / o),
        ("kaiming_uniform_", {"a": math.sqrt(5)}, lambda i, o: 1 / (3 * i)),
        ("lecun_uniform_", {}, lambda i, o: 1 / i),
        ("lecun_normal_", {}, lambda i, o: 1 / i),
        ("uniform_", {"a": -1.0, "b": 1.0}, lambda i, o: 1 / 3),
        ("normal_", {"std": 0.5}, lambda i, o: 0.25),
    ],
)
def test_variance(initialiser, options, variance, shape):
    dl.seed(0)
    w = weight(shape)
    assert getattr(init, initialiser)(w, **options) is w
    expected = variance(math.prod(shape[1:]), shape[0] * math.prod(shape[2:]))
    values = w.numpy()
    assert values.dtype == np.float32
    assert values.var() == pytest.approx(expected, rel=0.03)
    assert abs(values.mean()) < 0.03 * math.sqrt(expected)
    if "uniform" in initialiser:
        assert np.abs(values).max() <= math.sqrt(3 * expected) * (1 + 1e-6)


def test_constants():
    w = weight((2, 3))
    assert (init.ones_(w).numpy() == 1).all()
    assert (init.constant_(w, 0.5).numpy() == 0.5).all()
    assert (init.zeros_(w).numpy() == 0).all()


@pytest.mark.parity
@pytest.mark.parametrize(
    ("nonlinearity", "param"),
    [
        ("linear", None),
        ("conv2d", None),
        ("sigmoid", None),
        ("tanh", None),
        ("relu", None),
        ("selu", None),
        ("leaky_relu", None),
        ("leaky_relu", 0.2),
    ],
)
def test_gains_are_pytorchs(nonlinearity, param):
    torch = pytest.importorskip("torch")
    assert init.calculate_gain(nonlinearity, param) == torch.nn.init.calculate_gain(nonlinearity, param)


def test_the_seed_decides_and_every_layout_gets_the_same_numbers():
    dl.seed(1)
    first = init.normal_(weight((300, 200))).numpy()
    dl.seed(1)
    columns = nn.Parameter(np.zeros((300, 200), np.float32, order="F"))
    np.testing.assert_array_equal(init.normal_(columns).numpy(), first)


def test_no_temporary_of_the_size_of_the_weight():
    w = weight((4000, 500))
    tracemalloc.start()
    try:
        init.kaiming_normal_(w)
        init.xavier_uniform_(w)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1e6


def test_skip_init_draws_nothing_but_writes_constants():
    dl.seed(5)
    before = dl.backend.get_rng_state()
    with init.skip_init():
        layer = nn.Linear(3, 2)
        norm = nn.BatchNorm2d(4)
        assert (init.constant_(layer.bias, 3.0).numpy() == 3).all()
    assert dl.backend.get_rng_state() == before
    assert not layer.weight.numpy().any()
    assert (norm.weight.numpy() == 1).all()
    assert nn.Linear(3, 2).weight.numpy().all()  # drawing again


def test_wrong_arguments():
    with pytest.raises(ValueError, match=r"fan_in and fan_out need a weight of two axes or more, got \(3,\)"):
        init.xavier_uniform_(weight((3,)))
    with pytest.raises(ValueError, match='mode is "fan_in" or "fan_out", got \'fan_avg\''):
        init.kaiming_normal_(weight((3, 3)), mode="fan_avg")
    with pytest.raises(ValueError, match="no gain is known for 'swish': expected one of linear, conv2d"):
        init.calculate_gain("swish")
