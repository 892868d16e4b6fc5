"""Winograd's convolution for the GPU: its kernels compiled for this processor, and on a GPU."""

from __future__ import annotations

import numpy as np
import pytest

from minidl.backend import as_numpy, to_device
from minidl.backend.im2col import Window
from minidl.functional import gpu_winograd, im2col_conv, winograd

SHAPES = [  # of x, filters, padding
    ((2, 3, 8, 8), 4, (1, 1)),
    ((1, 2, 3, 3), 1, (0, 0)),
    ((3, 5, 7, 10), 2, (2, 1)),
    ((5, 1, 13, 6), 3, (1, 2)),
]


def check(move):
    """y, ∂L/∂x and ∂L/∂w are those of the plain convolution, but for the rounding of Winograd's."""
    rng = np.random.default_rng(0)
    for shape, o, padding in SHAPES:
        window = Window((3, 3), padding=padding)
        x, w, b = (rng.standard_normal(s).astype(np.float32) for s in (shape, (o, shape[1], 3, 3), o))
        y = im2col_conv.conv2d(x, w, b, window, 1, relu=True)
        dy = rng.standard_normal(y.shape).astype(np.float32)
        gx, gw, gb, gdy = map(move, (x, w, b, dy))
        assert gpu_winograd.fits(gx, gw, window, 1)
        bias, size = b[: shape[1]], shape[2:]
        if len(bias) < shape[1]:
            bias = None
        pairs = [
            (gpu_winograd.conv2d(gx, gw, gb, window, 1, relu=True), y),
            (gpu_winograd.conv2d(gx, gw, None, window, 1), im2col_conv.conv2d(x, w, None, window, 1)),
            (
                gpu_winograd.conv_transpose2d(gdy, gw, None if bias is None else move(bias), window, 1, size),
                im2col_conv.conv_transpose2d(dy, w, bias, window, 1, size),
            ),
            (gpu_winograd.conv_weight(gx, gdy, window, 1), im2col_conv.conv_weight(x, dy, window, 1)),
        ]
        for found, expected in pairs:
            np.testing.assert_allclose(as_numpy(found), expected, atol=2e-5 * abs(expected).max(), rtol=0)
            assert found.dtype == np.float32


@pytest.mark.parametrize("small", [0, gpu_winograd.SMALL])
@pytest.mark.parametrize("size", [1, 1 << 29])
@pytest.mark.parametrize("integer", ["int", "long long"])
def test_on_this_processor(monkeypatch, compiled, integer, size, small):
    monkeypatch.setattr(gpu_winograd, "BYTES", size)
    monkeypatch.setattr(gpu_winograd, "SMALL", small)
    monkeypatch.setattr(gpu_winograd, "array_module", lambda x: compiled)
    monkeypatch.setattr(gpu_winograd.kernels, "integer_for", lambda count: integer)
    check(np.asarray)


@pytest.mark.gpu
@pytest.mark.parametrize("size", [1, 1 << 29])
@pytest.mark.parametrize("integer", ["int", "long long"])
def test_on_the_gpu(monkeypatch, integer, size):
    monkeypatch.setattr(gpu_winograd, "BYTES", size)
    monkeypatch.setattr(gpu_winograd.kernels, "integer_for", lambda count: integer)
    check(lambda x: to_device(x, "gpu"))
    check(lambda x: to_device(np.array(x, order="F"), "gpu"))


@pytest.mark.gpu
def test_as_exact_as_the_processors():
    """Against float64: a layer of 256 channels."""
    rng, window = np.random.default_rng(0), Window((3, 3), padding=(1, 1))
    x, w = rng.standard_normal((2, 256, 16, 16)), rng.standard_normal((64, 256, 3, 3))
    exact = im2col_conv.conv2d(x, w, None, window, 1)
    x, w = x.astype(np.float32), w.astype(np.float32)
    here = winograd.conv2d(x, w, None, window, 1)
    there = as_numpy(gpu_winograd.conv2d(to_device(x, "gpu"), to_device(w, "gpu"), None, window, 1))
    here, there = (np.linalg.norm(y - exact) / np.linalg.norm(exact) for y in (here, there))
    print(f"relative errors: on the processor {here:.1e}, on the GPU {there:.1e}")
    assert there < 2 * here
