"""The report of a training run: one HTML file that needs nothing else, to be sent to somebody."""

from __future__ import annotations

import base64
import io
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from minidl.errors import DataError, require
from minidl.files import write_text
from minidl.training.history import History
from minidl.training.metrics import Predictions
from minidl.visualize.style import STYLE
from minidl.visualize.svg import Curve, line_chart

PICTURE_SIDE = 200  # pixels; larger pictures are made smaller
SMALL_PICTURE = 64  # pixels; up to this size every pixel is kept and shown as a square
GALLERY = 8  # pictures in a gallery
MOST_CLASSES = 12  # so many get a gallery each and a row of the confusion matrix
MOST_RUNS = 4  # colours of the style sheet
EPOCH_HEADS = (
    "epoch",
    "training loss",
    "accuracy",
    "validation loss",
    "accuracy",
    "learning rate",
    "seconds",
)


@dataclass(frozen=True)
class _Album:
    """What a gallery shows: the predictions, the names of the classes, and how to get at a picture."""

    predictions: Predictions
    classes: Sequence[str]
    picture: Callable[[int], Any]


def write_report(
    path: str | os.PathLike,
    *,
    title: str,
    history: History | None,
    predictions: Predictions,
    classes: Sequence[str],
    picture: Callable[[int], Any],
    facts: Mapping[str, object] | None = None,
    name: str = "this run",
    comparison: Mapping[str, History] | None = None,
) -> None:
    """Write the report to `path`, atomically.

    It has the accuracy with its standard error, the curves, the confusion matrix, galleries of right, wrong,
    surest and least certain predictions, and a table of facts. There are at most MOST_CLASSES · 2 + 3
    galleries of GALLERY pictures, so the file stays below a few megabytes however large the data set is.

    Args:
        history: the epochs of the run, None where a model was evaluated and not trained.
        predictions: for the validation pictures.
        classes: the C names.
        picture: gives picture i of the predictions, uint8 (H, W, 3) or a Pillow image. One that cannot be
            read any more (OSError, DataError) leaves its place empty.
        facts: what else to tell: model, weights, seed, device … The value of "command" is set as code.
        name: what to call this run beside those of `comparison`.
        comparison: the histories of up to three other runs on the same pictures, by name.

    Raises:
        DataError: there are no predictions, or not one name for each class.
    """
    num_classes = predictions.probabilities.shape[1]
    if len(classes) != num_classes:
        raise DataError(f"a report needs a name for each of the {num_classes} classes, got {len(classes)}")
    if not len(predictions):
        raise DataError("a report needs at least one prediction, got none: is the validation folder empty?")
    histories = {} if history is None else {name: history}
    histories.update(comparison or {})
    if len(histories) > MOST_RUNS:
        raise DataError(f"a report compares up to {MOST_RUNS} runs, got {len(histories)}")

    album = _Album(predictions, classes, picture)
    body = [
        _headline(title, predictions),
        _runs(histories, len(predictions)) if len(histories) > 1 else "",
        _learning(histories) if any(len(h) for h in histories.values()) else "",
        _confusion(predictions, classes),
        _galleries(album),
        _facts(facts or {}),
    ]
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"  # a promise: nothing is loaded
    page = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(part for part in body if part)
        + "\n</body>\n</html>\n"
    )
    # A file name that is no valid UTF-8 holds lone surrogates, which cannot be written: show them as \udcff.
    write_text(path, page.encode("utf-8", "backslashreplace").decode("utf-8"))


# Numbers


def _percent(fraction: float, digits: int = 1) -> str:
    return f"{100 * fraction:.{digits}f}&#8239;%"


def _probability(p: float) -> str:
    """A probability that rounds to 1 is not certainty."""
    return f"&gt;&#8239;{_percent(0.999)}" if p >= 0.9995 else _percent(p)


def _headline(title: str, predictions: Predictions) -> str:
    n, wrong = len(predictions), int((~predictions.right).sum())
    if wrong:
        doubt = f"± {_percent(predictions.standard_error)}"
        note = f"± is one standard error: how much an accuracy measured on {n:,} pictures varies by chance."
    else:  # √(a (1 − a) / N) = 0 would claim certainty; the rule of three does not
        doubt = ""
        limit = _percent(min(1.0, 3 / n))
        note = f"With no mistake in {n:,}, the true error rate is below {limit} (95&#8239;% confidence)."
    return (
        f"<h1>{escape(title)}</h1>\n"
        f'<p class="result">{_percent(predictions.accuracy)}<small>{doubt}</small></p>\n'
        f'<p class="lede">{n - wrong:,} of {n:,} validation pictures are classified correctly.</p>\n'
        f'<p class="soft">{note}</p>'
    )


def _runs(histories: Mapping[str, History], n: int) -> str:
    """The comparison of several runs: one row each."""
    rows = []
    for name, history in histories.items():
        if not len(history):
            continue
        last, a = history.rows[-1], history.rows[-1]["valid_accuracy"]
        accuracy = "–" if a is None else f"{_percent(a)} ± {_percent(math.sqrt(a * (1 - a) / n))}"
        seconds = sum(s for s in history["seconds"] if s is not None)
        cells = (accuracy, _number(last["valid_loss"]), f"{len(history)}", f"{seconds:.0f} s")
        rows.append(_row(escape(name), cells))
    heads = ("run", "accuracy", "loss", "epochs", "time")
    note = '<p class="soft">Validation, after the last epoch of each run.</p>'
    return _table("numbers runs", heads, rows) + note


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _row(head: str, cells: Iterable[str]) -> str:
    return f'<tr><th scope="row">{head}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'


def _table(style: str, heads: Iterable[str], rows: Iterable[str]) -> str:
    head = "".join(f'<th scope="col">{head}</th>' for head in heads)
    return (
        f'<div class="scroll"><table class="{style}"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _facts(facts: Mapping[str, object]) -> str:
    if not facts:
        return ""
    pairs = []
    for key, value in facts.items():
        text = escape(str(value))
        pairs.append(f"<dt>{escape(key)}</dt><dd>{f'<code>{text}</code>' if key == 'command' else text}</dd>")
    return f'<h2>How it was made</h2>\n<dl class="facts">{"".join(pairs)}</dl>'


# Curves


def _learning(histories: Mapping[str, History]) -> str:
    legend = []
    for i, name in enumerate(histories):
        for what, style in (("validation", "valid"), ("training", "train")):
            label = f"{escape(name)}, {what}" if len(histories) > 1 else what
            key = f'<path class="curve run{i} {style}" d="M0 4H28"/>'
            legend.append(f'<li><svg viewBox="0 0 28 8" aria-hidden="true">{key}</svg>{label}</li>')
    charts = []
    for measure, heading in (("accuracy", "Accuracy"), ("loss", "Loss (cross-entropy, nats)")):
        curves = [
            Curve(f"{name}, {part}", _points(history, f"{part}_{measure}"), f"run{i} {part}")
            for i, (name, history) in enumerate(histories.items())
            for part in ("train", "valid")
        ]
        svg = line_chart(f"{heading} per epoch", curves, percent=measure == "accuracy")
        charts.append(f"<figure><figcaption>{heading}</figcaption>{svg}</figure>")
    return (
        f'<h2>Learning</h2>\n<ul class="legend">{"".join(legend)}</ul>\n'
        f'<div class="charts">{"".join(charts)}</div>\n'
        f"<details><summary>The numbers, epoch by epoch</summary>{_epochs(histories)}</details>"
    )


def _points(history: History, column: str) -> list[tuple[float, float]]:
    values = zip(history["epoch"], history[column], strict=True)
    return [(float(x or 0), math.nan if y is None else float(y)) for x, y in values]


def _epochs(histories: Mapping[str, History]) -> str:
    tables = []
    for name, history in histories.items():
        if len(histories) > 1:
            tables.append(f"<h3>{escape(name)}</h3>")
        rows = []
        for row in history:
            numbers = [_number(value) for column, value in row.items() if column != "epoch"]
            rows.append(_row(_number(row["epoch"]), numbers))
        tables.append(_table("numbers", EPOCH_HEADS, rows))
    return "".join(tables)


# Confusions


def _confusion(predictions: Predictions, classes: Sequence[str]) -> str:
    counts = predictions.confusion_matrix()
    if len(classes) <= MOST_CLASSES:
        text = "Each row is a true class, each column what the network took it for; shares are of the row."
        return f"<h2>Confusion matrix</h2>\n<p>{text}</p>\n" + _matrix(counts, classes)
    mistakes = counts.copy()
    np.fill_diagonal(mistakes, 0)
    rows = []
    for place in np.argsort(-mistakes, axis=None, kind="stable")[:MOST_CLASSES].tolist():
        truth, guess = divmod(place, len(classes))
        if mistakes[truth, guess]:
            rows.append(_row(escape(classes[truth]), (escape(classes[guess]), f"{mistakes[truth, guess]:,}")))
    return "<h2>Most frequent confusions</h2>\n" + _table("numbers", ("is", "taken for", "pictures"), rows)


def _matrix(counts: np.ndarray, classes: Sequence[str]) -> str:
    rows = []
    for truth, row in enumerate(counts.tolist()):
        cells = []
        for guess, count in enumerate(row):
            share = count / max(1, sum(row))
            kind = "right" if truth == guess else "wrong"
            small = f"<small>{_percent(share)}</small>" if count else ""
            cells.append(f'<td class="{kind}" style="--share:{share:.3f}">{count:,}{small}</td>')
        rows.append(f'<tr><th scope="row">{escape(classes[truth])}</th>{"".join(cells)}</tr>')
    return _table("confusion", ["", *(escape(label) for label in classes)], rows)


# Pictures


def _galleries(album: _Album) -> str:
    predictions, classes = album.predictions, album.classes
    rng = np.random.default_rng(0)  # the same predictions always give the same report
    right, wrong = np.flatnonzero(predictions.right), np.flatnonzero(~predictions.right)
    parts = [
        "<h2>Pictures</h2>\n"
        "<p>Under each picture: what it is, what the network said, and the probability it gave to that.</p>",
        _gallery(album, "Right", "drawn at random", rng.permutation(right)[:GALLERY]),
        _gallery(album, "Wrong", "drawn at random", rng.permutation(wrong)[:GALLERY]),
    ]
    shown = range(len(classes))
    if len(classes) > MOST_CLASSES:  # those that go wrong most often
        errors = np.bincount(predictions.predicted[wrong], minlength=len(classes))
        shown = np.argsort(-errors, kind="stable")[:MOST_CLASSES].tolist()
    for c in shown:
        label = escape(classes[c])
        surest = predictions.most_confident(right=True, cls=c, k=GALLERY)
        parts.append(_gallery(album, f"Most confidently right: {label}", "surest first", surest))
        surest = predictions.most_confident(right=False, cls=c, k=GALLERY)
        parts.append(_gallery(album, f"Most confidently wrong: taken for {label}", "surest first", surest))
    uncertain = predictions.most_uncertain(GALLERY)
    parts.append(_gallery(album, "Most uncertain", "the two likeliest classes are closest", uncertain))
    return "\n".join(parts)


def _gallery(album: _Album, heading: str, note: str, indices: np.ndarray) -> str:
    cards = "".join(_card(album, i) for i in indices.tolist())
    body = f'<div class="gallery">{cards}</div>' if cards else '<p class="soft">None.</p>'
    return f"<h3>{heading} <small>{note}</small></h3>\n{body}"


def _card(album: _Album, i: int) -> str:
    predictions, classes = album.predictions, album.classes
    truth, guess = classes[int(predictions.targets[i])], classes[int(predictions.predicted[i])]
    share = float(predictions.confidence[i])
    kind = "right" if predictions.right[i] else "wrong"
    file = os.path.basename(predictions.paths[i]) if predictions.paths else f"picture {i}"
    said = f'<b class="{kind}">{escape(guess)}</b> {_probability(share)}'
    if kind == "wrong":
        said = f"{escape(truth)}, taken for<br>{said}"
    return (
        f"<figure>{_image(album, i, f'{file}: {truth}')}<figcaption>"
        f'<span class="bar {kind}" style="--share:{share:.3f}"></span>{said}'
        f'<span class="file" title="{escape(file)}">{escape(file)}</span></figcaption></figure>'
    )


def _image(album: _Album, i: int, alt: str) -> str:
    """The picture as an `<img>` that carries its own bytes."""
    image = require("PIL.Image", "images")
    try:
        picture = album.picture(i)
        if not isinstance(picture, image.Image):
            picture = image.fromarray(np.asarray(picture))
        picture = picture.convert("RGB")
    except (OSError, DataError):
        return '<div class="picture">cannot be read</div>'
    small = max(picture.size) <= SMALL_PICTURE
    picture.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
    stream = io.BytesIO()
    if small:
        picture.save(stream, "PNG")
    else:
        picture.save(stream, "JPEG", quality=85)
    uri = f"data:image/{'png' if small else 'jpeg'};base64,{base64.b64encode(stream.getvalue()).decode()}"
    return f'<img class="picture{" pixels" if small else ""}" alt="{escape(alt)}" loading="lazy" src="{uri}">'


__all__ = ["write_report"]
