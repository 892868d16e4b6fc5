"""A training run and the folder it leaves: what every run has, whatever it trains.

run.json            what it depends on: its options and inputs
last.safetensors    where to continue from
model.safetensors   the model of the best epoch, complete, ready for use
history.json, .csv  the numbers of each epoch
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from minidl.data import ImageFolder
from minidl.data.cache import describe_files, digest
from minidl.errors import CheckpointError, DataError, require
from minidl.files import write_text
from minidl.models import VGG
from minidl.nn import Module
from minidl.optim import SGD, Adam, AdamW, Optimizer, RMSprop
from minidl.training.checkpoint import load_checkpoint, save_checkpoint
from minidl.training.fit import BEST, LAST
from minidl.training.history import History
from minidl.training.metrics import Predictions, predict

OPTIONS, MODEL = "run.json", "model.safetensors"

OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "sgd": partial(SGD, momentum=0.9),
    "adam": Adam,
    "adamw": AdamW,
    "rmsprop": RMSprop,
}


@dataclass(frozen=True)
class Result:
    """What a run leaves.

    Attributes:
        folder: where its files are.
        model: with the weights of the best epoch, in eval mode.
        history: of all epochs.
        predictions: of the best epoch for the validation pictures.
        valid: the validation pictures.
        skipped: (path, reason) of each picture that could not be read.
    """

    folder: Path
    model: VGG
    history: History
    predictions: Predictions
    valid: ImageFolder
    skipped: Sequence[tuple[str, str]]


def make_optimizer(name: str, parameters: Any, lr: float, **options: float) -> Optimizer:
    """The optimizer called `name`; SGD has momentum 0.9.

    Raises:
        DataError: there is none of that name.
    """
    if name not in OPTIMIZERS:
        raise DataError(f"no optimizer called {name!r}: expected one of {', '.join(OPTIMIZERS)}")
    return OPTIMIZERS[name](parameters, lr=lr, **options)


def new_folder(name: str) -> Path:
    """`runs/<name>-<date>-<time>`, of this second."""
    return Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"


def describe_pictures(*folders: ImageFolder) -> str:
    """What tells whether the pictures are still the same: a digest of their paths, sizes and times."""
    return digest(describe_files([path for folder in folders for path, _ in folder.samples]))


def start_run(
    folder: Path,
    command: str,
    options: Mapping[str, Any],
    inputs: Mapping[str, Any],
    resume: bool,
    may_change: Sequence[str] = (),
) -> None:
    """Make the folder and note in it what the run depends on; to resume one, check that this is the same.

    A folder in which nothing was learned yet is written over: there is nothing to lose.

    Args:
        command: which kind of run it is.
        options: the arguments of the run, JSON-able.
        inputs: what tells whether the files that it reads are still the same, JSON-able.
        resume: whether a run that is there is to be continued.
        may_change: options that need not be those of then.

    Raises:
        CheckpointError: there is a run already and it is not to be resumed, or it depends on something else.
        DataError: there would be no epoch.
    """
    for module, extra in (("PIL.Image", "images"), ("safetensors", "weights")):
        require(module, extra)  # better said now than when it is needed, after an hour
    if options["epochs"] < 1:
        raise DataError(f"epochs must be at least 1, got {options['epochs']}")
    now = json.loads(json.dumps({"command": command, "options": options, "inputs": inputs}))
    if any((folder / name).exists() for name in (LAST, MODEL)):
        if not resume:
            raise CheckpointError(f"{folder} holds a run already: resume it, or choose another folder")
        then = _read(folder, command)
        for name, value in now["options"].items():
            if name not in may_change and value != then["options"].get(name):
                raise CheckpointError(
                    f"{folder} was started with {name} = {then['options'].get(name)!r}, and is to be resumed "
                    f"with {value!r}: the result would be neither run's"
                )
        for name, value in now["inputs"].items():
            if value != then["inputs"].get(name):
                raise CheckpointError(f"{folder} cannot be resumed: the {name} changed since it was started")
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / OPTIONS, json.dumps(now, indent=1) + "\n")


def read_options(folder: str | os.PathLike, command: str) -> dict[str, Any]:
    """The arguments that the run in `folder` was started with.

    Raises:
        CheckpointError: there is no run in the folder, one of another command, or its notes cannot be read.
    """
    return _read(Path(folder), command)["options"]


def _read(folder: Path, command: str) -> dict[str, Any]:
    try:
        notes = json.loads((folder / OPTIONS).read_text(encoding="utf-8"))
        found = notes["command"], dict(notes["options"]), dict(notes["inputs"])
    except OSError as error:
        raise CheckpointError(f"{folder} holds no run: {OPTIONS}: {error.strerror or error}") from None
    except (ValueError, TypeError, KeyError):
        raise CheckpointError(f"{folder / OPTIONS} is damaged") from None
    if found[0] != command:
        raise CheckpointError(f"{folder} holds a run of minidl {found[0]}, not of minidl {command}")
    return notes


def finish_run(
    folder: Path,
    model: VGG,
    trained: Module,
    valid_loader: Any,
    valid: ImageFolder,
    history: History,
    skipped: Sequence[tuple[str, str]],
) -> Result:
    """Put the best epoch's weights into `trained`, part or all of `model`, and write `model.safetensors`."""
    best = folder / BEST
    if best.exists():
        load_checkpoint(best, trained)
    else:  # the run had been finished before, and no epoch since was better
        load_checkpoint(folder / MODEL, model)
    model.eval()
    predictions = predict(trained, valid_loader, [path for path, _ in valid.samples])
    if best.exists():
        validation = {"accuracy": predictions.accuracy, "pictures": len(predictions)}
        save_checkpoint(folder / MODEL, model, training={"validation": validation})
        best.unlink()
    return Result(folder, model, history, predictions, valid, skipped)


__all__ = [
    "MODEL",
    "OPTIMIZERS",
    "Result",
    "describe_pictures",
    "finish_run",
    "make_optimizer",
    "new_folder",
    "read_options",
    "start_run",
]
