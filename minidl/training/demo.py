"""The lesson in one table: what was learned on one set of pictures helps on another.

A small VGG learns ten drawn shapes. Its last dense layer is replaced, and it learns cats from dogs on a few
hundred drawings. Beside it the same network learns the same pictures from nothing, in as many steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np

from minidl import backend
from minidl.data import DataLoader, Preprocessing, TensorDataset
from minidl.data.drawn import SHAPES, draw_cats_and_dogs, draw_shapes
from minidl.errors import require
from minidl.models import VGG
from minidl.nn import Flatten, Linear, Module, Sequential
from minidl.optim import AdamW, OneCycleLR
from minidl.training.checkpoint import save_checkpoint
from minidl.training.fit import fit
from minidl.training.history import History, Row
from minidl.training.metrics import Predictions, predict
from minidl.training.run import MODEL

SIZE = 32  # pixels
BLOCKS = ((16,), (32, 32), (64, 64))
DENSE = (128, 128)
CLASSES = ["cats", "dogs"]
SHAPES_COUNT, TRAIN_COUNT, VALID_COUNT = 5000, 400, 600
BATCH = 32
SHAPES_EPOCHS, EPOCHS = 4, 10
LR, FINETUNE_LR = 2e-3, 1e-3
Split = tuple[TensorDataset, TensorDataset]
PREPROCESSING = Preprocessing(size=SIZE, scale=1 / 255, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


@dataclass(frozen=True)
class DemoRun:
    """What one seed gave.

    Attributes:
        shapes, finetuned, scratch, linear: of the pre-training, and of three ways to learn the animals; the
            last is a linear model on the pixels, to show that the drawings are not too easy.
        model: the fine-tuned one, as it was after its last epoch.
        pictures: the validation pictures, (N, H, W, 3) uint8.
    """

    seed: int
    shapes: History
    finetuned: History
    scratch: History
    linear: History
    model: VGG
    predictions: Predictions
    pictures: np.ndarray

    @property
    def histories(self) -> dict[str, History]:
        """By the names that the table gives them."""
        return {
            "shapes": self.shapes,
            "fine-tuned": self.finetuned,
            "from scratch": self.scratch,
            "linear on pixels": self.linear,
        }


def run_demo(
    seeds: Sequence[int] = (0,),
    on_stage: Callable[[str], None] = lambda title: None,
    on_epoch: Callable[[Row], None] | None = None,
) -> list[DemoRun]:
    """Learn shapes, then cats and dogs, for each seed; the seed draws the pictures, weights and orders.

    Args:
        on_stage: called with what is done next.
        on_epoch: called with each row of each history.
    """
    return [_run(seed, on_stage, on_epoch) for seed in seeds]


def final_accuracy(history: History) -> float:
    """Of the last epoch: choosing the best one by the validation pictures would flatter them all."""
    return float(history.rows[-1]["valid_accuracy"] or 0.0)


def comparison_table(runs: Sequence[DemoRun]) -> str:
    """The accuracies on the validation pictures, a row for each seed and one for their mean."""
    rows = [[final_accuracy(history) for history in run.histories.values()] for run in runs]
    table = [f"{'seed':>6}" + "".join(f"{name:>20}" for name in runs[0].histories)]
    for run, row in zip(runs, rows, strict=True):
        table.append(f"{run.seed:>6}" + "".join(f"{value:>20.3f}" for value in row))
    means = [fmean(column) for column in zip(*rows, strict=True)]
    if len(runs) > 1:
        table.append("  mean" + "".join(f"{value:>20.3f}" for value in means))
    _, finetuned, scratch, _ = means
    table.append(
        f"What it learned from shapes is worth {100 * (finetuned - scratch):.1f} points on cats and dogs."
    )
    return "\n".join(table)


def save_demo(folder: Path, run: DemoRun) -> None:
    """The fine-tuned model and every history."""
    save_checkpoint(folder / MODEL, run.model)
    run.finetuned.save(folder)
    for name, history in run.histories.items():
        if history is not run.finetuned:
            (folder / name).mkdir(exist_ok=True)
            history.save(folder / name)


def _run(seed: int, on_stage: Callable[[str], None], on_epoch: Callable[[Row], None] | None) -> DemoRun:
    def learn(model: Module, data: Split, epochs: int, lr: float) -> History:
        train, valid = data
        loader = DataLoader(train, BATCH, shuffle=True, drop_last=True, generator=seed)
        optimizer = AdamW(model.parameters(), lr)
        schedule = OneCycleLR(optimizer, max_lr=lr, total_steps=epochs * len(loader))
        check = DataLoader(valid, BATCH)
        return fit(
            model, loader, check, optimizer=optimizer, epochs=epochs, schedule=schedule, on_epoch=on_epoch
        )

    backend.seed(seed)
    on_stage(f"{SHAPES_COUNT} drawings of {len(SHAPES)} shapes")
    shapes = _split(*draw_shapes(SHAPES_COUNT + VALID_COUNT, SIZE, seed), SHAPES_COUNT)
    pooled = SIZE // 2 ** len(BLOCKS)
    model = VGG(BLOCKS, DENSE, len(SHAPES), pooled=pooled, batch_norm=True, dropout=0.0)
    model.preprocessing = PREPROCESSING
    pretraining = learn(model, shapes, SHAPES_EPOCHS, LR)

    on_stage(f"the last dense layer replaced: {TRAIN_COUNT} drawings of cats and dogs")
    pictures, labels = draw_cats_and_dogs(TRAIN_COUNT + VALID_COUNT, SIZE, seed)
    animals = _split(pictures, labels, TRAIN_COUNT)
    model.replace_last(len(CLASSES), CLASSES)
    finetuned = learn(model, animals, EPOCHS, FINETUNE_LR)
    paths = [f"{CLASSES[label]} {i}" for i, label in enumerate(labels[TRAIN_COUNT:])]
    predictions = predict(model, DataLoader(animals[1], BATCH), paths)

    on_stage("the same network from scratch: the same drawings, as many steps")
    scratch = learn(VGG(**model.config), animals, EPOCHS, LR)

    on_stage("a linear model on the pixels")
    linear = learn(Sequential(Flatten(), Linear(3 * SIZE * SIZE, len(CLASSES))), animals, EPOCHS, LR)
    return DemoRun(seed, pretraining, finetuned, scratch, linear, model, predictions, pictures[TRAIN_COUNT:])


def _split(pictures: np.ndarray, labels: np.ndarray, n: int) -> Split:
    """The first n pictures to train on, the others to validate on, as the network wants them."""
    transform = PREPROCESSING.transform()
    image = require("PIL.Image", "images")
    x = np.stack([transform(image.fromarray(picture)) for picture in pictures])
    return TensorDataset(x[:n], labels[:n]), TensorDataset(x[n:], labels[n:])
