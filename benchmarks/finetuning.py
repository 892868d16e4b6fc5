"""The whole job: real pictures, VGG16's frozen convolutions run once, five epochs of its dense layers.

Both read the same weights from a file, decode with Pillow in two threads beside the network, keep the
features, and train fc6, fc7 and a new fc8 in batches of 64. The peer keeps the features in memory.

Each run has a process of its own, and ours has no features of an earlier one. A small job is done twice, in
turn.
"""

from __future__ import annotations

import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from benchmarks.alone import alone
from benchmarks.compare import check, summary

PICTURES = 2500
EPOCHS, BATCH = 5, 64
SMALL = 500  # pictures


def run(batch: int, repetitions: int, quick: bool) -> dict[str, Any]:
    folder = os.environ.get("MINIDL_DOGSCATS")
    if quick:
        return {"job": "not run: it takes minutes"}
    if not folder:
        return {"job": "not run: it takes MINIDL_DOGSCATS, a folder of pictures"}
    pictures = int(os.environ.get("MINIDL_BENCHMARK_PICTURES", PICTURES))
    rounds: list[tuple[dict[str, Any], dict[str, Any]]] = []
    with tempfile.TemporaryDirectory() as home:
        weights = os.path.join(home, "vgg16.pth")
        alone("finetuning", "make_weights", weights)
        for number in range(2 if pictures <= SMALL else 1):
            os.environ["MINIDL_HOME"] = os.path.join(home, str(number))
            theirs = alone("finetuning", "finetune_torch", folder, weights, pictures)
            ours = alone("finetuning", "finetune_minidl", folder, weights, pictures)
            check(np.array(ours["result"]["feature"]), np.array(theirs["result"]["feature"]), 1e-2)
            rounds.append((ours, theirs))
            for who, job in (("minidl", ours), ("PyTorch", theirs)):
                facts = f"{job['peak']:.0f} MB, validation accuracy {job['result']['accuracy']:.3f}"
                print(f"{who}: {job['result']['seconds']}, {facts}", flush=True)
    times = [(ours["seconds"], theirs["seconds"]) for ours, theirs in rounds]
    peaks = [(ours["peak"], theirs["peak"]) for ours, theirs in rounds]
    title = f"{pictures} pictures, {EPOCHS} epochs"
    return {
        f"{title}: time": summary(times, "PyTorch + Pillow", "s", 0.55),
        f"{title}: memory": summary(peaks, "PyTorch + Pillow", "MB", 0.7),
    }


def make_weights(path: str) -> None:
    """A file as torchvision's, with weights drawn at random: to the time they make no difference."""
    import torch

    rng = torch.Generator().manual_seed(0)
    model = torch_vgg16()
    for p in model.parameters():
        scale = 0.0 if p.ndim == 1 else (2 / p[0].numel()) ** 0.5
        p.data = torch.randn(p.shape, generator=rng) * scale
    torch.save(model.state_dict(), path)


def torch_vgg16() -> Any:
    """VGG16 with torchvision's names and its ReLUs in place."""
    from torch import nn

    layers: list[Any] = []
    channels = 3
    for block in ((64, 64), (128, 128), (256,) * 3, (512,) * 3, (512,) * 3):
        for width in block:
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
            channels = width
        layers.append(nn.MaxPool2d(2))
    model = nn.Module()
    model.features = nn.Sequential(*layers)
    dense: list[Any] = []
    for inputs, outputs in ((25088, 4096), (4096, 4096)):
        dense += [nn.Linear(inputs, outputs), nn.ReLU(inplace=True), nn.Dropout()]
    model.classifier = nn.Sequential(*dense, nn.Linear(4096, 1000))
    return model


def finetune_minidl(folder: str, weights: str, pictures: int) -> dict[str, Any]:
    import time

    import minidl as dl
    from minidl.data import DataLoader, find_splits
    from minidl.training.features import cached_features
    from minidl.training.finetune import load_pretrained
    from minidl.training.fit import fit

    dl.seed(0)
    begun = time.perf_counter()
    model = load_pretrained(weights)
    train, valid = find_splits(folder, sample=pictures, transform=model.preprocessing.transform())
    model.replace_last(len(train.classes))
    trunk, head = model.between(until="flatten"), model.between(after="flatten")
    trunk.freeze()
    loaded = time.perf_counter()
    made_from = {"benchmark": pictures}
    train_features = cached_features(trunk, train, made_from, "training pictures")
    valid_features = cached_features(trunk, valid, made_from, "validation pictures")
    computed = time.perf_counter()
    optimizer = dl.optim.SGD(head.parameters(), lr=1e-3, momentum=0.9)
    history = fit(
        head,
        DataLoader(train_features, BATCH, shuffle=True),
        DataLoader(valid_features, BATCH),
        optimizer=optimizer,
        epochs=EPOCHS,
    )
    trained = time.perf_counter()
    seconds = {
        "loading": round(loaded - begun, 1),
        "features": round(computed - loaded, 1),
        "epochs": round(trained - computed, 1),
    }
    accuracy = history.rows[-1]["valid_accuracy"]
    return {"seconds": seconds, "accuracy": accuracy, "feature": valid_features.x[0, ::100].tolist()}


def finetune_torch(folder: str, weights: str, pictures: int) -> dict[str, Any]:
    import time

    import torch
    from PIL import Image

    from minidl.data import find_splits  # for the same choice of pictures

    torch.manual_seed(0)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    begun = time.perf_counter()
    with torch.device("meta"):
        model = torch_vgg16()
    model.load_state_dict(torch.load(weights, mmap=True, weights_only=True), assign=True)
    trunk = model.features.to(memory_format=torch.channels_last).requires_grad_(False).eval()
    head = model.classifier
    head[-1] = torch.nn.Linear(4096, 2)
    torch.nn.init.zeros_(head[-1].weight)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    train, valid = find_splits(folder, sample=pictures)
    loaded = time.perf_counter()

    def picture(path: str) -> torch.Tensor:
        with Image.open(path) as image:
            resized = image.convert("RGB").resize((256, 256), Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(resized.crop((16, 16, 240, 240)), np.float32))
        return (pixels / 255 - mean) / std

    def features(samples: list[tuple[str, int]]) -> tuple[torch.Tensor, torch.Tensor]:
        found = torch.empty(len(samples), 25088)
        starts = range(0, len(samples), 8)

        def load(start: int) -> torch.Tensor:
            pixels = torch.stack([picture(path) for path, _ in samples[start : start + 8]])
            return pixels.permute(0, 3, 1, 2)  # channels-last as it is

        with ThreadPoolExecutor(2) as pool, torch.inference_mode():
            ahead = [pool.submit(load, start) for start in starts[:4]]
            for i, start in enumerate(starts):
                if i + 4 < len(starts):
                    ahead.append(pool.submit(load, starts[i + 4]))
                found[start : start + 8] = trunk(ahead.pop(0).result()).flatten(1)
        return found, torch.tensor([label for _, label in samples])

    x, y = features(train.samples)
    valid_x, valid_y = features(valid.samples)
    computed = time.perf_counter()
    optimizer = torch.optim.SGD(head.parameters(), lr=1e-3, momentum=0.9)
    for _ in range(EPOCHS):
        head.train()
        for batch in torch.randperm(len(x)).split(BATCH):
            loss = torch.nn.functional.cross_entropy(head(x[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        head.eval()
        with torch.inference_mode():
            right = sum(
                (head(a).argmax(1) == b).sum().item()
                for a, b in zip(valid_x.split(BATCH), valid_y.split(BATCH), strict=True)
            )
    trained = time.perf_counter()
    seconds = {
        "loading": round(loaded - begun, 1),
        "features": round(computed - loaded, 1),
        "epochs": round(trained - computed, 1),
    }
    return {"seconds": seconds, "accuracy": right / len(valid_x), "feature": valid_x[0, ::100].tolist()}
