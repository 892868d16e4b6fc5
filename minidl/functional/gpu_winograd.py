"""Winograd's 3×3 convolution (`winograd.py`) on the GPU: the same matrices, and kernels for the transforms.

    U = G g Gᵀ        V = Bᵀ d B        M = U V        Y = Aᵀ M A + b
    (36, O, C)        (36, C, T)        (36, O, T)     (N, O, OH, OW)        for T tiles of some pictures

Each thread transforms one tile of one channel, which it holds in registers; the 36 products are one call of
cuBLAS. For the weight ∂L/∂M = A ∂L/∂Y Aᵀ, and V comes as (36, T, C), so that ∂L/∂U = ∂L/∂M V needs no
transpose. The transform of a filter is linear in its nine numbers: that of all is a product with one matrix.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np

from minidl.backend import Array, array_module, device_of, kernels
from minidl.backend.im2col import Pair, Window
from minidl.backend.threads import split
from minidl.functional.winograd import FILTER, INPUT, OUTPUT, TURNED, fits

BYTES = 512 << 20  # of V and M in memory at a time
SMALL = 1 << 14  # numbers in ∂L/∂U, too few to keep the GPU busy: then each picture has a product of its own


def can(x: Array, y: Array, window: Window, groups: int) -> bool:
    """Whether this file can compute with these two arrays: 3×3 in steps of 1, float32, on the GPU."""
    return device_of(x) == "gpu" and fits(x, y, window, groups)


def conv2d(
    x: Array, weight: Array, bias: Array | None, window: Window, groups: int, relu: bool = False
) -> Array:
    """x ⋆ w + b:  (N, C, H, W), (O, C, 3, 3), (O,) → (N, O, OH, OW)."""
    u = transform_filters(FILTER, weight)
    return _filtered(x, u, bias, relu, window.padding, window.places(x.shape[2:]))


def conv_transpose2d(
    x: Array, weight: Array, bias: Array | None, window: Window, groups: int, size: Pair
) -> Array:
    """x ⋆ᵀ w + b:  (N, O, OH, OW), (O, C, 3, 3), (C,) → (N, C, *size)."""
    u = transform_filters(TURNED, weight.swapaxes(0, 1))
    return _filtered(x, u, bias, False, (2 - window.padding[0], 2 - window.padding[1]), size)


def conv_weight(x: Array, y: Array, window: Window, groups: int) -> Array:
    """x ⊛ y:  (N, C, H, W), (N, O, OH, OW) → (O, C, 3, 3)."""
    xp, (n, o, *size), c = array_module(x), y.shape, x.shape[1]
    du: Any = 0.0
    for some, tiles in _cut(n, (size[0], size[1]), o + c):
        together = tiles[0] * tiles[1] * (1 if o * c <= SMALL else len(y[some]))
        dm = transform_tiles(OUTPUT.T, y[some], (0, 0), tiles, together).reshape(-1, o, together)
        v = transform_tiles(INPUT, x[some], window.padding, tiles, channels_last=True).reshape(
            -1, together, c
        )
        products = xp.matmul(dm, v).reshape(36, -1, o, c)
        del dm, v  # before the next are made
        du = du + (products[:, 0] if products.shape[1] == 1 else products.sum(axis=1))
    square = _square(xp, FILTER.tobytes())
    return xp.ascontiguousarray((square.T @ du.reshape(36, -1)).T).reshape(o, c, 3, 3)


def _filtered(x: Array, u: Array, bias: Array | None, relu: bool, padding: Pair, size: Pair) -> Array:
    """Y for the transformed filters U (36, O, C):  (N, C, H, W) → (N, O, *size)."""
    xp, (n, c), o = array_module(x), x.shape[:2], u.shape[1]
    y = xp.empty((n, o, *size), np.float32)
    bias = xp.zeros(o, np.float32) if bias is None else bias
    for some, tiles in _cut(n, size, o + c):
        m = xp.matmul(u, transform_tiles(INPUT, x[some], padding, tiles))
        transform_output(m, bias, relu, tiles, out=y[some])
        del m  # before the next is made
    return y


def _cut(n: int, size: Pair, channels: int) -> Iterator[tuple[slice, Pair]]:
    """(some pictures, tiles down and across in each), with V and M of so many channels in BYTES."""
    down, across = -(-size[0] // 4), -(-size[1] // 4)
    for some in split(n, max(1, BYTES // (36 * 4 * channels * down * across))):
        yield some, (down, across)


# The transforms


def transform_filters(matrix: np.ndarray, weight: Array) -> Array:
    """U = matrix · filter · matrixᵀ:  (O, C, 3, 3) → (36, O, C)."""
    square = _square(array_module(weight), matrix.tobytes())
    return (square @ weight.reshape(-1, 9).T).reshape(36, *weight.shape[:2])


@functools.cache
def _square(xp: Any, matrix: bytes) -> Array:
    """The matrix (36, 9) of g → G g Gᵀ, there once and for all."""
    small = np.frombuffer(matrix, np.float32).reshape(6, 3)
    return xp.asarray(np.kron(small, small))


def transform_tiles(
    matrix: np.ndarray,
    x: Array,
    padding: Pair,
    tiles: Pair,
    together: int | None = None,
    channels_last: bool = False,
) -> Array:
    """matrix · tile · matrixᵀ of x (N, C, H, W), 0 outside it:  (36, C, T), or channels last, (36, T, C).

    Or the same for so many tiles `together` at a time:  (36, T / together, C, together).
    """
    xp, (n, c, h, w) = array_module(x), x.shape
    t = n * tiles[0] * tiles[1]
    out = xp.empty((36, t, c) if channels_last else (36, c, t), np.float32)
    name, integer = f"winograd_tiles_{matrix.shape[1]}", kernels.integer_for(max(out.size, x.size))
    kernel = kernels.compiled(xp, name, TILES_INPUTS, "raw float32 v", TILES_BODIES[matrix.shape[1]], integer)
    numbers = (c * t, c, h, w, *tiles, *padding, together or t, channels_last)
    kernel(xp.ascontiguousarray(x), *numbers, out, size=c * t)
    return out


def transform_output(m: Array, bias: Array, relu: bool, tiles: Pair, out: Array) -> None:
    """Y = Aᵀ M A + b, or its positive part, for M (36, O, T), put into out (N, O, OH, OW)."""
    xp, (_, o, h, w) = array_module(m), out.shape
    threads, integer = m.size // 36, kernels.integer_for(max(m.size, out.size))
    kernel = kernels.compiled(xp, "winograd_output", OUTPUT_INPUTS, "raw float32 y", OUTPUT_BODY, integer)
    kernel(m, xp.ascontiguousarray(bias), threads, o, h, w, *tiles, relu, out, size=threads)


def _product(matrix: np.ndarray, source: str, target: str) -> str:
    """C for target = matrix · source · matrixᵀ, a line a number, without what is multiplied by 0."""

    def line(row: np.ndarray, terms: list[str]) -> str:
        # Entries that should be 0 came out of an inversion, as 10⁻¹⁶.
        return " + ".join(f"{c}f * {t}" for c, t in zip(row.tolist(), terms, strict=True) if abs(c) > 1e-9)

    rows, columns = (range(n) for n in matrix.shape)
    lines = [f"float half[{len(rows)}][{len(columns)}];"]
    lines += [
        f"half[{i}][{j}] = {line(matrix[i], [f'{source}[{k}][{j}]' for k in columns])};"
        for i in rows
        for j in columns
    ]
    lines += [
        f"{target}[{i}][{j}] = {line(matrix[j], [f'half[{i}][{k}]' for k in columns])};"
        for i in rows
        for j in rows
    ]
    return "\n".join(lines)


NUMBERS = """integer threads, integer channels, integer height, integer width,
    integer tiles_h, integer tiles_w"""
TILES_INPUTS = f"""raw float32 x, {NUMBERS},
    integer padding_h, integer padding_w, integer together, bool channels_last"""
OUTPUT_INPUTS = f"raw float32 m, raw float32 bias, {NUMBERS}, bool relu"


def _tiles_body(matrix: np.ndarray) -> str:
    """What a thread does to a tile of x. `i` runs through the last two axes of V."""
    k = matrix.shape[1]
    return f"""
        integer thread = i;
        integer channel = channels_last ? thread % channels : thread / together % channels;
        integer tile = channels_last ? thread / channels
            : thread / together / channels * together + thread % together;
        integer left = tile % tiles_w * 4 - padding_w;
        integer top = tile / tiles_w % tiles_h * 4 - padding_h;
        integer plane = (tile / tiles_w / tiles_h * channels + channel) * height;
        float d[{k}][{k}], u[6][6];
        #pragma unroll
        for (int a = 0; a < {k}; ++a) {{
            bool row_inside = top + a >= 0 && top + a < height;
            #pragma unroll
            for (int b = 0; b < {k}; ++b) {{
                bool inside = row_inside && left + b >= 0 && left + b < width;
                d[a][b] = inside ? x[(plane + top + a) * width + left + b] : 0.0f;
            }}
        }}
        {_product(matrix, "d", "u")}
        #pragma unroll
        for (int f = 0; f < 36; ++f) v[f * threads + thread] = u[f / 6][f % 6];
    """


TILES_BODIES = {matrix.shape[1]: _tiles_body(matrix) for matrix in (INPUT, OUTPUT.T)}
OUTPUT_BODY = f"""
    integer thread = i;
    integer all_tiles = threads / channels;
    integer channel = thread / all_tiles;
    integer tile = thread % all_tiles;
    integer left = tile % tiles_w * 4;
    integer top = tile / tiles_w % tiles_h * 4;
    integer plane = (tile / tiles_w / tiles_h * channels + channel) * height;
    float d[6][6], u[4][4];
    #pragma unroll
    for (int f = 0; f < 36; ++f) d[f / 6][f % 6] = m[f * threads + thread];
    {_product(OUTPUT, "d", "u")}
    #pragma unroll
    for (int a = 0; a < 4; ++a) {{
        #pragma unroll
        for (int b = 0; b < 4; ++b) {{
            float sum = u[a][b] + bias[channel];
            if (top + a < height && left + b < width)
                y[(plane + top + a) * width + left + b] = relu && sum < 0.0f ? 0.0f : sum;
        }}
    }}
"""
