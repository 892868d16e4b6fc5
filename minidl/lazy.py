"""A gradient that is computed when somebody looks at it.

The gradient of a dense layer's weights, ∂L/∂W = (∂L/∂y)ᵀ x, is a sum of N outer products, one a picture. For
fc6 of VGG16 it takes 411 MB, and its two factors 7 MB in a batch of 64. So it is kept as the factors. The
optimizers ask for a few rows, move those weights, and forget them; whoever reads `weight.grad` gets the whole
matrix, and it is the same to the bit. Small matrices are not worth it.
"""

from __future__ import annotations

import numpy as np

from minidl.backend import Array
from minidl.backend.products import Product
from minidl.tensor import Tensor

LARGE = 1 << 22  # elements: 16 MiB of float32


def pays(dy: Tensor, x: Tensor, weight: Tensor) -> bool:
    """Whether ∂L/∂W is large, and several times larger than dy (N, out) and x (N, in) together."""
    size = weight.data.size
    return size >= LARGE and 4 * (dy.data.size + x.data.size) <= size and dy.dtype == weight.dtype


class LazyProduct(Tensor):
    """X Y, a tensor like any other: its `data` is computed when it is first read.

    Attributes:
        product: what it is to be computed from; None once it is.
    """

    __slots__ = ("_array", "product")

    def __init__(self, x: Array, y: Array) -> None:
        self.product: Product | None = Product(x, y)
        self.grad = self.grad_fn = None
        self.requires_grad = False
        self._version = [0]

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.product or self._array).shape

    @property
    def dtype(self) -> np.dtype:
        return (self.product or self._array).dtype

    @property
    def data(self) -> Array:
        if self.product is not None:
            self.data = self.product.whole()
        return self._array

    @data.setter
    def data(self, array: Array) -> None:
        self._array, self.product = array, None
