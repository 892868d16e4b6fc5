"""RMSprop."""

from __future__ import annotations

from typing import Any

from minidl.backend import Array, array_module
from minidl.backend.blocks import for_each_block
from minidl.optim.optimizer import Optimizer


class RMSprop(Optimizer):
    """Each element's gradient divided by the root of its recent mean square   (Hinton 2012, lecture 6e)

        g = ∂L/∂p + λ p
        s ← α s + (1 − α) g²          centred: also m ← α m + (1 − α) g, and s − m² below instead of s
        d = g / (√s + ε)              with momentum μ: d is b ← μ b + g / (√s + ε)
        p ← p − lr · d

    Args:
        weight_decay: λ.

    Raises:
        ValueError: an option is negative.
    """

    by_blocks = True
    non_negative = (*Optimizer.non_negative, "alpha")

    def __init__(
        self,
        params: Any,
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            alpha=alpha,
            eps=eps,
            weight_decay=weight_decay,
            momentum=momentum,
            centered=centered,
        )

    def update(self, p: Array, grad: Any, state: dict[str, Any], group: dict[str, Any]) -> None:
        xp = array_module(p)
        lr, alpha, eps, momentum = group["lr"], group["alpha"], group["eps"], group["momentum"]
        names = ["square_avg"]
        if group["centered"]:
            names.append("grad_avg")
        if momentum > 0:
            names.append("momentum_buffer")
        for name in names:
            if name not in state:
                state[name] = xp.zeros_like(p)

        def move(w: Array, g: Array, *remembered: Array) -> None:
            block = dict(zip(names, remembered, strict=True))
            if group["weight_decay"]:
                g = g + group["weight_decay"] * w
            s = block["square_avg"]
            s *= alpha
            s += (1.0 - alpha) * g * g
            variance = s
            if group["centered"]:
                m = block["grad_avg"]
                m *= alpha
                m += (1.0 - alpha) * g
                variance = s - m * m
            d = g / (xp.sqrt(variance) + eps)
            if momentum > 0:
                b = block["momentum_buffer"]
                b *= momentum
                b += d
                d = b
            w -= lr * d

        for_each_block(move, p, grad, *(state[name] for name in names))
