"""VGG16 on a GPU, beside PyTorch on the same one.

Both compute in float32. PyTorch may shorten factors to TF32 (10 bits) if it is told so: here it is not, and
CuPy does not either. Of its two layouts the quicker one counts. The time of a call ends when the GPU has
finished it. Pictures and labels lie on the GPU before.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import numpy as np

import minidl as dl
from benchmarks.alone import alone
from benchmarks.compare import Timing, alternate, check, summary
from benchmarks.networks import vgg16
from benchmarks.peers import LAYOUTS, layouts, torch_step
from minidl.backend import gpu_unavailable

FORWARD, TRAINING = (8, 64), (8, 32)  # pictures in a batch
ROUNDS = 4  # times the repetitions: a GPU takes milliseconds


def run(batch: int, repetitions: int, quick: bool) -> dict[str, Any]:
    if reason := unavailable():
        return {"GPU: VGG16": f"not run: {reason}"}
    rounds = ROUNDS * repetitions
    rows: dict[str, Any] = {}
    for n in FORWARD[:1] if quick else FORWARD:
        rows[f"GPU: VGG16 forward, batch {n}"] = forward(n, rounds, quick)
    for n in TRAINING[:1] if quick else TRAINING:
        rows[f"GPU: VGG16 training step, batch {n}"] = training(n, rounds, quick, frozen=False)
    for n in TRAINING[-1:]:
        rows[f"GPU: VGG16, convolutions frozen, batch {n}"] = training(n, rounds, quick, frozen=True)
        rows[f"GPU: memory of VGG16 training, batch {n}"] = memory(n, quick)
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


def forward(batch: int, rounds: int, quick: bool) -> Timing:
    import torch

    model, x, _ = vgg16(batch, quick)
    peers = on_the_gpu(model, x)
    model.to("gpu")
    pictures = dl.Tensor(x).to("gpu")

    def ours() -> Any:
        with dl.no_grad():
            return model(pictures)

    theirs = {}
    for name, (peer, inputs) in peers.items():
        theirs[name] = lambda peer=peer, inputs=inputs: torch.inference_mode()(peer)(inputs)
        check(ours().numpy(), theirs[name]().cpu().numpy(), 1e-3)
    return timed(ours, theirs, rounds)


def training(batch: int, rounds: int, quick: bool, frozen: bool) -> Timing:
    model, x, y = vgg16(batch, quick)
    if frozen:
        model.between(until="flatten").freeze()
    peers = on_the_gpu(model, x)
    theirs = {}
    for name, (peer, inputs) in peers.items():
        for layer, own in zip(peer.parameters(), model.parameters(), strict=True):
            layer.requires_grad_(own.requires_grad)
        theirs[name] = torch_step(peer, inputs, y)
    ours = minidl_step(model.to("gpu"), x, y)
    losses = [step() for step in (ours, *theirs.values())]
    check(np.array(losses), np.array(losses[-1:]), 1e-3)
    return timed(ours, theirs, rounds)


def on_the_gpu(model: Any, x: np.ndarray, names: Collection[str] = LAYOUTS) -> dict[str, tuple[Any, Any]]:
    """PyTorch's networks with the same weights, and the pictures, in these layouts."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True  # it tries its algorithms in the warm-up
    return {name: (peer.cuda(), inputs.cuda()) for name, peer, inputs in layouts(model, x) if name in names}


def minidl_step(model: Any, x: np.ndarray, y: np.ndarray, lr: float = 1e-4) -> Callable[[], float]:
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

    model, x, y = vgg16(batch, quick)
    step = minidl_step(model.to("gpu"), x, y)
    for _ in range(3):
        step()
    return cupy.get_default_memory_pool().total_bytes() / 1e6


def memory_of_torch(batch: int, quick: bool, layout: str) -> float:
    """The most that PyTorch's allocator reserved, in MB, in three steps."""
    import torch

    model, x, y = vgg16(batch, quick)
    peer, inputs = on_the_gpu(model, x, [layout])[layout]
    step = torch_step(peer, inputs, y)
    for _ in range(3):
        step()
    return torch.cuda.max_memory_reserved() / 1e6


__all__ = ["describe", "run"]
