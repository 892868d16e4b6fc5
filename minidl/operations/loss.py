"""The rows of losses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minidl import functional as F
from minidl.errors import DataError, ShapeError
from minidl.operations import reference
from minidl.operations.draw import Draw
from minidl.operations.row import Mistake, Operation, torch_functional, zeros
from minidl.operations.row import Sample as S

REDUCTIONS = ("none", "sum", "mean")


def _classified(r: Draw) -> list[S]:
    return [
        S(r(4, 3), r.integers(3, 4)),
        S(r(4, 3), r.integers(3, 4), reduction="sum"),
        S(r(4, 3), r.integers(3, 4), reduction="none"),
        S(r(4, 3), np.array([0, -100, 2, 1])),
        S(r(4, 3), np.array([0, 1, 2, 1]), ignore_index=1),
        S(r(4, 3), r.integers(3, 4), weight=[0.5, 2.0, 1.0]),
        S(r(4, 3), r.integers(3, 4), weight=[0.5, 2.0, 1.0], reduction="none"),
        S(r(2, 3, 2, 2), r.integers(3, 2, 2, 2), weight=[0.5, 2.0, 1.0]),
        S(r(1, 2), np.array([1])),
    ]


def _drawn_classes(**more: tuple[Any, ...]) -> Callable[[Draw], S]:
    """Any scores and targets, of which some may be ignored but not all: their mean would be no number."""

    def drawn(r: Draw) -> S:
        classes, positions = r.number(1, 3), (r.number(1, 3), *r.full_shape(0, 2))
        options = r.options(reduction=REDUCTIONS, **more)
        if r.flag():
            options["weight"] = [r.pick(1.0, 0.5, 2.0) for _ in range(classes)]
        targets = r.integers(classes, *positions)
        ignored = r.pick(None, -100, -1, 0 if classes > 1 else 255)
        if ignored is not None:
            targets[r.mask(*positions)] = ignored
            targets.flat[0] = classes - 1
        if ignored not in (None, -100):
            options["ignore_index"] = ignored
        return S(r(positions[0], classes, *positions[1:]), targets, **options)

    return drawn


def _torch_classes(name: str) -> Callable[..., Any]:
    def loss(t: Any, x: Any, targets: np.ndarray, weight: Any = None, **options: Any) -> Any:
        weight = None if weight is None else t.tensor(weight, dtype=x.dtype)
        return getattr(t.nn.functional, name)(x, t.as_tensor(targets), weight, **options)

    return loss


def _class_mistakes(loss: Callable[..., Any]) -> tuple[Mistake, ...]:
    return (
        Mistake(
            lambda: loss(zeros(2, 3), np.array([0, 3])),
            DataError,
            "target 3 at index 1 is no class: the scores are for 3 classes, 0 to 2",
        ),
        Mistake(
            lambda: loss(zeros(2, 3), np.array([0])),
            ShapeError,
            "expected targets (2,) for scores (2, 3), got (1,)",
        ),
        Mistake(
            lambda: loss(zeros(3), np.array([0])),
            ShapeError,
            "expected scores (N, C) or (N, C, d1, …), got (3,)",
        ),
        Mistake(
            lambda: loss(zeros(2, 3), zeros(2)),
            DataError,
            "targets are class indices and must be integers, got float32: use .astype('int64')",
        ),
        Mistake(
            lambda: loss(zeros(2, 3), np.array([0, 1]), weight=[1.0, 2.0]),
            ShapeError,
            "expected a weight for each of 3 classes, got (2,)",
        ),
        Mistake(
            lambda: loss(zeros(2, 3), np.array([0, 1]), reduction="average"),
            ValueError,
            'reduction is "mean", "sum" or "none", got \'average\'',
        ),
    )


def _drawn_pair(positive: bool, **more: tuple[Any, ...]) -> Callable[[Draw], S]:
    """Two arrays of one shape: the targets in [0, 1] if `positive`."""

    def drawn(r: Draw) -> S:
        shape, options = r.full_shape(), r.options(reduction=REDUCTIONS, **more)
        return S(r(*shape), r.fractions(*shape) if positive else r(*shape), **options)

    return drawn


def _same_shape_mistake(loss: Callable[..., Any]) -> tuple[Mistake, ...]:
    message = "expected targets of the same shape (2, 3), got (3,)"
    return (Mistake(lambda: loss(zeros(2, 3), zeros(3)), ShapeError, message),)


OPERATIONS = [
    Operation(
        "cross_entropy",
        F.cross_entropy,
        samples=lambda r: [
            *_classified(r),
            S(r(4, 3), r.integers(3, 4), label_smoothing=0.1),
            S(r(4, 3), np.array([0, 2, -100, 1]), label_smoothing=0.3, weight=[0.5, 2.0, 1.0]),
        ],
        drawn=_drawn_classes(label_smoothing=(0.25, 0.0, 1.0)),
        numpy=reference.cross_entropy,
        torch=_torch_classes("cross_entropy"),
        mistakes=(
            *_class_mistakes(F.cross_entropy),
            Mistake(
                lambda: F.cross_entropy(zeros(2, 3), np.array([0, 1]), label_smoothing=2.0),
                ValueError,
                "label_smoothing lies in [0, 1], got 2.0",
            ),
        ),
    ),
    Operation(
        "nll_loss",
        F.nll_loss,
        samples=_classified,
        drawn=_drawn_classes(),
        numpy=reference.nll_loss,
        torch=_torch_classes("nll_loss"),
        mistakes=_class_mistakes(F.nll_loss),
    ),
    Operation(
        "binary_cross_entropy_with_logits",
        F.binary_cross_entropy_with_logits,
        samples=lambda r: [
            S(r(4, 3), r.fractions(4, 3)),
            S(r(4), r.fractions(4), reduction="sum"),
            S(r(3), r.fractions(3), reduction="none"),
            S(r(4, 3), r.fractions(4, 3), pos_weight=2.5),
            S(r(2, 3), r.fractions(2, 3), pos_weight=[0.5, 1.0, 2.0]),
        ],
        drawn=_drawn_pair(positive=True, pos_weight=(2.5, 1.0)),
        numpy=reference.binary_cross_entropy_with_logits,
        torch=lambda t, x, y, pos_weight=1.0, **options: t.nn.functional.binary_cross_entropy_with_logits(
            x, y, pos_weight=t.tensor(pos_weight, dtype=x.dtype), **options
        ),
        mistakes=_same_shape_mistake(F.binary_cross_entropy_with_logits),
    ),
    Operation(
        "mse_loss",
        F.mse_loss,
        samples=lambda r: [
            S(r(4, 3), r(4, 3)),
            S(r(4), r(4), reduction="sum"),
            S(r(), r(), reduction="none"),
        ],
        drawn=_drawn_pair(positive=False),
        numpy=reference.mse_loss,
        torch=torch_functional("mse_loss"),
        mistakes=_same_shape_mistake(F.mse_loss),
    ),
]
