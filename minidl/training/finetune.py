"""Fine-tuning: a network that learned a thousand classes learns a few new ones from a folder of pictures.

    from minidl.training import finetune

    result = finetune("dogscats", "vgg16.pth", epochs=5)
    print(result.predictions.accuracy, result.folder)

The last dense layer is replaced by a new one with an output for each class, only what `train` says learns:

    last    the new layer. The trunk below it is run once, up to the last hidden layer (fc7 of VGG16), and its
            features are kept: an epoch is then a logistic regression, and takes a second.
    dense   the dense layers. The features are those of the last convolution, pooled and flattened.
    all     everything. Every picture goes through the whole network in every epoch.

What was pre-trained knows much already, so it learns more slowly than the new layer, which knows nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from minidl import backend
from minidl.data import DataLoader, RandomAffine, RandomHorizontalFlip, find_splits
from minidl.data.cache import describe_files
from minidl.errors import DataError, WeightsError
from minidl.models import VGG
from minidl.nn import Module, ReLU, Sequential
from minidl.training.checkpoint import is_checkpoint, load_model
from minidl.training.features import WORKERS, TrunkLoader, cached_features
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
from minidl.weights.load import load_vgg16


class Default(NamedTuple):
    optimizer: str
    lr: float
    batch_size: int


# Adam's two moments of every weight would take 1 GB for the dense layers of VGG16; and a picture on its way
# through the whole of it takes 43 MB.
DEFAULTS = {
    "last": Default("adam", 1e-3, 64),
    "dense": Default("sgd", 1e-3, 64),
    "all": Default("sgd", 1e-3, 16),
}
AUGMENTATION = (RandomHorizontalFlip(), RandomAffine(degrees=15, translate=(0.1, 0.1), scale=(0.9, 1.1)))
PRETRAINED = 0.1  # the learning rate of pre-trained layers, times that of the new one
EVALUATION_BATCH = 8


def finetune(
    folder: str | os.PathLike,
    weights: str | os.PathLike,
    *,
    train: str = "last",
    epochs: int = 10,
    lr: float | None = None,
    batch_size: int | None = None,
    optimizer: str | None = None,
    augment: bool = False,
    sample: int | None = None,
    valid: float = 0.2,
    on_error: str = "raise",
    seed: int = 0,
    device: str = "cpu",
    out: str | os.PathLike | None = None,
    resume: bool = False,
    on_epoch: Callable[[Row], None] | None = None,
) -> Result:
    """Fine-tune the VGG16 of a weight file on a folder of pictures; see the head of this file.

    A model that knows the very classes of the folder, such as that of an earlier run, keeps its last layer.

    Args:
        folder: of pictures, with train/ and valid/ in it or to be split; see `find_splits`.
        weights: any VGG16 file (see `load_vgg16`), or any model that minidl saved.
        train: what learns: "last", "dense" or "all".
        lr: learning rate of the new layer; that of pre-trained ones is a tenth of it.
        optimizer: "sgd" (with momentum 0.9), "adam", "adamw" or "rmsprop". Like `lr` and `batch_size` it
            depends on `train` where it is None: see `DEFAULTS`.
        augment: turn, shift, zoom and flip the training pictures at random. No features are kept then, and
            every epoch runs the trunk.
        sample, valid, on_error: see `find_splits`.
        seed: of the split, the order and the dropout.
        device: "cpu" or "gpu".
        out: the folder for what the run leaves; by default a new one in `runs/`.
        resume: continue the run in `out`, if there is one: with the same arguments the weights at the end are
            those of a run that was not interrupted. More epochs may be asked for.
        on_epoch: called with each new row of the history.

    Raises:
        DataError: the folder, an option, or a picture cannot be used.
        WeightsError: the weight file cannot be used.
        CheckpointError: `out` holds another run, or cannot be written.
        Interrupted: Ctrl-C; everything is saved.
    """
    if train not in DEFAULTS:
        raise DataError(f"train must be one of {', '.join(DEFAULTS)}, got {train!r}")
    default = DEFAULTS[train]
    optimizer = default.optimizer if optimizer is None else optimizer
    lr = default.lr if lr is None else lr
    batch_size = default.batch_size if batch_size is None else batch_size
    backend.seed(seed)

    train_pictures, valid_pictures = find_splits(folder, valid, seed, on_error=on_error, sample=sample)
    model = load_pretrained(weights)
    if model.classes != train_pictures.classes:
        model.replace_last(len(train_pictures.classes), train_pictures.classes)
    new = model[model.last]
    model.to(device)
    trunk, head = _cut(model, train)
    old = [parameter for layer in head if layer is not new for parameter in layer.parameters()]
    groups: list[dict[str, Any]] = [{"params": list(new.parameters())}]
    if old:
        groups.append({"params": old, "lr": PRETRAINED * lr})
    optim = make_optimizer(optimizer, groups, lr)
    options = {
        "folder": os.path.abspath(folder),
        "weights": os.path.abspath(weights),
        "train": train,
        "epochs": epochs,
        "lr": lr,
        "batch_size": batch_size,
        "optimizer": optimizer,
        "augment": augment,
        "sample": sample,
        "valid": valid,
        "on_error": on_error,
        "seed": seed,
        "device": device,
    }
    out = new_folder(f"{Path(folder).resolve().name}-{train}") if out is None else Path(out)
    inputs = {
        "weights": describe_files([os.fspath(weights)]),
        "pictures": describe_pictures(train_pictures, valid_pictures),
    }
    start_run(out, "finetune", options, inputs, resume, may_change=["epochs"])

    assert model.preprocessing is not None
    transform = model.preprocessing.transform()
    train_pictures.transform = model.preprocessing.transform(AUGMENTATION) if augment else transform
    valid_pictures.transform = transform
    train_loader: Any = DataLoader(
        train_pictures, batch_size, shuffle=True, num_workers=WORKERS, generator=seed
    )
    valid_loader = DataLoader(valid_pictures, EVALUATION_BATCH, num_workers=WORKERS)
    if trunk is not None:
        made_from = {
            "weights": inputs["weights"],
            "preprocessing": model.preprocessing.to_dict(),
            "until": list(trunk.named_children())[-1][0],
        }
        features = cached_features(trunk, valid_pictures, made_from, "validation pictures")
        valid_loader = DataLoader(features, batch_size)
        if augment:
            train_loader = TrunkLoader(trunk, train_loader)
        else:
            features = cached_features(trunk, train_pictures, made_from, "training pictures")
            train_loader = DataLoader(features, batch_size, shuffle=True, generator=seed)

    history = fit(
        head,
        train_loader,
        valid_loader,
        optimizer=optim,
        epochs=epochs,
        folder=out,
        resume=resume,
        on_epoch=on_epoch,
    )
    skipped = [*train_pictures.skipped, *valid_pictures.skipped]
    return finish_run(out, model, head, valid_loader, valid_pictures, history, skipped)


def load_pretrained(path: str | os.PathLike) -> VGG:
    """The model that minidl saved at `path`, or the VGG16 that somebody else did, with its preprocessing.

    Raises:
        WeightsError, CheckpointError: the file cannot be used.
    """
    model = load_model(path) if is_checkpoint(path) else load_vgg16(path)
    if model.preprocessing is None:
        raise WeightsError(
            f"{os.fspath(path)} does not say what its model expects of a picture: set model.preprocessing "
            "before it is saved"
        )
    return model


def _cut(model: VGG, train: str) -> tuple[Module | None, Sequential]:
    """(the frozen trunk, the head that learns): the same layers as the model's."""
    if train == "all":
        return None, model
    hidden = [name for name, layer in model.named_children() if isinstance(layer, ReLU)][-1]
    end = hidden if train == "last" and model.config["dense"] else "flatten"
    trunk = model.between(until=end)
    trunk.freeze()
    return trunk, model.between(after=end)


__all__ = ["finetune", "load_pretrained"]
