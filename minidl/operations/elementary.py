"""The rows of arithmetic, activations, reductions, matrix products and shapes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from minidl import functional as F
from minidl.operations.row import Draw, Mistake, Operation, zeros
from minidl.operations.row import Sample as S

SHAPES: tuple[tuple[int, ...], ...] = ((), (5,), (3, 4), (1, 1), (2, 0, 3))
# Same shape, one broadcast, the other, both, numbers, nothing at all.
PAIRS: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = (
    ((3, 4), (3, 4)),
    ((3, 4), (4,)),
    ((1,), (2, 3)),
    ((3, 1), (1, 4)),
    ((), ()),
    ((), (2, 2)),
    ((0, 3), (3,)),
)


def unary(name: str, numpy: Callable, torch: Callable, draw: str = "__call__") -> Operation:
    """A row for a function of each element; `draw` names the method of Draw that suits its domain."""
    return Operation(
        name,
        getattr(F, name),
        lambda r: [S(getattr(r, draw)(*shape)) for shape in SHAPES],
        numpy,
        torch,
    )


def binary(name: str, numpy: Callable, torch: Callable, differentiable: bool = True) -> Operation:
    """A row for a function of two numbers, broadcast."""
    return Operation(
        name,
        getattr(F, name),
        lambda r: [S(r(*x), r.positive(*y)) for x, y in PAIRS],
        numpy,
        torch,
        (
            Mistake(
                lambda: getattr(F, name)(zeros(2, 3), zeros(4)),
                ValueError,
                "operands could not be broadcast together with shapes (2,3) (4,) ",
            ),
        ),
        differentiable,
    )


ARITHMETIC = [
    binary("add", np.add, lambda t, x, y: x + y),
    binary("subtract", np.subtract, lambda t, x, y: x - y),
    binary("multiply", np.multiply, lambda t, x, y: x * y),
    binary("divide", np.divide, lambda t, x, y: x / y),
    binary("maximum", np.maximum, lambda t, x, y: t.maximum(x, y)),
    binary("minimum", np.minimum, lambda t, x, y: t.minimum(x, y)),
    *(
        binary(
            name, getattr(np, name), lambda t, x, y, name=name: getattr(t, name)(x, y), differentiable=False
        )
        for name in ("less", "less_equal", "greater", "greater_equal", "not_equal")
    ),
    binary("equal", np.equal, lambda t, x, y: t.eq(x, y), differentiable=False),
    Operation(
        "power",
        F.power,
        lambda r: [
            *(S(r.positive(*x), r(*y)) for x, y in PAIRS),
            *(S(r(3), a) for a in (2, 3, -1, 0, 1)),
            S(r.positive(3), 0.5),
        ],
        np.power,
        lambda t, x, a: x**a,
    ),
    unary("negative", np.negative, lambda t, x: -x),
    unary("absolute", np.abs, lambda t, x: x.abs()),
    unary("exp", np.exp, lambda t, x: x.exp()),
    unary("log", np.log, lambda t, x: x.log(), "positive"),
    unary("sqrt", np.sqrt, lambda t, x: x.sqrt(), "positive"),
    Operation(
        "clip",
        F.clip,
        lambda r: [
            S(r(3, 4), -0.55, 0.75),
            S(r(5), None, 0.5),
            S(r(5), low=-0.5),
            S(r(), 0.0),
            S(r(0), 0.0, 1.0),
        ],
        lambda x, low=None, high=None: np.clip(x, low, high),
        lambda t, x, low=None, high=None: t.clip(x, low, high),
    ),
    Operation(
        "where",
        F.where,
        lambda r: [
            S(r.integers(2, 3, 4) == 1, r(3, 4), r(3, 4)),
            S(r.integers(2, 3, 1) == 1, r(4), r(1, 1)),
            S(np.array([True, False]), r(2), 0.0),
            S(np.array(True), r(), r()),
        ],
        np.where,
        lambda t, c, x, y: t.where(t.as_tensor(c), x, y),
    ),
    Operation(
        "astype",
        lambda x: F.astype(F.astype(x, "float32"), "float64"),
        lambda r: [S(np.float32(r(3, 4)).astype(np.float64))],
        lambda x: x,
    ),
]


def _erf(x: np.ndarray) -> np.ndarray:
    return np.vectorize(math.erf, otypes=[x.dtype])(x)


def _np_softmax(x: np.ndarray, axis: int = -1) -> np.ndarray:
    e = np.exp(x - x.max(axis=axis, keepdims=True, initial=-np.inf))
    return e / e.sum(axis=axis, keepdims=True)


def _along_axis(r: Draw) -> list[S]:
    return [S(r(3, 4)), S(r(3, 4), axis=0), S(r(2, 3, 4), axis=1), S(r(5)), S(r(3, 1)), S(1e4 * r(4))]


ACTIVATIONS = [
    unary("sigmoid", lambda x: 1 / (1 + np.exp(-x)), lambda t, x: x.sigmoid()),
    unary("tanh", np.tanh, lambda t, x: x.tanh()),
    unary("relu", lambda x: np.maximum(x, 0), lambda t, x: x.relu()),
    unary("softplus", lambda x: np.log1p(np.exp(x)), lambda t, x: t.nn.functional.softplus(x)),
    unary("gelu", lambda x: x * 0.5 * (1 + _erf(x / 2**0.5)), lambda t, x: t.nn.functional.gelu(x)),
    Operation(
        "leaky_relu",
        F.leaky_relu,
        lambda r: [S(r(3, 4)), S(r(5), 0.2), S(r()), S(r(0), 0.1), S(r(4), negative_slope=-0.5)],
        lambda x, negative_slope=0.01: np.where(x > 0, x, negative_slope * x),
        lambda t, x, negative_slope=0.01: t.nn.functional.leaky_relu(x, negative_slope),
    ),
    Operation("softmax", F.softmax, _along_axis, _np_softmax, lambda t, x, axis=-1: x.softmax(axis)),
    Operation(
        "log_softmax",
        F.log_softmax,
        _along_axis,
        lambda x, axis=-1: x - np.logaddexp.reduce(x, axis=axis, keepdims=True),
        lambda t, x, axis=-1: x.log_softmax(axis),
    ),
]


def _reduced(draw: str = "__call__") -> Callable[[Draw], list[S]]:
    def samples(r: Draw) -> list[S]:
        d = getattr(r, draw)
        return [
            S(d(3, 4)),
            S(d(3, 4), axis=0),
            S(d(3, 4), axis=-1, keepdims=True),
            S(d(2, 3, 4), axis=(0, 2)),
            S(d(2, 3, 4), axis=(-1, 0), keepdims=True),
            S(d(1, 3, 1), axis=0),
            S(d()),
        ]

    return samples


def _torch_reduction(name: str) -> Callable:
    def reduction(t: Any, x: Any, axis: Any = None, keepdims: bool = False, **options: Any) -> Any:
        axes = tuple(range(x.ndim)) if axis is None else axis
        return getattr(t, name)(x, dim=axes, keepdim=keepdims, **options)

    return reduction


def _bad_axis(name: str) -> tuple[Mistake, ...]:
    message = "axis 2 is out of bounds for a tensor of 2 dimensions"
    return (Mistake(lambda: getattr(F, name)(zeros(2, 3), axis=2), IndexError, message),)


REDUCTIONS = [
    Operation(
        "sum",
        F.sum,
        lambda r: [*_reduced()(r), S(r(0, 3)), S(r(0, 3), axis=0)],
        np.sum,
        _torch_reduction("sum"),
        _bad_axis("sum"),
    ),
    Operation("mean", F.mean, _reduced(), np.mean, _torch_reduction("mean"), _bad_axis("mean")),
    Operation(
        "var",
        F.var,
        lambda r: [
            S(r(3, 4)),
            S(r(3, 4), axis=0),
            S(r(2, 3, 4), axis=(0, 2), keepdims=True, correction=0),
            S(r(4), correction=0),
        ],
        lambda x, axis=None, keepdims=False, correction=1: np.var(
            x, axis, keepdims=keepdims, ddof=correction
        ),
        _torch_reduction("var"),
        _bad_axis("var"),
    ),
    Operation("max", F.max, _reduced("apart"), np.max, _torch_reduction("amax"), _bad_axis("max")),
    Operation("min", F.min, _reduced("apart"), np.min, _torch_reduction("amin"), _bad_axis("min")),
    Operation(
        "logsumexp",
        F.logsumexp,
        lambda r: [*_reduced()(r), S(1e4 * r(4))],
        lambda x, axis=None, keepdims=False: (
            np.log(np.exp(x - x.max()).sum(axis=axis, keepdims=keepdims)) + x.max()
        ),
        _torch_reduction("logsumexp"),
        _bad_axis("logsumexp"),
    ),
    Operation(
        "argmax",
        F.argmax,
        lambda r: [S(r(3, 4)), S(r(3, 4), axis=0), S(r(5), axis=-1)],
        np.argmax,
        lambda t, x, axis=None: x.argmax(axis),
        differentiable=False,
    ),
]

OPERATIONS = [*ARITHMETIC, *ACTIVATIONS, *REDUCTIONS]
