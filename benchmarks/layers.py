"""Layers other than convolutions, at the sizes of VGG16: forward, and forward with backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

import minidl as dl
from benchmarks.compare import Timing, alternate, check
from benchmarks.peers import LAYOUTS, memory_format
from minidl import functional as F

if TYPE_CHECKING:  # else imported where it is used: `-h` needs no PyTorch
    import torch

Arrays = list[np.ndarray]


def run(batch: int, repetitions: int, quick: bool) -> dict[str, Timing]:
    import torch

    rng = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, np.float32)

    n, c, size, inputs, outputs = (2, 4, 16, 32, 8) if quick else (batch, 64, 224, 25088, 4096)
    maps = normal(n, c, size, size)
    ones, zeros = np.ones(c, np.float32), np.zeros(c, np.float32)
    theirs = torch.nn.functional
    cases: dict[str, tuple[Arrays, Callable, Callable]] = {
        f"ReLU, {n}×{c}×{size}²": ([maps], F.relu, theirs.relu),
        f"max-pooling 2×2, {n}×{c}×{size}²": (
            [maps],
            lambda x: F.max_pool2d(x, 2),
            lambda x: theirs.max_pool2d(x, 2),
        ),
        f"batch norm, {n}×{c}×{size}²": (
            [maps, ones, zeros],
            lambda x, w, b: F.batch_norm(x, None, None, w, b, training=True),
            lambda x, w, b: theirs.batch_norm(x, None, None, w, b, training=True),
        ),
        f"dense layer {inputs}→{outputs}, batch {n}": (
            [normal(n, inputs), normal(outputs, inputs), normal(outputs)],
            F.linear,
            theirs.linear,
        ),
    }
    rows = {}
    for name, (arrays, ours, peer) in cases.items():
        mine = _calls(ours, [dl.Tensor(x, requires_grad=True) for x in arrays], dl.Tensor, dl.no_grad)
        others = {}
        for layout in LAYOUTS if arrays[0].ndim == 4 else list(LAYOUTS)[:1]:
            inputs = [_tensor(x, layout).requires_grad_() for x in arrays]
            others[layout] = _calls(peer, inputs, lambda x, f=layout: _tensor(x, f), torch.no_grad)
        for what in ("forward", "with backward"):
            for calls in others.values():
                check(np.asarray(mine[what]()), calls[what]().detach().numpy(), 1e-3)
            peers = {layout: calls[what] for layout, calls in others.items()}
            rows[f"{name}, {what}"] = alternate(mine[what], peers, repetitions)
    return rows


def _tensor(x: np.ndarray, layout: str) -> torch.Tensor:
    import torch

    t = torch.from_numpy(x.copy())
    return t.contiguous(memory_format=memory_format(layout)) if t.ndim == 4 else t


def _calls(f: Callable, inputs: list[Any], tensor: Callable, no_grad: Callable) -> dict[str, Callable]:
    with no_grad():
        shape = tuple(f(*inputs).shape)
    dy = tensor(np.random.default_rng(1).standard_normal(shape, np.float32))

    def forward() -> Any:
        with no_grad():
            return f(*inputs)

    def backward() -> Any:
        for x in inputs:
            x.grad = None
        f(*inputs).backward(dy)
        return inputs[0].grad

    return {"forward": forward, "with backward": backward}
