"""Bias, ReLU and pooling in the convolution's own pass: to the bit what they are one after the other."""

from __future__ import annotations

import weakref

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidl import Tensor, detect_anomaly, grad, no_grad
from minidl import functional as F
from minidl.errors import AnomalyError, ShapeError
from minidl.functional import convolution, row_conv, winograd


def arrays(*shapes):
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape, dtype=np.float32) for shape in shapes]


def apart(x, weight, bias=None):
    """The pooling first, as Sequential has it: so NaN has no gradient either way."""
    return F.relu(F.max_pool2d(F.conv2d(x, weight, bias, padding=1), 2))


def equal(found, expected, of):
    """The same values, and the same gradients of a sum whose terms count differently."""
    np.testing.assert_array_equal(found.numpy(), expected.numpy())
    (scale,) = arrays(found.shape)
    gradients = [grad((y * Tensor(scale)).sum(), of) for y in (found, expected)]
    for got, right in zip(*gradients, strict=True):
        np.testing.assert_array_equal(got.numpy(), right.numpy())


@settings(max_examples=80)
@given(
    algorithm=st.sampled_from(["winograd", "rows"]),
    shape=st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(16, 20), *[st.integers(2, 19)] * 2),
    bias=st.booleans(),
    strip=st.integers(1, 400),
    shared=st.booleans(),
)
def test_pooled_in_the_same_pass_is_pooled_afterwards(algorithm, shape, bias, strip, shared):
    n, c, o, h, w = shape
    x, weight, b = (Tensor(a, requires_grad=True) for a in arrays((n, c, h, w), (o, c, 3, 3), (o,)))
    x.data[0] = np.round(x.data[0])  # so that some are equally large
    weight.data[0] = 1
    operands = [x, weight, b] if bias else [x, weight]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convolution, "_chosen", algorithm)
        patch.setattr(winograd, "STRIP", strip * (c + o))
        patch.setattr(winograd, "FILTER_BYTES", 0 if shared else 1 << 20)
        patch.setattr(winograd, "ROUND", strip)
        patch.setattr(winograd, "PART", strip)
        patch.setattr(row_conv, "PIECE_BYTES", (strip * 100, strip * 100))
        found = F.conv2d(*operands, padding=1, relu=True, pool=True)
        assert found.grad_fn.name == "RectifiedAndPooled"
        equal(found, apart(*operands), operands)
        b.data[0] = x.data[-1, 0, 0, 0] = np.nan
        with no_grad():
            found = F.conv2d(*operands, padding=1, relu=True, pool=True).numpy()
            np.testing.assert_array_equal(found, apart(*operands).numpy())


@pytest.mark.parametrize("algorithm", ["winograd", "rows"])
def test_of_several_that_are_equally_large_the_first_counts(monkeypatch, algorithm):
    """The pixels of each 2×2 are [[0, 1], [1, 0]]: the one on the right of the first row."""
    monkeypatch.setattr(convolution, "_chosen", algorithm)
    x = Tensor(np.tile(np.float32([[0, 1], [1, 0]]), (1, 3, 2, 3)), requires_grad=True)
    weight = np.zeros((16, 3, 3, 3), np.float32)
    weight[0, :, 1, 1] = 1
    (dx,) = grad(F.conv2d(x, Tensor(weight), padding=1, relu=True, pool=True).sum(), [x])
    np.testing.assert_allclose(dx.numpy(), np.tile([[0, 1], [0, 0]], (1, 3, 2, 3)), atol=1e-5)


def test_a_relu_that_lets_nothing_through_has_no_gradient():
    x, weight = (Tensor(a, requires_grad=True) for a in arrays((2, 3, 8, 8), (16, 3, 3, 3)))
    bias = Tensor(np.full(16, -100, np.float32), requires_grad=True)
    y = F.conv2d(x, weight, bias, padding=1, relu=True, pool=True)
    assert not y.numpy().any()
    assert not any(g.numpy().any() for g in grad(y.sum(), [x, weight, bias]))


def test_second_derivatives_go_the_same_way():
    x, weight, bias = (Tensor(a, requires_grad=True) for a in arrays((2, 3, 7, 6), (16, 3, 3, 3), (16,)))
    second = []
    for y in (
        F.conv2d(x, weight, bias, padding=1, relu=True, pool=True),
        apart(x, weight, bias),
    ):
        dx, dw = grad((y**2).sum(), [x, weight], create_graph=True)
        second.append(grad((dx**2).sum() + (dw**3).sum(), [x, weight, bias]))
    for got, right in zip(*second, strict=True):
        np.testing.assert_allclose(got.numpy(), right.numpy(), rtol=1e-4, atol=1e-3)


def test_they_are_recorded_as_operations_of_their_own():
    """So each is explained, and lets go of what it kept before the next one goes back."""
    x, weight = (Tensor(a, requires_grad=True) for a in arrays((2, 3, 8, 6), (16, 3, 3, 3)))
    pooled = F.conv2d(x, weight, relu=True, pool=True).grad_fn
    rectified = F.conv2d(x, weight, relu=True).grad_fn
    for function, name in ((pooled, "RectifiedAndPooled"), (rectified, "Rectified")):
        (convolution,) = function.edges
        assert (function.name, convolution.name) == (name, "Conv2d")
        assert convolution.shape == (2, 16, 6, 4)


def test_the_graph_does_not_keep_what_was_pooled():
    x, weight = (Tensor(a, requires_grad=True) for a in arrays((2, 3, 8, 8), (16, 3, 3, 3)))
    y = F.conv2d(x, weight, relu=True, pool=True)
    graph, memory = y.grad_fn, weakref.ref(y.data.base)
    del y
    assert graph.shape == (2, 16, 3, 3)
    assert memory() is None


@pytest.mark.parametrize("pool", [False, True])
def test_their_gradient_is_gone_when_the_convolution_goes_back(monkeypatch, pool):
    x, weight = (Tensor(a, requires_grad=True) for a in arrays((2, 3, 8, 8), (16, 3, 3, 3)))
    loss = F.exp(F.conv2d(x, weight, relu=True, pool=pool)).sum()
    exp, back, gradient, alive = loss.grad_fn.edges[0], convolution.Conv2d.backward, [], []

    def noted(dy):
        dx = type(exp).backward(exp, dy)
        gradient.append(weakref.ref(dx.data))
        return dx

    def looking(self, dy):
        alive.append(gradient[0]())
        return back(self, dy)

    exp.backward = noted
    monkeypatch.setattr(convolution.Conv2d, "backward", looking)
    loss.backward()
    assert alive == [None]


def test_where_it_cannot_it_is_done_afterwards(monkeypatch):
    """With groups, a stride that leaves channels first, or other algorithms."""
    x, weight, bias = arrays((2, 16, 9, 8), (16, 8, 3, 3), (16,))
    for options in ({"groups": 2}, {"groups": 2, "stride": 2}):
        found = F.conv2d(Tensor(x), Tensor(weight), Tensor(bias), relu=True, pool=True, **options)
        y = F.conv2d(Tensor(x), Tensor(weight), Tensor(bias), **options)
        np.testing.assert_array_equal(found.numpy(), F.max_pool2d(F.relu(y), 2).numpy())
    for algorithm in ("im2col", "strips"):
        monkeypatch.setattr(convolution, "_chosen", algorithm)
        operands = [Tensor(a, requires_grad=True) for a in (x[:, :8], weight, bias)]
        found = F.conv2d(*operands, padding=1, relu=True, pool=True)
        assert found.grad_fn.name == "MaxPool2d"
        equal(found, F.max_pool2d(F.relu(F.conv2d(*operands, padding=1)), 2), operands)


def test_too_small_a_map_is_the_poolings_complaint():
    x, weight = (Tensor(a) for a in arrays((4, 32, 3, 3), (32, 32, 3, 3)))
    with pytest.raises(ShapeError, match="a window of 2×2 does not fit into a picture of 1×1"):
        F.conv2d(x, weight, relu=True, pool=True)
    with pytest.raises(ShapeError, match="a window of 3×3 does not fit into a picture of 2×2"):
        F.conv2d(x[:, :, :2, :2], weight, relu=True, pool=True)


@pytest.mark.parametrize("stride", [2, 3, (1, 2), (3, 1)])
@pytest.mark.parametrize("size", [(4, 4), (4, 7), (9, 4)])
def test_steps_that_leave_one_line_are_the_poolings_complaint_too(stride, size):
    x, weight = (Tensor(a) for a in arrays((1, 3, *size), (16, 3, 3, 3)))
    y = F.conv2d(x, weight, stride=stride)
    if min(y.shape[2:]) < 2:
        with pytest.raises(ShapeError, match="a window of 2×2 does not fit"):
            F.conv2d(x, weight, stride=stride, relu=True, pool=True)
    else:
        found = F.conv2d(x, weight, stride=stride, relu=True, pool=True)
        np.testing.assert_array_equal(found.numpy(), F.relu(F.max_pool2d(y, 2)).numpy())


def test_it_hides_no_nan():
    x, weight = (Tensor(a) for a in arrays((4, 32, 9, 8), (32, 32, 3, 3)))
    x.data[0, 0, 0, 0] = np.nan
    with no_grad(), detect_anomaly(), pytest.raises(AnomalyError, match="Conv2d was given 1 NaN in its x"):
        F.conv2d(x, weight, padding=1, relu=True, pool=True)
