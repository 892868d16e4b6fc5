"""The rows of matrix products, and of the operations that move elements."""

from __future__ import annotations

import numpy as np

from minidl import functional as F
from minidl.errors import ShapeError
from minidl.operations.row import Mistake, Operation, zeros
from minidl.operations.row import Sample as S

MATRICES = [
    Operation(
        "matmul",
        F.matmul,
        lambda r: [
            S(r(3, 4), r(4, 2)),
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
        np.matmul,
        lambda t, x, y: x @ y,
        (
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
        lambda r: [
            S(r(3, 4), r(2, 4), r(2)),
            S(r(3, 4), r(2, 4)),
            S(r(4), r(2, 4), r(2)),
            S(r(2, 3, 4), r(5, 4), r(5)),
            S(r(0, 4), r(2, 4), r(2)),
        ],
        lambda x, w, b=0.0: x @ w.T + b,
        lambda t, x, w, b=None: t.nn.functional.linear(x, w, b),
        (
            Mistake(lambda: F.linear(zeros(2, 3), zeros(5, 4)), ShapeError, "expected (N, 4), got (2, 3)"),
            Mistake(
                lambda: F.linear(zeros(8, 512, 7, 7), zeros(2, 25088)),
                ShapeError,
                "expected (N, 25088), got (8, 512, 7, 7). Flatten the feature maps first: nn.Flatten()",
            ),
        ),
    ),
]

SHAPE = [
    Operation(
        "reshape",
        F.reshape,
        lambda r: [
            S(r(3, 4), (2, 6)),
            S(r(3, 4), -1),
            S(r(2, 6), 3, 4),
            S(r(), 1, 1),
            S(r(1), ()),
            S(r(0, 3), 3, 0),
        ],
        lambda x, *shape: x.reshape(*shape),
        lambda t, x, *shape: x.reshape(*shape),
        (
            Mistake(
                lambda: F.reshape(zeros(2, 3), 4, 2),
                ShapeError,
                "cannot reshape (2, 3) (6 elements) to (4, 2)",
            ),
        ),
    ),
    Operation(
        "flatten",
        F.flatten,
        lambda r: [
            S(r(2, 3, 4)),
            S(r(2, 3, 4), 1),
            S(r(2, 3, 4), 0, 1),
            S(r(2, 3, 4), start_dim=-2),
            S(r(0, 2), 0),
        ],
        torch=lambda t, x, *args, **options: t.flatten(x, *args, **options),
    ),
    Operation(
        "permute",
        F.permute,
        lambda r: [S(r(2, 3, 4), 2, 0, 1), S(r(2, 3), (1, 0)), S(r(2, 3, 4), -1, 0, 1), S(r(0, 2), 1, 0)],
        lambda x, *axes: x.transpose(*axes),
        lambda t, x, *axes: x.permute(*axes),
        (
            Mistake(
                lambda: F.permute(zeros(2, 3), 0, 0),
                ShapeError,
                "cannot permute (2, 3) by (0, 0): each of the 2 axes must be named once",
            ),
        ),
    ),
    Operation(
        "transpose",
        F.transpose,
        lambda r: [S(r(2, 3)), S(r(2, 3, 4)), S(r(2, 3, 4), 0, 1), S(r(2, 3, 4), -1, 0)],
        lambda x, a=-2, b=-1: np.swapaxes(x, a, b),
        lambda t, x, a=-2, b=-1: x.transpose(a, b),
    ),
    Operation(
        "broadcast_to",
        F.broadcast_to,
        lambda r: [S(r(3), 2, 3), S(r(3, 1), (3, 4)), S(r(), 2, 2), S(r(1, 3), (0, 3)), S(r(2, 3), 2, 3)],
        lambda x, *shape: np.broadcast_to(x, shape[0] if isinstance(shape[0], tuple) else shape),
        lambda t, x, *shape: x.broadcast_to(shape[0] if isinstance(shape[0], tuple) else shape),
        (
            Mistake(
                lambda: F.broadcast_to(zeros(2, 3), 2, 4), ShapeError, "cannot broadcast (2, 3) to (2, 4)"
            ),
        ),
    ),
    Operation(
        "getitem",
        F.getitem,
        lambda r: [
            S(r(3, 4), index)
            for index in (
                0,
                -1,
                slice(None, None, 2),
                (slice(1, 3), slice(None, -1)),
                (..., 1),
                (None, 2, None),
                (slice(None, None, -1), 0),
                (2, 3),
                np.array([0, 2, 0]),
                (np.array([0, 2, 0]), np.array([1, 1, 1])),
                (slice(None), np.array([[0, 1], [3, 3]])),
                (np.array([0, 0]), slice(1, 3)),
                np.arange(12).reshape(3, 4) % 5 == 0,
                (slice(None), np.array([True, False, True, False])),
                np.zeros(0, int),
                [2, 1],
            )
        ],
        lambda x, index: x[index],
        None,
        (
            Mistake(
                lambda: zeros(2, 3)[4],
                IndexError,
                "index 4 is out of bounds for axis 0 with size 2",
            ),
        ),
    ),
    Operation(
        "concatenate",
        F.concatenate,
        lambda r: [
            S([r(2, 3), r(1, 3)]),
            S([r(2, 3), r(2, 1), r(2, 2)], axis=1),
            S([r(2, 3), r(2, 3)], axis=-1),
            S([r(3)]),
            S([r(0, 3), r(2, 3)]),
        ],
        np.concatenate,
        lambda t, xs, axis=0: t.cat(xs, axis),
        (
            Mistake(
                lambda: F.concatenate([zeros(2, 3), zeros(2, 4)]),
                ShapeError,
                "cannot concatenate (2, 3), (2, 4) along axis 0: all other axes must agree",
            ),
        ),
    ),
    Operation(
        "stack",
        F.stack,
        lambda r: [
            S([r(2, 3), r(2, 3)]),
            S([r(3), r(3), r(3)], axis=1),
            S([r(), r()]),
            S([r(2), r(2)], axis=-1),
        ],
        np.stack,
        lambda t, xs, axis=0: t.stack(xs, axis),
        (
            Mistake(
                lambda: F.stack([zeros(2), zeros(3)]),
                ShapeError,
                "cannot stack (2,), (3,): the shapes must be equal",
            ),
        ),
    ),
    Operation(
        "pad",
        F.pad,
        lambda r: [
            S(r(2, 3), [(1, 2), (0, 1)]),
            S(r(3), [(2, 0)], value=1.5),
            S(r(2, 2), [(0, 0), (0, 0)]),
            S(r(0, 2), [(1, 0), (1, 1)]),
        ],
        lambda x, widths, value=0.0: np.pad(x, widths, constant_values=value),
        None,
        (
            Mistake(
                lambda: F.pad(zeros(2, 3), [(1, 1)]),
                ShapeError,
                "pad needs (before, after) for each of the 2 axes of (2, 3), got 1",
            ),
        ),
    ),
    Operation(
        "squeeze",
        F.squeeze,
        lambda r: [S(r(1, 3, 1)), S(r(1, 3, 1), 0), S(r(1, 3), 1), S(r(1, 3, 1), axis=-1), S(r(1, 1))],
        torch=lambda t, x, *args, **options: t.squeeze(x, *args, **options),
    ),
    Operation(
        "unsqueeze",
        F.unsqueeze,
        lambda r: [S(r(3), 0), S(r(3), 1), S(r(3), -1), S(r(2, 3), 1), S(r(), 0)],
        np.expand_dims,
        lambda t, x, axis: x.unsqueeze(axis),
    ),
]

OPERATIONS = [*MATRICES, *SHAPE]
