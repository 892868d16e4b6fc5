"""im2col and col2im as operations: unfolding a picture into columns, and folding columns into a picture."""

from __future__ import annotations

import math

from minidl.autograd import Function
from minidl.backend import Array
from minidl.backend.im2col import Pair, Window, col2im, im2col, pair
from minidl.errors import ShapeError
from minidl.tensor import Tensor


class Unfold(Function):
    """Y = im2col(x)        ∂L/∂x = col2im(∂L/∂Y)

    Shapes: (N, C, H, W) → (N, C·KH·KW, OH·OW).
    """

    def __init__(self, window: Window) -> None:
        self.window = window

    def forward(self, x: Array) -> Array:
        self.size = x.shape[2:]
        places = math.prod(self.window.places(self.size))
        return im2col(x, self.window).reshape(x.shape[0], x.shape[1] * math.prod(self.window.kernel), places)

    def backward(self, dy: Tensor) -> Tensor:
        return Fold(self.window, self.size)(dy)


class Fold(Function):
    """y = col2im(X)        ∂L/∂X = im2col(∂L/∂y)

    Shapes: (N, C·KH·KW, OH·OW) → (N, C, *size). Where windows overlap, their values are added.
    """

    def __init__(self, window: Window, size: Pair) -> None:
        self.window, self.size = window, size

    def forward(self, x: Array) -> Array:
        channels = x.shape[1] // math.prod(self.window.kernel)
        shape = (x.shape[0], channels, *self.window.kernel, *self.window.places(self.size))
        return col2im(x.reshape(shape), self.window, self.size)

    def backward(self, dy: Tensor) -> Tensor:
        return Unfold(self.window)(dy)


def unfold(
    x: Tensor,
    kernel_size: int | Pair,
    dilation: int | Pair = 1,
    padding: int | Pair = 0,
    stride: int | Pair = 1,
) -> Tensor:
    """What a sliding window sees, one column for each place: (N, C, H, W) → (N, C·KH·KW, OH·OW).

    Raises:
        ShapeError: x is no batch of pictures, or the window does not fit into it.
    """
    if x.ndim != 4:
        raise ShapeError(f"expected pictures of (N, C, H, W), got {x.shape}")
    return Unfold(Window.of(kernel_size, stride, padding, dilation))(x)


def fold(
    x: Tensor,
    output_size: int | Pair,
    kernel_size: int | Pair,
    dilation: int | Pair = 1,
    padding: int | Pair = 0,
    stride: int | Pair = 1,
) -> Tensor:
    """Columns added back to where `unfold` read them: (N, C·KH·KW, OH·OW) → (N, C, *output_size).

    Raises:
        ShapeError: x has not as many rows or columns as the window and the size ask for.
    """
    window = Window.of(kernel_size, stride, padding, dilation)
    size = pair(output_size, "output_size", 1)
    (oh, ow), area = window.places(size), math.prod(window.kernel)
    if x.ndim != 3 or x.shape[1] % area or x.shape[2] != oh * ow:
        raise ShapeError(
            f"expected columns of (N, C·{area}, {oh * ow}) for a window of {area} pixels "
            f"at {oh}×{ow} places of a picture of {size[0]}×{size[1]}, got {x.shape}"
        )
    return Fold(window, size)(x)
