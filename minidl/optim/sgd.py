"""Stochastic gradient descent."""

from __future__ import annotations

from typing import Any

from minidl.backend import Array, array_module, device_of, kernels
from minidl.backend.blocks import for_each_block
from minidl.backend.memory import empty
from minidl.optim.optimizer import Optimizer


class SGD(Optimizer):
    """A step against the gradient g = ∂L/∂p + λ p, or along a velocity that remembers the earlier ones:

        without momentum    p ← p − lr · g
        with momentum μ     v ← μ v + (1 − dampening) g        p ← p − lr · v        (v = g at the first step)
        Nesterov            the same v                         p ← p − lr · (g + μ v)

    Sutskever et al. 2013, in PyTorch's form, where lr multiplies the velocity instead of entering it.

    Args:
        weight_decay: λ.

    Raises:
        ValueError: an option is negative, or nesterov without momentum or with dampening.
    """

    by_blocks = True

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            momentum=momentum,
            dampening=dampening,
            weight_decay=weight_decay,
            nesterov=nesterov,
        )

    def check(self, group: dict[str, Any]) -> None:
        super().check(group)
        if group["nesterov"] and (group["momentum"] <= 0 or group["dampening"] != 0):
            raise ValueError("nesterov needs momentum > 0 and dampening = 0")

    def update(self, p: Array, grad: Any, state: dict[str, Any], group: dict[str, Any]) -> None:
        lr, momentum, weight_decay = group["lr"], group["momentum"], group["weight_decay"]
        first, new_share = not state, 1.0 - group["dampening"]

        def descend(w: Array, g: Array) -> None:
            if weight_decay:
                g = g + weight_decay * w
            w -= lr * g

        def roll(w: Array, g: Array, v: Array) -> None:
            if device_of(w) == "gpu":
                kernels.sgd(w, g, v, lr, momentum, weight_decay, new_share, group["nesterov"], first)
                return
            if weight_decay:
                g = g + weight_decay * w
            if first:
                v[...] = g
            else:
                v *= momentum
                v += g if new_share == 1 else new_share * g
            w -= lr * (g + momentum * v if group["nesterov"] else v)

        if momentum == 0:
            for_each_block(descend, p, grad)
        else:
            if first:
                state["momentum_buffer"] = empty(array_module(p), p.shape, p.dtype)
            for_each_block(roll, p, grad, state["momentum_buffer"])
