"""A Kaggle submission for cats against dogs: the probability of a dog for each numbered picture."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from minidl.errors import DataError
from minidl.files import write_text


def best_clip(accuracy: float, pictures: int) -> float:
    """How near to 0 and 1 the probabilities of a net of this validation accuracy may come: its error rate.

    Kaggle's score is the log loss, to which a single sure mistake is ruinous; see `metrics.log_loss`. Where
    no mistake was seen in `pictures`, half a mistake is assumed; worse than guessing counts as guessing.
    """
    return min(max(1.0 - accuracy, 0.5 / pictures), 0.5)


def picture_id(path: str | os.PathLike) -> int:
    """The number that is the picture's name: 17 for test/17.jpg.

    Raises:
        DataError: the name is no number.
    """
    stem = Path(path).stem
    if not re.fullmatch(r"[0-9]+", stem):
        raise DataError(
            f"{os.fspath(path)}: the pictures of a submission have numbers for names, such as 17.jpg"
        )
    return int(stem)


def write_submission(
    path: str | os.PathLike, ids: Sequence[int], probabilities: Sequence[float] | np.ndarray, clip: float
) -> None:
    """Write `id,label` lines in the order of the ids, atomically; the label is the probability, clipped.

    Raises:
        DataError: an id stands for two pictures.
    """
    rows = sorted(zip(ids, np.clip(probabilities, clip, 1 - clip).tolist(), strict=True))
    for (before, _), (after, _) in itertools.pairwise(rows):
        if before == after:
            raise DataError(f"two pictures have the number {after}: a submission has one line for each")
    write_text(path, "id,label\n" + "".join(f"{number},{label:.7g}\n" for number, label in rows))


__all__ = ["best_clip", "picture_id", "write_submission"]
