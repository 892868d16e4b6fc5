"""The kernels that save passes compute what plain code does. im2col and col2im: see test_im2col.py."""

from __future__ import annotations

import numpy as np
import pytest

from minidl.backend import kernels, pooling
from minidl.backend.blocks import gated, masked
from minidl.backend.im2col import Window
from minidl.optim import SGD
from minidl.tensor import Tensor


@pytest.fixture(autouse=True)
def _here(monkeypatch, compiled):
    monkeypatch.setattr(kernels, "array_module", lambda _: compiled)


def numbers(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(
    "window",
    [
        Window((2, 2), (2, 2)),
        Window((3, 2), (2, 1), (1, 1)),
        Window((2, 3), (1, 1), dilation=(2, 1)),
    ],
    ids=str,
)
def test_max_pooling(window):
    x = numbers(2, 3, 7, 8)
    x[0, 0, 0, 0], x[0, 1, 2, 3], x[1, 0, :4, :4] = np.nan, np.inf, -np.inf
    places = window.places(x.shape[2:])
    seen = pooling.windows_of(x, window, places, -np.inf)
    y, found = (np.empty((2, 3, *places), np.float32) for _ in range(2))
    switches = pooling.first_pixels_inside(x, window, places)
    theirs = switches.copy()
    pooling.largest_and_where(seen, y, switches)
    kernels.max_pool(seen, found, theirs)
    np.testing.assert_array_equal(found, y)
    np.testing.assert_array_equal(theirs, switches)


def test_the_gradient_of_max_pooling():
    dy, switches, window = numbers(2, 3, 3, 4), np.arange(72, dtype=np.uint8).reshape(2, 3, 3, 4) % 4, (2, 2)
    _, here, seen = pooling.empty_windows(dy, Window(window, window), (7, 8), like=dy)
    _, there, theirs = pooling.empty_windows(dy, Window(window, window), (7, 8), like=dy)
    pooling.put_apart(seen, dy, switches, here)
    there[...] = 0
    kernels.put_apart(theirs, dy, switches)
    np.testing.assert_array_equal(there, here)


def test_masks_and_gates():
    x, gate = numbers(3, 5), numbers(4, 5)[1:]
    x[0, :3], gate[0, :3] = [np.inf, np.nan, -np.inf], [-1, 0, np.nan]
    for there, here, which in ((kernels.masked, masked, gate > 0), (kernels.gated, gated, gate)):
        found, expected = (f(x, which, np.empty_like(x)) for f in (there, here))
        np.testing.assert_array_equal(found, expected)


def test_bias_and_relu():
    x, bias = numbers(2, 3, 4), numbers(3, 1)
    x[0, 0, 0] = np.nan
    for b in (bias, None):
        expected = x if b is None else x + b
        np.testing.assert_array_equal(kernels.bias_relu(x, b, False, np.empty_like(x)), expected)
        found = kernels.bias_relu(x, b, True, np.empty_like(x))
        np.testing.assert_array_equal(found, np.maximum(expected, 0))


@pytest.mark.parametrize(
    "options",
    [
        {"momentum": 0.9},
        {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
        {"momentum": 0.5, "dampening": 0.25},
    ],
    ids=str,
)
def test_sgd(options):
    p = Tensor(numbers(4, 5), requires_grad=True)
    optimizer = SGD([p], 0.1, **options)
    w, v = p.data.copy(), np.empty((4, 5), np.float32)
    group = optimizer.param_groups[0]
    for step in range(3):
        p.grad = Tensor(numbers(3, 4, 5)[step])
        optimizer.step()
        chosen = group["lr"], group["momentum"], group["weight_decay"], 1 - group["dampening"]
        kernels.sgd(w, p.grad.data, v, *chosen, group["nesterov"], step == 0)
        np.testing.assert_allclose(w, p.data, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(v, optimizer.state[p]["momentum_buffer"], rtol=1e-5, atol=1e-7)
