"""The training loop, in plain sight: forward, loss, backward, step."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from minidl.backend import get_rng_state, set_rng_state
from minidl.errors import CheckpointError, GradientError, WeightsError
from minidl.functional import cross_entropy
from minidl.nn import Module
from minidl.optim import Optimizer
from minidl.progress import progress_bar
from minidl.recording import no_grad
from minidl.tensor import Tensor
from minidl.training.checkpoint import load_checkpoint, read_metadata, save_checkpoint
from minidl.training.history import History, Row
from minidl.training.interrupt import DeferredInterrupt, Interrupted
from minidl.training.metrics import accuracy

LAST, BEST = "last.safetensors", "best.safetensors"
Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass
class Totals:
    """Sums over the pictures seen so far in an epoch, and the seconds it took to see them."""

    loss: float = 0.0
    right: float = 0.0
    pictures: int = 0
    seconds: float = 0.0

    def add(self, loss: float, logits: Tensor, targets: Tensor) -> None:
        """Count a batch of mean loss `loss`."""
        n = len(targets)
        self.loss += loss * n
        self.right += accuracy(logits.numpy(), targets.numpy()) * n
        self.pictures += n

    def mean(self) -> tuple[float, float]:
        """(loss, accuracy) a picture."""
        n = max(self.pictures, 1)
        return self.loss / n, self.right / n


@dataclass
class Progress:
    """How far the training is: so many whole epochs, and so many batches of the next one."""

    epoch: int = 0
    batch: int = 0
    totals: Totals = field(default_factory=Totals)
    history: History = field(default_factory=History)


def fit(
    model: Module,
    train_loader: Any,
    valid_loader: Any = None,
    *,
    optimizer: Optimizer,
    epochs: int,
    loss: Loss = cross_entropy,
    schedule: Any = None,
    folder: str | os.PathLike | None = None,
    resume: bool = False,
    save_every: float = 60.0,
    on_epoch: Callable[[Row], None] | None = None,
) -> History:
    """Train `model` until it has seen `epochs` epochs of `train_loader`.

    Parts of the model whose parameters are all frozen stay in eval mode: their dropout passes everything
    and their running statistics stand still.

    Args:
        train_loader: a DataLoader, or what has its `set_epoch`, `seed` and `len()`.
        valid_loader: what to validate on after each epoch.
        loss: (logits (N, C), targets (N,)) → the mean over the batch.
        schedule: of the learning rate; stepped after every step of the optimizer, not every epoch.
        folder: where to keep `last.safetensors`, from which an interrupted run continues, `best.safetensors`,
            the model of the best epoch, and the history.
        resume: continue from `folder` if a checkpoint is there. With the same arguments the weights at the
            end are those of an uninterrupted run, bit for bit.
        save_every: seconds between two checkpoints within an epoch. There is one at the end of each, too.
        on_epoch: called with each new row of the history.

    Raises:
        GradientError: the loss, in training or validation, is not finite; names the step. The last
            checkpoint is from before it.
        Interrupted: Ctrl-C was pressed; the step was finished and the checkpoint saved.
        CheckpointError: a checkpoint could not be written, or is of another model or run.
    """
    if folder is not None:
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
    progress = Progress()
    if folder is not None and resume and (folder / LAST).exists():
        progress = _resume(folder / LAST, model, optimizer, schedule, train_loader)
    device = next(model.parameters()).device

    def save() -> None:
        if folder is not None:
            _save(folder / LAST, progress, model, optimizer, schedule, train_loader)

    with DeferredInterrupt() as interrupt:
        while progress.epoch < epochs:
            totals = progress.totals
            started = time.perf_counter() - totals.seconds
            saved = time.perf_counter()
            _train_mode(model)
            train_loader.set_epoch(progress.epoch, progress.batch)
            title = f"epoch {progress.epoch + 1}/{epochs}"
            with progress_bar(len(train_loader), title, "batch", progress.batch) as bar:
                for x, y in train_loader:
                    x, y = x.to(device), y.to(device)
                    logits = model(x)
                    cost = loss(logits, y)
                    place = f"in epoch {progress.epoch + 1} at batch {progress.batch + 1}"
                    _check_finite(cost.item(), place, optimizer)
                    optimizer.zero_grad()
                    cost.backward()
                    optimizer.step()
                    if schedule is not None:
                        schedule.step()

                    progress.batch += 1
                    totals.add(cost.item(), logits, y)
                    totals.seconds = time.perf_counter() - started
                    bar.set_postfix_str("loss {:.4f}, accuracy {:.4f}".format(*totals.mean()))
                    bar.update()
                    if interrupt.requested:
                        save()
                        raise Interrupted(_farewell(progress, folder))
                    if time.perf_counter() - saved > save_every:
                        save()
                        saved = time.perf_counter()

            train_loss, train_accuracy = totals.mean()
            valid_loss = valid_accuracy = None
            if valid_loader is not None:
                valid_loss, valid_accuracy = evaluate(model, valid_loader, loss)
                _check_finite(valid_loss, f"in validation after epoch {progress.epoch + 1}", optimizer)
            row = progress.history.append(
                epoch=progress.epoch + 1,
                train_loss=train_loss,
                train_accuracy=train_accuracy,
                valid_loss=valid_loss,
                valid_accuracy=valid_accuracy,
                lr=optimizer.param_groups[0]["lr"],
                seconds=time.perf_counter() - started,
            )
            progress.epoch, progress.batch, progress.totals = progress.epoch + 1, 0, Totals()
            if folder is not None:
                if progress.history.best() is row:
                    save_checkpoint(folder / BEST, model)
                progress.history.save(folder)
            save()
            if on_epoch is not None:
                on_epoch(row)
            if interrupt.requested:
                raise Interrupted(_farewell(progress, folder))
    return progress.history


def evaluate(
    model: Module, loader: Iterable[tuple[Tensor, Tensor]], loss: Loss = cross_entropy
) -> tuple[float, float]:
    """(mean loss, accuracy) over the pictures of `loader`, the model in eval mode."""
    device = next(model.parameters()).device
    totals = Totals()
    model.eval()
    with no_grad():
        for x, y in loader:
            y = y.to(device)
            logits = model(x.to(device))
            totals.add(loss(logits, y).item(), logits, y)
    return totals.mean()


def _train_mode(model: Module) -> None:
    model.train()
    for module in model.modules():
        parameters = list(module.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            module.eval()


def _check_finite(loss: float, place: str, optimizer: Optimizer) -> None:
    if not math.isfinite(loss):
        raise GradientError(
            f"the loss is {loss} {place}: the learning rate of {optimizer.param_groups[0]['lr']:g} is "
            "probably too high, try a tenth of it"
        )


# What has to be kept so that the run can go on


def _save(
    path: Path, progress: Progress, model: Module, optimizer: Optimizer, schedule: Any, loader: Any
) -> None:
    training = {
        "epoch": progress.epoch,
        "batch": progress.batch,
        "totals": asdict(progress.totals),
        "history": progress.history.rows,
        "random": get_rng_state(),
        "schedule": None if schedule is None else schedule.state_dict(),
        "seed": loader.seed,
        "batches": len(loader),
    }
    save_checkpoint(path, model, optimizer, training)


def _resume(path: Path, model: Module, optimizer: Optimizer, schedule: Any, loader: Any) -> Progress:
    training = read_metadata(path).get("training")
    if training is None:
        raise CheckpointError(f"{path} holds a model only: no run can be resumed from it")
    try:
        if (training["seed"], training["batches"]) != (loader.seed, len(loader)):
            raise CheckpointError(
                f"{path} was trained on {training['batches']} batches with seed {training['seed']}, these "
                f"are {len(loader)} with seed {loader.seed}: resume with the pictures, batch size and seed "
                "of then"
            )
        history = History(training["history"])
        progress = Progress(training["epoch"], training["batch"], Totals(**training["totals"]), history)
        load_checkpoint(path, model, optimizer)
        if schedule is not None:
            schedule.load_state_dict(training["schedule"])
        set_rng_state(training["random"])
    except WeightsError:
        raise
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        raise CheckpointError(f"{path}: its notes on the run are damaged, so it cannot go on") from None
    return progress


def _farewell(progress: Progress, folder: Path | None) -> str:
    where = f"interrupted after epoch {progress.epoch}"
    if progress.batch:
        where = f"interrupted in epoch {progress.epoch + 1} after batch {progress.batch}"
    return where if folder is None else f"{where}; everything is saved in {folder}, resume from there"


__all__ = ["BEST", "LAST", "evaluate", "fit"]
