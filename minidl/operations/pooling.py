"""The rows of pooling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minidl import functional as F
from minidl.errors import ShapeError
from minidl.operations import reference
from minidl.operations.draw import Draw, both
from minidl.operations.row import Kink, Mistake, Operation, torch_functional, zeros
from minidl.operations.row import Sample as S
from minidl.tensor import Tensor


def _pooled(r: Draw) -> list[S]:
    return [
        S(r.apart(2, 2, 4, 4), 2),
        S(r.apart(1, 2, 5, 6), (3, 2), stride=(2, 1)),
        S(r.apart(1, 1, 5, 5), 3, stride=2, padding=1),
        S(r.apart(1, 1, 6, 7), 3, stride=2, ceil_mode=True),
        S(r.apart(1, 1, 5, 5), 2, stride=2, padding=1, ceil_mode=True),
        S(r.apart(1, 2, 3, 3), 1),
        S(r.apart(0, 2, 4, 4), 2),
    ]


def _drawn_pool(**more: tuple[Any, ...]) -> Callable[[Draw], S]:
    """Any kernel, stride, padding and the options `more`, on maps in which every window sees a pixel."""

    def drawn(r: Draw) -> S:
        kernel = r.pair(1, 3)
        options = r.options(stride=(2, 1, (1, 3), (2, 1)), **more)
        padding = tuple(r.number(0, k // 2) for k in both(kernel))
        if any(padding):
            options["padding"] = padding
        spans = zip(both(kernel), both(options.get("dilation", 1)), padding, strict=True)
        # In a window that sees only border nothing is the largest: there PyTorch writes outside its memory.
        size = [d * (k - 1) + 1 - p + r.number(0, 4) for k, d, p in spans]
        return S(r.apart(r.pick(1, 2, 0), r.number(1, 2), *size), kernel, **options)

    return drawn


def _pooling_mistakes(pool: Callable[..., Any]) -> tuple[Mistake, ...]:
    return (
        Mistake(
            lambda: pool(zeros(3, 4, 4), 2),
            ShapeError,
            "expected feature maps of (N, C, H, W), got (3, 4, 4)",
        ),
        Mistake(
            lambda: pool(zeros(1, 3, 4, 4), 2, padding=2),
            ShapeError,
            "padding must be at most half of the window, got 2 for a kernel of 2",
        ),
        Mistake(
            lambda: pool(zeros(1, 3, 4, 4), 5),
            ShapeError,
            "a window of 5×5 does not fit into a picture of 4×4 with padding 0×0: use a larger picture, "
            "a smaller kernel or more padding",
        ),
    )


def _global_mistakes(pool: Callable[..., Any]) -> tuple[Mistake, ...]:
    message = "expected feature maps of (N, C, H, W), got (3, 4, 4)"
    return (Mistake(lambda: pool(zeros(3, 4, 4)), ShapeError, message),)


def _unpool(x: Tensor, indices: np.ndarray, *args: Any, **options: Any) -> Tensor:
    return F.max_unpool2d(x, Tensor(indices).to(x.device), *args, **options)


def _unpooled(r: Draw) -> S:
    """What max-pooling found in windows that do not overlap."""
    kernel = r.number(1, 3), r.number(1, 3)
    stride = tuple(k + r.number(0, 1) for k in kernel)
    padding = tuple(r.number(0, k // 2) for k in kernel)
    options: dict[str, Any] = {"stride": stride, "padding": padding}
    maps = r.apart(r.pick(1, 2, 0), r.number(1, 2), *r.picture(kernel, padding=padding))
    y, indices = F.max_pool2d(Tensor(maps), kernel, **options, return_indices=True)
    spans = zip(y.shape[2:], stride, padding, kernel, strict=True)
    if maps.shape[2:] != tuple((o - 1) * s - 2 * p + k for o, s, p, k in spans):
        options["output_size"] = maps.shape[2:]
    return S(r(*y.shape), indices.numpy(), kernel, **options)


TIE = (Kink(S(np.array([[[[1.0, 2.0], [2.0, 2.0]]]]), 2), ([[[[0, 1], [0, 0]]]],)),)  # the first of several

OPERATIONS = [
    Operation(
        "max_pool2d",
        F.max_pool2d,
        samples=lambda r: [*_pooled(r), S(r.apart(1, 1, 6, 6), 2, dilation=2, stride=1)],
        drawn=_drawn_pool(dilation=(2, 1, (1, 2)), ceil_mode=(True, False)),
        numpy=reference.max_pool2d,
        torch=torch_functional("max_pool2d"),
        mistakes=_pooling_mistakes(F.max_pool2d),
        kinks=TIE,
    ),
    Operation(
        "max_unpool2d",
        _unpool,
        samples=lambda r: [
            S(r(1, 2, 2, 2), np.array([[[[0, 3], [13, 10]], [[5, 2], [8, 15]]]]), 2),
            S(r(1, 1, 2, 2), np.array([[[[6, 3], [10, 18]]]]), 2, output_size=(5, 5)),
        ],
        drawn=_unpooled,
        numpy=reference.max_unpool2d,
        torch=lambda t, x, indices, *args, **options: t.nn.functional.max_unpool2d(
            x, t.as_tensor(indices), *args, **options
        ),
        mistakes=(
            Mistake(
                lambda: _unpool(zeros(1, 1, 2, 2), np.zeros((1, 1, 2, 3), int), 2),
                ShapeError,
                "expected x and indices of one shape (N, C, OH, OW), got (1, 1, 2, 2) and (1, 1, 2, 3)",
            ),
            Mistake(
                lambda: _unpool(zeros(1, 1, 1, 1), np.array([[[[4]]]]), 2),
                ShapeError,
                "the indices do not belong to windows of 2 in feature maps of 2×2: give max_unpool2d the "
                "kernel_size, stride and padding of max_pool2d, and as output_size its (H, W)",
            ),
        ),
        note="where windows overlap and found the same pixel, their numbers are added; PyTorch keeps one",
    ),
    Operation(
        "avg_pool2d",
        F.avg_pool2d,
        samples=lambda r: [
            *_pooled(r),
            S(r(1, 1, 5, 5), 3, stride=2, padding=1, count_include_pad=False),
            S(r(1, 1, 4, 4), 2, divisor_override=3),
        ],
        drawn=_drawn_pool(
            ceil_mode=(True, False), count_include_pad=(False, True), divisor_override=(3, 1, None)
        ),
        numpy=reference.avg_pool2d,
        torch=torch_functional("avg_pool2d"),
        mistakes=(
            *_pooling_mistakes(F.avg_pool2d),
            Mistake(
                lambda: F.avg_pool2d(zeros(1, 3, 4, 4), 2, divisor_override=0),
                ValueError,
                "divisor_override must not be 0",
            ),
        ),
    ),
    Operation(
        "adaptive_avg_pool2d",
        F.adaptive_avg_pool2d,
        samples=lambda r: [
            S(r(1, 2, 5, 7), (2, 3)),
            S(r(2, 1, 4, 4), 1),
            S(r(1, 1, 3, 4), (None, 7)),
            S(r(1, 1, 2, 2), 2),
        ],
        drawn=lambda r: S(
            r(r.pick(1, 2, 0), r.number(1, 2), r.number(1, 5), r.number(1, 5)),
            (r.pick(1, 2, 3, 7, None), r.pick(1, 2, 3, 7, None)) if r.flag() else r.number(1, 5),
        ),
        numpy=reference.adaptive_avg_pool2d,
        torch=torch_functional("adaptive_avg_pool2d"),
        mistakes=(
            Mistake(
                lambda: F.adaptive_avg_pool2d(zeros(3, 4, 4), 2),
                ShapeError,
                "expected feature maps of (N, C, H, W), got (3, 4, 4)",
            ),
            Mistake(
                lambda: F.adaptive_avg_pool2d(zeros(1, 3, 4, 4), 0),
                ShapeError,
                "output_size must be an integer ≥ 1 or a pair of them, got (0, 0)",
            ),
        ),
    ),
    Operation(
        "global_avg_pool2d",
        F.global_avg_pool2d,
        samples=lambda r: [S(r(2, 3, 4, 5)), S(r(1, 1, 1, 1))],
        drawn=lambda r: S(r(r.pick(1, 2, 0), r.number(1, 2), *r.full_shape(2, 2))),
        numpy=lambda x: x.mean((2, 3), keepdims=True),
        torch=lambda t, x: x.mean((2, 3), keepdim=True),
        mistakes=_global_mistakes(F.global_avg_pool2d),
    ),
    Operation(
        "global_max_pool2d",
        F.global_max_pool2d,
        samples=lambda r: [S(r.apart(2, 3, 4, 5)), S(r(1, 1, 1, 1))],
        drawn=lambda r: S(r.apart(r.pick(1, 2, 0), r.number(1, 2), *r.full_shape(2, 2))),
        numpy=lambda x: x.max((2, 3), keepdims=True),
        torch=lambda t, x: t.nn.functional.adaptive_max_pool2d(x, 1),
        mistakes=_global_mistakes(F.global_max_pool2d),
        kinks=(Kink(S(np.array([[[[1.0, 2.0], [2.0, 2.0]]]])), ([[[[0, 1], [0, 0]]]],)),),
    ),
]
