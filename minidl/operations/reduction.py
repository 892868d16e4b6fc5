"""The rows of sums, means, variances and extrema."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minidl import functional as F
from minidl.operations.draw import Draw
from minidl.operations.row import Kink, Mistake, Operation, zeros
from minidl.operations.row import Sample as S


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


def _drawn_reduced(
    draw: str = "__call__", least: int = 0, sides: tuple[int, ...] = (2, 1, 3), **options: tuple[Any, ...]
) -> Callable[[Draw], S]:
    """An array of `least` axes or more, the axes to reduce, and some of the options."""

    def drawn(r: Draw) -> S:
        shape = r.shape(least, 4, sides)
        axis = r.axes(len(shape))
        return S(getattr(r, draw)(*shape), axis=axis, **r.options(keepdims=(True, False), **options))

    return drawn


def _drawn_along_one(r: Draw) -> S:
    shape = r.full_shape(1, 4)
    return S(r.apart(*shape), **r.options(axis=(*range(len(shape)), *range(-len(shape), 0))))


def _torch_reduction(name: str) -> Callable:
    def reduction(t: Any, x: Any, axis: Any = None, keepdims: bool = False, **options: Any) -> Any:
        axes = tuple(range(x.ndim)) if axis is None else axis
        return getattr(t, name)(x, dim=axes, keepdim=keepdims, **options)

    return reduction


def bad_axis(name: str) -> tuple[Mistake, ...]:
    message = "axis 2 is out of bounds for a tensor of 2 dimensions"
    return (Mistake(lambda: getattr(F, name)(zeros(2, 3), axis=2), IndexError, message),)


def _extremum(name: str, torch: str, tie: list[int], share: list[float]) -> Operation:
    return Operation(
        name,
        getattr(F, name),
        samples=_reduced("apart"),
        drawn=_drawn_reduced("apart"),
        numpy=getattr(np, name),
        torch=_torch_reduction(torch),
        mistakes=bad_axis(name),
        kinks=(Kink(S(np.array(tie, float)), (share,)),),
    )


OPERATIONS = [
    Operation(
        "sum",
        F.sum,
        samples=lambda r: [*_reduced()(r), S(r(0, 3)), S(r(0, 3), axis=0)],
        drawn=_drawn_reduced(sides=(2, 1, 3, 0)),
        numpy=np.sum,
        torch=_torch_reduction("sum"),
        mistakes=bad_axis("sum"),
    ),
    Operation(
        "mean",
        F.mean,
        samples=_reduced(),
        drawn=_drawn_reduced(),
        numpy=np.mean,
        torch=_torch_reduction("mean"),
        mistakes=bad_axis("mean"),
    ),
    Operation(
        "var",
        F.var,
        samples=lambda r: [
            S(r(3, 4)),
            S(r(3, 4), axis=0),
            S(r(2, 3, 4), axis=(0, 2), keepdims=True, correction=0),
            S(r(4), correction=0),
            S(r(2, 1), axis=-1, correction=0),
        ],
        drawn=_drawn_reduced(least=1, sides=(2, 3), correction=(0, 1)),
        numpy=lambda x, axis=None, keepdims=False, correction=1: np.var(
            x, axis, keepdims=keepdims, ddof=correction
        ),
        torch=_torch_reduction("var"),
        mistakes=bad_axis("var"),
    ),
    _extremum("max", "amax", tie=[3, 1, 3, 2], share=[0.5, 0, 0.5, 0]),
    _extremum("min", "amin", tie=[1, 3, 1, 1], share=[1 / 3, 0, 1 / 3, 1 / 3]),
    Operation(
        "logsumexp",
        F.logsumexp,
        samples=lambda r: [*_reduced()(r), S(1e4 * r(4))],
        drawn=_drawn_reduced(),
        numpy=lambda x, axis=None, keepdims=False: (
            np.log(np.exp(x - x.max()).sum(axis=axis, keepdims=keepdims)) + x.max()
        ),
        torch=_torch_reduction("logsumexp"),
        mistakes=bad_axis("logsumexp"),
    ),
    Operation(
        "argmax",
        F.argmax,
        samples=lambda r: [S(r(3, 4)), S(r(3, 4), axis=0), S(r(5), axis=-1)],
        drawn=_drawn_along_one,
        numpy=np.argmax,
        torch=lambda t, x, axis=None: x.argmax(axis),
        mistakes=bad_axis("argmax"),
        differentiable=False,
    ),
]
