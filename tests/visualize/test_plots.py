from __future__ import annotations

import io

import numpy as np
import pytest

from minidl import Tensor
from minidl.errors import DataError, ShapeError
from minidl.training.history import History
from minidl.training.metrics import Predictions
from minidl.visualize import plots

pytest.importorskip("matplotlib")


def drawn(figure) -> bytes:
    """The picture, as PNG: everything a figure may complain about, it does here."""
    stream = io.BytesIO()
    figure.savefig(stream, dpi=40)
    return stream.getvalue()


def some_history(accuracy):
    row = {"train_loss": 0.5, "train_accuracy": accuracy, "valid_loss": 0.6, "valid_accuracy": accuracy}
    return History([{"epoch": e, "lr": 0.1, "seconds": 1.0, **row} for e in (1, 2, 3)])


def test_plot_history():
    figure = plots.plot_history(some_history(0.75))
    loss, accuracy = figure.axes
    assert [line.get_label() for line in loss.lines] == ["train", "valid"]
    assert list(accuracy.lines[1].get_ydata()) == [0.75] * 3
    assert drawn(figure).startswith(b"\x89PNG")


def test_plot_history_overlays_runs_and_leaves_out_what_was_not_measured():
    bare = History([{"epoch": 1, "train_loss": 0.5, "train_accuracy": 0.5}])
    figure = plots.plot_history({"a": some_history(0.7), "b": bare})
    lines = figure.axes[0].lines
    assert [line.get_label() for line in lines] == ["a, train", "a, valid", "b, train", "b, valid"]
    assert np.isnan(lines[3].get_ydata()).all()
    drawn(figure)


def test_plot_history_of_too_many_runs():
    with pytest.raises(DataError, match="1 to 4 runs, got 5"):
        plots.plot_history({str(i): some_history(0.5) for i in range(5)})


P = np.array([[0.9, 0.1], [0.3, 0.7], [0.0, 1.0]], np.float32)
PREDICTIONS = Predictions(P, np.array([0, 1, 0]), ["a", "b", "c"])


def test_plot_confusion_matrix():
    figure = plots.plot_confusion_matrix(PREDICTIONS, ["cat", "dog"])
    assert [text.get_text() for text in figure.axes[0].texts] == ["1", "1", "0", "1"]
    drawn(figure)


def test_plot_top_losses_begins_with_the_worst():
    figure = plots.plot_top_losses(
        PREDICTIONS, ["c$at", "d$og"], lambda i: np.full((4, 4, 3), i, np.uint8), k=2
    )
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[0].startswith("c$at, predicted d$og\nloss ")  # a dollar begins no formula
    assert titles[1] == "d$og, predicted d$og\nloss 0.36"
    drawn(figure)


def test_show_batch():
    images = Tensor(np.random.default_rng(0).standard_normal((3, 3, 8, 8), np.float32))
    figure = plots.show_batch(images, Tensor([0, 1, 1]), ["cat", "dog"])
    assert [axes.get_title() for axes in figure.axes] == ["cat", "dog", "dog"]
    drawn(figure)
    drawn(plots.show_batch(images[:, :1]))
    with pytest.raises(ShapeError, match=r"show_batch needs .* got \(3, 8, 8\)"):
        plots.show_batch(images[0])


@pytest.mark.parametrize(("channels", "shape"), [(3, (29, 29, 3)), (2, (89, 19))])
def test_show_filters(channels, shape):
    weight = np.random.default_rng(0).standard_normal((9, channels, 9, 9))
    figure = plots.show_filters(weight)
    assert figure.axes[0].images[0].get_array().shape == shape
    drawn(figure)


def test_show_feature_maps():
    maps = np.random.default_rng(0).random((1, 100, 5, 5))
    figure = plots.show_feature_maps(maps)
    assert figure.axes[0].images[0].get_array().shape == (47, 47)  # 8 × 8 of the 100
    with pytest.raises(ShapeError, match="the maps of one picture"):
        plots.show_feature_maps(np.zeros((2, 3, 4, 4)))
    with pytest.raises(ShapeError, match=r"show_filters needs weights"):
        plots.show_filters(np.zeros(3))
