"""Time and memory against the size of the batch, of the pictures, of the graph and of the data set.

Every point is measured in a process of its own, whose memory nothing else has touched.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.alone import alone
from benchmarks.compare import Series
from benchmarks.networks import vgg16

BATCHES, SIZES = (1, 2, 4, 8, 16, 32), (64, 112, 224, 336, 448)
DEPTHS, PICTURES = (100, 1000, 10_000, 100_000), (250, 1000, 5000, 25_000)


def batch(batch: int, repetitions: int, quick: bool) -> dict[str, Series]:
    """A training step of VGG16 at 224² against the size of the batch."""
    return _series("batch size", "picture", BATCHES, quick, lambda n: ("train", n, 224, quick))


def size(batch: int, repetitions: int, quick: bool) -> dict[str, Series]:
    """A training step of VGG16 with 4 pictures, against the pixels of a picture."""
    return _series(
        "picture size",
        "pixel",
        SIZES,
        quick,
        lambda n: ("train", 4, n, quick),
        counted=lambda n: n * n,
    )


def depth(batch: int, repetitions: int, quick: bool) -> dict[str, Series]:
    """Forward and backward through a graph of so many nodes."""
    return _series("graph depth", "node", DEPTHS, quick, lambda n: ("chain", n))


def data(batch: int, repetitions: int, quick: bool) -> dict[str, Series]:
    """One epoch of a DataLoader over so many pictures of 64×64, two threads decoding."""
    with tempfile.TemporaryDirectory() as folder:
        counts = PICTURES[:2] if quick else PICTURES
        draw(Path(folder), max(counts))
        return _series("data set", "picture", PICTURES, quick, lambda n: ("load", folder, n))


def _series(
    title: str, per: str, sizes: Sequence[int], quick: bool, call: Any, counted: Any = int
) -> dict[str, Series]:
    sizes = sizes[:2] if quick else sizes
    done = [alone("scaling", *call(n)) for n in sizes]
    numbers = [counted(n) for n in sizes]
    return {
        f"{title}: time": Series(numbers, [d["result"] for d in done], "s", per),
        f"{title}: peak memory": Series(numbers, [d["peak"] for d in done], "MB", per),
    }


# What is measured: each returns its seconds


def train(batch: int, size: int, quick: bool) -> float:
    """The quicker of two steps after the first."""
    from benchmarks.peers import minidl_step

    model, _, _ = vgg16(1, quick)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((batch, 3, size, size), np.float32)
    step = minidl_step(model, x, np.arange(batch) % 10)
    step()
    return min(_seconds(step) for _ in range(2))


def chain(nodes: int) -> float:
    import minidl as dl

    def run() -> None:
        y = dl.Tensor(np.ones(8, np.float32), requires_grad=True)
        for _ in range(nodes):
            y = y * 1.0
        y.sum().backward()

    return min(_seconds(run) for _ in range(3))


def load(folder: str, count: int) -> float:
    from minidl.data import DataLoader, ImageFolder

    pictures = ImageFolder(folder).subset(range(count))
    return _seconds(lambda: [len(y) for _, y in DataLoader(pictures, 64, num_workers=2)])


def draw(folder: Path, count: int) -> None:
    """So many pictures of two classes: a hundred different ones, the others links to them."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for i in range(count):
        path = folder / ("cats", "dogs")[i % 2] / f"{i:06}.jpg"
        if i < 100:
            path.parent.mkdir(exist_ok=True)
            coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
            coarse.resize((64, 64), Image.Resampling.BICUBIC).save(path)
        else:
            path.hardlink_to(folder / ("cats", "dogs")[i % 2] / f"{i % 100:06}.jpg")


def _seconds(f: Any) -> float:
    start = time.perf_counter()
    f()
    return time.perf_counter() - start
