"""Adam and AdamW."""

from __future__ import annotations

import math
from typing import Any

from minidl.backend import Array, array_module
from minidl.backend.blocks import for_each_block
from minidl.optim.optimizer import Optimizer


class Adam(Optimizer):
    """Momentum, divided element by element by the root of the mean square   (Kingma & Ba 2015, algorithm 1)

        g = ∂L/∂p + λ p
        m ← β₁ m + (1 − β₁) g         m̂ = m / (1 − β₁ᵗ)
        v ← β₂ v + (1 − β₂) g²        v̂ = v / (1 − β₂ᵗ)
        p ← p − lr · m̂ / (√v̂ + ε)

    m and v start at 0; the hats undo the bias that this gives the first steps t = 1, 2, …

    Args:
        betas: (β₁, β₂).
        weight_decay: λ.

    Raises:
        ValueError: an option is negative, or a beta not below 1.
    """

    by_blocks = True
    decoupled = False

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)

    def check(self, group: dict[str, Any]) -> None:
        super().check(group)
        for beta in group["betas"]:
            if not 0.0 <= beta < 1.0:
                raise ValueError(f"each beta lies in [0, 1), got {tuple(group['betas'])}")

    def update(self, p: Array, grad: Any, state: dict[str, Any], group: dict[str, Any]) -> None:
        xp = array_module(p)
        lr, (beta1, beta2), eps, weight_decay = (
            group["lr"],
            group["betas"],
            group["eps"],
            group["weight_decay"],
        )
        if not state:
            state.update(step=0, exp_avg=xp.zeros_like(p), exp_avg_sq=xp.zeros_like(p))
        state["step"] += 1
        correction1 = 1.0 - beta1 ** state["step"]
        correction2 = math.sqrt(1.0 - beta2 ** state["step"])

        def move(w: Array, g: Array, m: Array, v: Array) -> None:
            if self.decoupled:
                w *= 1.0 - lr * weight_decay
            elif weight_decay:
                g = g + weight_decay * w
            m *= beta1
            m += (1.0 - beta1) * g
            v *= beta2
            v += (1.0 - beta2) * g * g
            w -= (lr / correction1) * m / (xp.sqrt(v) / correction2 + eps)

        for_each_block(move, p, grad, state["exp_avg"], state["exp_avg_sq"])


class AdamW(Adam):
    """Adam whose weight decay shrinks the parameter itself, p ← (1 − lr λ) p, and stays out of m and v.

    Loshchilov & Hutter 2019, algorithm 2. Options and errors as Adam.
    """

    decoupled = True

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
