"""The 3×3 convolutions of VGG16: forward, ∂L/∂x and ∂L/∂w."""

from __future__ import annotations

import numpy as np
import torch

from benchmarks.compare import Timing, alternate
from minidl.backend.im2col import Window
from minidl.functional.convolution import Conv2d, ConvTranspose2d, ConvWeight
from minidl.recording import no_grad
from minidl.tensor import Tensor

LAYERS = [
    (3, 64, 224),
    (64, 64, 224),
    (64, 128, 112),
    (128, 128, 112),
    (128, 256, 56),
    (256, 256, 56),
    (256, 512, 28),
    (512, 512, 28),
    (512, 512, 14),
]
WINDOW = Window((3, 3), padding=(1, 1))


def run(batch: int, repetitions: int, quick: bool) -> dict[str, Timing]:
    """A row for each layer and each of the three operations."""
    rng = np.random.default_rng(0)
    rows = {}
    for channels, width, size in LAYERS[3:4] if quick else LAYERS:
        x = rng.standard_normal((batch, channels, size, size), np.float32)
        weight = rng.standard_normal((width, channels, 3, 3), np.float32) / (9 * channels) ** 0.5
        dy = rng.standard_normal((batch, width, size, size), np.float32)
        for name, (ours, theirs) in _operations(x, weight.astype(np.float32), dy).items():
            _check(ours(), theirs())
            rows[f"{channels}→{width} at {size}², {name}"] = alternate(ours, theirs, repetitions)
    return rows


def _operations(x, weight, dy):
    a, w, g = Tensor(x), Tensor(weight), Tensor(dy)
    tx, tw, tg = (
        torch.from_numpy(array).contiguous(memory_format=torch.channels_last) for array in (x, weight, dy)
    )

    def backward(which):
        one = [1, 1]
        gradients = torch.ops.aten.convolution_backward(
            tg, tx, tw, None, one, one, one, False, [0, 0], 1, which
        )
        return next(gradient for gradient in gradients if gradient is not None)

    def without_tape(f):
        def call():
            with no_grad(), torch.no_grad():
                return f()

        return call

    pairs = {
        "forward": (
            lambda: Conv2d(WINDOW, 1)(a, w),
            lambda: torch.nn.functional.conv2d(tx, tw, padding=1),
        ),
        "∂L/∂x": (
            lambda: ConvTranspose2d(WINDOW, 1, x.shape[2:])(g, w),
            lambda: backward([True, False, False]),
        ),
        "∂L/∂w": (
            lambda: ConvWeight(WINDOW, 1)(a, g),
            lambda: backward([False, True, False]),
        ),
    }
    return {name: tuple(map(without_tape, pair)) for name, pair in pairs.items()}


def _check(ours: Tensor, theirs: torch.Tensor) -> None:
    expected = theirs.numpy()
    error = np.abs(ours.numpy() - expected).max() / np.abs(expected).max()
    assert error < 1e-4, f"the results differ by {error:.1e}"
