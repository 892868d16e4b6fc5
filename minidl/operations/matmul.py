"""The rows of matrix products."""

from __future__ import annotations

import numpy as np

from minidl import functional as F
from minidl.errors import ShapeError
from minidl.operations.draw import Draw
from minidl.operations.row import Mistake, Operation, zeros
from minidl.operations.row import Sample as S


def _factors(r: Draw) -> S:
    """Matrices of any number of axes, vectors on either side, lengths of 0 among them."""
    rows, inner, columns = (r.pick(2, 1, 3, 0) for _ in range(3))
    left, right = r.pick("matrix", "vector"), r.pick("matrix", "vector")
    leading = r.shape(0, 2)
    x = (inner,) if left == "vector" else (*r.broadcast(leading), rows, inner)
    y = (inner,) if right == "vector" else (*r.broadcast(leading), inner, columns)
    return S(r(*x), r(*y))


def _layer(r: Draw) -> S:
    inputs, outputs = r.number(1, 3), r.number(1, 3)
    x, weight = r(*r.shape(0, 2), inputs), r(outputs, inputs)
    return S(x, weight, r(outputs)) if r.flag() else S(x, weight)


OPERATIONS = [
    Operation(
        "matmul",
        F.matmul,
        samples=lambda r: [
            S(r(3, 4), r(4, 2)),
            S(r(3, 3), r(3, 3)),
            S(r(4), r(4)),
            S(r(4), r(4, 2)),
            S(r(3, 4), r(4)),
            S(r(2, 3, 4), r(4, 2)),
            S(r(2, 1, 3, 4), r(5, 4, 2)),
            S(r(4), r(2, 4, 3)),
            S(r(2, 3, 4), r(4)),
            S(r(1, 1), r(1, 1)),
            S(r(0, 4), r(4, 2)),
            S(r(3, 0), r(0, 2)),
        ],
        drawn=_factors,
        numpy=np.matmul,
        torch=lambda t, x, y: x @ y,
        mistakes=(
            Mistake(
                lambda: F.matmul(zeros(2, 3), zeros(2, 3)),
                ShapeError,
                "matmul of (2, 3) and (2, 3): the last axis of the left (3) "
                "must match the second to last axis of the right (2)",
            ),
            Mistake(
                lambda: F.matmul(zeros(2, 3), zeros(2)),
                ShapeError,
                "matmul of (2, 3) and (2,): the last axis of the left (3) "
                "must match the only axis of the right (2)",
            ),
            Mistake(
                lambda: F.matmul(zeros(2, 3), zeros()),
                ShapeError,
                "matmul of (2, 3) and (): use * for a product with a number",
            ),
            Mistake(
                lambda: F.matmul(zeros(2, 2, 3), zeros(3, 3, 2)),
                ShapeError,
                "matmul of (2, 2, 3) and (3, 3, 2): the leading axes do not broadcast",
            ),
        ),
    ),
    Operation(
        "linear",
        F.linear,
        samples=lambda r: [
            S(r(3, 4), r(2, 4), r(2)),
            S(r(3, 4), r(2, 4)),
            S(r(3, 3), r(3, 3), r(3)),
            S(r(4), r(2, 4), r(2)),
            S(r(2, 3, 4), r(5, 4), r(5)),
            S(r(0, 4), r(2, 4), r(2)),
        ],
        drawn=_layer,
        numpy=lambda x, w, b=0.0: x @ w.T + b,
        torch=lambda t, x, w, b=None: t.nn.functional.linear(x, w, b),
        mistakes=(
            Mistake(lambda: F.linear(zeros(2, 3), zeros(5, 4)), ShapeError, "expected (N, 4), got (2, 3)"),
            Mistake(
                lambda: F.linear(zeros(8, 512, 7, 7), zeros(2, 25088)),
                ShapeError,
                "expected (N, 25088), got (8, 512, 7, 7). Flatten the feature maps first: nn.Flatten()",
            ),
            Mistake(
                lambda: F.linear(zeros(2, 3), zeros(4, 3), zeros(1)),
                ShapeError,
                "expected a bias of (4,) for a weight of (4, 3), got (1,)",
            ),
            Mistake(
                lambda: F.linear(zeros(2, 3), zeros(3)),
                ShapeError,
                "expected a weight of (out, in), got (3,)",
            ),
        ),
    ),
]
