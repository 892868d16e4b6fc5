"""Losses: how wrong the outputs are, as one number.

Classes lie along axis 1, as in PyTorch: scores (N, C) with targets (N,), or (N, C, d1, …) with targets
(N, d1, …). Inside, every position is one row of C scores.

`reduction` is "mean", "sum" or "none" (the loss of each sample).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from minidl import complaints
from minidl.autograd import Function
from minidl.backend import Array, array_module
from minidl.errors import DataError, ShapeError
from minidl.functional.activation import softmax, softplus
from minidl.functional.arithmetic import as_tensor, astype
from minidl.functional.reduction import sum as sum_
from minidl.functional.shape import getitem, permute, reshape
from minidl.tensor import Tensor


class CrossEntropy(Function):
    """ℓ = −Σ_c q_c ln p_c   with p = softmax(x)        ∂L/∂x = ∂L/∂ℓ · (p · Σ_c q_c − q)

    For the one-hot q of a target class this is ℓ = −ln p_target, and the gradient is softmax − one-hot.
    Shapes: (M, C) → (M,); q is a constant (M, C).
    """

    def __init__(self, q: Array) -> None:
        self.q = q

    def forward(self, x: Array) -> Array:
        xp = array_module(x)
        shifted = x - x.max(axis=1, keepdims=True)  # cancels in p, and no exponential overflows
        minus_log_p = xp.log(xp.exp(shifted).sum(axis=1, keepdims=True)) - shifted
        minus_log_p[self.q == 0] = 0  # 0 ln p is 0, also where p = 0
        self.save(x=x, q=self.q)
        return (self.q * minus_log_p).sum(axis=1)

    def backward(self, dl: Tensor) -> Tensor:
        x, q = self.saved
        return dl.reshape(-1, 1) * (softmax(x, axis=1) * sum_(q, axis=1, keepdims=True) - q)


def cross_entropy(
    logits: Tensor,
    targets: Any,
    weight: Any = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """−w_t ln softmax(logits)_t for the target class t of each sample.

    With label smoothing ε (Szegedy et al. 2016, §7) the target is (1 − ε) · one-hot + ε/C, and class c of
    it weighs w_c. The mean is weighted: the sum divided by Σ w_t over the targets t that are not ignored. If
    all are ignored it is 0/0: not a number, with a gradient of zeros, as in PyTorch.

    Args:
        logits: (N, C) or (N, C, d1, …), the scores before softmax.
        targets: (N,) or (N, d1, …), integers 0 … C − 1, or ignore_index where there is no target.
        weight: (C,), the weight of each class; 1 if None.

    Raises:
        ShapeError: the shapes do not belong together.
        DataError: targets that are not integers, or no class.
    """
    if not 0.0 <= label_smoothing <= 1.0:
        raise ValueError(f"label_smoothing lies in [0, 1], got {label_smoothing}")
    x, rows = _rows(logits, targets, weight, ignore_index)
    classes = array_module(x.data).arange(x.shape[1])
    one_hot = (classes == rows.targets[:, None]).astype(x.dtype)
    smoothed = (1.0 - label_smoothing) * one_hot + label_smoothing / len(classes)
    losses = CrossEntropy(smoothed * rows.class_weights * rows.kept[:, None])(x)
    return _reduce(losses.reshape(rows.shape), reduction, float(rows.weights.sum()))


def nll_loss(
    log_probabilities: Tensor,
    targets: Any,
    weight: Any = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """−w_t · log_probabilities_t for the target class t of each sample: cross_entropy after log_softmax.

    Shapes, arguments and errors as `cross_entropy`.
    """
    x, rows = _rows(log_probabilities, targets, weight, ignore_index)
    picked = getitem(x, (array_module(x.data).arange(x.shape[0]), rows.targets))
    losses = -picked * Tensor.wrap(rows.weights)
    return _reduce(losses.reshape(rows.shape), reduction, float(rows.weights.sum()))


def binary_cross_entropy_with_logits(
    logits: Tensor, targets: Any, pos_weight: Any = None, reduction: str = "mean"
) -> Tensor:
    """−[w t ln σ(x) + (1 − t) ln (1 − σ(x))], with ln σ(x) = −softplus(−x) and ln (1 − σ(x)) = −softplus(x).

    Args:
        logits: x, of any shape, the scores before sigmoid.
        targets: t, of the same shape, probabilities in [0, 1] (0 and 1 for two classes).
        pos_weight: w, the weight of the positive class, a number or an array that broadcasts; 1 if None.

    Raises:
        ShapeError: the shapes differ.
    """
    t = _same_shape(logits, targets)
    positive = t * softplus(-logits)
    if pos_weight is not None:
        positive = positive * as_tensor(pos_weight, like=logits)
    return _reduce(positive + (1.0 - t) * softplus(logits), reduction, logits.numel())


def mse_loss(x: Tensor, targets: Any, reduction: str = "mean") -> Tensor:
    """(x − t)², for x and targets t of one shape.

    Raises:
        ShapeError: the shapes differ.
    """
    difference = x - _same_shape(x, targets)
    return _reduce(difference * difference, reduction, x.numel())


class _Rows(NamedTuple):
    """The targets of M rows of scores, checked."""

    targets: Array  # (M,) class indices; 0 where ignored
    kept: Array  # (M,) booleans: not ignored
    class_weights: Array  # (C,)
    weights: Array  # (M,) the weight of each row: that of its target class, 0 where ignored
    shape: tuple[int, ...]  # of the targets as given


def _rows(scores: Tensor, targets: Any, weight: Any, ignore_index: int) -> tuple[Tensor, _Rows]:
    """Scores (N, C, d1, …) as rows (N·d1·…, C), and what belongs to each row."""
    xp = array_module(scores.data)
    if scores.ndim < 2:
        raise ShapeError(f"expected scores (N, C) or (N, C, d1, …), got {scores.shape}")
    count, classes, *positions = scores.shape
    targets = as_tensor(targets, like=scores)
    complaints.about_devices("the loss", (scores, targets))
    t = targets.data
    if t.shape != (count, *positions):
        raise ShapeError(f"expected targets {(count, *positions)} for scores {scores.shape}, got {t.shape}")
    if t.dtype.kind not in "iu":
        raise DataError(
            f"targets are class indices and must be integers, got {t.dtype}: use .astype('int64')"
        )
    kept = t != ignore_index
    _check_classes(t, kept, classes)
    class_weights = xp.ones(classes, scores.dtype)
    if weight is not None:
        weight = as_tensor(weight, like=scores)
        complaints.about_devices("the loss", (scores, weight))
        class_weights = weight.data.astype(scores.dtype, copy=False)
        if class_weights.shape != (classes,):
            raise ShapeError(f"expected a weight for each of {classes} classes, got {class_weights.shape}")
    if positions:
        scores = reshape(permute(scores, (0, *range(2, scores.ndim), 1)), (-1, classes))
    shape, t, kept = t.shape, xp.where(kept, t, 0).reshape(-1), kept.reshape(-1)
    return scores, _Rows(t, kept, class_weights, class_weights[t] * kept, shape)


def _check_classes(targets: Array, kept: Array, classes: int) -> None:
    wrong = kept & ((targets < 0) | (targets >= classes))
    if wrong.any():
        index = tuple(int(i) for i in array_module(targets).argwhere(wrong)[0])
        raise DataError(
            f"target {int(targets[index])} at index {index[0] if len(index) == 1 else index} is no class: "
            f"the scores are for {classes} classes, 0 to {classes - 1}"
        )


def _same_shape(x: Tensor, targets: Any) -> Tensor:
    """The targets as a tensor of x's floating-point type."""
    t = as_tensor(targets, like=x)
    if t.shape != x.shape:
        raise ShapeError(f"expected targets of the same shape {x.shape}, got {t.shape}")
    return t if t.dtype.kind == "f" else astype(t, x.dtype)


def _reduce(losses: Tensor, reduction: str, count: float) -> Tensor:
    """The losses of each sample made one number; `count` is what their sum is divided by for the mean."""
    if reduction == "none":
        return losses
    if reduction == "sum":
        return sum_(losses)
    if reduction == "mean":
        return sum_(losses) / count if count else sum_(losses) + math.nan
    raise ValueError(f'reduction is "mean", "sum" or "none", got {reduction!r}')
