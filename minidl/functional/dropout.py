"""Dropout: units that are missing at random, so that none relies on another."""

from __future__ import annotations

import numpy as np

from minidl.autograd import Function
from minidl.backend import Array, array_module, generator, to_device
from minidl.functional.arithmetic import where
from minidl.tensor import Tensor


class Dropout(Function):
    """y = x / (1 − p) where the unit is kept, else 0        ∂L/∂x = ∂L/∂y / (1 − p) there, else 0

    The scale keeps the expected y at x, so that nothing needs to change in evaluation ("inverted" dropout).
    """

    def __init__(self, kept: Array, p: float) -> None:
        self.kept, self.scale = kept, 1.0 / (1.0 - p) if p < 1.0 else 0.0

    def forward(self, x: Array) -> Array:
        self.save(kept=self.kept)
        return array_module(x).where(self.kept, x * self.scale, x.dtype.type(0))

    def backward(self, dy: Tensor) -> Tensor:
        (kept,) = self.saved
        return where(kept, dy * self.scale, 0.0)


def dropout(x: Tensor, p: float = 0.5, training: bool = True) -> Tensor:
    """x with each element set to 0 with probability p and the others divided by 1 − p.

    Srivastava et al. 2014. The mask is drawn from `minidl.backend.generator()`; where training is False, x is
    returned as it is.

    Raises:
        ValueError: p is no probability.
    """
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"the dropout probability lies in [0, 1], got {p}")
    if not training or p == 0.0:
        return x
    kept = generator().random(x.shape, np.float32) >= p
    return Dropout(to_device(kept, x.device), p)(x)
