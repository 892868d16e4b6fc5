"""Elementwise arithmetic. Operands broadcast; the engine undoes that for the gradients (`unbroadcast`).

`dz` means ∂L/∂z, and each docstring reads: the value, then the chain rule.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minidl import complaints
from minidl.autograd import Function
from minidl.backend import Array, array_module
from minidl.recording import here
from minidl.tensor import Tensor

_wrap = Tensor.wrap


class Add(Function):
    """z = x + y        ∂L/∂x = ∂L/∂z        ∂L/∂y = ∂L/∂z"""

    def forward(self, x: Array, y: Array) -> Array:
        return x + y

    def backward(self, dz: Tensor) -> tuple[Tensor, Tensor]:
        return dz, dz


class Subtract(Function):
    """z = x − y        ∂L/∂x = ∂L/∂z        ∂L/∂y = −∂L/∂z"""

    def forward(self, x: Array, y: Array) -> Array:
        return x - y

    def backward(self, dz: Tensor) -> tuple[Tensor, Tensor | None]:
        return dz, -dz if self.needs_grad[1] else None


class Multiply(Function):
    """z = x · y        ∂L/∂x = ∂L/∂z · y        ∂L/∂y = ∂L/∂z · x"""

    def forward(self, x: Array, y: Array) -> Array:
        self.save(x=x if self.needs_grad[1] else None, y=y if self.needs_grad[0] else None)
        return x * y

    def backward(self, dz: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, y = self.saved
        return (
            dz * y if self.needs_grad[0] else None,
            dz * x if self.needs_grad[1] else None,
        )


class Divide(Function):
    """z = x / y        ∂L/∂x = ∂L/∂z / y        ∂L/∂y = −∂L/∂z · x / y²"""

    def forward(self, x: Array, y: Array) -> Array:
        self.save(x=x if self.needs_grad[1] else None, y=y)
        return x / y

    def backward(self, dz: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, y = self.saved
        return (
            dz / y if self.needs_grad[0] else None,
            -dz * x / (y * y) if self.needs_grad[1] else None,
        )


class Power(Function):
    """z = xᵃ        ∂L/∂x = ∂L/∂z · a xᵃ⁻¹        ∂L/∂a = ∂L/∂z · xᵃ ln x

    At x = 0 the limits are taken: a xᵃ⁻¹ is 0 where a = 0, and xᵃ ln x is 0 where a ≥ 0.
    """

    def forward(self, x: Array, a: Array) -> Array:
        self.number = a.item() if isinstance(a, np.ndarray) and a.ndim == 0 else None
        if self.number in (-1, 2):  # as integers NumPy knows that they mean 1/x and x · x
            self.number = int(self.number)
        z = x ** (a if self.number is None else self.number)
        self.save(x=x, a=a, output=z if self.needs_grad[1] else None)
        return z

    def backward(self, dz: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, a, z = self.saved
        dx = da = None
        if self.needs_grad[0]:
            less = a - 1.0 if self.number else where((x == 0) & (a == 0), 1.0, a - 1.0)
            dx = dz * a * x**less
        if self.needs_grad[1]:
            da = dz * z * log(where((x == 0) & (a >= 0), 1.0, x))
        return dx, da


class Negative(Function):
    """y = −x        ∂L/∂x = −∂L/∂y"""

    def forward(self, x: Array) -> Array:
        return -x

    def backward(self, dy: Tensor) -> Tensor:
        return -dy


class Exp(Function):
    """y = eˣ        ∂L/∂x = ∂L/∂y · y"""

    def forward(self, x: Array) -> Array:
        y = array_module(x).exp(x)
        self.save(output=y)
        return y

    def backward(self, dy: Tensor) -> Tensor:
        (y,) = self.saved
        return dy * y


class Log(Function):
    """y = ln x        ∂L/∂x = ∂L/∂y / x"""

    def forward(self, x: Array) -> Array:
        self.save(x=x)
        return array_module(x).log(x)

    def backward(self, dy: Tensor) -> Tensor:
        (x,) = self.saved
        return dy / x


class Sqrt(Function):
    """y = √x        ∂L/∂x = ∂L/∂y / (2y)"""

    def forward(self, x: Array) -> Array:
        y = array_module(x).sqrt(x)
        self.save(output=y)
        return y

    def backward(self, dy: Tensor) -> Tensor:
        (y,) = self.saved
        return dy / (2.0 * y)


class Abs(Function):
    """y = |x|        ∂L/∂x = ∂L/∂y · sign x        (0 at the kink x = 0)"""

    def forward(self, x: Array) -> Array:
        self.save(sign=array_module(x).sign(x))
        return abs(x)

    def backward(self, dy: Tensor) -> Tensor:
        (sign,) = self.saved
        return dy * sign


class Maximum(Function):
    """z = max(x, y)        ∂L/∂x = ∂L/∂z where x > y, else 0        ∂L/∂y = ∂L/∂z where y > x, else 0

    Where the two tie, half goes to each.
    """

    extremum, wins = "maximum", "greater"

    def forward(self, x: Array, y: Array) -> Array:
        xp = array_module(x)
        if True in self.needs_grad:
            self.save(share=getattr(xp, self.wins)(x, y) + (x == y) * x.dtype.type(0.5))
        return getattr(xp, self.extremum)(x, y)

    def backward(self, dz: Tensor) -> tuple[Tensor | None, Tensor | None]:
        (share,) = self.saved
        return (
            dz * share if self.needs_grad[0] else None,
            dz * (1.0 - share) if self.needs_grad[1] else None,
        )


class Minimum(Maximum):
    """z = min(x, y)        ∂L/∂x = ∂L/∂z where x < y, else 0        ∂L/∂y = ∂L/∂z where y < x, else 0

    Where the two tie, half goes to each.
    """

    extremum, wins = "minimum", "less"


class Clip(Function):
    """y = min(max(x, low), high)        ∂L/∂x = ∂L/∂y where low ≤ x ≤ high, else 0"""

    def __init__(self, low: float | None, high: float | None) -> None:
        self.low, self.high = low, high

    def forward(self, x: Array) -> Array:
        y = array_module(x).clip(x, self.low, self.high)
        self.save(inside=y == x)
        return y

    def backward(self, dy: Tensor) -> Tensor:
        (inside,) = self.saved
        return dy * inside


class Where(Function):
    """z = x where c, else y        ∂L/∂x = ∂L/∂z where c, else 0        ∂L/∂y = 0 where c, else ∂L/∂z

    The condition c has no gradient.
    """

    def forward(self, condition: Array, x: Array, y: Array) -> Array:
        self.save(condition=condition)
        return array_module(x).where(condition, x, y)

    def backward(self, dz: Tensor) -> tuple[Tensor | None, ...]:
        (condition,) = self.saved
        return (
            None,
            where(condition, dz, 0.0) if self.needs_grad[1] else None,
            where(condition, 0.0, dz) if self.needs_grad[2] else None,
        )


class AsType(Function):
    """y = x in another floating-point type        ∂L/∂x = ∂L/∂y in the type of x"""

    def __init__(self, dtype: Any) -> None:
        self.dtype = dtype

    def forward(self, x: Array) -> Array:
        self.from_dtype = x.dtype
        return x.astype(self.dtype)

    def backward(self, dy: Tensor) -> Tensor:
        return astype(dy, self.from_dtype)


def as_tensor(value: Any, like: Tensor) -> Tensor:
    """`value` as an operand beside `like`: a Tensor as it is, anything else on like's device.

    A Python number takes like's dtype where that can hold its kind, so that `x * 2.0` stays float32.
    """
    if isinstance(value, Tensor):
        return value
    if isinstance(value, (int, float)):
        holds = like.dtype.kind == "f" or (like.dtype.kind in "iu" and isinstance(value, int))
        value = np.asarray(value, like.dtype if holds else np.float32 if isinstance(value, float) else None)
    return Tensor(value).to(like.device)


def operands(x: Any, y: Any) -> tuple[Tensor, Tensor]:
    """Both as tensors of one type."""
    if type(x) is type(y) is Tensor and x.data.dtype is y.data.dtype:
        return x, y
    if not isinstance(x, Tensor):
        y = y if isinstance(y, Tensor) else Tensor(y)
        x = as_tensor(x, like=y)
    elif not isinstance(y, Tensor):
        y = as_tensor(y, like=x)
    x, y = in_one_type(x, y)
    return x, y


def in_one_type(*xs: Tensor) -> Sequence[Tensor]:
    """If one is floating-point, all in its type, or in the widest where several are.

    So the conversion is part of the graph, and each gets its gradient in its own type.
    """
    floats = {x.dtype for x in xs if x.dtype.kind == "f"}
    if not floats or len({x.dtype for x in xs}) == 1:
        return xs
    return [astype(x, np.result_type(*floats)) for x in xs]


def _binary(function: type[Function], plain: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Tensor]:
    """An operation on two numbers; `plain` arithmetic where nothing is recorded, as in the backward pass.

    Recording is what `function()(x, y)` does, spelled out for two: in a small x * y the way there is felt.
    """

    def operation(x: Any, y: Any) -> Tensor:
        if not (type(x) is type(y) is Tensor and x.data.dtype is y.data.dtype):
            x, y = operands(x, y)
        state = here.state
        if state.anomaly is not None:
            return function()(x, y)
        try:
            if not state.recording:
                return _wrap(plain(x.data, y.data))
            f = function()
            f.needs_grad = x.requires_grad, y.requires_grad
            z = _wrap(f.forward(x.data, y.data))
            if True in f.needs_grad:
                f.record((x, y), z, state.call, 3)
            return z
        except TypeError:
            return function()(x, y)  # which says what is wrong with them

    operation.__doc__ = function.__doc__
    operation.__name__ = operation.__qualname__ = function.__name__.lower()
    return operation


add = _binary(Add, operator.add)
subtract = _binary(Subtract, operator.sub)
multiply = _binary(Multiply, operator.mul)


def divide(x: Any, y: Any) -> Tensor:
    x, y = operands(x, y)
    return Divide()(floating(x), floating(y))


def power(x: Any, a: Any) -> Tensor:
    """xᵃ for any x and integer a, or x ≥ 0 and any a."""
    return Power()(*operands(x, a))


def negative(x: Tensor) -> Tensor:
    return Negative()(x)


def exp(x: Tensor) -> Tensor:
    return Exp()(x)


def log(x: Tensor) -> Tensor:
    return Log()(x)


def sqrt(x: Tensor) -> Tensor:
    return Sqrt()(x)


def absolute(x: Tensor) -> Tensor:
    return Abs()(x)


def maximum(x: Any, y: Any) -> Tensor:
    return Maximum()(*operands(x, y))


def minimum(x: Any, y: Any) -> Tensor:
    return Minimum()(*operands(x, y))


def clip(x: Tensor, low: float | None = None, high: float | None = None) -> Tensor:
    """x limited to [low, high]; None is no limit."""
    return Clip(low, high)(x)


def where(condition: Any, x: Any, y: Any) -> Tensor:
    """x where `condition` holds, y elsewhere; all three broadcast."""
    x, y = operands(x, y)
    return Where()(as_tensor(condition, like=x).detach(), x, y)


def astype(x: Tensor, dtype: Any) -> Tensor:
    """x converted to `dtype`. A gradient passes between floating-point types only."""
    if x.data.dtype == dtype:
        return x
    if np.dtype(dtype).kind not in "fiub":
        raise TypeError(f"a Tensor holds numbers, not {np.dtype(dtype)}")
    result = AsType(dtype)(x)
    return result if result.data.dtype.kind == "f" else result.detach()


def floating(x: Tensor) -> Tensor:
    """x, or where it holds integers, float32."""
    return x if x.data.dtype.kind == "f" else astype(x, "float32")


def compare(name: str) -> Any:
    """The comparison `name` ("less", "equal", …) of two operands: a boolean tensor, without a gradient."""

    def comparison(x: Any, y: Any) -> Tensor:
        x, y = operands(x, y)
        try:
            return Tensor(getattr(array_module(x.data), name)(x.data, y.data))
        except TypeError:
            complaints.about_devices(name, (x, y))
            raise

    comparison.__name__ = name
    return comparison


less, less_equal = compare("less"), compare("less_equal")
greater, greater_equal = compare("greater"), compare("greater_equal")
equal, not_equal = compare("equal"), compare("not_equal")
logical_and, logical_or = compare("logical_and"), compare("logical_or")


def logical_not(x: Tensor) -> Tensor:
    return Tensor(array_module(x.data).logical_not(x.data))
