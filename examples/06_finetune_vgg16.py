"""Lesson 6: fine-tuning. A network that learned something else has a head start.

Take VGG16, which learned a thousand classes from a million photographs, replace its last dense layer by one
with two outputs, and train that on cats and dogs (fast.ai's course of 2016 begins with it). The other layers
know edges, textures, ears and eyes already; they stay as they are, or move a little.

Here is the whole story in a minute, with the very functions that fine-tune the real VGG16. In the place of
VGG16 stands a VGG of a few layers, in the place of ImageNet a book of ten drawn shapes, and the cats and dogs
are drawn too, sixty of them. Beside it stands what shows how much the head start is worth: the same
network without one.

    python examples/06_finetune_vgg16.py
"""

from __future__ import annotations

import argparse
import math
import os
import tempfile
import time
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import minidl as dl
from minidl import nn
from minidl.data import (
    SHAPES,
    DataLoader,
    ImageFolder,
    Preprocessing,
    TensorDataset,
    draw_cats_and_dogs,
    draw_shapes,
    save_pictures,
)
from minidl.models import VGG
from minidl.optim import Adam, CosineAnnealingLR
from minidl.training import History, Result, finetune, fit, save_checkpoint
from minidl.visualize import plot_confusion_matrix, plot_history

SIZE = 32  # pixels
PREPROCESSING = Preprocessing(size=SIZE, scale=1 / 255, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
CLASSES = ["cats", "dogs"]
TRAIN, VALID = 60, 300  # cats and dogs
SHAPES_TRAIN, SHAPES_VALID = 2500, 500
LEARNS = {"last": "last layer", "dense": "dense layers"}  # finetune(…, train=…)
EPOCHS, BATCH = 20, 20

REAL_VGG16 = """
With the real VGG16 it is the same. Have its file, and a folder of pictures with train/ and valid/ in it:

    minidl download vgg16

    import os
    from minidl.training import finetune

    weights = os.path.expanduser("~/.cache/minidl/vgg16-397923af.pth")  # or another, of PyTorch or Keras
    result = finetune("dogscats", weights, train="last", epochs=5)
    print(result.predictions.accuracy, result.predictions.confusion_matrix())

or, without any Python,

    minidl finetune dogscats --weights ~/.cache/minidl/vgg16-397923af.pth --epochs 5

The network itself, with its thousand classes, is minidl.weights.load.load_vgg16(weights)."""


def small_vgg(num_classes: int) -> VGG:
    """VGG16 with three blocks instead of five and few channels, for pictures of 32 × 32 pixels."""
    model = VGG([[16], [32], [64]], [128], num_classes, pooled=4, batch_norm=True, dropout=0.0)
    nn.init.normal_(model[model.last].weight, std=0.01)  # at first every class is as likely as any other
    model.preprocessing = PREPROCESSING
    return model


def learn(model: VGG, train: DataLoader, valid: DataLoader, epochs: int) -> History:
    """All layers, with Adam, the learning rate going down to 0 along a cosine."""
    optimizer = Adam(model.parameters(), lr=2e-3)
    schedule = CosineAnnealingLR(optimizer, T_max=epochs * len(train))
    return fit(model, train, valid, optimizer=optimizer, epochs=epochs, schedule=schedule)


def pretrain() -> VGG:
    """Ten drawn shapes, in the place of ImageNet's thousand classes."""
    pixels, labels = draw_shapes(SHAPES_TRAIN + SHAPES_VALID, SIZE)
    x = PREPROCESSING.normalize(pixels)
    train, valid = x[:SHAPES_TRAIN], x[SHAPES_TRAIN:]
    mirrored = np.concatenate([train, train[..., ::-1]])  # a mirrored star is a star
    twice = np.concatenate([labels[:SHAPES_TRAIN]] * 2)
    model = small_vgg(len(SHAPES))
    history = learn(
        model,
        DataLoader(TensorDataset(mirrored, twice), BATCH, shuffle=True),
        DataLoader(TensorDataset(valid, labels[SHAPES_TRAIN:]), 100),
        epochs=3,
    )
    print(f"It recognises {history['valid_accuracy'][-1]:.0%} of {SHAPES_VALID} shapes that are new to it.")
    return model


def from_scratch(folder: Path) -> History:
    """The same network, with two outputs and no past, on the same pictures."""
    train, valid = (ImageFolder(folder / part, PREPROCESSING.transform()) for part in ("train", "valid"))
    return learn(
        small_vgg(len(CLASSES)),
        DataLoader(train, BATCH, shuffle=True, num_workers=2),
        DataLoader(valid, BATCH, num_workers=2),
        EPOCHS,
    )


def report(before: str, learns: str, history: History, seconds: float) -> None:
    """A row of the table: the last epoch. The best is chosen by the very pictures that measure it."""
    accuracy, loss = history["valid_accuracy"][-1], history["valid_loss"][-1]
    error = math.sqrt(accuracy * (1 - accuracy) / VALID)
    print(f"  {before:<15} {learns:<14} {accuracy:>7.3f} ± {error:.3f} {loss:>10.3f} {seconds:>9.1f}")


def draw_gallery(result: Result, out: Path) -> None:
    """The pictures to look at: where the network was sure and wrong, and where it could not decide."""
    predictions = result.predictions
    rows = {
        "sure, and wrong": predictions.most_confident(right=False, k=8),
        "undecided": predictions.most_uncertain(k=8),
    }
    figure = Figure(figsize=(12, 4.2), layout="constrained", dpi=120)
    grid = figure.subplots(len(rows), 8)
    for panels, (title, indices) in zip(grid, rows.items(), strict=True):
        for axes in panels:
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_visible(False)
        panels[0].set_ylabel(title, fontsize=11)
        for axes, i in zip(panels, indices.tolist(), strict=False):
            axes.imshow(result.valid.picture(i), interpolation="nearest")
            truth, guess = CLASSES[predictions.targets[i]][:-1], CLASSES[predictions.predicted[i]][:-1]
            words = f"{guess} {predictions.confidence[i]:.2f}"
            right = truth == guess
            axes.set_title(words if right else f"{truth}, taken\nfor {words}", fontsize=10)
            axes.title.set_color("black" if right else "#b23a24")
    figure.savefig(out / "gallery.png")


def main() -> None:
    parser = argparse.ArgumentParser(description="Fine-tune a VGG on cats and dogs.")
    parser.add_argument("--out", type=Path, default=Path("runs/examples/06_finetune_vgg16"))
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        tell(Path(folder), out)
    print(f"\nThe pictures are in {out}/")
    print(REAL_VGG16)


def tell(work: Path, out: Path) -> None:
    """The story; files that are not worth keeping go to `work`, pictures to `out`."""
    os.environ["MINIDL_HOME"] = str(work)  # the features are kept there, usually for the next time
    dl.seed(0)
    folder = work / "dogscats"
    for part, count, seed in (("train", TRAIN, 0), ("valid", VALID, 1)):
        save_pictures(folder / part, *draw_cats_and_dogs(count, SIZE, seed), CLASSES)

    print("A small VGG learns ten shapes.")
    shapes, untrained = work / "shapes.safetensors", work / "untrained.safetensors"
    save_checkpoint(untrained, small_vgg(len(SHAPES)))
    save_checkpoint(shapes, pretrain())

    print(f"\nIt learns cats from dogs: {TRAIN} drawings, {EPOCHS} epochs. Then, on {VALID} others:\n")
    print(f"  {'pre-trained on':<15} {'what learns':<14} {'accuracy':>15} {'log loss':>10} {'seconds':>9}")
    started = time.perf_counter()
    scratch = from_scratch(folder)
    report("nothing", "all layers", scratch, time.perf_counter() - started)
    results: dict[str, Result] = {}
    for weights, train in ((untrained, "last"), (shapes, "last"), (shapes, "dense")):
        started = time.perf_counter()
        # The last layer is replaced, and `train` says what learns. The layers below that are run once for
        # each picture and what they say is kept: an epoch is then a matter of milliseconds.
        results[f"{weights.stem}-{train}"] = result = finetune(
            folder,
            weights,
            train=train,
            epochs=EPOCHS,
            batch_size=BATCH,
            optimizer="adam",
            lr=3e-3,
            out=work / f"{weights.stem}-{train}",
        )
        before = "nothing" if weights is untrained else "shapes"
        report(before, LEARNS[train], result.history, time.perf_counter() - started)

    print("\n± is the standard error. Below the layers that learn, each picture is looked at once.")

    histories = {f"shapes, {LEARNS[t]}": results[f"shapes-{t}"].history for t in LEARNS}
    plot_history({"from scratch": scratch, **histories}).savefig(out / "curves.png")
    tuned = results["shapes-dense"]
    plot_confusion_matrix(tuned.predictions, CLASSES).savefig(out / "confusion.png")
    draw_gallery(tuned, out)


if __name__ == "__main__":
    main()
