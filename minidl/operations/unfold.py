"""The rows of im2col and col2im."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl import functional as F
from minidl.errors import ShapeError
from minidl.operations import reference
from minidl.operations.draw import Draw
from minidl.operations.row import Mistake, Operation, torch_functional, zeros
from minidl.operations.row import Sample as S


def _options(r: Draw) -> dict[str, Any]:
    return r.options(dilation=(1, 2, (2, 1)), padding=(0, 1, (2, 0)), stride=(1, 2, (1, 3)))


def _unfolded(r: Draw) -> S:
    kernel, options = r.pair(1, 3), _options(r)
    return S(r(r.pick(1, 2, 0), r.number(1, 2), *r.picture(kernel, **options)), kernel, **options)


def _folded(r: Draw) -> S:
    """As many rows and columns as `unfold` makes of a picture of that size."""
    kernel, options = r.pair(1, 3), _options(r)
    size = r.picture(kernel, **options)
    picture = np.zeros((r.pick(1, 2, 0), r.number(1, 2), *size))
    return S(r(*reference.unfold(picture, kernel, **options).shape), size, kernel, **options)


OPERATIONS = [
    Operation(
        "unfold",
        F.unfold,
        samples=lambda r: [
            S(r(2, 2, 4, 5), 3),
            S(r(1, 2, 4, 4), (2, 3), padding=1),
            S(r(1, 1, 5, 6), 2, dilation=2, stride=2),
        ],
        drawn=_unfolded,
        numpy=reference.unfold,
        torch=torch_functional("unfold"),
        mistakes=(
            Mistake(
                lambda: F.unfold(zeros(3, 4, 4), 2),
                ShapeError,
                "expected pictures of (N, C, H, W), got (3, 4, 4)",
            ),
            Mistake(
                lambda: F.unfold(zeros(1, 1, 2, 2), 3),
                ShapeError,
                "a window of 3×3 does not fit into a picture of 2×2 with padding 0×0: use a larger picture, "
                "a smaller kernel or more padding",
            ),
        ),
    ),
    Operation(
        "fold",
        F.fold,
        samples=lambda r: [
            S(r(2, 18, 6), (4, 5), 3),
            S(r(1, 12, 20), 4, (2, 3), padding=1),
            S(r(1, 4, 4), (5, 6), 2, dilation=2, stride=2),
        ],
        drawn=_folded,
        numpy=reference.fold,
        torch=torch_functional("fold"),
        mistakes=(
            Mistake(
                lambda: F.fold(zeros(1, 9, 5), 4, 3),
                ShapeError,
                "expected columns of (N, C·9, 4) for a window of 9 pixels at 2×2 places of a picture of 4×4, "
                "got (1, 9, 5)",
            ),
        ),
    ),
]
