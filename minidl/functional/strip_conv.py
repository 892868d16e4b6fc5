"""The convolution of `im2col_conv.py`, in strips that stay in the cache, on all threads.

The columns repeat every pixel KH·KW times. So they are made in strips, some rows of one picture or several
small pictures side by side, and they are made anew for ∂L/∂w. A strip of one picture lands in y, which is
NCHW, without a transpose; where x is channels-last, so is y, and every strip does. With groups, G matrix
products stand side by side.

Threads share the strips of y and the channels of ∂L/∂x: no two of them add to the same number. Of ∂L/∂w they
share the channels too, or, where those are few, sums over some of the strips, added up in the end. How many
strips make such a sum does not depend on the number of threads, and so neither does the result.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, NamedTuple

from minidl.backend import Array, array_module
from minidl.backend.blocks import positive_part
from minidl.backend.im2col import Pair, Window, col2im, im2col
from minidl.backend.memory import channels_last, empty
from minidl.backend.threads import parallel_for, scratch, split, strips

STRIP_BYTES = 4 << 20  # of columns in memory at a time, for each thread
PIECES = 8  # of the work, about: enough for some threads
SUM_BYTES = 1 << 20  # of ∂L/∂w, up to which threads add up one of their own
BLOCK_ROWS = 288  # of columns that are added up at a time: 32 channels of 3×3 pixels, but 288 of one
SOME_CHANNELS = 8  # of y: with fewer it is slow to add up columns whose channels lie side by side
ENOUGH_PLACES = 256  # a matrix product with fewer columns is slow: take several pictures together


def conv2d(
    x: Array, weight: Array, bias: Array | None, window: Window, groups: int, relu: bool = False
) -> Array:
    """y = W · im2col(x) + b:  (N, C, H, W), (O, C/G, KH, KW), (O,) → (N, O, OH, OW)."""
    xp, n, o = array_module(x), x.shape[0], weight.shape[0]
    oh, ow = window.places(x.shape[2:])
    last = groups == 1 and channels_last(x)
    y = empty(xp, (n, o, oh, ow), xp.result_type(x, weight), like=x if last else None)
    w = pixel_by_pixel(weight, last).reshape(groups, o // groups, -1)

    def strip(pictures: slice, rows: slice) -> None:
        columns = columns_of(x[pictures], window, rows, groups, last)
        in_place = last or pictures.stop - pictures.start == 1
        if in_place:
            product = side_by_side(y[pictures, :, rows], groups)
        else:
            product = scratch(xp, "product", (*w.shape[:2], columns.shape[2]), y.dtype)
        xp.matmul(w, columns, out=product)
        if bias is not None:
            product += bias.reshape(groups, -1, 1)
        if relu:
            positive_part(product, out=product)
        if not in_place:
            y[pictures] = product.reshape(o, -1, oh, ow).swapaxes(0, 1)

    row_bytes = x.shape[1] * math.prod(window.kernel) * ow * y.itemsize
    most = _pictures(x, window, oh * ow)
    parallel_for(xp, strip, strips(n, oh, row_bytes, STRIP_BYTES, most))
    return y


def conv_transpose2d(
    x: Array, weight: Array, bias: Array | None, window: Window, groups: int, size: Pair
) -> Array:
    """y = col2im(Wᵀ · x) + b:  (N, O, OH, OW), (O, C/G, KH, KW), (C,) → (N, C, *size)."""
    if turned := as_convolution(weight, window, groups):
        return conv2d(x, turned.weight, bias, turned.window, groups)
    xp, (n, o, oh, ow), c = array_module(x), x.shape, groups * weight.shape[1]
    last = groups == 1 and c >= SOME_CHANNELS and channels_last(x)
    y = empty(xp, (n, c, *size), xp.result_type(x, weight), like=x if last else None)
    w = weight.reshape(groups, o // groups, c // groups, *window.kernel)

    def block(pictures: slice, group: slice, part: slice) -> None:
        filters = _channels(group, slice(0, o // groups), o // groups)
        channels = _channels(group, part, c // groups)
        w_block = pixel_by_pixel(w[group, :, part], last).reshape(group.stop - group.start, o // groups, -1)
        x_block = side_by_side(x[pictures, filters], len(w_block))
        shape = (pictures.stop - pictures.start, channels.stop - channels.start, *window.kernel, oh, ow)
        columns, matrix = columns_memory(xp, shape, y.dtype, len(w_block), last)
        xp.matmul(w_block.swapaxes(1, 2), x_block, out=matrix)
        col2im(columns, window, size, out=y[pictures, channels])
        if bias is not None:
            y[pictures, channels] += bias[channels].reshape(-1, 1, 1)

    together = max(1, ENOUGH_PLACES // max(1, oh * ow))
    pictures = split(n, together)
    channel_bytes = together * math.prod(window.kernel) * oh * ow * y.itemsize
    width = max(1, STRIP_BYTES * 2 // max(1, channel_bytes))
    enough = min(BLOCK_ROWS // math.prod(window.kernel), c * len(pictures) // PIECES)
    width = min(width, max(32, enough))
    blocks = _blocks(groups, c // groups, width)
    parallel_for(xp, block, [(some, *b) for some in pictures for b in blocks])
    return y


def conv_weight(x: Array, y: Array, window: Window, groups: int) -> Array:
    """w = Σ y · im2col(x)ᵀ:  (N, C, H, W), (N, O, OH, OW) → (O, C/G, KH, KW)."""
    xp, (n, o, oh, ow), c = array_module(x), y.shape, x.shape[1]
    small = o * c // groups * math.prod(window.kernel) * y.itemsize <= SUM_BYTES
    blocks = _blocks(groups, c // groups, c if small else max(4, -(-c // groups // PIECES)))
    row_bytes = _channels(*blocks[0], c // groups).stop * math.prod(window.kernel) * ow * y.itemsize
    places = strips(n, oh, row_bytes, STRIP_BYTES, _pictures(x, window, oh * ow))
    sums = split(len(places), max(1, -(-len(places) * len(blocks) // PIECES)))
    last = groups == 1 and channels_last(x)
    shape = (groups, o // groups, c // groups, *window.kernel)
    w = scratch(xp, "sums", (len(sums), *shape), xp.result_type(x, y))

    def add(k: int, group: slice, part: slice) -> None:
        target = pixel_by_pixel(w[k, group, :, part], last)
        size = (*target.shape[:2], math.prod(target.shape[2:]))
        wide = size[2] > size[1]  # BLAS is faster with the larger matrix on the left
        if wide:
            size = (size[0], size[2], size[1])
        total = xp.zeros(size, w.dtype)
        product = scratch(xp, "product", size, w.dtype)
        outputs = _channels(group, slice(0, o // groups), o // groups)
        inputs = _channels(group, part, c // groups)
        for pictures, rows in places[sums[k]]:
            columns = columns_of(x[pictures, inputs], window, rows, len(target), last)
            seen = side_by_side(y[pictures, outputs, rows], len(target))
            left, right = (columns, seen) if wide else (seen, columns)
            total += xp.matmul(left, right.swapaxes(1, 2), out=product)
        target[...] = (total.swapaxes(1, 2) if wide else total).reshape(target.shape)

    parallel_for(xp, add, [(k, *block) for k in range(len(sums)) for block in blocks])
    total = empty(xp, (o, c // groups, *window.kernel), w.dtype)
    w.sum(0, out=total.reshape(shape))
    return total


class Turned(NamedTuple):
    """The convolution that a transposed one is."""

    weight: Array
    window: Window


def as_convolution(weight: Array, window: Window, groups: int) -> Turned | None:
    """The transposed convolution as a convolution, where that is possible and faster.

    With a stride of 1 it is one with the filters turned by 180°. It makes columns of x instead of y, which is
    faster than to add up those of y, unless they are many more: O > 4 C.
    """
    o, c = weight.shape[0], groups * weight.shape[1]
    border = (window.extent[0] - 1 - window.padding[0], window.extent[1] - 1 - window.padding[1])
    if window.stride != (1, 1) or min(border) < 0 or o > 4 * c:
        return None
    turned = weight.reshape(groups, -1, *weight.shape[1:])[..., ::-1, ::-1].swapaxes(1, 2)
    return Turned(turned.reshape(c, -1, *window.kernel), replace(window, padding=border))


# The pieces


def columns_of(x: Array, window: Window, rows: slice, groups: int, last: bool = False) -> Array:
    """The columns of n pictures, side by side: (n, C, H, W) → (G, C/G·KH·KW, n·rows·OW).

    With `last` it is (1, KH·KW·C, n·rows·OW): see `columns_memory`.
    """
    if window.reads_each_pixel_once:
        return side_by_side(x[:, :, rows], groups)
    shape = (*x.shape[:2], *window.kernel, rows.stop - rows.start, window.places(x.shape[2:])[1])
    columns, matrix = columns_memory(array_module(x), shape, x.dtype, groups, last)
    im2col(x, window, rows, out=columns)
    return matrix


def columns_memory(
    xp: Any, shape: tuple[int, ...], dtype: Any, groups: int, last: bool
) -> tuple[Array, Array]:
    """Scratch memory for columns, as (n, C, KH, KW, rows, OW) and as matrices (G, C/G·KH·KW, n·rows·OW).

    With `last`, for channels-last pictures in one group, it is one matrix (1, KH·KW·C, n·rows·OW) that lies
    transposed, so that channels stay side by side.
    """
    n, c, kh, kw, *places = shape
    if last:
        memory = scratch(xp, "columns", (n, *places, kh, kw, c), dtype)
        return memory.transpose(0, 5, 3, 4, 1, 2), memory.reshape(1, -1, kh * kw * c).swapaxes(1, 2)
    memory = scratch(xp, "columns", (c, kh, kw, n, *places), dtype)
    return memory.transpose(3, 0, 1, 2, 4, 5), memory.reshape(groups, -1, n * math.prod(places))


def pixel_by_pixel(weight: Array, last: bool) -> Array:
    """(…, C, KH, KW) → (…, KH, KW, C) if the channels are to be last, as in such columns."""
    return array_module(weight).moveaxis(weight, -3, -1) if last else weight


def _pictures(x: Array, window: Window, places: int) -> int:
    """How many to take side by side at most. Of a 1×1 window, one alone needs no copy if it is large."""
    most = ENOUGH_PLACES // max(1, places)
    if not window.reads_each_pixel_once:
        most = max(most, -(-len(x) // PIECES))
    return max(1, most)


def side_by_side(x: Array, groups: int) -> Array:
    """(n, C, H, W) → (G, C/G, n·H·W): a view of one picture, a copy of several."""
    n, c, h, w = x.shape
    return x.swapaxes(0, 1).reshape(groups, c // groups, n * h * w)


def _blocks(groups: int, channels: int, width: int) -> list[tuple[slice, slice]]:
    """(groups, channels within each) in blocks of about `width` channels, neighbours in the picture."""
    if groups == 1:
        return [(slice(0, 1), part) for part in split(channels, width)]
    return [(group, slice(0, channels)) for group in split(groups, max(1, width // max(1, channels)))]


def _channels(group: slice, part: slice, each: int) -> slice:
    """The channels of a picture that `_blocks` means, with `each` channels in a group."""
    return slice(group.start * each + part.start, (group.stop - 1) * each + part.stop)
