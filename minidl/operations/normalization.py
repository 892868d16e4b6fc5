"""The rows of normalisation."""

from __future__ import annotations

from typing import Any

from minidl import functional as F
from minidl.errors import ShapeError
from minidl.operations import reference
from minidl.operations.draw import Draw
from minidl.operations.row import Mistake, Operation, zeros
from minidl.operations.row import Sample as S
from minidl.tensor import Tensor


def _batch_norm(
    x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, **options: Any
) -> Tensor:
    return F.batch_norm(x, None, None, weight, bias, training=True, **options)


def _batch_norm_eval(
    x: Tensor, weight: Tensor, bias: Tensor, mean: list[float], var: list[float], **options: Any
) -> Tensor:
    running_mean, running_var = (Tensor(values, dtype=x.dtype).to(x.device) for values in (mean, var))
    return F.batch_norm(x, running_mean, running_var, weight, bias, **options)


def _normalised(r: Draw) -> S:
    """Three elements a channel or more: two are always at ±1, whatever they were."""
    c, options = r.number(1, 3), r.options(eps=(0.125, 1e-3))
    x = r(3 + r.number(0, 2), c, *r.full_shape(0, 2))
    return S(x, *((r(c), r(c)) if r.flag() else ()), **options)


def _normalised_by_given(r: Draw) -> S:
    c, options = r.number(1, 3), r.options(eps=(0.125, 1e-3))
    x = r(r.pick(1, 2, 0), c, *r.full_shape(0, 2))
    return S(x, r(c), r(c), r(c).tolist(), r.positive(c).tolist(), **options)


def _divided_by_neighbours(r: Draw) -> S:
    options = r.options(alpha=(0.5, 1.0), beta=(0.5, 1.0), k=(2.0, 1.5))
    return S(r(*r.shape(2, 4)), r.pick(2, 1, 3, 5), **options)


OPERATIONS = [
    Operation(
        "batch_norm",
        _batch_norm,
        samples=lambda r: [
            S(r(4, 3), r(3), r(3)),
            S(r(2, 2, 5), r(2), r(2)),
            S(r(2, 3, 3, 2), r(3), r(3)),
            S(r(3, 2, 2, 2), r(2), r(2), eps=0.1),
            S(r(4, 3)),
        ],
        drawn=_normalised,
        numpy=reference.batch_norm,
        torch=lambda t, x, w=None, b=None, **options: t.nn.functional.batch_norm(
            x, None, None, w, b, True, **options
        ),
        mistakes=(
            Mistake(
                lambda: _batch_norm(zeros(1, 3), zeros(3), zeros(3)),
                ShapeError,
                "training needs more than one element a channel, got (1, 3): use a larger batch, or .eval()",
            ),
            Mistake(
                lambda: _batch_norm(zeros(4, 3), zeros(2), zeros(2)),
                ShapeError,
                "expected (N, 2, …), got (4, 3)",
            ),
        ),
    ),
    Operation(
        "batch_norm_eval",
        _batch_norm_eval,
        samples=lambda r: [
            S(r(4, 3), r(3), r(3), [0.1, -0.2, 0.3], [1.0, 0.5, 2.0]),
            S(r(1, 2, 3, 3), r(2), r(2), [0.5, 0.0], [1.5, 0.25]),
        ],
        drawn=_normalised_by_given,
        numpy=reference.batch_norm,
        torch=lambda t, x, w, b, mean, var, **options: t.nn.functional.batch_norm(
            x, t.tensor(mean, dtype=x.dtype), t.tensor(var, dtype=x.dtype), w, b, **options
        ),
        mistakes=(
            Mistake(
                lambda: F.batch_norm(zeros(4, 3), None, None),
                ValueError,
                "batch_norm needs running_mean and running_var where it does not train",
            ),
        ),
    ),
    Operation(
        "local_response_norm",
        F.local_response_norm,
        samples=lambda r: [
            S(r(2, 5, 2, 2), 3),
            S(r(1, 4, 3), 2, alpha=0.5, beta=0.6, k=2.0),
            S(r(2, 3), 5, alpha=1.0),
            S(r(1, 1, 2, 2), 1),
        ],
        drawn=_divided_by_neighbours,
        numpy=reference.local_response_norm,
        torch=lambda t, x, size, **options: t.nn.functional.local_response_norm(
            x if x.ndim > 2 else x[..., None], size, **options
        ).reshape(x.shape),
        mistakes=(
            Mistake(lambda: F.local_response_norm(zeros(3), 2), ShapeError, "expected (N, C, …), got (3,)"),
            Mistake(
                lambda: F.local_response_norm(zeros(2, 3), 0),
                ValueError,
                "local_response_norm sums over one channel or more, got size 0",
            ),
        ),
    ),
]
