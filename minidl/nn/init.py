"""Initial weights: random numbers whose variance keeps signals and gradients of one size through the layers.

A unit sums fan_in products, so the variance of its output is fan_in · Var(w) times that of its inputs; going
back, a gradient grows by fan_out · Var(w). Glorot and He choose Var(w) so that the one factor, or the mean of
both, is 1; the gain makes up for what the activation takes away. The uniform distribution on ±b has variance
b²/3.

All draw from `minidl.backend.generator()`, in place, and return the tensor. PyTorch's names and arguments.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np

from minidl.backend import generator, to_device
from minidl.backend.blocks import blocks
from minidl.backend.switch import Switch
from minidl.tensor import Tensor

_drawing = Switch(True)
DRAWN = 1 << 15  # numbers drawn at a time, in float64


def skip_init() -> AbstractContextManager[None]:
    """Draw nothing inside the `with` block: for a model whose weights are loaded, or drawn otherwise.

    Weights stay at zero; constants, such as batch norm's ones, are written. Zeros that nobody wrote cost
    neither time nor memory, while drawing VGG16's 138 million weights takes a second.
    """
    return _drawing.turned(False)


def fans(tensor: Tensor) -> tuple[int, int]:
    """(fan_in, fan_out) of a weight (out, in) or (out, in, kh, kw): the products that one sum takes.

    Raises:
        ValueError: the tensor has fewer than two axes, such as a bias.
    """
    if tensor.ndim < 2:
        raise ValueError(f"fan_in and fan_out need a weight of two axes or more, got {tensor.shape}")
    receptive_field = math.prod(tensor.shape[2:])
    return tensor.shape[1] * receptive_field, tensor.shape[0] * receptive_field


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """The factor that makes up for an activation: 1 for linear and sigmoid, 5/3 for tanh, √2 for relu,
    √(2/(1 + s²)) for leaky_relu of slope s = `param` (default 0.01), 3/4 for selu.

    Raises:
        ValueError: no gain is known for the activation.
    """
    slope = 0.01 if param is None else param
    gains = {
        "linear": 1.0,
        "conv2d": 1.0,
        "sigmoid": 1.0,
        "tanh": 5 / 3,
        "relu": math.sqrt(2.0),
        "leaky_relu": math.sqrt(2.0 / (1.0 + slope * slope)),
        "selu": 0.75,
    }
    if nonlinearity not in gains:
        raise ValueError(f"no gain is known for {nonlinearity!r}: expected one of {', '.join(gains)}")
    return gains[nonlinearity]


def uniform_(tensor: Tensor, a: float = 0.0, b: float = 1.0) -> Tensor:
    """Uniform on [a, b)."""
    return _fill(tensor, lambda n: generator().random(n, np.float32) * (b - a) + a)


def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """Normal with the given mean and standard deviation."""
    return _fill(tensor, lambda n: generator().standard_normal(n, np.float32) * std + mean)


def constant_(tensor: Tensor, value: float) -> Tensor:
    """Every element `value`."""
    tensor.data[...] = value
    tensor.increment_version()
    return tensor


def zeros_(tensor: Tensor) -> Tensor:
    """Every element 0."""
    return constant_(tensor, 0.0)


def ones_(tensor: Tensor) -> Tensor:
    """Every element 1."""
    return constant_(tensor, 1.0)


def xavier_uniform_(tensor: Tensor, gain: float = 1.0) -> Tensor:
    """Uniform on ±gain √(6 / (fan_in + fan_out))   (Glorot & Bengio 2010, eq. 16)"""
    return _uniform(tensor, gain / math.sqrt(_mean_fan(tensor)))


def xavier_normal_(tensor: Tensor, gain: float = 1.0) -> Tensor:
    """Normal with σ = gain √(2 / (fan_in + fan_out))   (Glorot & Bengio 2010, eq. 12)"""
    return normal_(tensor, 0.0, gain / math.sqrt(_mean_fan(tensor)))


def kaiming_uniform_(
    tensor: Tensor, a: float = 0.0, mode: str = "fan_in", nonlinearity: str = "leaky_relu"
) -> Tensor:
    """Uniform on ±gain √(3 / fan)   (He et al. 2015); `a` is the slope of leaky_relu, 0 for ReLU."""
    return _uniform(tensor, calculate_gain(nonlinearity, a) / math.sqrt(_fan(tensor, mode)))


def kaiming_normal_(
    tensor: Tensor, a: float = 0.0, mode: str = "fan_in", nonlinearity: str = "leaky_relu"
) -> Tensor:
    """Normal with σ = gain / √fan   (He et al. 2015, eq. 10; eq. 14 for mode="fan_out")"""
    return normal_(tensor, 0.0, calculate_gain(nonlinearity, a) / math.sqrt(_fan(tensor, mode)))


def lecun_uniform_(tensor: Tensor) -> Tensor:
    """Uniform on ±√(3 / fan_in)   (LeCun et al. 1998, Efficient BackProp, eq. 16)"""
    return _uniform(tensor, 1.0 / math.sqrt(_fan(tensor, "fan_in")))


def lecun_normal_(tensor: Tensor) -> Tensor:
    """Normal with σ = 1 / √fan_in   (LeCun et al. 1998, Efficient BackProp, eq. 16)"""
    return normal_(tensor, 0.0, 1.0 / math.sqrt(_fan(tensor, "fan_in")))


def _uniform(tensor: Tensor, std: float) -> Tensor:
    """Uniform on ±√3 σ, whose standard deviation is σ."""
    bound = math.sqrt(3.0) * std
    return uniform_(tensor, -bound, bound)


def _fan(tensor: Tensor, mode: str) -> int:
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f'mode is "fan_in" or "fan_out", got {mode!r}')
    return fans(tensor)[mode == "fan_out"]


def _mean_fan(tensor: Tensor) -> float:
    return sum(fans(tensor)) / 2


def _fill(tensor: Tensor, draw: Callable[[int], np.ndarray]) -> Tensor:
    """Write `draw(n)` into the tensor, n elements at a time; the same numbers on every device."""
    if _drawing.on:
        for (block,) in blocks(tensor.data, size=DRAWN):
            block[...] = to_device(draw(block.size), tensor.device).reshape(block.shape)
        tensor.increment_version()
    return tensor
