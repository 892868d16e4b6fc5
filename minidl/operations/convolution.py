"""The rows of convolution and of its transpose."""

from __future__ import annotations

from typing import Any

from minidl import functional as F
from minidl.errors import ShapeError
from minidl.operations import reference
from minidl.operations.draw import Draw, both
from minidl.operations.row import Mistake, Operation, torch_functional, zeros
from minidl.operations.row import Sample as S


def _convolved(r: Draw) -> S:
    """Any kernel and options, on a picture that the window just fits into or a larger one."""
    kernel, groups = (r.number(1, 3), r.number(1, 3)), r.pick(1, 2, 3)
    options = r.options(
        stride=(1, 2, (1, 3), (2, 1)), padding=(0, 1, (2, 0), (0, 1)), dilation=(1, 2, (2, 1))
    )
    each, filters = r.number(1, 2), groups * r.number(1, 2)
    x = r(r.pick(1, 2, 0), groups * each, *r.picture(kernel, **options))
    bias = [r(filters)] if r.flag() else []
    return S(x, r(filters, each, *kernel), *bias, **options, **({"groups": groups} if groups > 1 else {}))


def _transposed(r: Draw) -> S:
    """Any kernel, stride, output_padding, dilation and groups, and as much padding as leaves a picture."""
    kernel, size, groups = (r.number(1, 3), r.number(1, 3)), (r.number(1, 3), r.number(1, 3)), r.pick(1, 2, 3)
    stride, dilation = r.pair(1, 3), r.pair(1, 2)
    more = tuple(r.number(0, s - 1) for s in both(stride))
    spans = zip(size, both(stride), kernel, both(dilation), more, strict=True)
    padding = tuple(r.number(0, min(2, ((n - 1) * s + d * (k - 1) + m) // 2)) for n, s, k, d, m in spans)
    each, filters = r.number(1, 2), groups * r.number(1, 2)
    x, weight = r(r.pick(1, 2, 0), filters, *size), r(filters, each, *kernel)
    bias = [r(groups * each)] if r.flag() else []
    options = {"stride": stride, "padding": padding, "output_padding": more, "dilation": dilation}
    return S(x, weight, *bias, groups=groups, **options)


def _torch(t: Any, *args: Any, relu: bool = False, pool: bool = False, **options: Any) -> Any:
    """The same in PyTorch, one after the other."""
    y = t.nn.functional.conv2d(*args, **options).clamp(min=0 if relu else -t.inf)
    return t.nn.functional.max_pool2d(y, 2) if pool else y


OPERATIONS = [
    Operation(
        "conv2d",
        F.conv2d,
        samples=lambda r: [
            S(r(2, 3, 5, 4), r(2, 3, 3, 3), r(2)),
            S(r(1, 2, 4, 4), r(3, 2, 1, 1)),
            S(r(1, 2, 6, 5), r(2, 2, 3, 2), r(2), stride=2, padding=1),
            S(r(1, 1, 5, 7), r(2, 1, 2, 3), stride=(1, 3), padding=(0, 2)),
            S(r(1, 2, 6, 6), r(2, 2, 2, 3), dilation=(2, 1), padding=1),
            S(r(1, 4, 4, 4), r(6, 2, 3, 3), r(6), groups=2, padding=1),
            S(r(2, 3, 4, 4), r(3, 1, 3, 3), groups=3),
            S(r(1, 1, 3, 3), r(1, 1, 3, 3)),
            S(r(0, 2, 4, 4), r(3, 2, 3, 3), r(3)),
            S(r(2, 3, 5, 4), r(4, 3, 3, 3), r(4), relu=True),
            S(r(1, 2, 6, 5), r(2, 1, 3, 2), r(2), stride=2, padding=1, groups=2, relu=True),
            S(r(1, 1, 5, 4), r(16, 1, 2, 2), r(16), relu=True, pool=True),
        ],
        drawn=_convolved,
        numpy=reference.conv2d,
        torch=_torch,
        mistakes=(
            Mistake(
                lambda: F.conv2d(zeros(1, 3, 5, 5), zeros(4, 2, 3, 3)),
                ShapeError,
                "expected (N, 2, H, W) for a weight of (4, 2, 3, 3), got (1, 3, 5, 5)",
            ),
            Mistake(
                lambda: F.conv2d(zeros(1, 3, 5, 5), zeros(4, 2, 3, 3), groups=2),
                ShapeError,
                "expected (N, 4, H, W) for a weight of (4, 2, 3, 3) in 2 groups, got (1, 3, 5, 5)",
            ),
            Mistake(
                lambda: F.conv2d(zeros(1, 3, 5, 5), zeros(4, 1, 3, 3), groups=3),
                ShapeError,
                "groups must divide the 4 filters of a weight of (4, 1, 3, 3), got 3",
            ),
            Mistake(
                lambda: F.conv2d(zeros(3, 5, 5), zeros(4, 3, 3, 3)),
                ShapeError,
                "expected pictures of (N, C, H, W), got (3, 5, 5). "
                "One picture is a batch of one: x.unsqueeze(0)",
            ),
            Mistake(
                lambda: F.conv2d(zeros(1, 3, 5, 5), zeros(4, 27)),
                ShapeError,
                "expected a weight of (O, C, KH, KW), got (4, 27)",
            ),
            Mistake(
                lambda: F.conv2d(zeros(1, 3, 5, 5), zeros(0, 3, 3, 3)),
                ShapeError,
                "expected a weight of (O, C, KH, KW) with at least one of each, got (0, 3, 3, 3)",
            ),
            Mistake(
                lambda: F.conv2d(zeros(2, 5, 6, 3), zeros(4, 3, 3, 3)),
                ShapeError,
                "expected (N, 3, H, W) for a weight of (4, 3, 3, 3), got (2, 5, 6, 3). "
                "Its channels are last, they come second here: x.permute(0, 3, 1, 2)",
            ),
            Mistake(
                lambda: F.conv2d(zeros(2, 3, 8, 8), zeros(4, 8, 3, 3)),
                ShapeError,
                "expected (N, 8, H, W) for a weight of (4, 8, 3, 3), got (2, 3, 8, 8)",
            ),
            Mistake(
                lambda: F.conv2d(zeros(1, 3, 2, 5), zeros(4, 3, 3, 3)),
                ShapeError,
                "a window of 3×3 does not fit into a picture of 2×5 with padding 0×0: use a larger picture, "
                "a smaller kernel or more padding",
            ),
            Mistake(
                lambda: F.conv2d(zeros(1, 3, 5, 5), zeros(4, 3, 3, 3), zeros(3)),
                ShapeError,
                "expected a bias of (4,) for a weight of (4, 3, 3, 3), got (3,)",
            ),
            Mistake(
                lambda: F.conv2d(zeros(1, 3, 5, 5), zeros(4, 3, 3, 3), stride=0),
                ShapeError,
                "stride must be an integer ≥ 1 or a pair of them, got 0",
            ),
            Mistake(
                lambda: F.conv2d(zeros(1, 3, 5, 5), zeros(4, 3, 3, 3), padding=-1),
                ShapeError,
                "padding must be an integer ≥ 0 or a pair of them, got -1",
            ),
        ),
    ),
    Operation(
        "conv_transpose2d",
        F.conv_transpose2d,
        samples=lambda r: [
            S(r(2, 2, 3, 4), r(2, 3, 3, 3), r(3)),
            S(r(1, 2, 3, 3), r(2, 2, 3, 2), r(2), stride=2, padding=1, output_padding=1),
            S(r(1, 1, 3, 2), r(1, 2, 2, 3), stride=(1, 3), padding=(0, 1)),
            S(r(1, 4, 3, 3), r(4, 1, 2, 2), r(2), groups=2),
            S(r(1, 2, 3, 3), r(2, 2, 2, 2), dilation=2),
            S(r(1, 1, 1, 1), r(1, 1, 1, 1)),
            S(r(0, 2, 3, 3), r(2, 3, 3, 3), r(3)),
        ],
        drawn=_transposed,
        numpy=reference.conv_transpose2d,
        torch=torch_functional("conv_transpose2d"),
        mistakes=(
            Mistake(
                lambda: F.conv_transpose2d(zeros(1, 3, 5, 5), zeros(2, 3, 3, 3)),
                ShapeError,
                "expected (N, 2, H, W) for a weight of (2, 3, 3, 3), got (1, 3, 5, 5)",
            ),
            Mistake(
                lambda: F.conv_transpose2d(zeros(1, 3, 5, 5), zeros(3, 0, 3, 3)),
                ShapeError,
                "expected a weight of (O, C, KH, KW) with at least one of each, got (3, 0, 3, 3)",
            ),
            Mistake(
                lambda: F.conv_transpose2d(zeros(1, 3, 5, 5), zeros(3, 4, 3, 3), zeros(3)),
                ShapeError,
                "expected a bias of (4,) for a weight of (3, 4, 3, 3), got (3,)",
            ),
            Mistake(
                lambda: F.conv_transpose2d(zeros(1, 3, 5, 5), zeros(3, 4, 3, 3), stride=2, output_padding=2),
                ShapeError,
                "output_padding must be smaller than stride 2, got 2",
            ),
            Mistake(
                lambda: F.conv_transpose2d(zeros(1, 3, 1, 1), zeros(3, 4, 3, 3), padding=2),
                ShapeError,
                "a transposed convolution of (1, 3, 1, 1) with a weight of (3, 4, 3, 3) and padding 2 "
                "would be -1×-1: use less padding",
            ),
        ),
    ),
]
