"""The whole VGG16: forward, and a training step of all its layers with momentum."""

from __future__ import annotations

import numpy as np
import torch

import minidl as dl
from benchmarks.compare import Timing, alternate
from minidl.functional import cross_entropy
from minidl.models import VGG
from minidl.optim import SGD

QUICK_BLOCKS = ((8, 8), (16,))


def run(batch: int, repetitions: int, quick: bool) -> dict[str, Timing]:
    """Both nets have the same weights, see the same pictures, and have no dropout."""
    dl.seed(0)
    model = VGG(QUICK_BLOCKS, (32,), 10, pooled=8, dropout=0.0) if quick else VGG(dropout=0.0)
    size = 32 if quick else 224
    peer = _peer(model)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((batch, 3, size, size), np.float32)
    y = rng.integers(0, model.config["num_classes"], batch)
    theirs = torch.from_numpy(x).contiguous(memory_format=torch.channels_last)
    labels = torch.from_numpy(y)

    def forward():
        with dl.no_grad():
            return model(dl.Tensor(x))

    def peer_forward():
        with torch.no_grad():
            return peer(theirs)

    ours, expected = forward().numpy(), peer_forward().numpy()
    error = np.abs(ours - expected).max() / np.abs(expected).max()
    assert error < 1e-3, f"the logits differ by {error:.1e}"

    optimizer = SGD(model.parameters(), lr=1e-4, momentum=0.9)
    peer_optimizer = torch.optim.SGD(peer.parameters(), lr=1e-4, momentum=0.9)

    def step():
        loss = cross_entropy(model(dl.Tensor(x)), dl.Tensor(y))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def peer_step():
        loss = torch.nn.functional.cross_entropy(peer(theirs), labels)
        peer_optimizer.zero_grad()
        loss.backward()
        peer_optimizer.step()

    return {
        f"forward, batch {batch}": alternate(forward, peer_forward, repetitions),
        f"training step, batch {batch}": alternate(step, peer_step, repetitions),
    }


def _peer(model: VGG) -> torch.nn.Module:
    """The same network in PyTorch, in the channels-last layout."""
    layers = []
    for name, layer in model.named_children():
        if name.startswith("conv"):
            layers.append(torch.nn.Conv2d(layer.in_channels, layer.out_channels, 3, padding=1))
        elif name.startswith("fc"):
            layers.append(torch.nn.Linear(layer.in_features, layer.out_features))
        elif name.startswith("pool"):
            layers.append(torch.nn.MaxPool2d(2))
        elif name.startswith("relu"):
            layers.append(torch.nn.ReLU())
        elif name == "flatten":
            layers.append(torch.nn.Flatten())
    peer = torch.nn.Sequential(*layers)
    with torch.no_grad():
        for theirs, ours in zip(peer.parameters(), model.parameters(), strict=True):
            theirs.copy_(torch.from_numpy(ours.numpy()))
    return peer.to(memory_format=torch.channels_last)
