"""The 3×3 convolutions of VGG16, and others: depthwise, in groups, 1×1, small. Forward, ∂L/∂x and ∂L/∂w."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.compare import Timing, alternate, check
from benchmarks.peers import LAYOUTS, memory_format
from minidl.backend.compiled import numba
from minidl.backend.im2col import Window
from minidl.backend.memory import empty, empty_channels_last
from minidl.functional.convolution import Conv2d, ConvTranspose2d, ConvWeight
from minidl.recording import no_grad
from minidl.tensor import Tensor

if TYPE_CHECKING:  # else imported where it is used: `-h` needs no PyTorch
    import torch


@dataclass(frozen=True)
class Layer:
    channels: int
    width: int
    size: int
    kernel: int = 3
    stride: int = 1
    groups: int = 1
    aim: float | None = None
    pictures: int = 1  # times the batch

    def __str__(self) -> str:
        kernel = "" if self.kernel == 3 else f", {self.kernel}×{self.kernel}"
        stride = "" if self.stride == 1 else f", stride {self.stride}"
        groups = "" if self.groups == 1 else f", {self.groups} groups"
        return f"{self.channels}→{self.width} at {self.size}²{kernel}{stride}{groups}"


VGG16 = [
    Layer(3, 64, 224, aim=1.0),
    *(
        Layer(channels, width, size, aim=0.8)
        for channels, width, size in [
            *[(64, 64, 224), (64, 128, 112), (128, 128, 112), (128, 256, 56)],
            *[(256, 256, 56), (256, 512, 28), (512, 512, 28), (512, 512, 14)],
        ]
    ),
]
OTHERS = [
    Layer(32, 32, 112, groups=32, aim=2.0),
    Layer(64, 64, 56, groups=64, aim=2.0),
    Layer(128, 128, 56, stride=2, groups=128, aim=2.0),
    Layer(256, 256, 28, kernel=5, groups=256, aim=2.0),
    Layer(512, 512, 14, groups=512, aim=2.0, pictures=4),
    Layer(64, 64, 56, groups=16, aim=2.0),
    Layer(128, 128, 56, stride=2, groups=32, aim=2.0),
    Layer(256, 256, 28, groups=32, aim=2.0),
    Layer(64, 256, 56, kernel=1, aim=1.0),
    Layer(512, 128, 28, kernel=1, aim=1.0),
    Layer(256, 512, 56, kernel=1, stride=2, aim=1.0),
    Layer(3, 32, 32, aim=1.0, pictures=8),
]


def run(batch: int, repetitions: int, quick: bool) -> dict[str, Timing]:
    """A row for each layer and each of the three operations."""
    rng = np.random.default_rng(0)
    rows = {}
    for layer in [VGG16[3], OTHERS[1]] if quick else VGG16 + OTHERS:
        n, per_group = batch * layer.pictures, layer.channels // layer.groups
        places = (layer.size - 1) // layer.stride + 1
        x = rng.standard_normal((n, layer.channels, layer.size, layer.size), np.float32)
        shape = (layer.width, per_group, layer.kernel, layer.kernel)
        weight = rng.standard_normal(shape, np.float32) / np.float32(layer.kernel * per_group**0.5)
        dy = rng.standard_normal((n, layer.width, places, places), np.float32)
        theirs = {name: _theirs(layer, x, weight, dy, memory_format(name)) for name in LAYOUTS}
        for what, ours in _ours(layer, x, weight, dy).items():
            peers = {name: operations[what] for name, operations in theirs.items()}
            for peer in peers.values():
                check(ours().numpy(), peer().numpy())
            rows[f"{layer}, {what}"] = alternate(ours, peers, repetitions, layer.aim)
    return rows


Operations = dict[str, Callable]


def as_in_a_network(x: np.ndarray, groups: int) -> Tensor:
    """x (N, C, H, W) as it is within a network: channels-last but for pictures, and where groups are.

    Depthwise convolutions are channels-last too, where Numba compiles them. Its memory is of the kind that
    operations ask for.
    """
    depthwise = groups == x.shape[1] and numba() is not None
    last = x.shape[1] > 3 and (groups == 1 or depthwise)
    y = empty_channels_last(x.shape, x.dtype) if last else empty(np, x.shape, x.dtype)
    y[...] = x
    return Tensor(y)


def _ours(layer: Layer, x: np.ndarray, weight: np.ndarray, dy: np.ndarray) -> Operations:
    window, groups = Window.of(layer.kernel, layer.stride, layer.kernel // 2), layer.groups
    a, w, g = as_in_a_network(x, groups), Tensor(weight), as_in_a_network(dy, groups)
    return {
        "forward": no_grad()(lambda: Conv2d(window, groups)(a, w)),
        "∂L/∂x": no_grad()(lambda: ConvTranspose2d(window, groups, x.shape[2:])(g, w)),
        "∂L/∂w": no_grad()(lambda: ConvWeight(window, groups)(a, g)),
    }


def _theirs(
    layer: Layer, x: np.ndarray, weight: np.ndarray, dy: np.ndarray, layout: torch.memory_format
) -> Operations:
    import torch

    a, w, g = (torch.from_numpy(array).clone(memory_format=layout) for array in (x, weight, dy))
    stride, padding, groups = [layer.stride] * 2, [layer.kernel // 2] * 2, layer.groups

    def backward(*which: bool) -> torch.Tensor:
        gradients = torch.ops.aten.convolution_backward(
            g, a, w, None, stride, padding, [1, 1], False, [0, 0], groups, which
        )
        return next(gradient for gradient in gradients if gradient is not None)

    return {
        "forward": lambda: torch.nn.functional.conv2d(a, w, None, stride, padding, groups=groups),
        "∂L/∂x": lambda: backward(True, False, False),
        "∂L/∂w": lambda: backward(False, True, False),
    }
