"""The pooling layers. (N, C, H, W) → (N, C, H', W')"""

from __future__ import annotations

from minidl import functional as F
from minidl.nn.convolution import Pair
from minidl.nn.module import Module
from minidl.nn.options import check_counts, pairs
from minidl.tensor import Tensor


class MaxPool2d(Module):
    """The largest element of each window; the padding counts as −∞."""

    def __init__(
        self,
        kernel_size: Pair,
        stride: Pair | None = None,
        padding: Pair = 0,
        dilation: Pair = 1,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__()
        self.kernel_size, self.stride = kernel_size, kernel_size if stride is None else stride
        self.padding, self.dilation, self.ceil_mode = padding, dilation, ceil_mode
        pairs(self, 1, kernel_size=kernel_size, stride=self.stride, dilation=dilation)
        pairs(self, 0, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(
            x,
            self.kernel_size,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            ceil_mode=self.ceil_mode,
        )

    def extra_repr(self) -> str:
        return (
            f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, "
            f"dilation={self.dilation}, ceil_mode={self.ceil_mode}"
        )


class AvgPool2d(Module):
    """The mean of each window; the zeros of the padding count unless count_include_pad=False."""

    def __init__(
        self,
        kernel_size: Pair,
        stride: Pair | None = None,
        padding: Pair = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        super().__init__()
        self.kernel_size, self.stride = kernel_size, kernel_size if stride is None else stride
        self.padding, self.ceil_mode, self.count_include_pad = padding, ceil_mode, count_include_pad
        pairs(self, 1, kernel_size=kernel_size, stride=self.stride)
        pairs(self, 0, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(
            x,
            self.kernel_size,
            stride=self.stride,
            padding=self.padding,
            ceil_mode=self.ceil_mode,
            count_include_pad=self.count_include_pad,
        )

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class AdaptiveAvgPool2d(Module):
    """Means over windows chosen so that (H', W') = output_size; 1 is global average pooling."""

    def __init__(self, output_size: Pair) -> None:
        super().__init__()
        for n in output_size if isinstance(output_size, (tuple, list)) else (output_size,):
            if n is not None:  # which keeps an axis as it is
                check_counts(self, output_size=n)
        self.output_size = output_size

    def forward(self, x: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(x, self.output_size)

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}"
