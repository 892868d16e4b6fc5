"""The convolution with shifted rows against the plain one: other products, the same numbers."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidl import Tensor
from minidl import functional as F
from minidl.backend.im2col import Window
from minidl.backend.threads import get_num_threads, set_num_threads
from minidl.functional import im2col_conv, row_conv, strip_conv


@pytest.fixture
def no_strips(monkeypatch):
    """Fail where the work is handed on to `strip_conv`."""
    for name in ("conv2d", "conv_transpose2d", "conv_weight"):
        monkeypatch.delattr(strip_conv, name)


def pairs(least, most):
    return st.tuples(st.integers(least, most), st.integers(least, most))


@st.composite
def convolutions(draw):
    """(window, groups, x, weight, y): few and many channels, more rows than a band takes, wide borders."""
    groups, c, o = draw(st.integers(1, 3)), draw(st.integers(1, 5)), draw(st.integers(1, 6))
    kernel, stride, dilation = draw(pairs(1, 4)), draw(pairs(1, 4)), draw(pairs(1, 3))
    window = Window(kernel, stride, draw(pairs(0, 5)), dilation)
    size = [
        max(1, e - 2 * p) + draw(st.integers(0, 20))
        for e, p in zip(window.extent, window.padding, strict=True)
    ]
    return arrays(window, groups, c, o, draw(st.integers(1, 3)), size, draw(st.integers(0, 2**32)))


def arrays(window, groups, c, o, n, size, seed=0):
    r = np.random.default_rng(seed)
    x = r.standard_normal((n, groups * c, *size))
    weight = r.standard_normal((groups * o, c, *window.kernel))
    y = r.standard_normal((n, groups * o, *window.places(size)))
    return window, groups, x, weight, y


def all_three(work, window, groups, x, weight, y):
    """What the module `work` computes, with a bias where there may be one."""
    bias, c_bias = (np.arange(length, dtype=x.dtype) for length in (len(weight), x.shape[1]))
    return [
        work.conv2d(x, weight, bias, window, groups),
        work.conv_transpose2d(y, weight, c_bias, window, groups, x.shape[2:]),
        work.conv_weight(x, y, window, groups),
    ]


def check(*drawn):
    results = zip(all_three(row_conv, *drawn), all_three(im2col_conv, *drawn), strict=True)
    for found, plain in results:
        np.testing.assert_allclose(found, plain, atol=1e-11)


@settings(max_examples=100)
@given(convolutions())
def test_gives_the_numbers_of_the_plain_way(drawn):
    check(*drawn)


@pytest.mark.usefixtures("no_strips")
@pytest.mark.parametrize("padding", [0, 1, 2, 4])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize(("kernel", "dilation"), [(3, 1), (5, 1), (3, 2), (2, 3)])
@pytest.mark.parametrize(("c", "o"), [(1, 1), (1, 2), (2, 2), (4, 4)])
def test_depthwise_and_in_groups(c, o, kernel, dilation, stride, padding):
    window = Window.of(kernel, stride, padding, dilation)
    for size in ((7, 8), (16, 17), (25, 9)):  # a part of a band, two of them, some and a rest
        check(*arrays(window, 3, c, o, 2, size))


@pytest.mark.usefixtures("no_strips")
def test_long_steps_over_a_signal():
    check(*arrays(Window.of((9, 1), (9, 1)), 1, 1, 1, 2, (50, 1)))


@pytest.mark.usefixtures("no_strips")
@pytest.mark.parametrize("piece_bytes", [1, 2000, 10000, 60000])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("groups", "c", "o"), [(1, 3, 16), (1, 16, 4), (12, 1, 1), (3, 2, 5)])
def test_every_way_to_cut_pieces(monkeypatch, piece_bytes, stride, groups, c, o):
    monkeypatch.setattr(row_conv, "PIECE_BYTES", (piece_bytes, piece_bytes))
    monkeypatch.setattr(row_conv, "SHARES", 3)
    check(*arrays(Window.of(3, stride, 1), groups, c, o, 5, (19, 11)))


@pytest.mark.usefixtures("no_strips")
@pytest.mark.parametrize(("c", "o"), [(1, 1), (1, 8), (16, 4)])
@pytest.mark.parametrize("height", [1, 12, 13])
def test_sums_in_several_small_products(monkeypatch, c, o, height):
    monkeypatch.setattr(row_conv, "SMALL_PRODUCT", 40 * c * 3 * o)
    monkeypatch.setattr(row_conv, "LONG", 20)
    assert row_conv._parts(12, 10, c * 3 * o) == 3
    check(*arrays(Window.of(3, 1, 1), 2, c, o, 2, (height, 10)))


def test_parts_are_equal_small_and_long():
    assert row_conv._parts(224, 224, 9 * 64) == 32  # of 7 rows: 7 · 224 · 9 · 64 < 10⁶
    assert row_conv._parts(56, 56, 3) == 1
    assert row_conv._parts(13, 13, 6144) == 1  # 13 of one row each would be too short


@pytest.mark.parametrize(("name", "value"), [("LARGE", 0), ("FAT", 1)])
def test_hands_on_what_strips_do_faster(monkeypatch, name, value):
    monkeypatch.setattr(row_conv, name, value)
    used = []
    for work in (strip_conv.conv2d, strip_conv.conv_transpose2d, strip_conv.conv_weight):
        watched = functools.partial(lambda work, *a: used.append(work.__name__) or work(*a), work)
        monkeypatch.setattr(strip_conv, work.__name__, watched)
    check(*arrays(Window.of(3, 1, 1), 1, 2, 2, 2, (6, 7)))
    both = {"conv2d", "conv_transpose2d"}
    assert set(used) == (both | {"conv_weight"} if name == "LARGE" else both)


@pytest.mark.parametrize(("groups", "stride"), [(1, 1), (1, 2), (4, 2), (12, 1)])
def test_results_do_not_depend_on_threads(monkeypatch, groups, stride):
    pytest.importorskip("threadpoolctl")
    monkeypatch.setattr(row_conv, "PIECE_BYTES", (5000, 20000))
    window, _, *drawn = arrays(Window.of(3, stride, 1), groups, 12 // groups, 12 // groups, 17, (9, 10))
    drawn = [a.astype(np.float32) for a in drawn]
    before, runs = get_num_threads(), []
    try:
        for threads in (1, 2, 3, 3):
            set_num_threads(threads)
            runs.append(all_three(row_conv, window, groups, *drawn))
    finally:
        set_num_threads(before)
    for run in runs[1:]:
        for found, expected in zip(run, runs[0], strict=True):
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(("groups", "c", "o"), [(1, 3, 64), (32, 1, 1), (8, 4, 4)])
def test_errors_in_float32_are_those_of_the_plain_way(groups, c, o):
    window, _, *drawn = arrays(Window.of(3, 1, 1), groups, c, o, 2, (56, 56))
    exact = all_three(im2col_conv, window, groups, *drawn)
    drawn = [a.astype(np.float32) for a in drawn]
    results = (all_three(work, window, groups, *drawn) for work in (row_conv, im2col_conv))
    for found, plain, expected in zip(*results, exact, strict=True):
        assert found.dtype == np.float32
        error, plain_error = (np.abs(a - expected).max() for a in (found, plain))
        assert error <= 2 * plain_error


@pytest.mark.parametrize("groups", [1, 6])
def test_strides_of_the_input_do_not_matter(groups):
    window, _, *drawn = arrays(Window.of(3, 2, 1), groups, 6 // groups, 6 // groups, 2, (11, 9))
    views = [
        np.ascontiguousarray(a[:, ::-1, ::-1].swapaxes(2, 3)).swapaxes(2, 3)[:, ::-1, ::-1] for a in drawn
    ]
    assert not any(view.flags.c_contiguous for view in views)
    results = (all_three(row_conv, window, groups, *some) for some in (views, drawn))
    for found, expected in zip(*results, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-12)


def test_only_real_pictures_and_windows():
    x = np.ones((1, 2, 5, 5))
    assert row_conv.can(x, Window.of(3))
    assert not row_conv.can(x, Window.of(1, stride=2))
    assert not row_conv.can(x[:0], Window.of(3))
    empty = F.conv2d(Tensor(x[:0]), Tensor(np.ones((2, 1, 3, 3))), groups=2)
    assert empty.shape == (0, 2, 3, 3)
