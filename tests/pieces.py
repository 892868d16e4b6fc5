"""What tests of the engine are made of: small leaves, and operations that count or are wrong on purpose."""

from __future__ import annotations

import numpy as np

from minidl import Function, Tensor


def leaf(*values: float, dtype: str = "float64") -> Tensor:
    return Tensor(np.array(values, dtype), requires_grad=True)


def close(tensor: Tensor | None, expected: object) -> None:
    assert tensor is not None
    np.testing.assert_allclose(tensor.numpy(), expected, rtol=1e-12)


class Square(Function):
    """y = x², counting how often backward is called."""

    calls = 0

    def forward(self, x):
        self.save(x=x)
        return x * x

    def backward(self, dy):
        Square.calls += 1
        (x,) = self.saved
        return dy * 2.0 * x


class Cube(Function):
    """y = x³ with the backward that a test plants: planted(∂L/∂y, x)."""

    def __init__(self, planted):
        self.planted = planted

    def forward(self, x):
        self.save(x=x)
        return x * x * x

    def backward(self, dy):
        (x,) = self.saved
        return self.planted(dy, x)


def cube(planted):
    return lambda x: Cube(planted)(x)


def right(dy, x):
    """What Cube is to return."""
    return 3.0 * dy * x * x


def function(forward, derivative):
    """A Function y = forward(x) with a backward dy · derivative(x)."""

    class Own(Function):
        def forward(self, x):
            self.save(x=x)
            return forward(x)

        def backward(self, dy):
            (x,) = self.saved
            return dy * Tensor(derivative(x.numpy()))

    return Own
