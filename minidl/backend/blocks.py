"""Arrays cut into blocks: small enough for the cache, many enough for all threads.

What is done to a whole array in several steps, p ← p − lr · (g + λ p), reads and writes main memory at every
step and makes temporaries of the array's size. Done block by block, all steps but the first find their block
in the cache, the temporaries are as small as a block, and several blocks can be worked on at the same time.

A matrix of which only blocks are ever needed does not have to exist as a whole: see `products.Product`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from minidl.backend import kernels
from minidl.backend.device import Array, array_module, device_of
from minidl.backend.memory import beside, channels_last, in_memory_order, in_the_order_of
from minidl.backend.products import Product
from minidl.backend.threads import parallel_for, scratch, split

BLOCK = {"cpu": 1 << 17, "gpu": 1 << 24}  # elements: 512 KiB of float32; a GPU wants few and large kernels
ALONE = 1 << 19  # elements, which one thread has done before another one would be awake
ROW = 1 << 12  # numbers that are compared with as many zeros
FEW = 64  # numbers along an axis, for which NumPy's loop over them takes longer to begin than to end


def blocks(*arrays: Array, size: int | None = None) -> Iterator[tuple[Array, ...]]:
    """The arrays, all of one shape, in blocks of up to `size` elements: views, to be written into.

    They are one-dimensional where all arrays are contiguous; elsewhere they are parts of any shape.
    """
    first, size = arrays[0], size or BLOCK[device_of(arrays[0])]
    if all(array.flags.c_contiguous for array in arrays):
        flat = [array.reshape(-1) for array in arrays]
        for start in range(0, first.size, size):
            yield tuple(array[start : start + size] for array in flat)
    elif first.size <= size:
        yield arrays
    elif len(first) == 1:
        yield from blocks(*(array[0] for array in arrays), size=size)
    else:
        middle = len(first) // 2
        yield from blocks(*(array[:middle] for array in arrays), size=size)
        yield from blocks(*(array[middle:] for array in arrays), size=size)


def masked(x: Array, mask: Array, out: Array) -> Array:
    """out = x where the mask is True, else 0: also where x is ±∞ or NaN, as it would not be in x · mask.

    It is `out[...] = xp.where(mask, x, 0)`, several times as fast: True is 1 as an integer, and −1 has all
    bits set. On the GPU it is a kernel.
    """
    if device_of(x) == "gpu":
        return kernels.masked(x, mask, out)
    integer = f"i{x.itemsize}"
    array_module(x).bitwise_and(x.view(integer), -mask.view("i1"), out=out.view(integer))
    return out


def gated(x: Array, gate: Array, out: Array) -> Array:
    """out = x where gate > 0, else 0. On the GPU it is a kernel."""
    return kernels.gated(x, gate, out) if device_of(x) == "gpu" else masked(x, gate > 0, out)


def positive_part(x: Array, out: Array) -> Array:
    """out = max(x, 0), and NaN where x is NaN.

    NumPy compares two arrays many numbers at a time, but an array and a number one by one, which takes five
    times as long: so this compares with a row of zeros.
    """
    xp = array_module(x)
    if xp is not np or x.size < ROW:
        return xp.maximum(x, 0, out=out)
    rows, targets = (x, out) if out.flags.c_contiguous else in_memory_order(x, out)
    if rows.flags.c_contiguous and targets.flags.c_contiguous:
        flat, whole = [rows.reshape(-1), targets.reshape(-1)], x.size // ROW * ROW
        np.maximum(flat[0][whole:], 0, out=flat[1][whole:])
        rows, targets = (array[:whole].reshape(-1, ROW) for array in flat)
    zeros = _zeros(x.dtype)[: rows.shape[-1]] if rows.shape[-1] <= ROW else 0
    np.maximum(rows, zeros, out=targets)
    return out


def sum_of(x: Array, axis: tuple[int, ...], keepdims: bool) -> Array:
    """x.sum(axis), of large arrays on several threads where the first axis stays."""
    if x.dtype.kind == "f" and channels_last(x) and {2, 3} <= {*axis}:
        return _sum_of_lines(x, axis, keepdims)
    if x.size <= BLOCK["cpu"] or device_of(x) == "gpu" or x.dtype.kind != "f":
        return x.sum(axis=axis, keepdims=keepdims)
    y = np.empty([1 if i in axis else n for i, n in enumerate(x.shape)], x.dtype)
    if len(axis) == 1:
        along(*axis, _add_up, x, y)
    elif 0 in axis:
        _add_up(x, y, axis)
    else:
        parallel_for(np, lambda rows: _add_up(x[rows], y[rows], axis), _rows(x))
    return y if keepdims else y.squeeze(axis)


def _add_up(x: Array, y: Array, axis: int | tuple[int, ...]) -> None:
    x.sum(axis=axis, keepdims=True, out=y)


def _sum_of_lines(x: np.ndarray, axis: tuple[int, ...], keepdims: bool) -> np.ndarray:
    """Of channels-last pictures NumPy would add up one pixel after the other, and rounding errors grow.

    So the lines of a picture are added up first, and then what is in that line.
    """
    (n, c, _, w), pictures = x.shape, x.transpose(0, 2, 3, 1)
    lines = np.empty((n, w, c), x.dtype)

    def add_up(rows: slice) -> None:
        pictures[rows].sum(axis=1, out=lines[rows])

    parallel_for(np, add_up, _rows(x))
    y = lines.sum(axis=1).reshape(n, c, 1, 1).sum(axis=tuple(i for i in axis if i < 2), keepdims=True)
    return y if keepdims else y.squeeze(axis)


def sum_of_centred_products(x: Array, mean: Array, y: Array | None = None) -> Array:
    """Σ (x − μ) y over all axes of x (N, C, …) but the channels'; μ and the result are (C,).

    Without y it is the sum of squares, Σ (x − μ)². Of a large x the differences are made and multiplied in
    the cache, some lines at a time.
    """
    n, c, *size = x.shape
    if x.size <= ALONE or not size or device_of(x) == "gpu" or x.itemsize < 4:
        difference = x - beside(mean, x)
        product = difference * (difference if y is None else y)
        return sum_of(product, (0, *range(2, x.ndim)), keepdims=False)
    arrays = [x] if y is None else [x, in_the_order_of(x, y)]
    if turned := channels_last(x):
        lines, *others = (array.transpose(0, 2, 3, 1).reshape(n * size[0], -1) for array in arrays)
        means = np.tile(mean, size[1])
    else:
        lines, *others = (array.reshape(n * c, -1) for array in arrays)
        means = np.tile(mean, n)[:, None]
    means = np.broadcast_to(means, lines.shape)
    pieces = split(len(lines), max(1, BLOCK["cpu"] // lines.shape[1]))
    total = np.empty((len(pieces) if turned else n, c), x.dtype)

    def add_up(i: int, rows: slice) -> None:
        difference = scratch(np, "difference", lines[rows].shape, x.dtype)
        np.subtract(lines[rows], means[rows], out=difference)
        other = others[0][rows] if others else difference
        if turned:
            np.multiply(difference, other, out=difference)
            difference.sum(axis=0).reshape(-1, c).sum(axis=0, out=total[i])
        else:
            np.vecdot(difference, other, out=total.reshape(-1)[rows])

    parallel_for(np, add_up, list(enumerate(pieces)))
    return total.sum(axis=0)


def along(axis: int, run: Callable[[Array, Array, int], Any], x: Array, y: Array) -> None:
    """run(x, y, axis), which writes y, for parts of both that are whole along `axis`; on several threads."""
    if x.size <= ROW or device_of(x) == "gpu":
        run(x, y, axis)
        return
    lines, results = np.moveaxis(x, axis, -1), np.moveaxis(y, axis, -1)
    if lines.shape[-1] <= FEW and lines.flags.c_contiguous and results.flags.c_contiguous:
        _along_few(run, *(array.reshape(-1, array.shape[-1]) for array in (lines, results)))
    elif axis == 0:
        run(x, y, axis)
    else:
        parallel_for(np, lambda rows: run(x[rows], y[rows], axis), _rows(x))


def _along_few(run: Callable[[Array, Array, int], Any], lines: np.ndarray, results: np.ndarray) -> None:
    """run(x, y, axis) for many short lines, as each pixel's channels are where pictures are channels-last.

    NumPy's innermost loops would be as short. So some lines at a time are copied as columns, and y is copied
    back.
    """

    def run_turned(rows: slice) -> None:
        x, y = lines[rows].T, results[rows].T
        columns, found = scratch(np, "columns", x.shape, x.dtype), scratch(np, "found", y.shape, y.dtype)
        columns[...] = x
        run(columns, found, 0)
        y[...] = found

    parallel_for(np, run_turned, [(rows,) for rows in split(len(lines), BLOCK["cpu"] // lines.shape[1])])


def _rows(x: np.ndarray) -> list[tuple[slice]]:
    """The first axis in pieces of about a block, or whole: added up before another thread is awake."""
    if x.size <= 2 * ALONE:
        return [(slice(None),)]
    return [(rows,) for rows in split(len(x), max(1, BLOCK["cpu"] * len(x) // x.size))]


@functools.cache
def _zeros(dtype: np.dtype) -> np.ndarray:
    return np.zeros(ROW, dtype)


def for_each_block(run: Callable[..., Any], *arrays: Any) -> None:
    """run(*block) for the corresponding blocks of all arrays, in any order and on several threads.

    One of them may be a Product, the others matrices then: its blocks are there while `run` has them.
    """
    xp = array_module(arrays[0])
    product = next((array for array in arrays if isinstance(array, Product)), None)

    def run_rows(rows: slice) -> None:
        for block in blocks(*(array[rows] for array in arrays)):
            run(*block)

    if product is not None:
        parallel_for(xp, run_rows, product.pieces())
    elif arrays[0].size <= BLOCK["cpu"]:
        run(*(arrays if arrays[-1].flags.c_contiguous else in_memory_order(*arrays)))
    elif arrays[0].size <= ALONE:
        for block in blocks(*in_memory_order(*arrays)):
            run(*block)
    else:
        parallel_for(xp, run, list(blocks(*in_memory_order(*arrays))))
