"""The loops of the convolution in groups, as Python and as Numba run them: the numbers of the plain way."""

from __future__ import annotations

import importlib.util
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_row_conv import arrays, pairs

import minidl as dl
from minidl import functional as F
from minidl.backend.im2col import Window
from minidl.backend.threads import get_num_threads, set_num_threads
from minidl.functional import convolution, depthwise, grouped, im2col_conv, places, row_conv

needs_numba = pytest.mark.skipif(not importlib.util.find_spec("numba"), reason="Numba is not installed")


@pytest.fixture
def as_python(monkeypatch):
    """The loops as they stand, whether Numba is there or not."""
    monkeypatch.setattr(grouped, "compiled", lambda function: function)


@st.composite
def convolutions(draw):
    """(window, groups, x, weight, y): wide borders, gaps, filters that do or do not go together."""
    kernel, stride, dilation = draw(pairs(1, 3)), draw(pairs(1, 3)), draw(pairs(1, 2))
    window = Window(kernel, stride, draw(pairs(0, 3)), dilation)
    size = [
        max(1, e - 2 * p) + draw(st.integers(0, 7))
        for e, p in zip(window.extent, window.padding, strict=True)
    ]
    groups, c, o = draw(st.integers(2, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 4))
    return arrays(window, groups, c, o, draw(st.integers(1, 2)), size)


def both(work, window, groups, x, weight, y):
    """x ⋆ w and y ⋆ᵀ w as the module `work` computes them, each with a bias."""
    bias, c_bias = (np.arange(length, dtype=x.dtype) for length in (len(weight), x.shape[1]))
    return [
        work.conv2d(x, weight, bias, window, groups),
        work.conv_transpose2d(y, weight, c_bias, window, groups, x.shape[2:]),
    ]


def check(*drawn):
    for found, plain in zip(both(grouped, *drawn), both(im2col_conv, *drawn), strict=True):
        np.testing.assert_allclose(found, plain, atol=1e-11)
        assert found.dtype == plain.dtype


@settings(max_examples=60)
@given(convolutions())
def test_gives_the_numbers_of_the_plain_way(drawn):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grouped, "compiled", lambda function: function)
        check(*drawn)


WINDOWS = [
    Window.of(3, 1, 1),
    Window.of(3, 2, 1),  # rows and columns in two parts
    Window.of(5, 1, 2),
    Window.of(3, 2, 2, 2),  # a part of ∂L/∂x that sees nothing
    Window.of((2, 4), (1, 3), (0, 1), (3, 1)),
]


@pytest.mark.usefixtures("as_python")
@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("filters", [1, 2, 4, 6])
@pytest.mark.parametrize("last", [False, True], ids=["NCHW", "channels-last"])
def test_every_kind_of_window(window, filters, last):
    window, groups, x, weight, y = arrays(window, 2, 3, filters, 2, (9, 10))
    if last:
        x, y = (np.ascontiguousarray(a.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2) for a in (x, y))
    check(window, groups, x, weight, y)


@pytest.mark.usefixtures("as_python")
@pytest.mark.parametrize("pieces", [(1, 1), (3, 3), (30, 32)])
def test_every_way_to_cut(monkeypatch, pieces):
    monkeypatch.setattr(places, "PIECES", pieces)
    check(*arrays(Window.of(3, 1, 1), 3, 2, 2, 3, (6, 5)))


@pytest.mark.usefixtures("as_python")
@pytest.mark.parametrize("size", [(2, 2), (2, 12), (12, 2)])
def test_places_that_see_nothing_but_the_border(size):
    check(*arrays(Window.of(2, 2, 4, 9), 2, 2, 2, 1, size))


@pytest.mark.usefixtures("as_python")
def test_relu_and_no_bias():
    window, groups, x, weight, _ = arrays(Window.of(3, 2, 1), 2, 2, 2, 2, (6, 6))
    plain = im2col_conv.conv2d(x, weight, None, window, groups)
    found = grouped.conv2d(x, weight, None, window, groups, relu=True)
    np.testing.assert_allclose(found, np.maximum(plain, 0), atol=1e-11)


@pytest.mark.usefixtures("as_python")
@pytest.mark.parametrize("stride", [1, 2])
def test_an_infinity_is_seen_by_the_windows_that_see_it_alone(stride):
    window, groups, x, weight, _ = arrays(Window.of(3, stride, 1), 2, 2, 2, 2, (8, 8))
    x[0, 1, 4, 7] = np.inf  # at the end of a line
    plain = im2col_conv.conv2d(x, weight, None, window, groups)
    found = grouped.conv2d(x, weight, None, window, groups)
    assert np.array_equal(np.isfinite(found), np.isfinite(plain))


# Which way


def shapes(groups=16, channels=4, filters=4, size=56, n=4):
    x, weight = (
        np.zeros((n, groups * channels, size, size), "f"),
        np.zeros((groups * filters, channels, 3, 3), "f"),
    )
    return x, weight, Window.of(3, 1, 1), groups


@pytest.fixture
def numba_there(monkeypatch):
    monkeypatch.setattr(places, "numba", lambda: SimpleNamespace())


@pytest.mark.usefixtures("numba_there")
def test_what_it_can_do():
    assert grouped.can(*shapes())
    x, weight, window, groups = shapes()
    assert grouped.can(x, weight, Window.of(5, 1, 2), groups)
    assert not grouped.can(x, weight, Window.of((5, 6), 1, 2), groups)
    assert not grouped.can(x, weight, Window.of(1), groups)
    assert grouped.can(x, weight, Window.of(3, 3, 1), groups)
    assert not grouped.can(x, weight, Window.of(3, 4, 1), groups)  # leaves gaps
    assert not grouped.can(x.astype("e"), weight.astype("e"), window, groups)
    assert not grouped.can(x.astype("d"), weight, window, groups)
    assert not grouped.can(*shapes(groups=1))
    assert not grouped.can(*shapes(channels=1, filters=1))  # depthwise
    assert grouped.can(*shapes(channels=1, filters=2))
    assert not grouped.can(*shapes(size=5))  # too little to be worth it
    assert grouped.can(*shapes(groups=2, channels=16, filters=16))
    assert not grouped.can(*shapes(groups=2, channels=16, filters=16, n=3))  # too few to share
    assert grouped.can(*shapes(channels=64, filters=64))
    assert not grouped.can(*shapes(channels=65))
    assert not grouped.can(*shapes(filters=65))


@pytest.mark.usefixtures("numba_there")
def test_auto_takes_it_and_the_others_by_name_do_not():
    assert convolution._algorithm_for(*shapes()) is grouped
    assert convolution._algorithm_for(*shapes(channels=1, filters=1)) is depthwise
    before = dl.conv_algorithm()
    try:
        dl.conv_algorithm("rows")
        assert convolution._algorithm_for(*shapes()) is row_conv
    finally:
        dl.conv_algorithm(before)


def test_without_numba_it_is_rows(monkeypatch):
    monkeypatch.setattr(places, "numba", lambda: None)
    assert convolution._algorithm_for(*shapes()) is row_conv


# Compiled


@pytest.mark.compiled
@needs_numba
@pytest.mark.parametrize(("window", "dtype"), [*((w, "float32") for w in WINDOWS), (WINDOWS[0], "float64")])
def test_compiled_it_gives_the_same_numbers(window, dtype):
    window, groups, *drawn = arrays(window, 3, 5, 4, 3, (22, 37))
    drawn = [a.astype(dtype) for a in drawn]
    results = (both(work, window, groups, *drawn) for work in (grouped, im2col_conv))
    for found, plain in zip(*results, strict=True):
        np.testing.assert_allclose(found, plain, rtol=1e-4, atol=1e-4 if dtype == "float32" else 1e-10)
        assert found.dtype == dtype


@pytest.mark.compiled
@needs_numba
def test_the_number_of_threads_changes_no_bit():
    window, groups, *drawn = arrays(Window.of(3, 2, 1), 16, 4, 4, 3, (57, 56))
    drawn = [a.astype("f") for a in drawn]
    before, runs = get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            set_num_threads(threads)
            runs.append(both(grouped, window, groups, *drawn))
    finally:
        set_num_threads(before)
    for found in zip(*runs, strict=True):
        assert all(np.array_equal(found[0], other) for other in found[1:])


@pytest.mark.compiled
@needs_numba
def test_a_network_with_a_layer_in_groups_trains_through_it(monkeypatch):
    work = []
    for name in ("conv2d", "conv_transpose2d"):
        function = getattr(grouped, name)
        monkeypatch.setattr(grouped, name, lambda *a, f=function, n=name: work.append(n) or f(*a))
    x = dl.Tensor(np.random.default_rng(0).standard_normal((4, 64, 32, 32), "f"), requires_grad=True)
    w = dl.Tensor(np.random.default_rng(1).standard_normal((64, 4, 3, 3), "f"), requires_grad=True)
    y = F.conv2d(x, w, None, padding=1, groups=16)
    (y * y).sum().backward()
    found = [x.grad.numpy(), w.grad.numpy()]
    assert sorted(work) == ["conv2d", "conv_transpose2d"]
    x.grad = w.grad = None
    monkeypatch.setattr(places, "numba", lambda: None)
    y = F.conv2d(x, w, None, padding=1, groups=16)
    (y * y).sum().backward()
    np.testing.assert_allclose(found[0], x.grad.numpy(), rtol=1e-3, atol=1e-2)
    np.testing.assert_allclose(found[1], w.grad.numpy(), rtol=1e-3, atol=1e-2)
