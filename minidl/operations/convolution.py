"""The rows of what networks are made of: convolutions, pooling, normalisation, dropout, losses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minidl import functional as F
from minidl.errors import DataError, ShapeError
from minidl.functional.dropout import Dropout
from minidl.operations.row import Draw, Mistake, Operation, zeros
from minidl.operations.row import Sample as S
from minidl.tensor import Tensor


def _torch_functional(name: str) -> Callable[..., Any]:
    return lambda t, *args, **options: getattr(t.nn.functional, name)(*args, **options)


CONVOLUTIONS = [
    Operation(
        "conv2d",
        F.conv2d,
        lambda r: [
            S(r(2, 3, 5, 4), r(2, 3, 3, 3), r(2)),
            S(r(1, 2, 4, 4), r(3, 2, 1, 1)),
            S(r(1, 2, 6, 5), r(2, 2, 3, 2), r(2), stride=2, padding=1),
            S(r(1, 1, 5, 7), r(2, 1, 2, 3), stride=(1, 3), padding=(0, 2)),
            S(r(1, 2, 6, 6), r(2, 2, 2, 3), dilation=(2, 1), padding=1),
            S(r(1, 4, 4, 4), r(6, 2, 3, 3), r(6), groups=2, padding=1),
            S(r(2, 3, 4, 4), r(3, 1, 3, 3), groups=3),
            S(r(1, 1, 3, 3), r(1, 1, 3, 3)),
            S(r(0, 2, 4, 4), r(3, 2, 3, 3), r(3)),
        ],
        torch=_torch_functional("conv2d"),
        mistakes=(
            Mistake(
                lambda: F.conv2d(zeros(1, 3, 5, 5), zeros(4, 2, 3, 3)),
                ShapeError,
                "expected (N, 2, H, W) for a weight of (4, 2, 3, 3), got (1, 3, 5, 5)",
            ),
            Mistake(
                lambda: F.conv2d(zeros(3, 5, 5), zeros(4, 3, 3, 3)),
                ShapeError,
                "expected pictures of (N, C, H, W), got (3, 5, 5). "
                "One picture is a batch of one: x.unsqueeze(0)",
            ),
            Mistake(
                lambda: F.conv2d(zeros(1, 3, 2, 5), zeros(4, 3, 3, 3)),
                ShapeError,
                "a window of 3×3 does not fit into a picture of 2×5 with padding 0×0: use a larger picture, "
                "a smaller kernel or more padding",
            ),
            Mistake(
                lambda: F.conv2d(zeros(1, 3, 5, 5), zeros(4, 3, 3, 3), zeros(3)),
                ShapeError,
                "expected a bias of (4,) for a weight of (4, 3, 3, 3), got (3,)",
            ),
            Mistake(
                lambda: F.conv2d(zeros(1, 3, 5, 5), zeros(4, 3, 3, 3), stride=0),
                ShapeError,
                "stride must be an integer ≥ 1 or a pair of them, got 0",
            ),
        ),
    ),
    Operation(
        "conv_transpose2d",
        F.conv_transpose2d,
        lambda r: [
            S(r(2, 2, 3, 4), r(2, 3, 3, 3), r(3)),
            S(r(1, 2, 3, 3), r(2, 2, 3, 2), r(2), stride=2, padding=1, output_padding=1),
            S(r(1, 1, 3, 2), r(1, 2, 2, 3), stride=(1, 3), padding=(0, 1)),
            S(r(1, 4, 3, 3), r(4, 1, 2, 2), r(2), groups=2),
            S(r(1, 2, 3, 3), r(2, 2, 2, 2), dilation=2),
            S(r(1, 1, 1, 1), r(1, 1, 1, 1)),
        ],
        torch=_torch_functional("conv_transpose2d"),
        mistakes=(
            Mistake(
                lambda: F.conv_transpose2d(zeros(1, 3, 5, 5), zeros(2, 3, 3, 3)),
                ShapeError,
                "expected (N, 2, H, W) for a weight of (2, 3, 3, 3), got (1, 3, 5, 5)",
            ),
        ),
    ),
    Operation(
        "unfold",
        F.unfold,
        lambda r: [
            S(r(2, 2, 4, 5), 3),
            S(r(1, 2, 4, 4), (2, 3), padding=1),
            S(r(1, 1, 5, 6), 2, dilation=2, stride=2),
        ],
        torch=_torch_functional("unfold"),
        mistakes=(
            Mistake(
                lambda: F.unfold(zeros(3, 4, 4), 2),
                ShapeError,
                "expected pictures of (N, C, H, W), got (3, 4, 4)",
            ),
        ),
    ),
    Operation(
        "fold",
        F.fold,
        lambda r: [
            S(r(2, 18, 6), (4, 5), 3),
            S(r(1, 12, 20), 4, (2, 3), padding=1),
            S(r(1, 4, 4), (5, 6), 2, dilation=2, stride=2),
        ],
        torch=_torch_functional("fold"),
        mistakes=(
            Mistake(
                lambda: F.fold(zeros(1, 9, 5), 4, 3),
                ShapeError,
                "expected columns of (N, C·9, 4) for a window of 9 pixels at 2×2 places of a picture of 4×4, "
                "got (1, 9, 5)",
            ),
        ),
    ),
]


def _pooled(r: Draw) -> list[S]:
    return [
        S(r.apart(2, 2, 4, 4), 2),
        S(r.apart(1, 2, 5, 6), (3, 2), stride=(2, 1)),
        S(r.apart(1, 1, 5, 5), 3, stride=2, padding=1),
        S(r.apart(1, 1, 6, 7), 3, stride=2, ceil_mode=True),
        S(r.apart(1, 1, 5, 5), 2, stride=2, padding=1, ceil_mode=True),
        S(r.apart(1, 2, 3, 3), 1),
        S(r.apart(0, 2, 4, 4), 2),
    ]


def _pooling_mistakes(pool: Callable[..., Any]) -> tuple[Mistake, ...]:
    return (
        Mistake(
            lambda: pool(zeros(3, 4, 4), 2),
            ShapeError,
            "expected feature maps of (N, C, H, W), got (3, 4, 4)",
        ),
        Mistake(
            lambda: pool(zeros(1, 3, 4, 4), 2, padding=2),
            ShapeError,
            "padding must be at most half of the window, got 2 for a kernel of 2",
        ),
        Mistake(
            lambda: pool(zeros(1, 3, 4, 4), 5),
            ShapeError,
            "a window of 5×5 does not fit into a picture of 4×4 with padding 0×0: use a larger picture, "
            "a smaller kernel or more padding",
        ),
    )


def _unpool(x: Tensor, indices: np.ndarray, *args: Any, **options: Any) -> Tensor:
    return F.max_unpool2d(x, Tensor(indices), *args, **options)


POOLING = [
    Operation(
        "max_pool2d",
        F.max_pool2d,
        lambda r: [*_pooled(r), S(r.apart(1, 1, 6, 6), 2, dilation=2, stride=1)],
        torch=_torch_functional("max_pool2d"),
        mistakes=_pooling_mistakes(F.max_pool2d),
    ),
    Operation(
        "max_unpool2d",
        _unpool,
        lambda r: [
            S(r(1, 2, 2, 2), np.array([[[[0, 3], [13, 10]], [[5, 2], [8, 15]]]]), 2),
            S(r(1, 1, 2, 2), np.array([[[[6, 3], [10, 18]]]]), 2, output_size=(5, 5)),
        ],
        torch=lambda t, x, indices, *args, **options: t.nn.functional.max_unpool2d(
            x, t.as_tensor(indices), *args, **options
        ),
    ),
    Operation(
        "avg_pool2d",
        F.avg_pool2d,
        lambda r: [
            *_pooled(r),
            S(r(1, 1, 5, 5), 3, stride=2, padding=1, count_include_pad=False),
            S(r(1, 1, 4, 4), 2, divisor_override=3),
        ],
        torch=_torch_functional("avg_pool2d"),
        mistakes=_pooling_mistakes(F.avg_pool2d),
    ),
    Operation(
        "adaptive_avg_pool2d",
        F.adaptive_avg_pool2d,
        lambda r: [
            S(r(1, 2, 5, 7), (2, 3)),
            S(r(2, 1, 4, 4), 1),
            S(r(1, 1, 3, 4), (None, 7)),
            S(r(1, 1, 2, 2), 2),
        ],
        torch=_torch_functional("adaptive_avg_pool2d"),
        mistakes=(
            Mistake(
                lambda: F.adaptive_avg_pool2d(zeros(3, 4, 4), 2),
                ShapeError,
                "expected feature maps of (N, C, H, W), got (3, 4, 4)",
            ),
        ),
    ),
    Operation(
        "global_avg_pool2d",
        F.global_avg_pool2d,
        lambda r: [S(r(2, 3, 4, 5)), S(r(1, 1, 1, 1))],
        lambda x: x.mean((2, 3), keepdims=True),
        lambda t, x: x.mean((2, 3), keepdim=True),
    ),
    Operation(
        "global_max_pool2d",
        F.global_max_pool2d,
        lambda r: [S(r.apart(2, 3, 4, 5)), S(r(1, 1, 1, 1))],
        lambda x: x.max((2, 3), keepdims=True),
        lambda t, x: x.amax((2, 3), keepdim=True),
    ),
]


def _batch_norm(x: Tensor, weight: Tensor, bias: Tensor, **options: Any) -> Tensor:
    return F.batch_norm(x, None, None, weight, bias, training=True, **options)


def _batch_norm_eval(x: Tensor, weight: Tensor, bias: Tensor, mean: list[float], var: list[float]) -> Tensor:
    return F.batch_norm(x, Tensor(mean, dtype=x.dtype), Tensor(var, dtype=x.dtype), weight, bias)


KEPT = np.array([[True, False, True, True], [False, False, True, True]])

NORMALIZATION = [
    Operation(
        "batch_norm",
        _batch_norm,
        lambda r: [
            S(r(4, 3), r(3), r(3)),
            S(r(2, 2, 5), r(2), r(2)),
            S(r(2, 3, 3, 2), r(3), r(3)),
            S(r(3, 2, 2, 2), r(2), r(2), eps=0.1),
        ],
        torch=lambda t, x, w, b, **options: t.nn.functional.batch_norm(x, None, None, w, b, True, **options),
        mistakes=(
            Mistake(
                lambda: _batch_norm(zeros(1, 3), zeros(3), zeros(3)),
                ShapeError,
                "training needs more than one element a channel, got (1, 3): use a larger batch, or .eval()",
            ),
            Mistake(
                lambda: _batch_norm(zeros(4, 3), zeros(2), zeros(2)),
                ShapeError,
                "expected (N, 2, …), got (4, 3)",
            ),
        ),
    ),
    Operation(
        "batch_norm_eval",
        _batch_norm_eval,
        lambda r: [
            S(r(4, 3), r(3), r(3), [0.1, -0.2, 0.3], [1.0, 0.5, 2.0]),
            S(r(1, 2, 3, 3), r(2), r(2), [0.5, 0.0], [1.5, 0.25]),
        ],
        torch=lambda t, x, w, b, mean, var: t.nn.functional.batch_norm(
            x, t.tensor(mean, dtype=x.dtype), t.tensor(var, dtype=x.dtype), w, b
        ),
    ),
    Operation(
        "local_response_norm",
        F.local_response_norm,
        lambda r: [
            S(r(2, 5, 2, 2), 3),
            S(r(1, 4, 3), 2, alpha=0.5, beta=0.6, k=2.0),
            S(r(2, 3), 5, alpha=1.0),
            S(r(1, 1, 2, 2), 1),
        ],
        torch=lambda t, x, size, **options: t.nn.functional.local_response_norm(
            x if x.ndim > 2 else x[..., None], size, **options
        ).reshape(x.shape),
        mistakes=(
            Mistake(lambda: F.local_response_norm(zeros(3), 2), ShapeError, "expected (N, C, …), got (3,)"),
        ),
    ),
    Operation(
        "dropout",
        lambda x, p: Dropout(KEPT, p)(x),
        lambda r: [S(r(2, 4), 0.5), S(r(2, 4), 0.1)],
        lambda x, p: np.where(KEPT, x / (1 - p), 0),
        lambda t, x, p: x * t.as_tensor(KEPT) / (1 - p),
        (
            Mistake(
                lambda: F.dropout(zeros(2), 1.5),
                ValueError,
                "the dropout probability lies in [0, 1], got 1.5",
            ),
        ),
        note="with a fixed mask",
    ),
]


def _targets(r: Draw) -> list[S]:
    return [
        S(r(4, 3), r.integers(3, 4)),
        S(r(4, 3), r.integers(3, 4), reduction="sum"),
        S(r(4, 3), r.integers(3, 4), reduction="none"),
        S(r(4, 3), np.array([0, -100, 2, 1])),
        S(r(4, 3), np.array([0, 1, 2, 1]), ignore_index=1),
        S(r(4, 3), r.integers(3, 4), weight=[0.5, 2.0, 1.0]),
        S(r(2, 3, 2, 2), r.integers(3, 2, 2, 2), weight=[0.5, 2.0, 1.0]),
        S(r(1, 2), np.array([1])),
    ]


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
            lambda: loss(zeros(2, 3), zeros(2)),
            DataError,
            "targets are class indices and must be integers, got float32: use .astype('int64')",
        ),
    )


def _same_shape_mistake(loss: Callable[..., Any]) -> tuple[Mistake, ...]:
    message = "expected targets of the same shape (2, 3), got (3,)"
    return (Mistake(lambda: loss(zeros(2, 3), zeros(3)), ShapeError, message),)


LOSSES = [
    Operation(
        "cross_entropy",
        F.cross_entropy,
        lambda r: [
            *_targets(r),
            S(r(4, 3), r.integers(3, 4), label_smoothing=0.1),
            S(r(4, 3), np.array([0, 2, -100, 1]), label_smoothing=0.3, weight=[0.5, 2.0, 1.0]),
        ],
        torch=_torch_classes("cross_entropy"),
        mistakes=_class_mistakes(F.cross_entropy),
    ),
    Operation(
        "nll_loss",
        F.nll_loss,
        _targets,
        torch=_torch_classes("nll_loss"),
        mistakes=_class_mistakes(F.nll_loss),
    ),
    Operation(
        "binary_cross_entropy_with_logits",
        F.binary_cross_entropy_with_logits,
        lambda r: [
            S(r(4, 3), 0.5 * r.positive(4, 3)),
            S(r(4), 0.5 * r.positive(4), reduction="sum"),
            S(r(3), 0.5 * r.positive(3), reduction="none"),
            S(r(4, 3), 0.5 * r.positive(4, 3), pos_weight=2.5),
        ],
        torch=lambda t, x, y, pos_weight=1.0, **options: t.nn.functional.binary_cross_entropy_with_logits(
            x, y, pos_weight=t.tensor(pos_weight, dtype=x.dtype), **options
        ),
        mistakes=_same_shape_mistake(F.binary_cross_entropy_with_logits),
    ),
    Operation(
        "mse_loss",
        F.mse_loss,
        lambda r: [S(r(4, 3), r(4, 3)), S(r(4), r(4), reduction="sum"), S(r(), r(), reduction="none")],
        torch=_torch_functional("mse_loss"),
        mistakes=_same_shape_mistake(F.mse_loss),
    ),
]

OPERATIONS = [*CONVOLUTIONS, *POOLING, *NORMALIZATION, *LOSSES]
