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
from minidl.backend.memory import channels_last, in_memory_order
from minidl.backend.products import Product
from minidl.backend.threads import parallel_for, split

BLOCK = {"cpu": 1 << 17, "gpu": 1 << 24}  # elements: 512 KiB of float32; a GPU wants few and large kernels
ALONE = 1 << 19  # elements, which one thread has done before another one would be awake
ROW = 1 << 12  # numbers that are compared with as many zeros


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
    rows, targets = in_memory_order(x, out)
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
    if x.size <= BLOCK["cpu"] or 0 in axis or device_of(x) == "gpu" or x.dtype.kind != "f":
        return x.sum(axis=axis, keepdims=keepdims)
    shape = [1 if i in axis else n for i, n in enumerate(x.shape) if keepdims or i not in axis]
    y = np.empty(shape, x.dtype)

    def add_up(rows: slice) -> None:
        x[rows].sum(axis=axis, keepdims=keepdims, out=y[rows])

    parallel_for(np, add_up, _rows(x))
    return y


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
