"""The Tensor: an array that remembers which operation made it.

That memory is all the graph there is. A tensor points at the `Function` that computed it (`grad_fn`), the
function points at those before it, and nothing points back: drop the loss and the whole graph is gone.
How the graph is recorded and walked is told in `autograd.py`; `a * b` and `x.sum()` are bound to their
operations in `functional/methods.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from minidl import complaints
from minidl.backend import Array, as_array, as_numpy, device_of, to_device
from minidl.words import tensor_html, tensor_text

if TYPE_CHECKING:
    from minidl.autograd import Function

_UNWRITTEN = (0,)


class Tensor:
    """An n-dimensional array with a gradient.

    Args:
        data: an array (kept as it is, not copied), a number or nested lists (floats become float32).
        requires_grad: whether `backward()` should leave ∂L/∂self in `grad`. Only float tensors can.
        dtype: convert to this type.

    Attributes:
        data: the NumPy or CuPy array.
        grad: ∂L/∂self, a Tensor of the same shape, or None before `backward()`.
        grad_fn: the Function that computed this tensor; None for a leaf, a tensor nobody computed.
    """

    __slots__ = ("__weakref__", "_version", "data", "grad", "grad_fn", "requires_grad")
    __array_ufunc__ = None  # numpy_array * tensor: NumPy steps back and Tensor.__rmul__ is asked
    __hash__ = object.__hash__  # `==` compares elements, so identity is what hashing has left

    def __init__(self, data: Any, requires_grad: bool = False, dtype: Any = None) -> None:
        self.data: Array = as_array(data.data if isinstance(data, Tensor) else data, dtype)
        self.grad: Tensor | None = None
        self.grad_fn: Function | None = None
        self.requires_grad = False
        self._version: Any = _UNWRITTEN  # counts writes into `data`; in a list, once views share it
        if requires_grad:
            self.requires_grad_()

    @staticmethod
    def wrap(array: Array) -> Tensor:
        """A leaf around an array: the constructor, shorter by its questions."""
        tensor = _new(Tensor)
        tensor.data = array if type(array) is _ndarray else as_array(array)
        tensor.grad = tensor.grad_fn = None
        tensor.requires_grad = False
        tensor._version = _UNWRITTEN
        return tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape

    @property
    def ndim(self) -> int:
        return self.data.ndim

    @property
    def dtype(self) -> np.dtype:
        return self.data.dtype

    @property
    def device(self) -> str:
        """`"cpu"` or `"gpu"`."""
        return device_of(self.data)

    def numpy(self) -> np.ndarray:
        """The values as a NumPy array; on the CPU it shares this tensor's memory, in any order."""
        return as_numpy(self.data)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.numpy(), dtype=dtype, copy=copy)

    def item(self) -> Any:
        """The value of a tensor with one element, as a Python number."""
        return self.data.item()

    @property
    def node(self) -> Function | Tensor:
        """Where this tensor's gradient arrives: at its Function, or at itself if it is a leaf."""
        return self.grad_fn or self

    @property
    def is_leaf(self) -> bool:
        return self.grad_fn is None

    def requires_grad_(self, requires_grad: bool = True) -> Tensor:
        """Ask for this leaf's gradient, or no longer; returns self."""
        if self.grad_fn is not None:
            raise complaints.no_leaf(self)
        if requires_grad and self.dtype.kind != "f":
            raise complaints.no_float(self)
        self.requires_grad = requires_grad
        return self

    def detach(self) -> Tensor:
        """The same values, sharing memory, with no past: gradients stop here."""
        tensor = Tensor.wrap(self.data)
        tensor._version = self.shared_version()
        return tensor

    def shared_version(self) -> Any:
        if self._version == _UNWRITTEN:
            self._version = [0]
        return self._version

    def increment_version(self) -> None:
        """Say that `data` was written into: a graph that saved this tensor then refuses to go backward."""
        self.shared_version()[0] += 1

    def to(self, device: str) -> Tensor:
        """The values on `"cpu"` or `"gpu"`, as a new leaf; itself if they are there already."""
        if device == self.device:
            return self
        if self.grad_fn is not None:
            raise complaints.no_move(self)
        return Tensor(to_device(self.data, device), requires_grad=self.requires_grad)

    __repr__, _repr_html_ = tensor_text, tensor_html

    if TYPE_CHECKING:  # what functional/methods.py binds

        def __getattr__(self, name: str) -> Any: ...
        def __len__(self) -> int: ...
        def __iter__(self) -> Iterator[Tensor]: ...
        def __float__(self) -> float: ...
        def __int__(self) -> int: ...
        def __getitem__(self, index: Any) -> Tensor: ...
        def __neg__(self) -> Tensor: ...
        def __add__(self, other: Any) -> Tensor: ...

        __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = __pow__ = __add__
        __matmul__ = __lt__ = __gt__ = __ge__ = __add__


_new, _ndarray = Tensor.__new__, np.ndarray
