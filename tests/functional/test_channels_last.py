"""Pictures that lie in memory as (N, H, W, C): the same numbers, and they stay so."""

from __future__ import annotations

import math

import numpy as np
import pytest

from minidl import Tensor, nn, no_grad
from minidl import functional as F
from minidl.backend.im2col import Window
from minidl.backend.memory import beside, channels_last
from minidl.functional import im2col_conv, row_conv, strip_conv, winograd
from minidl.functional.activation import Gate


def turned(x):
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)


def test_which_arrays_are():
    x = np.zeros((2, 3, 4, 5))
    assert channels_last(turned(x))
    assert channels_last(turned(x)[1:, :, 1:3])
    for other in (
        x,
        x[0],
        x.swapaxes(2, 3),
        np.zeros((2, 3, 1, 1)),
        np.zeros((2, 1, 4, 5)),
        x[:, :1, :1, :1],
    ):
        assert not channels_last(other)


@pytest.mark.parametrize("pictures", [1, 3, 40])
@pytest.mark.parametrize("channels", [4, 10])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(
    "window",
    [
        Window((1, 1)),
        Window((1, 1), stride=(2, 2)),
        Window((3, 3), stride=(2, 1), padding=(1, 1)),
        Window((5, 3), stride=(1, 2), padding=(2, 0), dilation=(1, 2)),
    ],
)
def test_strips_and_rows(window, groups, channels, pictures):
    rng = np.random.default_rng(0)
    places = window.places((9, 11))
    x, y = rng.standard_normal((pictures, channels, 9, 11)), rng.standard_normal((pictures, 6, *places))
    weight = rng.standard_normal((6, channels // groups, *window.kernel))
    bias, other_bias = rng.standard_normal(6), rng.standard_normal(channels)

    def all_three(work, x, y):
        return (
            work.conv2d(x, weight, bias, window, groups, True),
            work.conv_transpose2d(y, weight, other_bias, window, groups, (9, 11)),
            work.conv_weight(x, y, window, groups),
        )

    expected = all_three(im2col_conv, x, y)
    for work in (strip_conv, row_conv) if window.kernel != (1, 1) else (strip_conv,):
        for a, b in ((x, y), (turned(x), turned(y)), (turned(x), y), (x, turned(y))):
            for found, right in zip(all_three(work, a, b), expected, strict=True):
                np.testing.assert_allclose(found, right, rtol=1e-10, atol=1e-10)


def test_the_weight_of_one_group_at_a_time(monkeypatch):
    """A group that a thread takes by itself is still one of several."""
    monkeypatch.setattr(strip_conv, "SUM_BYTES", 0)
    rng, window = np.random.default_rng(0), Window((3, 2))
    x, y = rng.standard_normal((2, 10, 5, 6)), rng.standard_normal((2, 6, 3, 5))
    found = strip_conv.conv_weight(turned(x), y, window, 2)
    np.testing.assert_allclose(found, im2col_conv.conv_weight(x, y, window, 2), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("padding", [(0, 0), (1, 1), (2, 1)])
@pytest.mark.parametrize("size", [(4, 3), (8, 8), (17, 30)])
def test_winograd_gives_the_same_bits(size, padding):
    rng = np.random.default_rng(0)
    window = Window((3, 3), padding=padding)
    x = rng.standard_normal((3, 5, *size), np.float32)
    y = rng.standard_normal((3, 7, *window.places(size)), np.float32)
    weight = rng.standard_normal((7, 5, 3, 3), np.float32)
    for a, b in ((turned(x), y), (x, turned(y))):
        for found, right in (
            (winograd.conv2d(a, weight, None, window, 1), winograd.conv2d(x, weight, None, window, 1)),
            (
                winograd.conv_transpose2d(b, weight, None, window, 1, size),
                winograd.conv_transpose2d(y, weight, None, window, 1, size),
            ),
            (winograd.conv_weight(a, b, window, 1), winograd.conv_weight(x, y, window, 1)),
        ):
            np.testing.assert_array_equal(found, right)


@pytest.mark.parametrize("recording", [True, False])
def test_a_network_keeps_them_so(recording):
    """From a first layer on, so that no array has to be turned on the way."""
    network = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(64, 64, 3, padding=1),
        nn.AvgPool2d(3, padding=1),
        nn.Conv2d(64, 16, 1),
        nn.Conv2d(16, 32, 3, stride=2),
        nn.BatchNorm2d(32),
        nn.MaxPool2d(3, stride=1, padding=1),
    )
    seen = []
    for layer in network:
        layer.register_forward_hook(lambda module, args, y: seen.append(channels_last(y.data)))
    x = Tensor(np.random.default_rng(0).standard_normal((4, 3, 48, 48), np.float32))
    if recording:
        network(x).sum().backward()
    else:
        with no_grad():
            network(x)
    assert seen == [True] * len(network)
    for parameter in network.parameters():
        assert parameter.grad is None or parameter.grad.data.flags.c_contiguous


def test_a_border_keeps_the_order():
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 5))
    widths = [(0, 1), (2, 0), (1, 1), (0, 3)]
    expected = np.pad(x, widths, constant_values=1.5)
    for given in (x, turned(x)):
        leaf = Tensor(given, requires_grad=True)
        y = F.pad(leaf, widths, value=1.5)
        assert channels_last(y.data) == channels_last(given)
        np.testing.assert_array_equal(y.numpy(), expected)
        y.sum().backward()
        np.testing.assert_array_equal(leaf.grad.numpy(), np.ones(x.shape))
        assert channels_last(F.local_response_norm(leaf, 3).data) == channels_last(given)


@pytest.mark.parametrize("last", [True, False])
def test_the_gradient_of_a_leaf_lies_in_memory_as_the_leaf_does(last):
    ones = np.ones((2, 32, 32, 32), np.float32)
    x = Tensor(turned(ones) if last else ones, requires_grad=True)
    (F.relu(F.conv2d(x, Tensor(np.ones((32, 32, 3, 3), np.float32)), padding=1))).sum().backward()
    assert channels_last(x.grad.data) == last
    y = x.detach().requires_grad_()
    (y + y.relu()).backward(Tensor(ones))
    assert channels_last(y.grad.data) == last


def test_a_gate_keeps_its_own_order():
    """Not that of a gradient, which may be one number for a whole picture."""
    gate = turned(np.random.default_rng(0).standard_normal((2, 3, 4, 5)))
    gradient = np.broadcast_to(np.arange(6.0).reshape(2, 3, 1, 1), gate.shape)
    y = Gate(gate)(Tensor(gradient)).data
    assert channels_last(y)
    np.testing.assert_array_equal(y, np.where(gate > 0, gradient, 0))


def test_sums_are_as_exact():
    """One pixel added after the other, the sum of a million would be off by 1e-4."""
    x = turned(np.random.default_rng(0).random((1, 3, 1000, 1000), np.float32))
    for y in (F.sum(Tensor(x), (2, 3)), F.sum(Tensor(x), (0, 2, 3))):
        for found, channel in zip(y.numpy().ravel(), x[0], strict=True):
            assert found == pytest.approx(math.fsum(channel.ravel().tolist()), rel=2e-6)
    norm = F.batch_norm(Tensor(x), None, None, training=True)
    assert np.abs(norm.numpy().mean((0, 2, 3), np.float64)).max() < 1e-5


def test_what_stands_beside_them():
    """One number for each channel: for a whole line, as it lies in memory."""
    a, x = np.arange(3.0), np.random.default_rng(0).standard_normal((2, 3, 4, 5))
    line = beside(a, turned(x))
    assert line.shape == (1, 3, 1, 5)
    assert line.transpose(0, 2, 3, 1).flags.c_contiguous
    np.testing.assert_array_equal(turned(x) * line, x * a[:, None, None])
    for other in (x, x[0, 0], x[0]):
        assert beside(np.arange(other.shape[1]), other).shape == (1, other.shape[1], *(1,) * (other.ndim - 2))


def test_the_mean_of_each_map_is_adaptive_pooling_to_one():
    x = turned(np.random.default_rng(0).standard_normal((2, 5, 6, 7), np.float32))
    y = F.adaptive_avg_pool2d(Tensor(x), 1)
    np.testing.assert_allclose(y.numpy(), x.mean((2, 3), keepdims=True), rtol=1e-5)


@pytest.mark.parametrize("channels", [3, 20, 70])
@pytest.mark.parametrize("of", [F.softmax, F.log_softmax, F.max, F.min, F.sum])
def test_over_the_channels(of, channels):
    x = np.random.default_rng(0).standard_normal((3, channels, 30, 41), np.float32)
    results = []
    for given in (x, turned(x)):
        leaf = Tensor(given, requires_grad=True)
        y = of(leaf, 1)
        (y * y).sum().backward()
        results.append((y, leaf.grad))
    (expected, gradient), (found, other) = results
    assert channels_last(found.data) == (of in (F.softmax, F.log_softmax))
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-5, atol=5e-6)
    np.testing.assert_allclose(other.numpy(), gradient.numpy(), rtol=1e-5, atol=5e-5)


@pytest.mark.parametrize("of", [F.softmax, F.log_softmax, F.max, F.sum])
def test_what_is_not_a_number_stays_in_its_pixel(of):
    x = np.random.default_rng(0).standard_normal((3, 20, 30, 41), np.float32)
    x[0, 0, 0, 0], x[1, 2, 3, 4] = -np.inf, np.nan
    expected, found = (np.moveaxis(of(Tensor(given), 1).numpy(), 1, -1) for given in (x, turned(x)))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=5e-6)
    if of in (F.softmax, F.log_softmax):
        assert np.isnan(found[1, 3, 4]).all()
        assert np.isfinite(found).sum() == x.size - 20 - (of is F.log_softmax)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(2, 5, 6, 7), (9, 20, 70, 60)])
def test_batch_norm(shape, training):
    x = np.random.default_rng(0).standard_normal(shape, np.float32) * 3 + 100
    c = shape[1]
    weight, bias, mean, var = np.random.default_rng(1).random((4, c), np.float32) + 0.5
    exact = x.astype(np.float64)
    mu, sigma2 = (exact.mean((0, 2, 3)), exact.var((0, 2, 3))) if training else (mean, var)
    mu, sigma2, w, b = (a.astype(np.float64)[:, None, None] for a in (mu, sigma2, weight, bias))
    for given in (x, turned(x)):
        statistics = Tensor(mean.copy()), Tensor(var.copy())
        y = F.batch_norm(Tensor(given), *statistics, Tensor(weight), Tensor(bias), training)
        assert y.dtype == np.float32
        assert channels_last(y.data) == channels_last(given)
        np.testing.assert_allclose(
            y.numpy(), (exact - mu) / np.sqrt(sigma2 + 1e-5) * w + b, rtol=1e-4, atol=2e-5
        )
