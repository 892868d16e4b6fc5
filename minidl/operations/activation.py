"""The rows of activations."""

from __future__ import annotations

import math

import numpy as np

from minidl import functional as F
from minidl.operations.arithmetic import no_tensor, unary
from minidl.operations.draw import Draw
from minidl.operations.reduction import bad_axis
from minidl.operations.reference import log_softmax
from minidl.operations.row import Kink, Operation
from minidl.operations.row import Sample as S


def _erf(x: np.ndarray) -> np.ndarray:
    return np.vectorize(math.erf, otypes=[x.dtype])(x)


def _along_axis(r: Draw) -> list[S]:
    return [S(r(3, 4)), S(r(3, 4), axis=0), S(r(2, 3, 4), axis=1), S(r(5)), S(r(3, 1)), S(1e4 * r(4))]


def _drawn_along_axis(r: Draw) -> S:
    shape = r.full_shape(1, 4)
    return S(r(*shape), **r.options(axis=(*range(len(shape)), *range(-len(shape), 0))))


OPERATIONS = [
    unary("sigmoid", lambda x: 1 / (1 + np.exp(-x)), lambda t, x: x.sigmoid()),
    unary("tanh", np.tanh, lambda t, x: x.tanh()),
    unary(
        "relu",
        lambda x: np.maximum(x, 0),
        lambda t, x: x.relu(),
        kinks=(Kink(S(np.array([-1.0, 0.0, 1.0])), ([0, 0, 1],)),),
    ),
    unary("softplus", lambda x: np.log1p(np.exp(x)), lambda t, x: t.nn.functional.softplus(x)),
    unary("gelu", lambda x: x * 0.5 * (1 + _erf(x / 2**0.5)), lambda t, x: t.nn.functional.gelu(x)),
    Operation(
        "leaky_relu",
        F.leaky_relu,
        samples=lambda r: [S(r(3, 4)), S(r(5), 0.2), S(r()), S(r(0), 0.1), S(r(4), negative_slope=-0.5)],
        drawn=lambda r: S(r(*r.shape()), **r.options(negative_slope=(0.25, 0.0, -0.5, 2.0))),
        numpy=lambda x, negative_slope=0.01: np.where(x > 0, x, negative_slope * x),
        torch=lambda t, x, negative_slope=0.01: t.nn.functional.leaky_relu(x, negative_slope),
        mistakes=no_tensor("leaky_relu"),
        kinks=(Kink(S(np.array([-1.0, 0.0, 1.0]), 0.25), ([0.25, 0.25, 1],)),),
    ),
    Operation(
        "softmax",
        F.softmax,
        samples=_along_axis,
        drawn=_drawn_along_axis,
        numpy=lambda x, axis=-1: np.exp(log_softmax(x, axis)),
        torch=lambda t, x, axis=-1: x.softmax(axis),
        mistakes=bad_axis("softmax"),
    ),
    Operation(
        "log_softmax",
        F.log_softmax,
        samples=_along_axis,
        drawn=_drawn_along_axis,
        numpy=log_softmax,
        torch=lambda t, x, axis=-1: x.log_softmax(axis),
        mistakes=bad_axis("log_softmax"),
    ),
]
