"""Convolution as a matrix product (im2col): the plain way.

Write what the window sees at each place into a column, and all the dot products of a convolution are one
matrix product: with the weight as a matrix W (O, C·KH·KW) and the columns (C·KH·KW, places),

    y = W · columns        ∂L/∂x = col2im(Wᵀ · ∂L/∂y)        ∂L/∂w = Σ ∂L/∂y · columnsᵀ

With groups, G such products stand side by side. The columns repeat every pixel KH·KW times, in memory too:
`strip_conv.py` computes the same in strips that stay in the cache.
"""

from __future__ import annotations

import math

from minidl.backend import Array
from minidl.backend.im2col import Pair, Window, col2im, im2col


def conv2d(
    x: Array, weight: Array, bias: Array | None, window: Window, groups: int, relu: bool = False
) -> Array:
    """y = W · im2col(x) + b:  (N, C, H, W), (O, C/G, KH, KW), (O,) → (N, O, OH, OW)."""
    n, o, (oh, ow) = len(x), len(weight), window.places(x.shape[2:])
    w = weight.reshape(groups, o // groups, -1)
    columns = im2col(x, window).reshape(n, groups, w.shape[2], oh * ow)
    y = (w @ columns).reshape(n, o, oh, ow)
    y = y if bias is None else y + bias.reshape(-1, 1, 1)
    return y.clip(0) if relu else y


def conv_transpose2d(
    x: Array, weight: Array, bias: Array | None, window: Window, groups: int, size: Pair
) -> Array:
    """y = col2im(Wᵀ · x) + b:  (N, O, OH, OW), (O, C/G, KH, KW), (C,) → (N, C, *size)."""
    (n, o, oh, ow), c = x.shape, groups * weight.shape[1]
    w = weight.reshape(groups, o // groups, -1)
    columns = w.swapaxes(1, 2) @ x.reshape(n, groups, o // groups, oh * ow)
    y = col2im(columns.reshape(n, c, *window.kernel, oh, ow), window, size)
    return y if bias is None else y + bias.reshape(-1, 1, 1)


def conv_weight(x: Array, y: Array, window: Window, groups: int) -> Array:
    """w = Σ y · im2col(x)ᵀ:  (N, C, H, W), (N, O, OH, OW) → (O, C/G, KH, KW)."""
    (n, o, oh, ow), c = y.shape, x.shape[1] // groups
    columns = im2col(x, window).reshape(n, groups, c * math.prod(window.kernel), oh * ow)
    w = (y.reshape(n, groups, o // groups, oh * ow) @ columns.swapaxes(2, 3)).sum(0)
    return w.reshape(o, c, *window.kernel)
