"""VGG16 on a GPU, beside PyTorch on the same one.

Both compute in float32. PyTorch may shorten factors to TF32 (10 bits) if it is told so: here it is not, and
CuPy does not either. Of its two layouts the quicker one counts; cuDNN chooses its algorithms as it does by
default. Pictures and labels lie on the GPU. The time of a call ends when the GPU has finished it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection
from typing import Any

import numpy as np

import minidl as dl
from benchmarks.alone import alone
from benchmarks.compare import Timing, alternate, check, summary
from benchmarks.networks import vgg16
from benchmarks.peers import LAYOUTS, layouts, torch_step
from minidl.backend import gpu_unavailable
from minidl.models import VGG
from minidl.nn import init

FORWARD, TRAINING = (8, 64), (8, 32)  # pictures in a batch
ROUNDS = 4  # times the repetitions: a GPU takes milliseconds


def run(batch: int, repetitions: int, quick: bool) -> dict[str, Any]:
    if reason := unavailable():
        return {"GPU: VGG16": f"not run: {reason}"}
    rounds = ROUNDS * repetitions
    model, x, y = vgg16(batch if quick else max(*FORWARD, *TRAINING), quick)
    forward_sizes, training_sizes = ((len(x),), (len(x),)) if quick else (FORWARD, TRAINING)
    rows: dict[str, Any] = {}

    def add(name: str, timing: Timing) -> None:
        print(f"{name}: {timing.ratio:.2f}", file=sys.stderr, flush=True)
        rows[name] = timing

    for n in forward_sizes:
        add(f"GPU: VGG16 forward, batch {n}", forward(model, x[:n], rounds))
    for n in training_sizes:
        add(f"GPU: VGG16 training step, batch {n}", training(model, x[:n], y[:n], rounds))
    model.between(until="flatten").freeze()
    add(f"GPU: VGG16, convolutions frozen, batch {n}", training(model, x[:n], y[:n], rounds))
    add(f"GPU: memory of VGG16 training, batch {n}", memory(n, quick))
    return rows


def unavailable() -> str | None:
    """Why there is nothing to compare, in a few words; None if there is."""
    if reason := gpu_unavailable():
        return reason
    import torch

    return None if torch.cuda.is_available() else "PyTorch finds no GPU"


def describe() -> dict[str, str]:
    """The GPU and what drives it; nothing where there is none."""
    if unavailable():
        return {}
    import cupy
    import torch

    driver = cupy.cuda.runtime.driverGetVersion()
    return {
        "GPU": torch.cuda.get_device_name(),
        "CUDA of the driver": f"{driver // 1000}.{driver % 1000 // 10}",
        "CuPy": cupy.__version__,
        "CUDA of PyTorch": str(torch.version.cuda),
        "cuDNN": str(torch.backends.cudnn.version()),
    }


def forward(model: VGG, x: np.ndarray, rounds: int) -> Timing:
    import torch

    theirs, pictures = {}, dl.Tensor(x).to("gpu")
    for name, (peer, inputs) in on_the_gpu(model, x).items():
        theirs[name] = lambda peer=peer, inputs=inputs: torch.inference_mode()(peer)(inputs)
    model.to("gpu")

    def ours() -> dl.Tensor:
        with dl.no_grad():
            return model(pictures)

    for f in theirs.values():
        check(ours().numpy(), f().cpu().numpy(), 1e-3)
    return timed(ours, theirs, rounds)


def training(model: VGG, x: np.ndarray, y: np.ndarray, rounds: int) -> Timing:
    theirs = {}
    for name, (peer, inputs) in on_the_gpu(model, x).items():
        for layer, own in zip(peer.parameters(), model.parameters(), strict=True):
            layer.requires_grad_(own.requires_grad)
        theirs[name] = torch_step(peer, inputs, y)
    ours = minidl_step(model.to("gpu"), x, y)
    losses = [step() for step in (ours, *theirs.values())]
    check(np.array(losses), np.array(losses[-1:]), 1e-3)
    return timed(ours, theirs, rounds)


def on_the_gpu(model: VGG, x: np.ndarray, names: Collection[str] = LAYOUTS) -> dict[str, tuple[Any, Any]]:
    """PyTorch's networks with the same weights, and the pictures, in these layouts."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    return {name: (peer.cuda(), inputs.cuda()) for name, peer, inputs in layouts(model, x) if name in names}


def minidl_step(model: VGG, x: np.ndarray, y: np.ndarray, lr: float = 1e-4) -> Callable[[], float]:
    """One step of training with momentum, pictures and labels on the GPU; returns the loss."""
    optimizer = dl.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=lr, momentum=0.9)
    pictures, labels = dl.Tensor(x).to("gpu"), dl.Tensor(y).to("gpu")

    def step() -> float:
        loss = dl.functional.cross_entropy(model(pictures), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def timed(ours: Callable, theirs: dict[str, Callable], rounds: int) -> Timing:
    """In turn, each until the GPU is done; what the other side keeps of the memory is given back before."""
    import cupy
    import torch

    def finished(f: Callable) -> Callable[[], None]:
        def call() -> None:
            f()
            torch.cuda.synchronize()  # the whole device, so CuPy's stream too

        return call

    timing = alternate(finished(ours), {name: finished(f) for name, f in theirs.items()}, rounds)
    cupy.get_default_memory_pool().free_all_blocks()
    torch.cuda.empty_cache()
    return timing


def memory(batch: int, quick: bool) -> Timing:
    """The most memory that either asked the device for, each in a process of its own."""
    ours = alone("gpu", "memory_of_minidl", batch, quick)["result"]
    theirs = {name: alone("gpu", "memory_of_torch", batch, quick, name)["result"] for name in LAYOUTS}
    peer = min(theirs, key=theirs.__getitem__)
    return summary([(ours, theirs[peer])], peer, "MB", aim=None)


def memory_of_minidl(batch: int, quick: bool) -> float:
    """The size of CuPy's pool, in MB, after three steps: it gives nothing back by itself."""
    import cupy

    with init.skip_init():  # the numbers do not matter here
        model, x, y = vgg16(batch, quick)
    step = minidl_step(model.to("gpu"), x, y)
    for _ in range(3):
        step()
    return cupy.get_default_memory_pool().total_bytes() / 1e6


def memory_of_torch(batch: int, quick: bool, layout: str) -> float:
    """The most that PyTorch's allocator reserved, in MB, in three steps."""
    import torch

    with init.skip_init():
        model, x, y = vgg16(batch, quick)
    peer, inputs = on_the_gpu(model, x, [layout])[layout]
    step = torch_step(peer, inputs, y)
    for _ in range(3):
        step()
    return torch.cuda.max_memory_reserved() / 1e6


__all__ = ["describe", "run"]
