"""The fully connected layer, and the layers that only pass on or reshape."""

from __future__ import annotations

import math

import numpy as np

from minidl import functional as F
from minidl.nn import init
from minidl.nn.module import Module
from minidl.nn.options import check_counts
from minidl.nn.parameter import Parameter
from minidl.tensor import Tensor


def new_parameter(*shape: int) -> Parameter:
    """A parameter of zeros that an initialiser then writes over."""
    return Parameter(np.zeros(shape, np.float32))


def initialise(weight: Parameter, bias: Parameter | None) -> None:
    """PyTorch's default for layers that sum products: weight and bias uniform on ±1/√fan_in."""
    init.kaiming_uniform_(weight, a=math.sqrt(5.0))
    if bias is not None:
        bound = 1.0 / math.sqrt(init.fans(weight)[0])
        init.uniform_(bias, -bound, bound)


class Linear(Module):
    """y = x Wᵀ + b        (…, in_features) → (…, out_features)

    Attributes:
        weight: W, (out_features, in_features).
        bias: b, (out_features,), or None.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__()
        check_counts(self, in_features=in_features, out_features=out_features)
        self.in_features, self.out_features = in_features, out_features
        self.weight = new_parameter(out_features, in_features)
        self.bias = new_parameter(out_features) if bias else None
        initialise(self.weight, self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)

    def multiply_adds(self, input_shape: tuple[int, ...], output_shape: tuple[int, ...]) -> int:
        return math.prod(output_shape) * self.in_features

    def describe(self) -> str:
        return f"Linear {self.in_features}→{self.out_features}"

    def extra_repr(self) -> str:
        bias = self.bias is not None
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={bias}"


class Flatten(Module):
    """(N, C, H, W) → (N, C·H·W): the axes start_dim … end_dim become one."""

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        super().__init__()
        self.start_dim, self.end_dim = start_dim, end_dim

    def forward(self, x: Tensor) -> Tensor:
        return F.flatten(x, self.start_dim, self.end_dim)

    def extra_repr(self) -> str:
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"


class Identity(Module):
    """y = x: stands where a layer was taken out."""

    def forward(self, x: Tensor) -> Tensor:
        return x
