"""The convolution for the GPU, cut in every way: its kernels compiled for this processor, and on a GPU."""

from __future__ import annotations

import numpy as np
import pytest
from gpu_cases import assert_close

from minidl.backend import kernels, to_device
from minidl.backend.im2col import Window
from minidl.functional import gpu_conv, im2col_conv

cases = pytest.mark.parametrize(
    ("window", "groups"),
    [
        (Window((3, 3), padding=(1, 1)), 1),
        (Window((3, 3), padding=(1, 1)), 2),
        (Window((3, 2), (2, 1), (1, 0), (1, 2)), 1),
        (Window((2, 2), (3, 3)), 4),
        (Window((1, 1)), 1),
        (Window((1, 1), (2, 2), (1, 1)), 2),
    ],
    ids=str,
)
sizes = pytest.mark.parametrize("strip_bytes", [1, 3000, 1 << 28])


def check(window, groups, move):
    """y, ∂L/∂x and ∂L/∂w are those of the plain convolution."""
    rng = np.random.default_rng(0)
    shapes, size = ((5, 4, 9, 8), (8, 4 // groups, *window.kernel), 8), (9, 8)
    x, w, b = (rng.standard_normal(shape).astype(np.float32) for shape in shapes)
    y = im2col_conv.conv2d(x, w, b, window, groups, relu=True)
    dy = rng.standard_normal(y.shape).astype(np.float32)
    gx, gw, gb, gdy = map(move, (x, w, b, dy))
    assert_close(gpu_conv.conv2d(gx, gw, gb, window, groups, relu=True), y)
    without_bias = im2col_conv.conv2d(x, w, None, window, groups)
    assert_close(gpu_conv.conv2d(gx, gw, None, window, groups), without_bias)
    dx = im2col_conv.conv_transpose2d(dy, w, b[:4], window, groups, size)
    assert_close(gpu_conv.conv_transpose2d(gdy, gw, gb[:4], window, groups, size), dx)
    dw = im2col_conv.conv_weight(x, dy, window, groups)
    assert_close(gpu_conv.conv_weight(gx, gdy, window, groups), dw)


@sizes
@cases
def test_on_this_processor(monkeypatch, compiled, window, groups, strip_bytes):
    monkeypatch.setattr(gpu_conv, "STRIP_BYTES", strip_bytes)
    monkeypatch.setattr(kernels, "array_module", lambda _: compiled)
    check(window, groups, np.asarray)


@pytest.mark.gpu
@sizes
@cases
def test_on_the_gpu(monkeypatch, window, groups, strip_bytes):
    monkeypatch.setattr(gpu_conv, "STRIP_BYTES", strip_bytes)
    check(window, groups, lambda x: to_device(x, "gpu"))
