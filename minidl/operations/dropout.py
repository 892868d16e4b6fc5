"""The row of dropout, with a given mask instead of a drawn one."""

from __future__ import annotations

import numpy as np

from minidl import functional as F
from minidl.backend import to_device
from minidl.functional.dropout import Dropout
from minidl.operations.draw import Draw
from minidl.operations.row import Mistake, Operation, zeros
from minidl.operations.row import Sample as S


def _dropped(r: Draw) -> S:
    shape = r.shape()
    return S(r(*shape), r.mask(*shape), r.pick(0.5, 0.0, 0.25))


OPERATIONS = [
    Operation(
        "dropout",
        lambda x, kept, p: Dropout(to_device(kept, x.device), p)(x),
        samples=lambda r: [S(r(2, 4), r.mask(2, 4), p) for p in (0.5, 0.1)],
        drawn=_dropped,
        numpy=lambda x, kept, p: np.where(kept, x / (1 - p), 0).astype(x.dtype),
        torch=lambda t, x, kept, p: x * t.as_tensor(kept) / (1 - p),
        mistakes=(
            Mistake(
                lambda: F.dropout(zeros(2), 1.5),
                ValueError,
                "the dropout probability lies in [0, 1], got 1.5",
            ),
        ),
    ),
]
