"""The losses as modules: options go to the constructor, logits and targets to the call."""

from __future__ import annotations

from typing import Any

from minidl import functional as F
from minidl.nn.module import Module
from minidl.tensor import Tensor


class CrossEntropyLoss(Module):
    """−ln softmax(logits)_target: see `functional.cross_entropy`."""

    def __init__(
        self,
        weight: Any = None,
        ignore_index: int = -100,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.ignore_index, self.reduction, self.label_smoothing = ignore_index, reduction, label_smoothing

    def forward(self, logits: Tensor, targets: Any) -> Tensor:
        return F.cross_entropy(
            logits, targets, self.weight, self.ignore_index, self.reduction, self.label_smoothing
        )


class BCEWithLogitsLoss(Module):
    """−[w t ln σ(x) + (1 − t) ln (1 − σ(x))]: see `functional.binary_cross_entropy_with_logits`."""

    def __init__(self, reduction: str = "mean", pos_weight: Any = None) -> None:
        super().__init__()
        self.register_buffer("pos_weight", pos_weight)
        self.reduction = reduction

    def forward(self, logits: Tensor, targets: Any) -> Tensor:
        return F.binary_cross_entropy_with_logits(logits, targets, self.pos_weight, self.reduction)


class MSELoss(Module):
    """(x − t)²: see `functional.mse_loss`."""

    def __init__(self, reduction: str = "mean") -> None:
        super().__init__()
        self.reduction = reduction

    def forward(self, x: Tensor, targets: Any) -> Tensor:
        return F.mse_loss(x, targets, self.reduction)
