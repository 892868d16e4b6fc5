"""The convolution layers."""

from __future__ import annotations

import math

from minidl import functional as F
from minidl.backend.im2col import Window
from minidl.functional.convolution import can_pool
from minidl.nn.linear import initialise, new_parameter
from minidl.nn.module import Module
from minidl.nn.options import check_counts, pairs
from minidl.tensor import Tensor

Pair = int | tuple[int, int]  # (vertical, horizontal), or one number for both


class _Convolution(Module):
    """What both directions share: the options, the parameters, the words."""

    output_padding: tuple[int, int] = (0, 0)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair,
        stride: Pair,
        padding: Pair,
        dilation: Pair,
        groups: int,
    ) -> None:
        super().__init__()
        check_counts(self, in_channels=in_channels, out_channels=out_channels, groups=groups)
        if in_channels % groups or out_channels % groups:
            raise ValueError(
                f"in_channels (={in_channels}) and out_channels (={out_channels}) "
                f"must be divisible by groups (={groups})"
            )
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size, self.stride, self.dilation = pairs(
            self, 1, kernel_size=kernel_size, stride=stride, dilation=dilation
        )
        (self.padding,) = pairs(self, 0, padding=padding)
        self.groups = groups

    def describe(self) -> str:
        kernel = "×".join(map(str, self.kernel_size))
        return f"{type(self).__name__} {self.in_channels}→{self.out_channels}, {kernel}"

    def extra_repr(self) -> str:
        words = f"{self.in_channels}, {self.out_channels}"
        words += f", kernel_size={self.kernel_size}, stride={self.stride}"
        defaults = {"padding": (0, 0), "dilation": (1, 1), "output_padding": (0, 0), "groups": 1}
        for name, default in defaults.items():
            if getattr(self, name) != default:
                words += f", {name}={getattr(self, name)}"
        return words if self.bias is not None else f"{words}, bias=False"


class Conv2d(_Convolution):
    """The cross-correlation of x with each filter, plus its bias.

    Shapes: (N, in_channels, H, W) → (N, out_channels, H', W') with
    H' = ⌊(H + 2·padding − dilation·(kernel_size − 1) − 1) / stride⌋ + 1, and so for W'.

    Attributes:
        weight: (out_channels, in_channels / groups, kh, kw).
        bias: (out_channels,), or None.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair,
        stride: Pair = 1,
        padding: Pair = 0,
        dilation: Pair = 1,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups)
        self.weight = new_parameter(out_channels, in_channels // groups, *self.kernel_size)
        self.bias = new_parameter(out_channels) if bias else None
        initialise(self.weight, self.bias)

    def forward(self, x: Tensor, relu: bool = False, pool: bool = False) -> Tensor:
        """x ⋆ weight + bias, with `relu` no less than 0, with `pool` the largest of each 2×2 of that."""
        return F.conv2d(
            x,
            self.weight,
            self.bias,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
            relu=relu,
            pool=pool,
        )

    def can_pool(self, x: Tensor) -> bool:
        """Whether `forward` can pool in the same pass, and nobody sees what is between."""
        window = Window.of(self.kernel_size, self.stride, self.padding, self.dilation)
        operands = (x, self.weight) if self.bias is None else (x, self.weight, self.bias)
        return can_pool(window, self.groups, *operands)

    def multiply_adds(self, input_shape: tuple[int, ...], output_shape: tuple[int, ...]) -> int:
        return math.prod(output_shape) * math.prod(self.weight.shape[1:])


class ConvTranspose2d(_Convolution):
    """The transpose of Conv2d: each input element adds a scaled filter to the output.

    Shapes: (N, in_channels, H, W) → (N, out_channels, H', W') with
    H' = (H − 1)·stride − 2·padding + dilation·(kernel_size − 1) + output_padding + 1, and so for W'.

    Attributes:
        weight: (in_channels, out_channels / groups, kh, kw).
        bias: (out_channels,), or None.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair,
        stride: Pair = 1,
        padding: Pair = 0,
        output_padding: Pair = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Pair = 1,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups)
        (self.output_padding,) = pairs(self, 0, output_padding=output_padding)
        self.weight = new_parameter(in_channels, out_channels // groups, *self.kernel_size)
        self.bias = new_parameter(out_channels) if bias else None
        initialise(self.weight, self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv_transpose2d(
            x,
            self.weight,
            self.bias,
            stride=self.stride,
            padding=self.padding,
            output_padding=self.output_padding,
            groups=self.groups,
            dilation=self.dilation,
        )

    def multiply_adds(self, input_shape: tuple[int, ...], output_shape: tuple[int, ...]) -> int:
        return math.prod(input_shape) * math.prod(self.weight.shape[1:])
