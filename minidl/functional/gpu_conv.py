"""The convolution of `im2col_conv.py` on the GPU: as many pictures at a time as there is room for.

A GPU wants few, large products. The columns of all those pictures stand side by side, so a convolution is one
product of two matrices (with groups, G of them), which cuBLAS takes transposed without a copy:

    y = W · columns        ∂L/∂w = Σ ∂L/∂y · columnsᵀ        ∂L/∂x = col2im(Wᵀ · ∂L/∂y)

Bias and ReLU are added on the way from the product, (O, N·OH·OW), to y, (N, O, OH, OW). With a stride of 1
∂L/∂x is a convolution again.
"""

from __future__ import annotations

import math

from minidl.backend import Array, array_module, kernels
from minidl.backend.im2col import Pair, Window, col2im
from minidl.backend.threads import split, strips
from minidl.functional.strip_conv import as_convolution, columns_of, side_by_side

STRIP_BYTES = 256 << 20  # of columns in memory at a time


def conv2d(
    x: Array, weight: Array, bias: Array | None, window: Window, groups: int, relu: bool = False
) -> Array:
    """y = W · im2col(x) + b:  (N, C, H, W), (O, C/G, KH, KW), (O,) → (N, O, OH, OW)."""
    xp, o, (oh, ow) = array_module(x), len(weight), window.places(x.shape[2:])
    y = xp.empty((len(x), o, oh, ow), xp.result_type(x, weight))
    w = weight.reshape(groups, o // groups, -1)
    b = None if bias is None else bias.reshape(-1, 1, 1)
    for pictures, rows in _strips(x, window, (oh, ow), y.itemsize):
        product = _multiply(w, columns_of(x[pictures], window, rows, groups))
        out = y[pictures, :, rows]
        kernels.bias_relu(product.reshape(o, len(out), -1, ow).swapaxes(0, 1), b, relu, out)
    return y


def conv_transpose2d(
    x: Array, weight: Array, bias: Array | None, window: Window, groups: int, size: Pair
) -> Array:
    """y = col2im(Wᵀ · x) + b:  (N, O, OH, OW), (O, C/G, KH, KW), (C,) → (N, C, *size)."""
    if turned := as_convolution(weight, window, groups):
        return conv2d(x, turned.weight, bias, turned.window, groups)
    xp, (n, o, oh, ow), c = array_module(x), x.shape, groups * weight.shape[1]
    y = xp.empty((n, c, *size), xp.result_type(x, weight))
    w = weight.reshape(groups, o // groups, -1).swapaxes(1, 2)
    picture_bytes = c * math.prod(window.kernel) * oh * ow * y.itemsize
    for pictures in split(n, max(1, STRIP_BYTES // picture_bytes)):
        columns = _multiply(w, side_by_side(x[pictures], groups)).reshape(c, *window.kernel, -1, oh, ow)
        col2im(columns.transpose(3, 0, 1, 2, 4, 5), window, size, out=y[pictures])
    if bias is not None:
        y += bias.reshape(-1, 1, 1)
    return y


def conv_weight(x: Array, y: Array, window: Window, groups: int) -> Array:
    """w = Σ y · im2col(x)ᵀ:  (N, C, H, W), (N, O, OH, OW) → (O, C/G, KH, KW)."""
    xp, o, c = array_module(x), y.shape[1] // groups, x.shape[1] // groups
    w = xp.zeros((groups, o, c * math.prod(window.kernel)), xp.result_type(x, y))
    for pictures, rows in _strips(x, window, (y.shape[2], y.shape[3]), w.itemsize):
        dy = side_by_side(y[pictures, :, rows], groups)
        w += _multiply(dy, columns_of(x[pictures], window, rows, groups).swapaxes(1, 2))
    return w.reshape(groups * o, c, *window.kernel)


def _strips(x: Array, window: Window, places: Pair, itemsize: int) -> list[tuple[slice, slice]]:
    """All places as (pictures, rows): some pictures, or some rows of one that is very large."""
    row_bytes = x.shape[1] * math.prod(window.kernel) * places[1] * itemsize
    return strips(len(x), places[0], row_bytes, STRIP_BYTES)


def _multiply(x: Array, y: Array) -> Array:
    """(G, M, K) (G, K, N) → (G, M, N). CuPy would copy a transposed y, but not a plain matrix."""
    return (x[0] @ y[0])[None] if len(x) == 1 else x @ y
