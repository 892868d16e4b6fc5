"""Activations: what a neuron makes of its sum. All are stable where |x| is large."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from minidl.autograd import Function
from minidl.backend import Array, array_module, device_of
from minidl.backend.blocks import along, for_each_block, gated, positive_part
from minidl.backend.erf import erf
from minidl.backend.memory import empty
from minidl.backend.threads import scratch
from minidl.functional.arithmetic import exp, floating, where
from minidl.functional.reduction import sum as sum_
from minidl.functional.reduction import takes_dim
from minidl.functional.shape import positive_axis
from minidl.tensor import Tensor


def _in_blocks(compute: Callable[[Array, Array], Any], x: Array) -> Array:
    """A new y, elementwise, by compute(x, out=y) block by block."""
    y = empty(array_module(x), x.shape, x.dtype, like=x)
    for_each_block(compute, x, y)
    return y


class Sigmoid(Function):
    """y = σ(x) = 1 / (1 + e⁻ˣ)        ∂L/∂x = ∂L/∂y · y (1 − y)

    Computed as e^{min(x, 0)} / (1 + e^{−|x|}), which is the same number and never overflows. Nothing cancels
    in it, so that it keeps its digits where x is far below 0 and y tiny.
    """

    def forward(self, x: Array) -> Array:
        y = _in_blocks(_sigmoid, x)
        self.save(output=y)
        return y

    def backward(self, dy: Tensor) -> Tensor:
        (y,) = self.saved
        return dy * y * (1.0 - y)


def _sigmoid(x: Array, out: Array) -> None:
    xp = array_module(x)
    e = scratch(xp, "sigmoid", x.shape, x.dtype)
    xp.abs(x, out=e)
    xp.negative(e, out=e)
    xp.exp(e, out=e)
    xp.maximum(e, x >= 0, out=out)  # e^{min(x, 0)}, for e ≤ 1
    e += 1
    out /= e


class Tanh(Function):
    """y = tanh x        ∂L/∂x = ∂L/∂y · (1 − y²)"""

    def forward(self, x: Array) -> Array:
        y = array_module(x).tanh(x)
        self.save(output=y)
        return y

    def backward(self, dy: Tensor) -> Tensor:
        (y,) = self.saved
        return dy * (1.0 - y * y)


class ReLU(Function):
    """y = max(x, 0)        ∂L/∂x = ∂L/∂y where y > 0, else 0

    The output is kept, not the input: it tells the same, and the next layer keeps it anyway.
    """

    def forward(self, x: Array) -> Array:
        y = _in_blocks(positive_part, x)
        self.save(output=y)
        return y

    def backward(self, dy: Tensor) -> Tensor:
        (y,) = self.saved
        return Gate(y.data)(dy)


class Gate(Function):
    """y = x where the gate is open, `gate` > 0, else 0        ∂L/∂x = ∂L/∂y behind the same gate"""

    def __init__(self, gate: Array) -> None:
        self.gate = gate

    def forward(self, x: Array) -> Array:
        y = empty(array_module(x), x.shape, x.dtype, like=self.gate)
        for_each_block(gated, x, self.gate, y)
        return y

    def backward(self, dy: Tensor) -> Tensor:
        return Gate(self.gate)(dy)


class LeakyReLU(Function):
    """y = x where x > 0, else s·x        ∂L/∂x = ∂L/∂y where x > 0, else s·∂L/∂y"""

    def __init__(self, negative_slope: float) -> None:
        self.negative_slope = negative_slope

    def forward(self, x: Array) -> Array:
        xp, positive = array_module(x), x > 0
        self.save(positive=positive)
        y = self.negative_slope * x
        if 0 < self.negative_slope <= 1:  # then it is the larger one, which is found ten times as fast
            return xp.maximum(x, y)
        return xp.where(positive, x, y)

    def backward(self, dy: Tensor) -> Tensor:
        (positive,) = self.saved
        return where(positive, dy, self.negative_slope * dy)


class Softplus(Function):
    """y = ln(1 + eˣ)        ∂L/∂x = ∂L/∂y · σ(x)        a smooth ReLU"""

    def forward(self, x: Array) -> Array:
        self.save(x=x)
        return _in_blocks(_softplus, x)

    def backward(self, dy: Tensor) -> Tensor:
        (x,) = self.saved
        return dy * sigmoid(x)


def _softplus(x: Array, out: Array) -> None:
    """out = max(x, 0) + ln(1 + e^{−|x|}), which never overflows.

    In float64: in float32 NumPy's exp and ln would be wrong by up to 3 of the last digit. CuPy has it in one.
    """
    if device_of(x) == "gpu":
        array_module(x).logaddexp(x, x.dtype.type(0), out=out)
        return
    rest = scratch(np, "softplus", x.shape, np.float64)
    np.abs(x, out=rest)
    np.negative(rest, out=rest)
    np.exp(rest, out=rest)
    np.log1p(rest, out=rest)
    np.add(rest, positive_part(x, out), out=out)


class NormalCDF(Function):
    """y = ½ (1 + erf(x/√2))        ∂L/∂x = ∂L/∂y · e^{−x²/2}/√(2π)

    How much of the normal distribution lies below x, Φ(x); its derivative is the density there.
    """

    def forward(self, x: Array) -> Array:
        self.save(x=x)
        return _in_blocks(_normal_cdf, x)

    def backward(self, dy: Tensor) -> Tensor:
        (x,) = self.saved
        return dy * exp(-0.5 * x * x) * (1.0 / math.sqrt(2.0 * math.pi))


def _normal_cdf(x: Array, out: Array) -> None:
    array_module(x).multiply(x, math.sqrt(0.5), out=out)
    erf(out, out)
    out *= 0.5
    out += 0.5


def sigmoid(x: Tensor) -> Tensor:
    return Sigmoid()(floating(x))


def tanh(x: Tensor) -> Tensor:
    return Tanh()(x)


def relu(x: Tensor) -> Tensor:
    return ReLU()(x)


def leaky_relu(x: Tensor, negative_slope: float = 0.01) -> Tensor:
    return LeakyReLU(negative_slope)(x)


def softplus(x: Tensor) -> Tensor:
    return Softplus()(floating(x))


def gelu(x: Tensor) -> Tensor:
    """x Φ(x) with Φ the normal distribution function, ½ (1 + erf(x/√2))   (Hendrycks & Gimpel 2016)"""
    x = floating(x)
    return x * NormalCDF()(x)


class Softmax(Function):
    """yᵢ = e^{xᵢ} / Σⱼ e^{xⱼ}        ∂L/∂xᵢ = yᵢ (∂L/∂yᵢ − Σⱼ ∂L/∂yⱼ yⱼ)

    The largest xⱼ is subtracted from all first: it cancels in the fraction, and no exponential overflows.
    """

    def __init__(self, axis: int) -> None:
        self.axis = axis

    def forward(self, x: Array) -> Array:
        y = empty(array_module(x), x.shape, x.dtype, like=x)
        along(self.axis, self.compute, x, y)
        self.save(output=y)
        return y

    @staticmethod
    def compute(x: Array, y: Array, axis: int) -> None:
        xp = array_module(x)
        xp.subtract(x, x.max(axis=axis, keepdims=True), out=y)
        xp.exp(y, out=y)
        y /= y.sum(axis=axis, keepdims=True)

    def backward(self, dy: Tensor) -> Tensor:
        (y,) = self.saved
        return y * (dy - sum_(dy * y, axis=self.axis, keepdims=True))


class LogSoftmax(Softmax):
    """yᵢ = xᵢ − ln Σⱼ e^{xⱼ}        ∂L/∂xᵢ = ∂L/∂yᵢ − e^{yᵢ} Σⱼ ∂L/∂yⱼ

    Here too the largest xⱼ is subtracted from all first.
    """

    @staticmethod
    def compute(x: Array, y: Array, axis: int) -> None:
        xp = array_module(x)
        xp.subtract(x, x.max(axis=axis, keepdims=True), out=y)
        y -= xp.log(xp.exp(y).sum(axis=axis, keepdims=True))

    def backward(self, dy: Tensor) -> Tensor:
        (y,) = self.saved
        return dy - exp(y) * sum_(dy, axis=self.axis, keepdims=True)


@takes_dim
def softmax(x: Tensor, axis: int = -1) -> Tensor:
    """Probabilities along `axis`."""
    return Softmax(positive_axis(axis, x.ndim))(floating(x))


@takes_dim
def log_softmax(x: Tensor, axis: int = -1) -> Tensor:
    """ln softmax(x) = x − ln Σⱼ e^{xⱼ}"""
    return LogSoftmax(positive_axis(axis, x.ndim))(floating(x))
