"""Lesson 5: train a small convolutional network, with every step in sight, and the checks that come first.

A training run that goes wrong raises no error: it only learns badly. So, before the long run, ask what must
be true of any network that is right (CS231n, "Babysitting the learning process"):

    the loss at the start is ln C     who knows nothing gives each of C classes 1/C, and −ln 1/C = ln C
    twenty pictures can be learned    by heart, to a loss of nearly 0; if they cannot, something is broken
    a step moves the weights little   ‖Δw‖ / ‖w‖ is some 10⁻³: far less is too slow, far more is noise

    python examples/05_train_a_small_cnn.py
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import minidl as dl
from minidl import functional as F
from minidl import nn
from minidl.data import SHAPES, draw_shapes
from minidl.optim import Adam
from minidl.training import accuracy
from minidl.visualize import rescale, tile

CLASSES = list(SHAPES)
SIZE = 32  # pixels
TRAIN, VALID = 3000, 500
EPOCHS, BATCH, LR = 5, 32, 3e-3
STAR = 4  # which of the validation stars is looked at in every layer
MEASURE = 5  # steps from one measurement of ‖Δw‖ / ‖w‖ to the next
COLOURS = {"conv1": "#1f5f9e", "conv2": "#be6516", "conv3": "#3c7a4c", "fc": "#7c5496"}

Data = tuple[np.ndarray, np.ndarray]  # pictures (N, 3, H, W) and labels (N,)


def draw_data(n: int) -> Data:
    """n drawings as the network wants them: channels first, and each of mean 0 and standard deviation 1.

    How light a picture is, and of what colour, says nothing of the shape in it.
    """
    pixels, labels = draw_shapes(n, SIZE)
    x = pixels.transpose(0, 3, 1, 2).astype(np.float32)
    x -= x.mean(axis=(2, 3), keepdims=True)
    x /= x.std(axis=(1, 2, 3), keepdims=True)
    return x, labels


def make_model() -> nn.Sequential:
    """Three times convolution, ReLU and pooling, then a dense layer: (N, 3, 32, 32) → (N, 10) logits."""
    model = nn.Sequential(
        {
            "conv1": nn.Conv2d(3, 16, 5, padding=2),
            "relu1": nn.ReLU(),
            "pool1": nn.MaxPool2d(2),  # 16 × 16 pixels are left
            "conv2": nn.Conv2d(16, 32, 3, padding=1),
            "relu2": nn.ReLU(),
            "pool2": nn.MaxPool2d(2),  # 8 × 8
            "conv3": nn.Conv2d(32, 64, 3, padding=1),
            "relu3": nn.ReLU(),
            "pool3": nn.MaxPool2d(2),  # 4 × 4
            "flatten": nn.Flatten(),
            "fc": nn.Linear(64 * 4 * 4, len(CLASSES)),
        }
    )
    for name in ("conv1", "conv2", "conv3"):
        nn.init.kaiming_normal_(model[name].weight)
        nn.init.zeros_(model[name].bias)
    # Small filters in the first layer, so that what they learn is not hidden under what they started with;
    # small weights in the last, so that at first every class is as likely as any other.
    nn.init.normal_(model["conv1"].weight, std=0.02)
    nn.init.normal_(model["fc"].weight, std=0.01)
    nn.init.zeros_(model["fc"].bias)
    return model


# Before the long run


def check_loss_at_start(data: Data) -> None:
    x, y = data
    with dl.no_grad():
        loss = F.cross_entropy(make_model()(dl.Tensor(x)), y).item()
    expected = math.log(len(CLASSES))
    print(f"1. The loss at the start is {loss:.4f}; ln {len(CLASSES)} = {expected:.4f}.")
    assert abs(loss - expected) < 0.05, "the network prefers some classes before it has seen anything"


def check_learns_by_heart(data: Data) -> None:
    """Twenty pictures, again and again."""
    x, y = dl.Tensor(data[0][:20]), data[1][:20]
    model = make_model()
    optimizer = Adam(model.parameters(), lr=LR)
    print("\n2. Twenty pictures, learned by heart:")
    for step in range(26):
        logits = model(x)
        loss = F.cross_entropy(logits, y)
        if step % 5 == 0:
            right = int((logits.numpy().argmax(axis=1) == y).sum())
            print(f"   step {step:2d}   loss {loss.item():7.4f}   {right:2d} of 20 right")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.01, "a network that cannot learn twenty pictures by heart is broken"


# The long run


@dataclass
class Record:
    """What was measured: the loss of each step, and now and then the rest."""

    losses: list[float] = field(default_factory=list)
    measured_at: list[int] = field(default_factory=list)  # the steps of the ratios
    ratios: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in COLOURS})
    accuracies: list[float] = field(default_factory=list)  # on the validation pictures, after each epoch


def train(model: nn.Sequential, train_data: Data, valid_data: Data) -> Record:
    """Forward, loss, backward, step; that is all there is."""
    x, y = train_data
    optimizer = Adam(model.parameters(), lr=LR)
    rng = np.random.default_rng(0)
    record = Record()
    batches = len(x) // BATCH
    print(f"\n3. {len(x)} pictures, {EPOCHS} epochs of {batches} steps:")
    for epoch in range(EPOCHS):
        started = time.perf_counter()
        order = rng.permutation(len(x))
        for batch in range(batches):
            step = len(record.losses)
            optimizer.param_groups[0]["lr"] = LR * (1 - step / (EPOCHS * batches))  # down to 0 in a line
            chosen = order[batch * BATCH : (batch + 1) * BATCH]
            pictures = x[chosen]
            if rng.random() < 0.5:  # a mirrored star is a star
                pictures = pictures[..., ::-1]

            loss = F.cross_entropy(model(dl.Tensor(pictures)), y[chosen])
            optimizer.zero_grad()
            loss.backward()
            before = {name: model[name].weight.numpy().copy() for name in COLOURS}
            optimizer.step()

            record.losses.append(loss.item())
            if step % MEASURE == 0:
                record.measured_at.append(step)
                for name, old in before.items():
                    moved = np.linalg.norm(model[name].weight.numpy() - old)
                    record.ratios[name].append(float(moved / np.linalg.norm(old)))
        record.accuracies.append(accuracy(predict(model, valid_data[0]), valid_data[1]))
        print(
            f"   epoch {epoch + 1}   training loss {np.mean(record.losses[-batches:]):.3f}   "
            f"validation accuracy {record.accuracies[-1]:.3f}   {time.perf_counter() - started:.1f} s"
        )
    print("\n   ‖Δw‖ / ‖w‖ of a step, the median over the run:")
    for name, ratios in record.ratios.items():
        print(f"   {name:<6} {np.median(ratios):.1e}")
    return record


def predict(model: nn.Sequential, x: np.ndarray) -> np.ndarray:
    """Probabilities (N, 10)."""
    with dl.no_grad():
        return F.softmax(model(dl.Tensor(x)), axis=1).numpy()


# Pictures


def draw_training(record: Record, out: Path) -> None:
    figure = Figure(figsize=(13, 3.8), layout="constrained", dpi=150)
    left, middle, right = figure.subplots(1, 3)
    per_epoch = len(record.losses) / EPOCHS
    steps = np.arange(len(record.losses)) / per_epoch
    left.plot(steps, record.losses, color="#b9cde2", linewidth=0.8, label="of each batch")
    width = 25
    smooth = np.convolve(record.losses, np.ones(width) / width, mode="valid")
    left.plot(steps[width - 1 :], smooth, color="#1f5f9e", linewidth=2, label=f"mean of the last {width}")
    left.axhline(math.log(len(CLASSES)), color="#999", linestyle=":", linewidth=1.2)
    left.text(EPOCHS, math.log(len(CLASSES)) + 0.04, "ln 10", ha="right", color="#666")
    left.set_ylim(0, max(record.losses) + 0.1)
    left.set_title("training loss (nats)")
    left.legend(frameon=False, loc="lower left")

    middle.plot(range(1, EPOCHS + 1), record.accuracies, ".-", color="#1f5f9e", linewidth=2, markersize=9)
    middle.axhline(1 / len(CLASSES), color="#999", linestyle=":", linewidth=1.2)
    middle.text(EPOCHS, 1 / len(CLASSES) + 0.02, "guessing", ha="right", color="#666")
    middle.set_xticks(range(1, EPOCHS + 1))
    middle.set_ylim(0, 1)
    middle.set_title("validation accuracy")

    for name, ratios in record.ratios.items():
        right.semilogy(
            np.array(record.measured_at) / per_epoch, ratios, color=COLOURS[name], linewidth=1.2, label=name
        )
    right.axhline(1e-3, color="#999", linestyle=":", linewidth=1.2)
    right.set_title("how far a step moves the weights, ‖Δw‖ / ‖w‖")
    right.legend(frameon=False, loc="lower left")
    for axes in (left, middle, right):
        axes.set_xlabel("epoch")
        axes.grid(axis="y", color="#e2dfd6", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(out / "training.png")


def draw_filters(before: np.ndarray, after: np.ndarray, out: Path) -> None:
    """The sixteen 5 × 5 filters of the first layer as colour pictures, at the start and at the end."""
    figure = Figure(figsize=(9.6, 5), layout="constrained", dpi=120)
    titles = ("first-layer filters before training", "and after it")
    for axes, weight, title in zip(figure.subplots(1, 2), (before, after), titles, strict=True):
        # One scale for all filters of a sheet, and grey for 0: strong ones look strong.
        largest = np.abs(weight).max()
        pictures = 0.5 + 0.5 * weight.transpose(0, 2, 3, 1) / largest
        axes.imshow(tile(pictures, columns=4), interpolation="nearest")
        axes.set_title(f"{title}\n(grey is 0, the brightest colour {largest:.2f})", fontsize=11)
        axes.axis("off")
    figure.savefig(out / "filters.png")


def draw_feature_maps(model: nn.Sequential, picture: np.ndarray, out: Path) -> None:
    """A picture, and what sixteen channels of each convolution answer to it."""
    maps: dict[str, np.ndarray] = {}
    hooks = [
        model[name].register_forward_hook(lambda _, inputs, y, name=name: maps.update({name: y.numpy()[0]}))
        for name in ("relu1", "relu2", "relu3")
    ]
    predict(model, picture[None])
    for hook in hooks:
        hook.remove()

    figure = Figure(figsize=(14, 4), layout="constrained", dpi=130)
    first, *others = figure.subplots(1, 4)
    first.imshow(rescale(picture.transpose(1, 2, 0)), interpolation="nearest")
    first.set_title("the picture")
    first.axis("off")
    for axes, (name, values) in zip(others, maps.items(), strict=True):
        strongest = np.argsort(-values.max(axis=(1, 2)), kind="stable")[:16]  # ReLU silences the others
        chosen = np.stack([rescale(values[c]) for c in sorted(strongest)])
        # Not a number is drawn as nothing: white between the maps.
        sheet = tile(chosen, columns=4, background=math.nan)
        axes.imshow(sheet, cmap="magma", vmin=0, vmax=1, interpolation="nearest")
        axes.set_title(f"after {name}: 16 of {len(values)} maps, {values.shape[1]} × {values.shape[2]}")
        axes.axis("off")
    figure.savefig(out / "feature_maps.png")


def draw_predictions(model: nn.Sequential, data: Data, out: Path) -> None:
    """The first pictures that were recognised, and the surest of those that were not."""
    x, y = data
    probabilities = predict(model, x)
    guess, sure = probabilities.argmax(axis=1), probabilities.max(axis=1)
    right = np.flatnonzero(guess == y)[:16]
    wrong = np.flatnonzero(guess != y)
    wrong = wrong[np.argsort(-sure[wrong], kind="stable")][:8]

    figure = Figure(figsize=(12, 5.4), layout="constrained", dpi=120)
    for axes in (panels := figure.subplots(3, 8).ravel()):
        axes.axis("off")
    for axes, i in zip(panels, [*right, *wrong], strict=False):
        axes.imshow(rescale(x[i].transpose(1, 2, 0)), interpolation="nearest")
        if guess[i] == y[i]:
            axes.set_title(f"{CLASSES[y[i]]}  {sure[i]:.2f}", fontsize=10)
        else:
            title = f"{CLASSES[y[i]]}, taken for\n{CLASSES[guess[i]]}  {sure[i]:.2f}"
            axes.set_title(title, fontsize=10, color="#b23a24")
    figure.savefig(out / "predictions.png")


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a small CNN, and check it first.")
    parser.add_argument("--out", type=Path, default=Path("runs/examples/05_train_a_small_cnn"))
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)

    dl.seed(0)
    x, y = draw_data(TRAIN + VALID)
    train_data, valid_data = (x[:TRAIN], y[:TRAIN]), (x[TRAIN:], y[TRAIN:])
    check_loss_at_start(valid_data)
    check_learns_by_heart(train_data)

    model = make_model()
    filters = model["conv1"].weight.numpy().copy()
    record = train(model, train_data, valid_data)
    draw_training(record, out)
    draw_filters(filters, model["conv1"].weight.numpy(), out)
    star = np.flatnonzero(valid_data[1] == CLASSES.index("star"))[STAR]
    draw_feature_maps(model, valid_data[0][star], out)
    draw_predictions(model, valid_data, out)
    print(f"\nThe pictures are in {out}/")


if __name__ == "__main__":
    main()
