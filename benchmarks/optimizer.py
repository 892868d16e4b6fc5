"""The step of SGD with momentum over the 138 million parameters of VGG16: a matter of memory alone."""

from __future__ import annotations

import numpy as np

import minidl as dl
from benchmarks.compare import Timing, alternate, check
from minidl.backend.blocks import for_each_block
from minidl.models import VGG


def run(batch: int, repetitions: int, quick: bool) -> dict[str, Timing]:
    """It reads p, g and v and writes p and v, which is as much as copying 2½ of them."""
    import torch

    with dl.nn.init.skip_init():
        model = VGG(((8,),), (), 10) if quick else VGG()
    ours = list(model.parameters())
    theirs = [torch.nn.Parameter(torch.zeros(p.shape)) for p in ours]
    for p, t in zip(ours, theirs, strict=True):
        p.data[...] = 0
        p.grad, t.grad = dl.Tensor(np.ones(p.shape, np.float32)), torch.ones(p.shape)
    optimizer = dl.optim.SGD(ours, lr=1e-3, momentum=0.9)
    peers = {
        f"PyTorch{', fused' if fused else ''}": torch.optim.SGD(theirs, lr=1e-3, momentum=0.9, fused=fused)
        for fused in (False, True)
    }
    optimizer.step()
    peers["PyTorch"].step()
    check(ours[-1].numpy(), theirs[-1].detach().numpy())
    source = [np.ones(p.shape, np.float32) for p in ours]
    target = [p.grad.data for p in ours]

    def copy() -> None:
        for _ in range(5):
            for a, b in zip(target, source, strict=True):
                half = len(a) // 2 or 1
                for_each_block(np.copyto, a[:half], b[:half])

    step, copying = optimizer.step, {"as many bytes copied": copy}
    return {
        "SGD with momentum": alternate(step, {n: p.step for n, p in peers.items()}, repetitions),
        "SGD with momentum, against copying": alternate(step, copying, repetitions, aim=1.0),
    }
