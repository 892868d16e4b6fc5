"""Winograd's convolution against the plain one: other arithmetic, the same numbers."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidl import Tensor
from minidl import functional as F
from minidl.backend.im2col import Window
from minidl.backend.threads import get_num_threads, set_num_threads
from minidl.functional import convolution, im2col_conv, winograd


@pytest.fixture
def algorithm():
    """conv_algorithm, put back afterwards."""
    before = F.conv_algorithm()
    yield F.conv_algorithm
    F.conv_algorithm(before)


def relative_error(a, b):
    return np.abs(a - b).max() / max(np.abs(b).max(), 1e-30)


def arrays(seed, *shapes):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape) for shape in shapes]


def check(n, c, o, h, w, padding, bound):
    """All three operations in float32 against im2col in float64."""
    window = Window((3, 3), padding=padding)
    x, weight, bias, y = arrays(n, (n, c, h, w), (o, c, 3, 3), (o,), (n, o, *window.places((h, w))))
    x4, weight4, bias4, y4 = (a.astype(np.float32) for a in (x, weight, bias, y))
    results = [
        (winograd.conv2d(x4, weight4, bias4, window, 1), im2col_conv.conv2d(x, weight, bias, window, 1)),
        (
            winograd.conv_transpose2d(y4, weight4, None, window, 1, (h, w)),
            im2col_conv.conv_transpose2d(y, weight, None, window, 1, (h, w)),
        ),
        (winograd.conv_weight(x4, y4, window, 1), im2col_conv.conv_weight(x, y, window, 1)),
    ]
    for ours, exact in results:
        assert ours.shape == exact.shape
        assert ours.dtype == np.float32
        assert relative_error(ours, exact) < bound


@settings(max_examples=40)
@given(
    n=st.integers(1, 3),
    c=st.integers(1, 5),
    o=st.integers(1, 5),
    size=st.tuples(st.integers(3, 19), st.integers(3, 19)),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    line=st.sampled_from([0, 9]),
)
def test_any_shape(n, c, o, size, padding, line):
    with mock.patch.object(winograd, "WHOLE_LINE", line):
        check(n, c, o, *size, padding, 5e-6)


@pytest.mark.parametrize("line", [0, 9])
@pytest.mark.parametrize("size", range(1, 10))
def test_no_line_is_transformed_twice(size, line, monkeypatch):
    monkeypatch.setattr(winograd, "WHOLE_LINE", line)
    monkeypatch.setattr(winograd, "across", mock.Mock(wraps=winograd.across))
    x, weight = (a.astype(np.float32) for a in arrays(0, (1, 2, size, size), (2, 2, 3, 3)))
    winograd.conv2d(x, weight, None, Window((3, 3), padding=(1, 1)), 1)
    (call,) = winograd.across.call_args_list
    assert call.args[1].shape == (1, size, size, 2)


@pytest.mark.parametrize(("limit", "lengths"), [(24, [24]), (23, [6, 6, 6, 6]), (5, [5, 5, 5, 5, 4])])
def test_all_tiles_at_once_or_in_enough_pieces(limit, lengths):
    tiles = winograd.tiles_of((24, 7, 4, 3), limit, pieces=4)  # one a picture
    assert [len(piece) for piece in tiles] == lengths


@pytest.mark.parametrize("sum_bytes", [0, 1 << 20])
def test_several_rounds_and_blocks(monkeypatch, sum_bytes):
    monkeypatch.setattr(winograd, "SUM_BYTES", sum_bytes)
    monkeypatch.setattr(winograd, "FILTER_BYTES", sum_bytes)
    monkeypatch.setattr(winograd, "STRIP", 7)
    monkeypatch.setattr(winograd, "ROUND", 9)
    monkeypatch.setattr(winograd, "PART", 30)
    monkeypatch.setattr(winograd, "ROUND_BYTES", 1 << 16)
    monkeypatch.setattr(winograd, "BLOCK", 20)
    check(3, 6, 7, 22, 19, (1, 1), 5e-6)
    check(2, 9, 24, 10, 9, (1, 1), 5e-6)
    check(5, 3, 2, 5, 6, (1, 1), 5e-6)


@pytest.mark.parametrize("channels", [64, 256, 512])
def test_a_layer_of_vgg16(channels):
    check(1, channels, channels, 28, 28, (1, 1), 5e-6)


@pytest.mark.parametrize("sum_bytes", [0, 1 << 20])
def test_results_do_not_depend_on_threads(monkeypatch, sum_bytes):
    monkeypatch.setattr(winograd, "SUM_BYTES", sum_bytes)
    pytest.importorskip("threadpoolctl")
    monkeypatch.setattr(winograd, "FILTER_BYTES", sum_bytes)
    monkeypatch.setattr(winograd, "STRIP", 100)
    monkeypatch.setattr(winograd, "ROUND", 20)
    monkeypatch.setattr(winograd, "PART", 50)
    monkeypatch.setattr(winograd, "ROUND_BYTES", 1 << 18)
    window = Window((3, 3), padding=(1, 1))
    x, weight, bias, y = (
        a.astype(np.float32) for a in arrays(3, (5, 9, 14, 14), (12, 9, 3, 3), (12,), (5, 12, 14, 14))
    )
    before, runs = get_num_threads(), []
    try:
        for threads in (1, 2, 3, 3):
            set_num_threads(threads)
            runs.append(
                (
                    winograd.conv2d(x, weight, bias, window, 1),
                    winograd.conv_transpose2d(y, weight, None, window, 1, (14, 14)),
                    winograd.conv_weight(x, y, window, 1),
                )
            )
    finally:
        set_num_threads(before)
    for run in runs[1:]:
        for found, expected in zip(run, runs[0], strict=True):
            np.testing.assert_array_equal(found, expected)


def test_strides_of_the_input_do_not_matter():
    x, weight = (a.astype(np.float32) for a in arrays(0, (2, 10, 12, 9), (4, 10, 3, 3)))
    window = Window((3, 3), padding=(1, 1))
    turned = x[:, ::-1, ::-1].transpose(0, 1, 3, 2)
    assert np.array_equal(
        winograd.conv2d(turned, weight, None, window, 1),
        winograd.conv2d(np.ascontiguousarray(turned), weight, None, window, 1),
    )


def test_the_transforms_are_those_of_the_paper():
    """One tile of one channel, against the sum of products that it stands for."""
    d, g = arrays(1, (6, 6), (3, 3))
    a, b, matrix = winograd.A, winograd.B, winograd.G
    y = a.T @ ((matrix @ g @ matrix.T) * (b.T @ d @ b)) @ a
    direct = [[(d[i : i + 3, j : j + 3] * g).sum() for j in range(4)] for i in range(4)]
    np.testing.assert_allclose(y, direct, atol=1e-12)


def test_the_choice(algorithm, monkeypatch):
    used = []
    for name, module in convolution.ALGORITHMS.items():
        monkeypatch.setattr(
            module, "conv2d", lambda *a, name=name, work=module.conv2d: used.append(name) or work(*a)
        )

    def uses(channels, kernel=3, dtype=np.float32, **options):
        used.clear()
        weight = Tensor(np.ones((channels, channels, kernel, kernel), dtype))
        F.conv2d(Tensor(np.ones((2, channels, 8, 8), dtype)), weight, **options)
        return used[0]

    assert algorithm() == "auto"
    assert uses(64) == "winograd"
    assert uses(8) == "rows"
    assert uses(64, dtype=np.float64) == "rows"
    assert uses(64, stride=2) == "rows"
    assert uses(64, dilation=2) == "rows"
    assert uses(64, kernel=1) == "strips"
    assert algorithm("winograd") == "winograd"
    assert uses(8) == "winograd"
    assert uses(8, kernel=5) == "rows"
    algorithm("rows")
    assert uses(64) == "rows"
    algorithm("strips")
    assert uses(64) == "strips"
    algorithm("im2col")
    assert uses(64) == "im2col"
    with pytest.raises(
        ValueError, match="no convolution algorithm 'fft': expected one of auto, im2col, strips, rows, win"
    ):
        algorithm("fft")


def test_gradients_through_the_operation(algorithm):
    def gradients(name):
        algorithm(name)
        x, weight, bias = (
            Tensor(a.astype(np.float32), requires_grad=True)
            for a in arrays(2, (2, 5, 9, 10), (6, 5, 3, 3), (6,))
        )
        (F.conv2d(x, weight, bias, padding=1) ** 2).sum().backward()
        return [t.grad.numpy() for t in (x, weight, bias)]

    for fast, plain in zip(gradients("winograd"), gradients("im2col"), strict=True):
        assert relative_error(fast, plain) < 1e-4


@pytest.mark.parametrize(("line", "columns"), [(0, slice(4, 8)), (9, slice(None))])
def test_what_is_not_finite_spoils_its_tiles(line, columns, monkeypatch):
    monkeypatch.setattr(winograd, "WHOLE_LINE", line)
    x, weight = (a.astype(np.float32) for a in arrays(0, (1, 2, 12, 12), (3, 2, 3, 3)))
    x[0, 0, 5, 5] = np.inf
    with np.errstate(invalid="ignore"):
        y = winograd.conv2d(x, weight, None, Window((3, 3), padding=(1, 1)), 1)
    spoiled = np.zeros((12, 12), bool)
    spoiled[4:8, columns] = True
    np.testing.assert_array_equal(np.isnan(y), np.broadcast_to(spoiled, y.shape))
