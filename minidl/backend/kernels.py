"""im2col and col2im for the GPU. The same in plain code, which these are tested against, is in im2col.py.

Each is an elementwise kernel: `i` counts the elements of the output in the order of its axes, and every
thread gathers what belongs into one element. Nothing is added by two threads at once, so results repeat bit
by bit. All indices have 64 bits. A `raw` array is indexed by the position in the order of its axes; CuPy
applies its strides, so that views need no copy.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from minidl.backend.device import Array, array_module

if TYPE_CHECKING:
    from minidl.backend.im2col import Window

WINDOW = """int64 kernel_h, int64 kernel_w, int64 stride_h, int64 stride_w,
    int64 padding_h, int64 padding_w, int64 dilation_h, int64 dilation_w"""

# columns (N, C, kernel_h, kernel_w, rows, places_w) from x (N, C, height, width)
IM2COL = """
    long long b = i % places_w;
    long long a = i / places_w % rows;
    long long kj = i / (places_w * rows) % kernel_w;
    long long ki = i / (places_w * rows * kernel_w) % kernel_h;
    long long plane = i / (places_w * rows * kernel_w * kernel_h);
    long long row = (first_row + a) * stride_h + ki * dilation_h - padding_h;
    long long col = b * stride_w + kj * dilation_w - padding_w;
    bool inside = row >= 0 && row < height && col >= 0 && col < width;
    column = inside ? x[(plane * height + row) * width + col] : T(0);
"""

# x (N, C, height, width) from columns (N, C, kernel_h, kernel_w, places_h, places_w)
COL2IM = """
    long long col = i % width;
    long long row = i / width % height;
    long long plane = i / (width * height);
    T sum = T(0);
    for (long long ki = 0; ki < kernel_h; ++ki) {
        long long down = row + padding_h - ki * dilation_h;
        if (down < 0 || down % stride_h != 0 || down / stride_h >= places_h) continue;
        for (long long kj = 0; kj < kernel_w; ++kj) {
            long long right = col + padding_w - kj * dilation_w;
            if (right < 0 || right % stride_w != 0 || right / stride_w >= places_w) continue;
            long long place = (plane * kernel_h + ki) * kernel_w + kj;
            sum += columns[(place * places_h + down / stride_h) * places_w + right / stride_w];
        }
    }
    pixel = sum;
"""


@functools.cache
def _kernel(cupy: Any, inputs: str, output: str, body: str, name: str) -> Any:
    return cupy.ElementwiseKernel(f"{inputs}, {WINDOW}", output, body, name)


def im2col(x: Array, window: Window, first_row: int, out: Array) -> Array:
    """Fill `out` (N, C, KH, KW, rows, OW) with the columns of output rows first_row, first_row + 1, …"""
    inputs = "raw T x, int64 height, int64 width, int64 rows, int64 places_w, int64 first_row"
    kernel = _kernel(array_module(x), inputs, "T column", IM2COL, "minidl_im2col")
    return kernel(x, *x.shape[2:], *out.shape[4:], first_row, *_numbers(window), out)


def col2im(columns: Array, window: Window, out: Array) -> Array:
    """Fill `out` (N, C, H, W) with the sums of `columns` (N, C, KH, KW, OH, OW)."""
    inputs = "raw T columns, int64 height, int64 width, int64 places_h, int64 places_w"
    kernel = _kernel(array_module(columns), inputs, "T pixel", COL2IM, "minidl_col2im")
    return kernel(columns, *out.shape[2:], *columns.shape[4:], *_numbers(window), out)


def _numbers(window: Window) -> tuple[int, ...]:
    return (*window.kernel, *window.stride, *window.padding, *window.dilation)
