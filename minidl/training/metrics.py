"""How good the predictions are, and which pictures to look at."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from minidl.errors import ShapeError
from minidl.functional import softmax
from minidl.nn import Module
from minidl.recording import no_grad
from minidl.tensor import Tensor


def accuracy(scores: np.ndarray, targets: np.ndarray) -> float:
    """The fraction of rows of scores (N, C), logits or probabilities, whose largest is at targets (N,)."""
    return float((scores.argmax(axis=1) == targets).mean())


def confusion_matrix(predicted: np.ndarray, targets: np.ndarray, num_classes: int) -> np.ndarray:
    """Counts (C, C): the row is the true class, the column the predicted one."""
    counts = np.bincount(targets * num_classes + predicted, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


def log_loss(probabilities: np.ndarray, targets: np.ndarray, clip: float = 1e-7) -> float:
    """−(1/N) Σ ln p_i, p_i the probability (N, C) given to the true class, kept at least `clip` from 0 and 1.

    The best clip c for a two-class net that is sure of everything and errs in a fraction e of the pictures is
    c = e: each error costs −ln c, everything else −ln(1 − c), and −e ln c − (1 − e) ln(1 − c) is least there.
    """
    p = probabilities[np.arange(len(targets)), targets].astype(np.float64)
    return float(-np.log(p.clip(clip, 1 - clip)).mean())


@dataclass(frozen=True)
class Predictions:
    """What a model says of some pictures.

    Attributes:
        probabilities: (N, C), float32, each row sums to 1.
        targets: (N,) the true classes.
        paths: (N,) where the pictures are, empty if they are not files.
    """

    probabilities: np.ndarray
    targets: np.ndarray
    paths: Sequence[str] = field(default=())

    def __post_init__(self) -> None:
        n = len(self.probabilities)
        if self.probabilities.ndim != 2 or len(self.targets) != n or len(self.paths) not in (0, n):
            raise ShapeError(
                f"predictions need probabilities (N, C), N targets and N paths or none, got "
                f"{self.probabilities.shape}, {len(self.targets)} and {len(self.paths)}"
            )

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def predicted(self) -> np.ndarray:
        """(N,) the class of largest probability."""
        return self.probabilities.argmax(axis=1)

    @property
    def confidence(self) -> np.ndarray:
        """(N,) the largest probability."""
        return self.probabilities.max(axis=1)

    @property
    def right(self) -> np.ndarray:
        """(N,) booleans: is the predicted class the true one?"""
        return self.predicted == self.targets

    @property
    def accuracy(self) -> float:
        return accuracy(self.probabilities, self.targets)

    @property
    def standard_error(self) -> float:
        """Of the accuracy a over N pictures: √(a (1 − a) / N)."""
        return math.sqrt(self.accuracy * (1 - self.accuracy) / len(self))

    @property
    def log_loss(self) -> float:
        return log_loss(self.probabilities, self.targets)

    def confusion_matrix(self) -> np.ndarray:
        """Counts (C, C): the row is the true class, the column the predicted one."""
        return confusion_matrix(self.predicted, self.targets, self.probabilities.shape[1])

    def most_confident(self, right: bool, cls: int | None = None, k: int = 4) -> np.ndarray:
        """Indices of the k surest right (or wrong) predictions, surest first; with `cls`, of that class only.

        `cls` is the predicted class: the most confident wrong cats are dogs.
        """
        chosen = self.right if right else ~self.right
        if cls is not None:
            chosen = chosen & (self.predicted == cls)
        indices = np.flatnonzero(chosen)
        return indices[np.argsort(-self.confidence[indices], kind="stable")][:k]

    def most_uncertain(self, k: int = 4) -> np.ndarray:
        """Indices of the k predictions whose two largest probabilities are closest, closest first."""
        ordered = np.sort(self.probabilities, axis=1)
        margin = ordered[:, -1] - ordered[:, -2]
        return np.argsort(margin, kind="stable")[:k]


def predict(model: Module, loader: Iterable[tuple[Tensor, Tensor]], paths: Sequence[str] = ()) -> Predictions:
    """The model's predictions, in eval mode, of all pictures of `loader`, in the loader's order.

    Args:
        loader: batches of pictures (N, …) and targets (N,); not a shuffled one if `paths` are given.
        paths: of the pictures.
    """
    device = next(model.parameters()).device
    probabilities, targets = [], []
    model.eval()
    with no_grad():
        for x, y in loader:
            probabilities.append(softmax(model(x.to(device)), axis=1).numpy())
            targets.append(y.numpy())
    return Predictions(np.concatenate(probabilities), np.concatenate(targets), paths)


__all__ = ["Predictions", "accuracy", "confusion_matrix", "log_loss", "predict"]
