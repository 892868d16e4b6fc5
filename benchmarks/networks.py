"""Whole networks: VGG16 forward, all of it training, only its dense layers training; and small ones."""

from __future__ import annotations

import numpy as np

import minidl as dl
from benchmarks.compare import Timing, alternate, check
from benchmarks.peers import layouts, minidl_step, torch_step
from minidl import nn
from minidl.models import VGG

QUICK = {"blocks": ((8, 8), (16,)), "dense": (32,), "num_classes": 10, "pooled": 8}


def vgg16(batch: int, quick: bool) -> tuple[VGG, np.ndarray, np.ndarray]:
    """The model, without dropout, and pictures with labels; a small model for a quick run."""
    dl.seed(0)
    model = VGG(**QUICK, dropout=0.0) if quick else VGG(dropout=0.0)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((batch, 3, *((32, 32) if quick else (224, 224))), np.float32)
    return model, x, rng.integers(0, model.config["num_classes"], batch)


def forward(batch: int, repetitions: int, quick: bool) -> dict[str, Timing]:
    import torch

    model, x, _ = vgg16(batch, quick)

    def ours() -> np.ndarray:
        with dl.no_grad():
            return model(dl.Tensor(x)).numpy()

    theirs = {}
    for name, peer, pictures in layouts(model, x):
        theirs[name] = lambda peer=peer, pictures=pictures: torch.inference_mode()(peer)(pictures)
        check(ours(), theirs[name]().numpy(), 1e-3)
    return {f"VGG16 forward, batch {batch}": alternate(ours, theirs, repetitions, _aim(0.5, batch))}


def training(batch: int, repetitions: int, quick: bool) -> dict[str, Timing]:
    model, x, y = vgg16(batch, quick)
    return {f"VGG16 training step, batch {batch}": _compare_steps(model, x, y, repetitions, _aim(0.5, batch))}


def frozen(batch: int, repetitions: int, quick: bool) -> dict[str, Timing]:
    model, x, y = vgg16(batch, quick)
    model.between(until="flatten").freeze()
    aim = _aim(0.55, batch)
    return {f"VGG16, convolutions frozen, batch {batch}": _compare_steps(model, x, y, repetitions, aim)}


def small_cnn(batch: int, repetitions: int, quick: bool) -> dict[str, Timing]:
    """Three convolutions on 32×32 pictures, batch 64."""
    dl.seed(0)
    layers: list[nn.Module] = []
    for channels, width in ((3, 32), (32, 64), (64, 128)):
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(2048, 10))
    rng = np.random.default_rng(0)
    x = rng.standard_normal((8 if quick else 64, 3, 32, 32), np.float32)
    y = rng.integers(0, 10, len(x))
    return {f"small CNN, training step, batch {len(x)}": _compare_steps(model, x, y, 5 * repetitions, 1.0)}


def small_networks(batch: int, repetitions: int, quick: bool) -> dict[str, Timing]:
    """LeNet and others that are small, in batches of several sizes."""
    dl.seed(0)
    thin: list[nn.Module] = []
    for channels, width in ((3, 32), (32, 64), (64, 128)):
        thin += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2)]
    lenet = [nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.AvgPool2d(2)]
    lenet += [nn.Conv2d(6, 16, 5), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten()]
    lenet += [nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)]
    wide = [nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
    wide += [nn.Linear(9216, 128), nn.ReLU(), nn.Linear(128, 10)]
    networks = {
        "LeNet, 28×28": (lenet, (1, 28, 28)),
        "two convolutions, 28×28": (wide, (1, 28, 28)),
        "three with batch norm, 32×32": ([*thin, nn.Flatten(), nn.Linear(2048, 10)], (3, 32, 32)),
    }
    rng, timings = np.random.default_rng(0), {}
    for name, (layers, shape) in networks.items():
        for n in (2,) if quick else (1, 16, 64, 256):
            x, y = rng.standard_normal((n, *shape), np.float32), rng.integers(0, 10, n)
            row = f"{name}, training step, batch {n}"
            timings[row] = _compare_steps(nn.Sequential(*layers), x, y, 3 * repetitions, None)
    return timings


def _aim(ratio: float, batch: int) -> float | None:
    """What was aimed at is meant for 8 pictures."""
    return ratio if batch == 8 else None


def _compare_steps(
    model: nn.Module, x: np.ndarray, y: np.ndarray, repetitions: int, aim: float | None
) -> Timing:
    theirs = {}
    for name, peer, pictures in layouts(model, x):
        for layer, own in zip(peer.parameters(), model.parameters(), strict=True):
            layer.requires_grad_(own.requires_grad)
        theirs[name] = torch_step(peer, pictures, y)
    ours = minidl_step(model, x, y)
    losses = [f() for f in (ours, *theirs.values())]
    check(np.array(losses), np.array(losses[-1:]), 1e-3)
    return alternate(ours, theirs, repetitions, aim)
