"""Normalisation: batch norm, and the local response normalisation of the nets before it."""

from __future__ import annotations

from collections.abc import Iterable

from minidl.autograd import Function
from minidl.backend import Array, array_module
from minidl.backend.blocks import for_each_block, sum_of, sum_of_centred_products
from minidl.backend.memory import beside, empty
from minidl.errors import ShapeError
from minidl.functional.arithmetic import floating, in_one_type
from minidl.functional.reduction import mean, var
from minidl.functional.reduction import sum as sum_
from minidl.functional.shape import pad
from minidl.recording import is_grad_enabled
from minidl.tensor import Tensor


class BatchNorm(Function):
    """y = γ x̂ + β,   x̂ = (x − μ) / σ,   σ = √(Var x + ε)     (Ioffe & Szegedy 2015, algorithm 1)

    With μ and σ of this batch, over the m elements of each channel, x also acts through them:

        ∂L/∂β = Σ ∂L/∂y        ∂L/∂γ = Σ ∂L/∂y · x̂
        ∂L/∂x = γ/σ · (∂L/∂y − 1/m ∂L/∂β − x̂/m ∂L/∂γ)

    With given (running) μ and σ they are constants, and only the first term of ∂L/∂x remains.
    """

    def __init__(self, statistics: tuple[Array, Array] | None, eps: float) -> None:
        self.statistics, self.eps = statistics, eps  # (μ, Var) to use; None: those of the batch

    def forward(self, x: Array, weight: Array, bias: Array) -> Array:
        self.axes = (0, *range(2, x.ndim))
        self.channel = (1, -1) + (1,) * (x.ndim - 2)  # the shape of a per-channel array beside x
        self.m = x.size // max(x.shape[1], 1)
        if self.statistics is None:
            (wide,) = _wide(x)
            mu = sum_of(wide, self.axes, keepdims=False) / self.m  # NumPy's mean would divide in float64
            variance = sum_of_centred_products(wide, mu) / self.m
            self.batch_statistics = mu, variance
        else:
            mu, variance = self.statistics
        xp = array_module(x)
        inverse_std = 1.0 / xp.sqrt(variance + self.eps)
        y = empty(xp, x.shape, x.dtype, like=x)
        for_each_block(_normalize, x, *_broadcast(x, (mu, weight * inverse_std, bias)), y)
        mu, inverse_std = (a.astype(x.dtype, copy=False) for a in (mu, inverse_std))
        self.save(x=x, weight=weight, mu=mu, inverse_std=inverse_std)
        return y

    def backward(self, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mu, inverse_std = self.saved
        if not is_grad_enabled():
            return _in_blocks(self, dy.data, x.data, weight.data, mu.data, inverse_std.data)
        mu, inverse_std = mu.reshape(self.channel), inverse_std.reshape(self.channel)
        if self.statistics is None:
            # This gradient will be differentiated again, and needs μ and σ as functions of x.
            mu = mean(x, self.axes, keepdims=True)
            inverse_std = (var(x, self.axes, keepdims=True, correction=0) + self.eps) ** -0.5
        normalised = (x - mu) * inverse_std
        dbias = sum_(dy, self.axes)
        dweight = sum_(dy * normalised, self.axes)
        if not self.needs_grad[0]:
            return None, dweight, dbias
        if self.statistics is None:
            dy = dy - dbias.reshape(self.channel) / self.m
            dy = dy - normalised * (dweight.reshape(self.channel) / self.m)
        return dy * (weight.reshape(self.channel) * inverse_std), dweight, dbias


def _in_blocks(
    norm: BatchNorm, dy: Array, x: Array, weight: Array, mu: Array, inverse_std: Array
) -> tuple[Tensor | None, ...]:
    """∂L/∂x, ∂L/∂γ, ∂L/∂β without temporaries as large as x, where nothing is to be recorded."""
    dtype, (dy, x, weight, mu, inverse_std) = x.dtype, _wide(dy, x, weight, mu, inverse_std)
    dbias = sum_of(dy, norm.axes, keepdims=False)
    dweight = sum_of_centred_products(x, mu, dy) * inverse_std
    dx = None
    if norm.needs_grad[0]:
        dx, scale = empty(array_module(x), x.shape, x.dtype, like=x), weight * inverse_std
        if norm.statistics is None:
            numbers = mu, inverse_std * (dweight / norm.m), dbias / norm.m, scale
            for_each_block(_propagate, dy, x, *_broadcast(x, numbers), dx)
        else:
            for_each_block(array_module(x).multiply, dy, *_broadcast(x, (scale,)), dx)
    wrap = Tensor.wrap
    return tuple(a if a is None else wrap(a.astype(dtype, copy=False)) for a in (dx, dweight, dbias))


def _wide(*arrays: Array) -> list[Array]:
    """float16 as float32, in which sums over a batch do not overflow."""
    return [a.astype("float32") if a.dtype.itemsize < 4 else a for a in arrays]


def _broadcast(x: Array, numbers: Iterable[Array]) -> list[Array]:
    """Numbers for each channel (C,), as arrays of the shape of x (N, C, …) that have no memory for it."""
    return [array_module(x).broadcast_to(beside(a, x), x.shape) for a in numbers]


def _normalize(x: Array, mu: Array, scale: Array, bias: Array, out: Array) -> None:
    """(x − μ) · scale + bias"""
    array_module(x).subtract(x, mu, out=out)
    out *= scale
    out += bias


def _propagate(dy: Array, x: Array, mu: Array, slope: Array, shift: Array, scale: Array, out: Array) -> None:
    """scale · (dy − (x − μ) · slope − shift)"""
    _normalize(x, mu, slope, shift, out)
    array_module(x).subtract(dy, out, out=out)
    out *= scale


def batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Each channel of x with mean 0 and variance 1, then scaled by `weight` and shifted by `bias`, both (C,).

    In training the mean and variance are those of the batch, and the running ones move towards them in place:
    running ← (1 − momentum) · running + momentum · batch, with the unbiased variance Σ (x − μ)² / (m − 1).
    Otherwise the running ones are used.

    Shapes: (N, C), (N, C, L) or (N, C, H, W); the same comes out.

    Raises:
        ShapeError: x has no channel axis or another number of channels, or in training one element a channel.
        ValueError: neither training nor running statistics.
    """
    xp = array_module(x.data)
    channels = next((t.shape[0] for t in (weight, bias, running_mean) if t is not None), None)
    if x.ndim < 2 or (channels is not None and x.shape[1] != channels):
        raise ShapeError(f"expected (N, {channels or 'C'}, …), got {x.shape}")
    x = floating(x)
    if weight is None:
        weight = Tensor.wrap(xp.ones(x.shape[1], x.dtype))
    if bias is None:
        bias = Tensor.wrap(xp.zeros(x.shape[1], x.dtype))
    x, weight, bias = in_one_type(x, weight, bias)
    if not training:
        if running_mean is None or running_var is None:
            raise ValueError("batch_norm needs running_mean and running_var where it does not train")
        # A copy: the running mean may change before backward.
        return BatchNorm((running_mean.data.copy(), running_var.data), eps)(x, weight, bias)
    m = x.numel() // max(x.shape[1], 1)
    if m < 2:
        raise ShapeError(
            f"training needs more than one element a channel, got {x.shape}: use a larger batch, or .eval()"
        )
    function = BatchNorm(None, eps)
    y = function(x, weight, bias)
    batch_mean, batch_var = function.batch_statistics
    for running, batch in ((running_mean, batch_mean), (running_var, batch_var * (m / (m - 1)))):
        if running is not None:
            running.data *= 1.0 - momentum
            running.data += momentum * batch
            running.increment_version()
    return y


def local_response_norm(
    x: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Tensor:
    """y_c = x_c / (k + α/size · Σ x_j²)^β, the sum over the `size` channels around c.

    Krizhevsky, Sutskever & Hinton 2012, §3.3 (there α is not divided by the size). Channels beyond the first
    and the last count as 0; of an even number one more lies before c than after.

    Shapes: (N, C, …), the same comes out.

    Raises:
        ShapeError: x has no channel axis.
        ValueError: size < 1.
    """
    if x.ndim < 2:
        raise ShapeError(f"expected (N, C, …), got {x.shape}")
    if size < 1:
        raise ValueError(f"local_response_norm sums over one channel or more, got size {size}")
    channels = x.shape[1]
    widths = [(0, 0), (size // 2, (size - 1) // 2)] + [(0, 0)] * (x.ndim - 2)
    squares = pad(x * x, widths)
    window = squares[:, :channels]
    for j in range(1, size):
        window = window + squares[:, j : j + channels]
    return x / (k + (alpha / size) * window) ** beta
