"""The same pictures as in the report, and some of the network itself, from Python with matplotlib.

Each function returns a matplotlib Figure: `plot_history(history).savefig("curves.png")`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from minidl.errors import DataError, ShapeError, require
from minidl.training.history import History
from minidl.training.metrics import Predictions
from minidl.visualize.tiles import as_array, rescale, tile

COLOURS = ("#1f5f9e", "#be6516", "#3c7a4c", "#7c5496")  # one a run, as in the report


def _figure(width: float, height: float) -> Any:
    """An empty Figure of so many inches, known to nobody else: it is freed when it is dropped."""
    return require("matplotlib.figure", "plots").Figure(
        figsize=(width, height), layout="constrained", dpi=120
    )


def _clean(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e2dfd6", linewidth=0.8)
    axes.set_axisbelow(True)


def plot_history(histories: History | Mapping[str, History]) -> Any:
    """Loss and accuracy per epoch, validation solid and training dashed; several runs by name."""
    runs = {"": histories} if isinstance(histories, History) else dict(histories)
    if not runs or len(runs) > len(COLOURS):
        raise DataError(f"plot_history draws 1 to {len(COLOURS)} runs, got {len(runs)}")
    figure = _figure(9, 3.4)
    for axes, measure, unit in zip(figure.subplots(1, 2), ("loss", "accuracy"), (" (nats)", ""), strict=True):
        for (name, history), colour in zip(runs.items(), COLOURS, strict=False):
            for part, line in (("train", "--"), ("valid", "-")):
                values = [math.nan if y is None else y for y in history[f"{part}_{measure}"]]
                label = f"{name}, {part}" if name else part
                marker = "." if len(history) <= 40 else None
                axes.plot(
                    history["epoch"], values, line, color=colour, marker=marker, linewidth=1.5, label=label
                )
        axes.set_xlabel("epoch")
        axes.set_ylabel(measure + unit)
        axes.xaxis.get_major_locator().set_params(integer=True)
        _clean(axes)
    axes.legend(frameon=False)
    return figure


def plot_confusion_matrix(predictions: Predictions, classes: Sequence[str]) -> Any:
    """Rows are the true classes, columns the predicted ones; shade is the share of the row."""
    counts = predictions.confusion_matrix()
    shares = counts / counts.sum(axis=1, keepdims=True).clip(1)
    side = 1.8 + 0.55 * len(classes)
    figure = _figure(side, side)
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        ink = "white" if shares[row, column] > 0.5 else "black"
        axes.text(column, row, f"{count:,}", ha="center", va="center", color=ink)
    axes.set_xticks(range(len(classes)), classes, rotation=45 if len(classes) > 4 else 0)
    axes.set_yticks(range(len(classes)), classes)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.tick_params(length=0)
    return figure


def _gallery(pictures: Sequence[Any], titles: Sequence[str], columns: int) -> Any:
    """Pictures with a title each."""
    rows = math.ceil(len(pictures) / columns)
    figure = _figure(1.7 * columns, 2.1 * rows)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid:
        axes.axis("off")
    for axes, picture, title in zip(grid, pictures, titles, strict=False):
        axes.imshow(picture, cmap="gray", interpolation="nearest")
        axes.set_title(title, fontsize=8, parse_math=False)
    return figure


def show_batch(
    images: Any, labels: Any = None, classes: Sequence[str] | None = None, most: int = 16, columns: int = 8
) -> Any:
    """The first pictures of a batch as the network gets them, each rescaled to what a screen can show.

    Args:
        images: (N, 3, H, W) or (N, 1, H, W), in any range.
        labels: (N,) integers; with `classes` their names.
    """
    images = as_array(images)
    if images.ndim != 4 or images.shape[1] not in (1, 3) or not len(images):
        raise ShapeError(f"show_batch needs N ≥ 1 pictures (N, 3, H, W) or (N, 1, H, W), got {images.shape}")
    pictures = [rescale(image.transpose(1, 2, 0)).squeeze() for image in images[:most]]
    titles = [""] * len(pictures)
    if labels is not None:
        numbers = as_array(labels)[:most].tolist()
        titles = [str(i) if classes is None else classes[i] for i in numbers]
    return _gallery(pictures, titles, min(columns, len(pictures)))


def plot_top_losses(
    predictions: Predictions,
    classes: Sequence[str],
    picture: Callable[[int], Any],
    k: int = 8,
    columns: int = 4,
) -> Any:
    """The k pictures with the largest loss −ln p(true class), largest first.

    Args:
        picture: gives picture i of the predictions, uint8 (H, W, 3) or a Pillow image.
    """
    if not len(predictions):
        raise DataError("plot_top_losses needs at least one prediction, got none")
    given = predictions.probabilities[np.arange(len(predictions)), predictions.targets]
    worst = np.argsort(given, kind="stable")[:k].tolist()
    titles = []
    for i in worst:
        truth, guess = classes[int(predictions.targets[i])], classes[int(predictions.predicted[i])]
        loss = -math.log(max(float(given[i]), 1e-30))
        titles.append(f"{truth}, predicted {guess}\nloss {loss:.2f}")
    return _gallery([np.asarray(picture(i)) for i in worst], titles, min(columns, len(worst)))


def _sheet(pictures: np.ndarray, columns: int | None = None) -> Any:
    """One image made of many."""
    sheet = tile(pictures, columns)
    h, w = sheet.shape[:2]
    scale = 8 / max(h, w)
    figure = _figure(w * scale, h * scale)
    axes = figure.subplots()
    axes.imshow(sheet, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.axis("off")
    return figure


def show_filters(weight: Any, most: int = 64) -> Any:
    """The filters of a convolution, each rescaled to [0, 1].

    Args:
        weight: (O, C, KH, KW). With C = 3 each filter is a colour picture; otherwise a row shows the first 16
            channels of a filter in grey.
        most: show so many filters.
    """
    weight = as_array(weight)
    if weight.ndim != 4 or not weight.size:
        raise ShapeError(f"show_filters needs weights (O, C, KH, KW), got {weight.shape}")
    filters = np.stack([rescale(w) for w in weight[:most]])
    if filters.shape[1] == 3:
        return _sheet(filters.transpose(0, 2, 3, 1))
    filters = filters[:, :16]
    return _sheet(filters.reshape(-1, *filters.shape[2:]), columns=filters.shape[1])


def show_feature_maps(maps: Any, most: int = 64) -> Any:
    """What the channels of a layer answer to one picture, each rescaled to [0, 1].

    Args:
        maps: (C, H, W) or (1, C, H, W).
        most: show so many channels.
    """
    maps = as_array(maps)
    if maps.ndim == 4 and len(maps) == 1:
        maps = maps[0]
    if maps.ndim != 3 or not maps.size:
        raise ShapeError(
            f"show_feature_maps needs the maps of one picture, (C, H, W) or (1, C, H, W), got {maps.shape}"
        )
    return _sheet(np.stack([rescale(channel) for channel in maps[:most]]))


__all__ = [
    "plot_confusion_matrix",
    "plot_history",
    "plot_top_losses",
    "show_batch",
    "show_feature_maps",
    "show_filters",
]
