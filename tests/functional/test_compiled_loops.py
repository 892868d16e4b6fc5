"""What the loops of depthwise convolutions and of those in groups promise alike: the plain way's numbers."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_row_conv import arrays, pairs

import minidl as dl
from minidl import functional as F
from minidl.backend.im2col import Window
from minidl.backend.threads import get_num_threads, set_num_threads
from minidl.functional import convolution, depthwise, grouped, im2col_conv, places, row_conv

needs_numba = pytest.mark.skipif(not importlib.util.find_spec("numba"), reason="Numba is not installed")
both = pytest.mark.parametrize(
    ("work", "channels"), [(depthwise, 1), (grouped, 4)], ids=["depthwise", "grouped"]
)  # of a group


def operations(work, like, window, groups, x, weight, y):
    """What the module `work` computes, with a bias where there may be one: of what `like` can, too."""
    bias, c_bias = (np.arange(length, dtype=x.dtype) for length in (len(weight), x.shape[1]))
    results = [
        work.conv2d(x, weight, bias, window, groups),
        work.conv_transpose2d(y, weight, c_bias, window, groups, x.shape[2:]),
    ]
    return [*results, work.conv_weight(x, y, window, groups)] if hasattr(like, "conv_weight") else results


def check_loops(work, *drawn, rtol=1e-7, atol=1e-11):
    results = (operations(way, work, *drawn) for way in (work, im2col_conv))
    for found, plain in zip(*results, strict=True):
        np.testing.assert_allclose(found, plain, rtol=rtol, atol=atol)
        assert found.dtype == plain.dtype


@st.composite
def convolutions(draw, most):
    """(window, groups, x, weight, y): wide borders, gaps, few rows and many, `most` channels of a group."""
    kernel, stride, dilation = draw(pairs(1, 3)), draw(pairs(1, 3)), draw(pairs(1, 2))
    window = Window(kernel, stride, draw(pairs(0, 3)), dilation)
    size = [
        max(1, e - 2 * p) + draw(st.integers(0, 9))
        for e, p in zip(window.extent, window.padding, strict=True)
    ]
    c, o = draw(pairs(1, most))
    return arrays(window, draw(st.integers(2, 3)), c, o, draw(st.integers(1, 2)), size)


@both
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_gives_the_numbers_of_the_plain_way(as_python, work, channels, data):
    check_loops(work, *data.draw(convolutions(channels)))


@both
@pytest.mark.usefixtures("as_python")
@pytest.mark.parametrize("stride", [1, 2])
def test_relu_and_no_bias(work, channels, stride):
    window, groups, x, weight, _ = arrays(Window.of(3, stride, 1), 2, channels, channels, 2, (6, 6))
    plain = im2col_conv.conv2d(x, weight, None, window, groups)
    found = work.conv2d(x, weight, None, window, groups, relu=True)
    np.testing.assert_allclose(found, np.maximum(plain, 0), atol=1e-11)


@both
@pytest.mark.usefixtures("as_python")
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("column", [4, 7])  # 7 is at the end of a line
def test_an_infinity_is_seen_by_the_windows_that_see_it_alone(work, channels, stride, column):
    window, groups, x, weight, _ = arrays(Window.of(3, stride, 1), 2, channels, channels, 2, (8, 8))
    x[0, 0, 4, column] = np.inf
    plain = im2col_conv.conv2d(x, weight, None, window, groups)
    found = work.conv2d(x, weight, None, window, groups)
    assert 0 < np.sum(~np.isfinite(found)) <= 9 * channels
    assert np.array_equal(np.isfinite(found), np.isfinite(plain))


# Which way


def of_64_channels(channels):
    x, weight = np.zeros((4, 64, 56, 56), "f"), np.zeros((64, channels, 3, 3), "f")
    return x, weight, Window.of(3, 1, 1), 64 // channels


@both
@pytest.mark.usefixtures("numba_there")
def test_auto_takes_it_and_the_others_by_name_do_not(work, channels):
    assert convolution._algorithm_for(*of_64_channels(channels)) is work
    before = dl.conv_algorithm()
    try:
        dl.conv_algorithm("rows")
        assert convolution._algorithm_for(*of_64_channels(channels)) is row_conv
    finally:
        dl.conv_algorithm(before)


@both
def test_without_numba_it_is_rows(monkeypatch, work, channels):
    monkeypatch.setattr(places, "numba", lambda: None)
    assert convolution._algorithm_for(*of_64_channels(channels)) is row_conv


# Compiled

WINDOWS = [
    Window.of(3, 1, 1),
    Window.of(3, 2, 1),
    Window.of(5, 1, 2),
    Window.of(5, 2, 2),
    Window.of((1, 12), (1, 5)),  # LONG
    Window.of(3, 1, 2, 2),
    Window.of(3, 2, 2, 2),  # a part of ∂L/∂x that sees nothing
    Window.of(3, 3, 0, 3),
    Window.of((1, 4), (1, 3), (2, 1), (1, 2)),
    Window.of((6, 5), 1, 3),
]


@pytest.mark.compiled
@needs_numba
@both
@pytest.mark.parametrize(("window", "dtype"), [*((w, "f") for w in WINDOWS), (WINDOWS[0], "d")], ids=str)
def test_compiled_it_gives_the_same_numbers(work, channels, window, dtype):
    window, groups, *drawn = arrays(window, 37 // channels, channels, channels, 3, (22, 19))
    drawn = [a.astype(dtype) for a in drawn]
    check_loops(work, window, groups, *drawn, rtol=1e-4, atol=1e-4 if dtype == "f" else 1e-10)


@pytest.mark.compiled
@needs_numba
@both
def test_the_number_of_threads_changes_no_bit(work, channels):
    window, groups, *drawn = arrays(Window.of(3, 2, 1), 64 // channels, channels, channels, 3, (57, 56))
    drawn = [a.astype("f") for a in drawn]
    before, runs = get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            set_num_threads(threads)
            runs.append(operations(work, work, window, groups, *drawn))
    finally:
        set_num_threads(before)
    for found in zip(*runs, strict=True):
        assert all(np.array_equal(found[0], other) for other in found[1:])


@pytest.mark.compiled
@needs_numba
@both
def test_a_network_with_such_a_layer_trains_through_it(monkeypatch, work, channels):
    done = []
    names = [n for n in ("conv2d", "conv_transpose2d", "conv_weight") if hasattr(work, n)]
    for name in names:
        function = getattr(work, name)
        monkeypatch.setattr(work, name, lambda *a, f=function, n=name: done.append(n) or f(*a))
    x = dl.Tensor(np.random.default_rng(0).standard_normal((4, 64, 32, 32), "f"), requires_grad=True)
    w = dl.Tensor(np.random.default_rng(1).standard_normal((64, channels, 3, 3), "f"), requires_grad=True)
    y = F.conv2d(x, w, None, padding=1, groups=64 // channels)
    (y * y).sum().backward()
    found = [x.grad.numpy(), w.grad.numpy()]
    assert sorted(done) == names
    x.grad = w.grad = None
    monkeypatch.setattr(places, "numba", lambda: None)
    y = F.conv2d(x, w, None, padding=1, groups=64 // channels)
    (y * y).sum().backward()
    np.testing.assert_allclose(found[0], x.grad.numpy(), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(found[1], w.grad.numpy(), rtol=1e-3, atol=1e-2)
