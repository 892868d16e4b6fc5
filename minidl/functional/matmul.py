"""Matrix products."""

from __future__ import annotations

from typing import Any

from minidl.autograd import Function
from minidl.backend import Array
from minidl.backend.products import matmul as product
from minidl.errors import ShapeError
from minidl.functional.arithmetic import in_one_type, operands
from minidl.functional.shape import transpose
from minidl.lazy import LazyProduct, pays
from minidl.recording import here
from minidl.tensor import Tensor


class MatMul(Function):
    """Z = X Y        ∂L/∂X = ∂L/∂Z Yᵀ        ∂L/∂Y = Xᵀ ∂L/∂Z

    Shapes: (…, M, K) (…, K, N) → (…, M, N). Leading axes broadcast, and the engine sums over those that did.
    """

    def forward(self, x: Array, y: Array) -> Array:
        self.save(x=x if self.needs_grad[1] else None, y=y if self.needs_grad[0] else None)
        return product(x, y)

    def backward(self, dz: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, y = self.saved
        return (
            matmul(dz, transpose(y)) if self.needs_grad[0] else None,
            matmul(transpose(x), dz) if self.needs_grad[1] else None,
        )


def matmul(x: Any, y: Any) -> Tensor:
    """The matrix product; a vector on the left is a row, on the right a column, and its axis is dropped."""
    x, y = operands(x, y)
    if x.ndim == 0 or y.ndim == 0:
        raise ShapeError(f"matmul of {x.shape} and {y.shape}: use * for a product with a number")
    if x.shape[-1] != y.shape[-2 if y.ndim > 1 else 0]:
        raise ShapeError(
            f"matmul of {x.shape} and {y.shape}: the last axis of the left ({x.shape[-1]}) "
            f"must match the {'second to last' if y.ndim > 1 else 'only'} axis of the right "
            f"({y.shape[-2 if y.ndim > 1 else 0]})"
        )
    if x.ndim == 1:
        z = matmul(x.reshape(1, -1), y)
        return z.reshape(z.shape[:-2] + z.shape[-1:]) if y.ndim > 1 else z.reshape(z.shape[:-1])
    if y.ndim == 1:
        z = MatMul()(x, y.reshape(-1, 1))
        return z.reshape(z.shape[:-1])
    try:
        return MatMul()(x, y)
    except ValueError:
        raise ShapeError(f"matmul of {x.shape} and {y.shape}: the leading axes do not broadcast") from None


class Linear(Function):
    """y = x Wᵀ + b        ∂L/∂x = ∂L/∂y W        ∂L/∂W = (∂L/∂y)ᵀ x        ∂L/∂b = Σₙ ∂L/∂y

    Shapes: (N, in), (out, in), (out,) → (N, out).
    """

    def forward(self, x: Array, weight: Array, bias: Array | None = None) -> Array:
        self.save(x=x if self.needs_grad[1] else None, weight=weight if self.needs_grad[0] else None)
        y = product(x, weight.T)
        if bias is not None:
            y += bias
        return y

    def backward(self, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = self.saved
        gradients = (
            matmul(dy, weight) if self.needs_grad[0] else None,
            self._weight_gradient(dy, x) if self.needs_grad[1] else None,
            dy.sum(axis=0) if self.needs_grad[-1] else None,
        )
        return gradients[: len(self.needs_grad)]

    def _weight_gradient(self, dy: Tensor, x: Tensor) -> Tensor:
        """(∂L/∂y)ᵀ x; a leaf gets it as a LazyProduct where that pays."""
        leaf = self.edges[1]
        if here.state.recording or not isinstance(leaf, Tensor) or not pays(dy, x, leaf):
            return matmul(transpose(dy), x)
        return LazyProduct(dy.data.T, x.data)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x Wᵀ + b        (…, in), (out, in), (out,) → (…, out)"""
    if weight.ndim != 2:
        raise ShapeError(f"expected a weight of (out, in), got {weight.shape}")
    if x.ndim == 0 or x.shape[-1] != weight.shape[1]:
        hint = ""
        if x.ndim == 4 and x.shape[1] * x.shape[2] * x.shape[3] == weight.shape[1]:
            hint = ". Flatten the feature maps first: nn.Flatten()"
        raise ShapeError(f"expected (N, {weight.shape[1]}), got {x.shape}{hint}")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ShapeError(
            f"expected a bias of ({weight.shape[0]},) for a weight of {weight.shape}, got {bias.shape}"
        )
    x, *parameters = in_one_type(x, weight) if bias is None else in_one_type(x, weight, bias)
    rows = x if x.ndim == 2 else x.reshape(-1, x.shape[-1])
    y = Linear()(rows, *parameters)
    return y if x.ndim == 2 else y.reshape(*x.shape[:-1], weight.shape[0])
