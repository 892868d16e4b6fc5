"""Convolution, its transpose and the gradient of its weight: three operations, closed under differentiation.

With y = x ⋆ w, the cross-correlation that everybody calls convolution,

    y[n, o, a, b] = Σ_{c, i, j} x[n, c, a·s + i·d − p, b·s + j·d − p] · w[o, c, i, j],

y is linear in x and linear in w. So ∂L/∂x = ∂L/∂y ⋆ᵀ w (the transposed convolution) is linear in ∂L/∂y and
in w, and ∂L/∂w = x ⊛ ∂L/∂y (a correlation of two pictures) is linear in x and in ∂L/∂y. The gradients of all
three are again these three.

How each is computed stands in `im2col_conv.py`, the plain way; in `strip_conv.py`, the same in pieces for the
cache and for threads; in `row_conv.py`, with fewer copies; in `winograd.py`, with fewer multiplications; in
`depthwise.py` and `grouped.py`, in compiled loops; in `gpu_conv.py` and `gpu_winograd.py`, for the GPU; in
`epilogue.py`, what may follow in the same pass.
"""

from __future__ import annotations

from types import ModuleType

import numpy as np

from minidl.autograd import Function
from minidl.backend import Array, device_of
from minidl.backend.im2col import Pair, Window, pair
from minidl.errors import ShapeError
from minidl.functional import (
    depthwise,
    gpu_conv,
    gpu_winograd,
    grouped,
    im2col_conv,
    row_conv,
    strip_conv,
    winograd,
)
from minidl.functional.activation import ReLU
from minidl.functional.arithmetic import in_one_type
from minidl.functional.epilogue import Epilogue
from minidl.functional.pooling import Unpool, max_pool2d
from minidl.functional.reduction import sum as sum_
from minidl.gradients import gradients
from minidl.recording import here
from minidl.tensor import Tensor


class Conv2d(Function):
    """y = x ⋆ w + b        ∂L/∂x = ∂L/∂y ⋆ᵀ w        ∂L/∂w = x ⊛ ∂L/∂y        ∂L/∂b = Σ_{n, a, b} ∂L/∂y

    Shapes: (N, C, H, W), (O, C/groups, KH, KW), (O,) → (N, O, OH, OW). The input is kept, never its columns.

    In the same pass it may do what the next operation is for: with `relu` y is what `Rectified` returns; with
    `pool` y is not written down, and `done` is what `RectifiedAndPooled` returns.
    """

    done: Epilogue | None = None

    def __init__(self, window: Window, groups: int, relu: bool = False, pool: bool = False) -> None:
        self.window, self.groups, self.relu, self.pool = window, groups, relu, pool

    def forward(self, x: Array, weight: Array, bias: Array | None = None) -> Array:
        self.size = x.shape[2:]
        self.save(x=x if self.needs_grad[1] else None, weight=weight if self.needs_grad[0] else None)
        work = _algorithm_for(x, weight, self.window, self.groups)
        if not self.pool:
            return work.conv2d(x, weight, bias, self.window, self.groups, self.relu)
        shape, records = (len(x), len(weight), *self.window.places(self.size)), any(self.needs_grad)
        self.done = Epilogue(shape, bias, relu=True, pool=True, switches=records, dtype=x.dtype)
        work.conv2d_with(self.done, x, weight, self.window)
        return np.broadcast_to(x.dtype.type(0), shape)  # of the shape of y, without its memory

    def backward(self, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = self.saved
        return gradients(
            self,
            dy,
            weight,
            lambda: ConvTranspose2d(self.window, self.groups, self.size)(dy, weight),
            lambda: ConvWeight(self.window, self.groups)(x, dy),
            lambda: bias_gradient(dy),
        )


class ConvTranspose2d(Function):
    """y = x ⋆ᵀ w + b        ∂L/∂x = ∂L/∂y ⋆ w        ∂L/∂w = ∂L/∂y ⊛ x        ∂L/∂b = Σ_{n, h, w} ∂L/∂y

    Shapes: (N, O, OH, OW), (O, C/groups, KH, KW), (C,) → (N, C, *size). Where the stride leaves a rest,
    pictures of several sizes have a convolution of the same size: this way round `size` has to be given.
    """

    def __init__(self, window: Window, groups: int, size: Pair) -> None:
        self.window, self.groups, self.size = window, groups, size

    def forward(self, x: Array, weight: Array, bias: Array | None = None) -> Array:
        self.save(x=x if self.needs_grad[1] else None, weight=weight if self.needs_grad[0] else None)
        work = _algorithm_for(x, weight, self.window, self.groups)
        return work.conv_transpose2d(x, weight, bias, self.window, self.groups, self.size)

    def backward(self, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = self.saved
        return gradients(
            self,
            dy,
            weight,
            lambda: Conv2d(self.window, self.groups)(dy, weight),
            lambda: ConvWeight(self.window, self.groups)(dy, x),
            lambda: bias_gradient(dy),
        )


class ConvWeight(Function):
    """w = x ⊛ y        ∂L/∂x = y ⋆ᵀ ∂L/∂w        ∂L/∂y = x ⋆ ∂L/∂w

    w[o, c, i, j] = Σ_{n, a, b} x[n, c, a·s + i·d − p, b·s + j·d − p] · y[n, o, a, b]

    Shapes: (N, C, H, W), (N, O, OH, OW) → (O, C/groups, KH, KW).
    """

    def __init__(self, window: Window, groups: int) -> None:
        self.window, self.groups = window, groups

    def forward(self, x: Array, y: Array) -> Array:
        self.size = x.shape[2:]
        self.save(x=x if self.needs_grad[1] else None, y=y if self.needs_grad[0] else None)
        pays = _winograd_pays(x, y.shape[1], MORE_WORK)
        work = _algorithm(x, y, self.window, self.groups, pays)
        return work.conv_weight(x, y, self.window, self.groups)

    def backward(self, dw: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, y = self.saved
        dx = dy = None
        if self.needs_grad[0]:
            dx = ConvTranspose2d(self.window, self.groups, self.size)(y, dw)
        if self.needs_grad[1]:
            dy = Conv2d(self.window, self.groups)(x, dw)
        return dx, dy


def bias_gradient(dy: Tensor) -> Tensor:
    """∂L/∂b = Σ_{n, a, b} ∂L/∂y"""
    return sum_(sum_(dy, (2, 3)), 0)


# What a convolution has done in its own pass


class Rectified(ReLU):
    """y = max(x, 0)        ∂L/∂x = ∂L/∂y where y > 0, else 0        (a ReLU that the convolution has done)"""

    def forward(self, x: Array) -> Array:
        self.save(output=x)
        return x


class RectifiedAndPooled(Function):
    """y = max of x in each 2×2, and of 0        (a ReLU and a pooling that the convolution has done)

    ∂L/∂x = ∂L/∂y at the pixel that was the largest, where y > 0

    Shapes: (N, C, H, W) → (N, C, ⌊H / 2⌋, ⌊W / 2⌋). The result is taken away from the convolution, where it
    would live as long as the graph. As an operation of its own this lets go of ∂L/∂y before the other goes
    back.
    """

    def __init__(self, convolution: Conv2d) -> None:
        self.convolution = convolution

    def forward(self, x: Array) -> Array:
        self.size = x.shape[2:]
        result, self.convolution.done = self.convolution.done, None
        assert result is not None
        self.save(switches=result.switches)
        return result.y

    def backward(self, dy: Tensor) -> Tensor:
        (switches,) = self.saved
        return Unpool(switches.data, Window.of(2, 2), self.size)(dy)


# The functions


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Pair = 1,
    padding: int | Pair = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
    relu: bool = False,
    pool: bool = False,
) -> Tensor:
    """y = x ⋆ w + b, each picture correlated with each filter.

    Shapes: (N, C, H, W), (O, C/groups, KH, KW), (O,) → (N, O, OH, OW) with
    OH = ⌊(H + 2p − d (KH − 1) − 1) / s⌋ + 1.

    Args:
        stride, padding, dilation: for both axes, or (vertical, horizontal).
        groups: input and output channels are split into this many groups that do not see each other.
        relu: y = max(x ⋆ w + b, 0), as `relu(conv2d(…))`, but while y is still in the cache.
        pool: the largest of each 2×2 of that, as `max_pool2d(…, 2)`. With `relu`, and where the algorithm
            can, y is not even written down.

    Raises:
        ShapeError: the shapes do not belong together, or the window does not fit into the picture.
    """
    _check_operands(x, weight, groups)
    o, channels = weight.shape[0], weight.shape[1] * groups
    if x.shape[1] != channels:
        in_groups = f" in {groups} groups" if groups > 1 else ""
        last = x.shape[3] == channels <= 4  # of pictures; in a map of features it may well be the width
        hint = ". Its channels are last, they come second here: x.permute(0, 3, 1, 2)" if last else ""
        raise ShapeError(
            f"expected (N, {channels}, H, W) for a weight of {weight.shape}{in_groups}, got {x.shape}{hint}"
        )
    _check_bias(bias, o, weight)
    window = Window.of(weight.shape[2:], stride, padding, dilation)
    operands = in_one_type(x, weight, *([] if bias is None else [bias]))
    if relu and pool and can_pool(window, groups, *operands):
        convolution = Conv2d(window, groups, pool=True)
        return RectifiedAndPooled(convolution)(convolution(*operands))
    y = Conv2d(window, groups, relu)(*operands)
    y = Rectified()(y) if relu else y
    return max_pool2d(y, 2) if pool else y


def can_pool(window: Window, groups: int, *operands: Tensor) -> bool:
    """Whether `conv2d` can pool these (x, weight, bias) in the same pass, and nobody sees what is between."""
    x, weight = (operand.data for operand in operands[:2])
    if here.state.anomaly or {operand.device for operand in operands} != {"cpu"} or x.ndim != 4:
        return False
    sides = zip(x.shape[2:], window.padding, window.extent, window.stride, strict=True)
    if any(n + 2 * p - e < step for n, p, e, step in sides):
        return False  # y would have less than 2×2 pixels, and the one to complain is the pooling
    work = _algorithm_for(x, weight, window, groups)
    return work is winograd or (work is row_conv and row_conv.can_finish(x, weight, window, groups))


def conv_transpose2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Pair = 1,
    padding: int | Pair = 0,
    output_padding: int | Pair = 0,
    groups: int = 1,
    dilation: int | Pair = 1,
) -> Tensor:
    """y = x ⋆ᵀ w + b, the transpose of `conv2d`: each pixel of x stamps the filter, times its value, into y.

    Shapes: (N, O, OH, OW), (O, C/groups, KH, KW), (C,) → (N, C, H, W) with
    H = (OH − 1) s − 2p + d (KH − 1) + 1 + output_padding. `output_padding` < stride chooses among the sizes
    that conv2d would take to OH.

    Raises:
        ShapeError: the shapes do not belong together, x has no pixels, or nothing would be left of y.
    """
    _check_operands(x, weight, groups)
    if x.shape[1] != weight.shape[0]:
        raise ShapeError(
            f"expected (N, {weight.shape[0]}, H, W) for a weight of {weight.shape}, got {x.shape}"
        )
    if 0 in x.shape[2:]:
        raise ShapeError(f"a transposed convolution needs pictures with pixels, got {x.shape}")
    _check_bias(bias, weight.shape[1] * groups, weight)
    window = Window.of(weight.shape[2:], stride, padding, dilation)
    extra = pair(output_padding, "output_padding", 0)
    if any(more >= s for more, s in zip(extra, window.stride, strict=True)):
        raise ShapeError(f"output_padding must be smaller than stride {stride}, got {output_padding}")
    height, width = (
        (n - 1) * s - 2 * p + e + more
        for n, s, p, e, more in zip(
            x.shape[2:], window.stride, window.padding, window.extent, extra, strict=True
        )
    )
    if height < 1 or width < 1:
        raise ShapeError(
            f"a transposed convolution of {x.shape} with a weight of {weight.shape} and padding {padding} "
            f"would be {height}×{width}: use less padding"
        )
    function = ConvTranspose2d(window, groups, (height, width))
    return function(*in_one_type(x, weight, *([] if bias is None else [bias])))


def _check_operands(x: Tensor, weight: Tensor, groups: int) -> None:
    if weight.ndim != 4:
        raise ShapeError(f"expected a weight of (O, C, KH, KW), got {weight.shape}")
    if 0 in weight.shape[:2]:
        raise ShapeError(f"expected a weight of (O, C, KH, KW) with at least one of each, got {weight.shape}")
    if x.ndim != 4:
        hint = ". One picture is a batch of one: x.unsqueeze(0)" if x.ndim == 3 else ""
        raise ShapeError(f"expected pictures of (N, C, H, W), got {x.shape}{hint}")
    if groups < 1 or weight.shape[0] % groups:
        raise ShapeError(
            f"groups must divide the {weight.shape[0]} filters of a weight of {weight.shape}, got {groups}"
        )


def _check_bias(bias: Tensor | None, channels: int, weight: Tensor) -> None:
    if bias is not None and bias.shape != (channels,):
        raise ShapeError(f"expected a bias of ({channels},) for a weight of {weight.shape}, got {bias.shape}")


# Which way

ALGORITHMS = {"im2col": im2col_conv, "strips": strip_conv, "rows": row_conv, "winograd": winograd}
MANY_CHANNELS = 16
MUCH_WORK = {"cpu": 1 << 19, "gpu": 1 << 22}  # multiplications, before Winograd saves any
MORE_WORK = {"cpu": 1 << 21, "gpu": 1 << 25}
_chosen = "auto"


def conv_algorithm(name: str | None = None) -> str:
    """Choose how convolutions are computed from now on; returns what is chosen.

    "im2col" is the plain way (`im2col_conv.py`), "strips" the same in pieces (`strip_conv.py`), "rows" the
    one with fewer copies (`row_conv.py`), and "winograd" the one with fewer multiplications (`winograd.py`).
    Where the last is not possible it is rows, and where there are no copies to save it is strips. On the GPU
    Winograd's is `gpu_winograd.py`, and `gpu_conv.py` is in the place of rows and strips.
    "auto", the default, takes Winograd's where the multiplications saved are worth more than the transforms:
    if there is MUCH_WORK, or MORE_WORK for ∂L/∂w, and the pictures that are read have MANY_CHANNELS. Where
    Numba is installed it takes the loops of `depthwise.py` and, for groups of few channels, `grouped.py`.
    `python -m benchmarks.choice` measures how often that is right, on the CPU. There Winograd's keeps filters
    that stay the same as it needs them, VGG16's in 300 MB (`backend/kept.py`). Its results are channels-last
    in memory; an infinity, NaN or huge number spoils all 4×4 outputs of a tile, and of pictures up to four
    tiles wide those of the whole line of tiles; and where there are groups, rows spread it, too. Such numbers
    are better off with "strips".

    Raises:
        ValueError: there is no algorithm of that name.
    """
    global _chosen
    if name is not None:
        if name not in ("auto", *ALGORITHMS):
            raise ValueError(
                f"no convolution algorithm {name!r}: expected one of {', '.join(('auto', *ALGORITHMS))}"
            )
        _chosen = name
    return _chosen


def _algorithm_for(x: Array, weight: Array, window: Window, groups: int) -> ModuleType:
    """The file that does the work for x ⋆ w, and for x ⋆ᵀ w."""
    if _chosen == "auto" and grouped.can(x, weight, window, groups):
        return grouped
    others = weight.shape[0] * weight.shape[1] // max(1, x.shape[1])
    return _algorithm(x, weight, window, groups, _winograd_pays(x, others, MUCH_WORK))


def _winograd_pays(x: Array, others: int, work: dict[str, int]) -> bool:
    """Whether it does with this many channels beside those of x, for 3×3 pixels in steps of 1."""
    n, c, h, w = x.shape
    return c >= MANY_CHANNELS and 9 * c * others * n * h * w >= work[device_of(x)]


def _algorithm(x: Array, y: Array, window: Window, groups: int, winograd_pays: bool) -> ModuleType:
    """The file that does the work for these two arrays; all have its functions."""
    name = _chosen
    if name != "im2col" and device_of(x) == "gpu":
        wanted = name == "winograd" or (name == "auto" and winograd_pays)
        return gpu_winograd if wanted and gpu_winograd.can(x, y, window, groups) else gpu_conv
    if name == "auto":
        if depthwise.can(x, y, window, groups):
            return depthwise
        name = "winograd" if winograd_pays else "rows"
    if name == "winograd" and not winograd.can(x, y, window, groups):
        name = "rows"
    if name == "rows" and not row_conv.can(x, window):
        name = "strips"
    return ALGORITHMS[name]
