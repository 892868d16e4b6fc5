"""`x + y` is `add(x, y)`: the operators and methods of Tensor, bound to the operations.

They are bound here, from above, so that `tensor.py` need not know the operations and imports go one way.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl import autograd, complaints
from minidl.errors import GradientError, ShapeError
from minidl.functional import activation, arithmetic, matmul, reduction, shape
from minidl.recording import is_grad_enabled
from minidl.tensor import Tensor


def _reflected(operation: Any) -> Any:
    return lambda x, other: operation(other, x)


def write(x: Tensor, index: Any, value: Any) -> Tensor:
    """x.data[index] = value in place, counted by the version. For tensors that the graph does not follow.

    Raises:
        GradientError: the graph is recording and x requires a gradient, which an overwritten value has not.
    """
    if is_grad_enabled() and x.requires_grad:
        raise GradientError(
            f"an in-place change of a tensor of shape {x.shape} that requires a gradient: "
            "write x = x + y instead, or do it inside no_grad()"
        )
    x.data[index] = value.data if isinstance(value, Tensor) else value
    x.increment_version()
    return x


def _setitem(x: Tensor, index: Any, value: Any) -> None:
    write(x, shape.plain(index), value)


def _in_place(operation: Any) -> Any:
    """`x += y`: in place where no graph is recorded, as an optimizer wants it, else `x = x + y`."""

    def assign(x: Tensor, other: Any) -> Tensor:
        result = operation(x, other)
        if result.requires_grad and not (x.is_leaf and x.requires_grad):
            return result
        if result.shape != x.shape or not np.can_cast(result.dtype, x.dtype, "same_kind"):
            raise ShapeError(
                f"a tensor of {x.dtype} and shape {x.shape} cannot hold the result, {result.dtype} of shape "
                f"{result.shape}, in place: write x = x + y instead"
            )
        return write(x, ..., result)

    return assign


_OPERATORS = {
    "__add__": arithmetic.add,
    "__sub__": arithmetic.subtract,
    "__mul__": arithmetic.multiply,
    "__truediv__": arithmetic.divide,
    "__pow__": arithmetic.power,
    "__matmul__": matmul.matmul,
}
for _name, _operation in _OPERATORS.items():
    setattr(Tensor, _name, _operation)
    setattr(Tensor, _name.replace("__", "__r", 1), _reflected(_operation))
    setattr(Tensor, _name.replace("__", "__i", 1), _in_place(_operation))


_OWN: Any = reduction.sum, reduction.mean, reduction.max, reduction.min
_OWN += shape.concatenate, shape.stack, shape.squeeze
_OF_NUMPY = {getattr(np, operation.__name__): complaints.on_tensors(operation) for operation in _OWN}


def _array_function(x: Tensor, function: Any, types: Any, inputs: Any, options: dict[str, Any]) -> Any:
    """np.mean(x) is mean(x), with its gradient; functions that are none of ours get plain arrays."""
    if function in _OF_NUMPY:
        return _OF_NUMPY[function](*inputs, **options)
    return function(*shape.plain(inputs), **{name: shape.plain(value) for name, value in options.items()})


def _length(x: Tensor) -> int:
    if not x.shape:
        raise TypeError("a 0-d tensor has no length: use .item() for its value")
    return x.shape[0]


def _format(x: Tensor, spec: str) -> str:
    """f"{loss:.3f}": a tensor without axes as its number."""
    return format(x.item(), spec) if spec and not x.shape else object.__format__(x, spec)


_METHODS = {
    "__format__": _format,
    "__array_function__": _array_function,
    "__dlpack__": lambda x, **options: x.data.__dlpack__(**options),  # PyTorch and others take it by these
    "__dlpack_device__": lambda x: x.data.__dlpack_device__(),
    "__len__": _length,
    "__iter__": lambda x: (x[i] for i in range(len(x))),
    "__float__": lambda x: float(x.item()),
    "__int__": lambda x: int(x.item()),
    "__bool__": lambda x: bool(x.item()),
    "numel": lambda x: x.data.size,
    "size": lambda x, dim=None: x.shape if dim is None else x.shape[dim],
    "tolist": lambda x: x.data.tolist(),
    "__neg__": arithmetic.negative,
    "__abs__": arithmetic.absolute,
    "__lt__": arithmetic.less,
    "__le__": arithmetic.less_equal,
    "__gt__": arithmetic.greater,
    "__ge__": arithmetic.greater_equal,
    "__eq__": arithmetic.equal,
    "__ne__": arithmetic.not_equal,
    "__and__": arithmetic.logical_and,
    "__or__": arithmetic.logical_or,
    "__invert__": arithmetic.logical_not,
    "__getitem__": shape.getitem,
    "__setitem__": _setitem,
    "backward": autograd.backward,
    "abs": arithmetic.absolute,
    "argmax": reduction.argmax,
    "astype": arithmetic.astype,
    "broadcast_to": shape.broadcast_to,
    "clip": arithmetic.clip,
    "exp": arithmetic.exp,
    "flatten": shape.flatten,
    "log": arithmetic.log,
    "max": reduction.max,
    "mean": reduction.mean,
    "min": reduction.min,
    "permute": shape.permute,
    "relu": activation.relu,
    "reshape": shape.reshape,
    "sigmoid": activation.sigmoid,
    "softmax": activation.softmax,
    "sqrt": arithmetic.sqrt,
    "squeeze": shape.squeeze,
    "sum": reduction.sum,
    "tanh": activation.tanh,
    "transpose": shape.transpose,
    "unsqueeze": shape.unsqueeze,
    "var": reduction.var,
    "view": shape.reshape,
}
for _name, _operation in _METHODS.items():
    setattr(Tensor, _name, _operation)
autograd.Function.__getstate__ = complaints.state_to_copy  # type: ignore[method-assign, assignment]
Tensor.T = property(lambda x: shape.permute(x, tuple(range(x.ndim))[::-1]))  # type: ignore[attr-defined]
