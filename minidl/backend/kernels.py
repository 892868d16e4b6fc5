"""The kernels for the GPU. What im2col and col2im do is written in plain code in im2col.py: they are twins.

In im2col each thread has one place of the window and writes what is seen from there; in col2im it has one
pixel and gathers what belongs into it. Nothing is added by two threads at once, so results repeat bit by bit.
`i` counts the threads. A `raw` array is indexed by one number for each of its axes, to which CuPy applies its
strides, so that views need no copy.

An `integer` has 32 bits, or 64 where there are 2³¹ threads or more. A GPU divides the short ones several
times as fast, and to find out where a thread is takes more divisions than all that it does there.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any

from minidl.backend.device import Array, array_module

if TYPE_CHECKING:
    from minidl.backend.im2col import Window

WINDOW = """integer kernel_h, integer kernel_w, integer stride_h, integer stride_w,
    integer padding_h, integer padding_w, integer dilation_h, integer dilation_w"""


def _own(a: str, b: str, height: str, width: str) -> str:
    """C for the element (n, c, a, b) of an array (N, channels, height, width) that thread i has."""
    return f"""
        integer rest = i;
        integer {b} = rest % {width};
        rest /= {width};
        integer {a} = rest % {height};
        rest /= {height};
        integer c = rest % channels;
        integer n = rest / channels;"""


# Each by its name: inputs, output, and what a thread does
KERNELS = {
    # columns (N, C, kernel_h, kernel_w, rows, places_w) from x (N, C, height, width)
    "im2col": (
        f"""raw T x, integer channels, integer height, integer width,
        integer rows, integer places_w, integer first_row, {WINDOW}""",
        "raw T columns",
        _own("a", "b", "rows", "places_w")
        + """
        for (integer ki = 0; ki < kernel_h; ++ki) {
            integer row = (first_row + a) * stride_h + ki * dilation_h - padding_h;
            for (integer kj = 0; kj < kernel_w; ++kj) {
                integer col = b * stride_w + kj * dilation_w - padding_w;
                bool inside = row >= 0 && row < height && col >= 0 && col < width;
                ptrdiff_t from[] = {n, c, row, col};
                ptrdiff_t to[] = {n, c, ki, kj, a, b};
                columns[to] = inside ? x[from] : T(0);
            }
        }
        """,
    ),
    # x (N, C, height, width) from columns (N, C, kernel_h, kernel_w, places_h, places_w)
    "col2im": (
        f"""raw T columns, integer channels, integer height, integer width,
        integer places_h, integer places_w, {WINDOW}""",
        "raw T x",
        _own("row", "col", "height", "width")
        + """
        T sum = T(0);
        for (integer ki = 0; ki < kernel_h; ++ki) {
            integer down = row + padding_h - ki * dilation_h;
            if (down < 0 || down % stride_h != 0 || down / stride_h >= places_h) continue;
            for (integer kj = 0; kj < kernel_w; ++kj) {
                integer right = col + padding_w - kj * dilation_w;
                if (right < 0 || right % stride_w != 0 || right / stride_w >= places_w) continue;
                ptrdiff_t from[] = {n, c, ki, kj, down / stride_h, right / stride_w};
                sum += columns[from];
            }
        }
        ptrdiff_t to[] = {n, c, row, col};
        x[to] = sum;
        """,
    ),
    # y (N, C, OH, OW), and which pixel it was, from the windows' view of a picture
    "max_pool": (
        """raw T seen, integer channels, integer places_h, integer places_w,
        integer kernel_h, integer kernel_w, S first""",
        "T y, S switches",
        _own("a", "b", "places_h", "places_w")
        + """
        integer where = first;
        T largest = T(0);
        for (integer k = 0; k < kernel_h * kernel_w; ++k) {
            ptrdiff_t at[] = {n, c, k / kernel_w, k % kernel_w, a, b};
            T x = seen[at];
            bool larger = k > 0 && x > largest;
            if (k == 0 || larger || x != x) largest = x;
            if (larger && k > where) where = k;
        }
        y = largest;
        switches = where;
        """,
    ),
    # the windows' view of a picture, from what they do not share: x (N, C, OH, OW) at the pixel of the switch
    "put_apart": (
        """T x, S chosen, integer channels, integer places_h, integer places_w,
        integer kernel_h, integer kernel_w""",
        "raw T seen",
        _own("a", "b", "places_h", "places_w")
        + """
        for (integer k = 0; k < kernel_h * kernel_w; ++k) {
            ptrdiff_t at[] = {n, c, k / kernel_w, k % kernel_w, a, b};
            seen[at] = k == chosen ? x : T(0);
        }
        """,
    ),
    "gated": ("T x, T gate", "T y", "y = gate > T(0) ? x : T(0);"),
    "masked": ("T x, bool mask", "T y", "y = mask ? x : T(0);"),
    "sgd": (
        "T gradient, T lr, T momentum, T weight_decay, T new_share, bool nesterov, bool first",
        "T w, T v",
        """
        T g = gradient + weight_decay * w;
        v = first ? g : momentum * v + new_share * g;
        w -= lr * (nesterov ? g + momentum * v : v);
        """,
    ),
    "bias_relu": (
        "T product, T bias, bool relu",
        "T y",
        """
        T sum = product + bias;
        y = relu && sum < T(0) ? T(0) : sum;
        """,
    ),
}


def im2col(x: Array, window: Window, first_row: int, out: Array) -> Array:
    """Fill `out` (N, C, KH, KW, rows, OW) with the columns of output rows first_row, first_row + 1, …"""
    n, c, _, _, rows, places_w = out.shape
    threads = n * c * rows * places_w
    if threads:
        kernel = _kernel(array_module(x), "im2col", integer_for(threads))
        kernel(x, *x.shape[1:], rows, places_w, first_row, *_numbers(window), out, size=threads)
    return out


def col2im(columns: Array, window: Window, out: Array) -> Array:
    """Fill `out` (N, C, H, W) with the sums of `columns` (N, C, KH, KW, OH, OW)."""
    threads = math.prod(out.shape)
    if threads:
        kernel = _kernel(array_module(columns), "col2im", integer_for(threads))
        kernel(columns, *out.shape[1:], *columns.shape[4:], *_numbers(window), out, size=threads)
    return out


def bias_relu(product: Array, bias: Array | None, relu: bool, out: Array) -> Array:
    """out = product + bias, or max(product + bias, 0), in one pass."""
    kernel = _kernel(array_module(product), "bias_relu", "int")
    return kernel(product, 0 if bias is None else bias, relu, out)


def max_pool(seen: Array, y: Array, switches: Array) -> None:
    """As `pooling.largest_and_where`: the largest pixel of each window, and where it is."""
    kernel = _kernel(array_module(y), "max_pool", integer_for(y.size))
    kernel(seen, *y.shape[1:], *seen.shape[2:4], switches, y, switches)


def put_apart(seen: Array, x: Array, switches: Array) -> None:
    """As `pooling.put_apart`, but for pixels that no window sees."""
    kernel = _kernel(array_module(x), "put_apart", integer_for(x.size))
    kernel(x, switches, *x.shape[1:], *seen.shape[2:4], seen)


def gated(x: Array, gate: Array, out: Array) -> Array:
    """As `blocks.gated`: out = x where gate > 0, else 0."""
    return _kernel(array_module(x), "gated", "int")(x, gate, out)


def masked(x: Array, mask: Array, out: Array) -> Array:
    """As `blocks.masked`: out = x where the mask is True, else 0."""
    return _kernel(array_module(x), "masked", "int")(x, mask, out)


def sgd(w: Array, gradient: Array, v: Array, *options: float) -> None:
    """A step of `optim.SGD` with momentum, in one pass over its three arrays.

    Options: lr, momentum, weight_decay, 1 − dampening, nesterov, and whether it is the first step.
    """
    _kernel(array_module(w), "sgd", "int")(gradient, *options, w, v)


def _kernel(cupy: Any, name: str, integer: str) -> Any:
    return compiled(cupy, name, *KERNELS[name], integer)


@functools.cache
def compiled(cupy: Any, name: str, inputs: str, output: str, body: str, integer: str) -> Any:
    """An elementwise kernel with this kind of integer."""
    inputs = inputs.replace("integer", "int32" if integer == "int" else "int64")
    return cupy.ElementwiseKernel(
        inputs, output, body, f"minidl_{name}", preamble=f"typedef {integer} integer;"
    )


def integer_for(count: int) -> str:
    """The integer that counts so far."""
    return "int" if count < 1 << 31 else "long long"


def _numbers(window: Window) -> tuple[int, ...]:
    return (*window.kernel, *window.stride, *window.padding, *window.dilation)
