"""Training a small VGG with batch norm from nothing but a folder of pictures."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from minidl import backend
from minidl.data import DataLoader, Preprocessing, RandomHorizontalFlip, find_splits
from minidl.errors import DataError
from minidl.models import VGG
from minidl.optim import OneCycleLR
from minidl.training.fit import fit
from minidl.training.history import Row
from minidl.training.run import (
    Result,
    describe_pictures,
    finish_run,
    make_optimizer,
    new_folder,
    start_run,
)

BLOCKS = ((16,), (32,), (64,), (128,))
WEIGHT_DECAY = 5e-4
WORKERS = 2


def train_from_scratch(
    folder: str | os.PathLike,
    *,
    size: int = 64,
    epochs: int = 20,
    lr: float = 0.05,
    batch_size: int = 32,
    optimizer: str = "sgd",
    flip: bool = True,
    sample: int | None = None,
    valid: float = 0.2,
    on_error: str = "raise",
    seed: int = 0,
    device: str = "cpu",
    out: str | os.PathLike | None = None,
    resume: bool = False,
    on_epoch: Callable[[Row], None] | None = None,
) -> Result:
    """Train a VGG of four short blocks on pictures squashed to `size` × `size`.

    Its last feature maps are averaged (Lin et al. 2013, §3.2) and one dense layer tells the classes from
    them: wide dense layers would learn two thousand pictures by heart.

    The learning rate goes up to `lr` and down again once in the whole run (1cycle, Smith 2018), so a run
    cannot be resumed with another number of epochs.

    Args:
        flip: exchange left and right in half of the training pictures.
        folder, sample, valid, on_error, seed, device, out, resume, on_epoch: see `finetune`.

    Raises:
        DataError: the folder, an option, or a picture cannot be used.
        CheckpointError: `out` holds another run, or cannot be written.
        Interrupted: Ctrl-C; everything is saved.
    """
    if size < 2 ** len(BLOCKS):
        raise DataError(f"size must be at least {2 ** len(BLOCKS)} pixels, got {size}")
    options = {
        "folder": os.path.abspath(folder),
        "size": size,
        "epochs": epochs,
        "lr": lr,
        "batch_size": batch_size,
        "optimizer": optimizer,
        "flip": flip,
        "sample": sample,
        "valid": valid,
        "on_error": on_error,
        "seed": seed,
        "device": device,
    }
    backend.seed(seed)
    train_pictures, valid_pictures = find_splits(folder, valid, seed, on_error=on_error, sample=sample)
    classes = train_pictures.classes
    model = VGG(BLOCKS, (), len(classes), pooled=1, batch_norm=True).to(device)
    model.classes = classes
    model.preprocessing = Preprocessing(
        size=size, scale=1 / 255, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
    )
    valid_pictures.transform = model.preprocessing.transform()
    train_pictures.transform = model.preprocessing.transform([RandomHorizontalFlip()] if flip else None)
    train_loader = DataLoader(train_pictures, batch_size, shuffle=True, num_workers=WORKERS, generator=seed)
    valid_loader = DataLoader(valid_pictures, batch_size, num_workers=WORKERS)
    optim = make_optimizer(optimizer, model.parameters(), lr, weight_decay=WEIGHT_DECAY)
    schedule = OneCycleLR(optim, max_lr=lr, total_steps=epochs * len(train_loader))
    out = new_folder(f"{Path(folder).resolve().name}-scratch") if out is None else Path(out)
    start_run(out, "train", options, {"pictures": describe_pictures(train_pictures, valid_pictures)}, resume)

    history = fit(
        model,
        train_loader,
        valid_loader,
        optimizer=optim,
        epochs=epochs,
        schedule=schedule,
        folder=out,
        resume=resume,
        on_epoch=on_epoch,
    )
    skipped = [*train_pictures.skipped, *valid_pictures.skipped]
    return finish_run(out, model, model, valid_loader, valid_pictures, history, skipped)


__all__ = ["train_from_scratch"]
