"""Clipping: one bad batch must not throw the parameters away."""

from __future__ import annotations

import math
from typing import Any

from minidl.backend import array_module
from minidl.backend.blocks import blocks
from minidl.optim.optimizer import parameter_list


def clip_grad_norm_(parameters: Any, max_norm: float) -> float:
    """Shrink all gradients by one factor, in place, so that their common norm √Σ g² is at most max_norm.

    Returns the norm before. Where it is not a number the gradients are left as they are: look at it.
    (Pascanu, Mikolov & Bengio 2013, algorithm 1)

    Raises:
        TypeError: a Module instead of its parameters.
        ValueError: no parameters, or a negative max_norm.
    """
    if not max_norm >= 0:
        raise ValueError(f"max_norm must not be negative, got {max_norm}")
    gradients = [p.grad for p in parameter_list(parameters) if p.grad is not None]
    squares = [float(array_module(g).vdot(g, g)) for grad in gradients for (g,) in blocks(grad.data)]
    norm = math.sqrt(math.fsum(squares))
    factor = max_norm / (norm + 1e-6)  # as PyTorch has it, so that a norm of 0 divides too
    if factor < 1.0:
        for grad in gradients:
            for (g,) in blocks(grad.data):
                g *= factor
            grad.increment_version()
    return norm
