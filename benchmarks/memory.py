"""The most memory that a full training step of VGG16 takes, each peer in a process of its own."""

from __future__ import annotations

import itertools

import numpy as np

from benchmarks.alone import alone
from benchmarks.compare import Timing, summary
from benchmarks.networks import vgg16
from benchmarks.peers import LAYOUTS, memory_format, minidl_step, torch_step


def run(batch: int, repetitions: int, quick: bool) -> dict[str, Timing]:
    ours = alone("memory", "train_minidl", batch, quick)["peak"]
    theirs = {name: alone("memory", "train_torch", batch, quick, name)["peak"] for name in LAYOUTS}
    peer = min(theirs, key=theirs.__getitem__)
    return {f"memory of VGG16 training, batch {batch}": summary([(ours, theirs[peer])], peer, "MB", aim=0.9)}


def train_minidl(batch: int, quick: bool) -> float:
    return _three(minidl_step(*vgg16(batch, quick)))


def train_torch(batch: int, quick: bool, layout: str) -> float:
    """The weights are PyTorch's own: here they do not matter, and copying ours would count."""
    import torch

    widths = ((8, 8), (16,)) if quick else ((64, 64), (128, 128), (256,) * 3, (512,) * 3, (512,) * 3)
    layers: list[torch.nn.Module] = []
    channels = 3
    for block in widths:
        for width in block:
            layers += [torch.nn.Conv2d(channels, width, 3, padding=1), torch.nn.ReLU()]
            channels = width
        layers.append(torch.nn.MaxPool2d(2))
    dense = (16 * 64, 32, 10) if quick else (25088, 4096, 4096, 1000)
    layers.append(torch.nn.Flatten())
    for width, after in itertools.pairwise(dense):
        layers += [torch.nn.Linear(width, after), torch.nn.ReLU()]
    model = torch.nn.Sequential(*layers[:-1]).to(memory_format=memory_format(layout))
    size = 32 if quick else 224
    x = torch.randn(batch, 3, size, size).contiguous(memory_format=memory_format(layout))
    return _three(torch_step(model, x, np.arange(batch) % dense[-1]))


def _three(step) -> float:
    return [step() for _ in range(3)][-1]
