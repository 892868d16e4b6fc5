"""A window that slides over a picture, and the two moves that make a convolution a matrix product.

`im2col` writes what the window sees at each place into a column; `col2im`, its transpose, adds each column
back to where it was seen. For the GPU each is one kernel (`kernels.py`), which computes what is written here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from minidl.backend import kernels
from minidl.backend.device import Array, array_module
from minidl.backend.memory import channels_last
from minidl.backend.threads import scratch
from minidl.errors import ShapeError

Pair = tuple[int, int]


def is_integer(n: Any, least: int) -> bool:
    """Whether n is an integer ≥ least; True and False are none."""
    return isinstance(n, (int, np.integer)) and not isinstance(n, bool) and int(n) >= least


def pair(value: Any, name: str, least: int) -> Pair:
    """An int for both axes or (vertical, horizontal), as two Python integers.

    Raises:
        ShapeError: it is neither, or smaller than `least`.
    """
    both = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    if len(both) != 2 or not all(is_integer(n, least) for n in both):
        raise ShapeError(f"{name} must be an integer ≥ {least} or a pair of them, got {value!r}")
    return int(both[0]), int(both[1])


@dataclass(frozen=True)
class Window:
    """A window of `kernel` pixels, `dilation` apart, that moves by `stride` over a picture with a border.

    Each is (vertical, horizontal). At place (a, b) its pixel (i, j) lies on the picture's pixel
    (a·sh + i·dh − ph, b·sw + j·dw − pw).
    """

    kernel: Pair
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)

    @classmethod
    def of(cls, kernel_size: Any, stride: Any = 1, padding: Any = 0, dilation: Any = 1) -> Window:
        """From the options as users give them: integers or pairs."""
        return cls(
            pair(kernel_size, "kernel_size", 1),
            pair(stride, "stride", 1),
            pair(padding, "padding", 0),
            pair(dilation, "dilation", 1),
        )

    @property
    def extent(self) -> Pair:
        """The pixels it spans: d (k − 1) + 1."""
        return (
            self.dilation[0] * (self.kernel[0] - 1) + 1,
            self.dilation[1] * (self.kernel[1] - 1) + 1,
        )

    @property
    def reads_each_pixel_once(self) -> bool:
        """A 1×1 window in steps of 1: the columns are the picture."""
        return self == Window((1, 1), dilation=self.dilation)

    def places(self, size: Pair) -> Pair:
        """How often it fits into a picture of `size`: ⌊(n + 2p − extent) / s⌋ + 1 for each axis.

        Raises:
            ShapeError: it does not fit even once.
        """
        spare = [n + 2 * p - e for n, p, e in zip(size, self.padding, self.extent, strict=True)]
        if min(spare) < 0:
            (h, w), (ph, pw), (eh, ew) = size, self.padding, self.extent
            raise ShapeError(
                f"a window of {eh}×{ew} does not fit into a picture of {h}×{w} with padding {ph}×{pw}: "
                "use a larger picture, a smaller kernel or more padding"
            )
        return spare[0] // self.stride[0] + 1, spare[1] // self.stride[1] + 1


def sliding_windows(x: Array, window: Window, places: Pair) -> Array:
    """What `window` sees of x, as a view: (N, C, H, W) → (N, C, KH, KW, OH, OW). x has its border already."""
    for n, o, s, e in zip(x.shape[2:], places, window.stride, window.extent, strict=True):
        assert (o - 1) * s + e <= n  # as_strided checks nothing: beyond x there is other memory
    (sn, sc, sy, sx), (sh, sw), (dh, dw) = x.strides, window.stride, window.dilation
    return array_module(x).lib.stride_tricks.as_strided(
        x, (*x.shape[:2], *window.kernel, *places), (sn, sc, sy * dh, sx * dw, sy * sh, sx * sw)
    )


def im2col(x: Array, window: Window, rows: slice | None = None, out: Array | None = None) -> Array:
    """columns[n, c, i, j, a, b] = x[n, c, a·sh + i·dh − ph, b·sw + j·dw − pw], or 0 outside the picture.

    Shapes: (N, C, H, W) → (N, C, KH, KW, OH, OW). With `rows`, only those rows a of the OH.
    """
    xp = array_module(x)
    n, c, h, w = x.shape
    oh, ow = window.places((h, w))
    start, stop = (0, oh) if rows is None else (rows.start, rows.stop)
    if out is None:
        out = xp.empty((n, c, *window.kernel, stop - start, ow), x.dtype)
    if xp is not np:
        return kernels.im2col(x, window, start, out)
    (sh, _), (ph, pw) = window.stride, window.padding
    top = start * sh - ph  # the strip of the picture that these rows see: it may stick out on each side
    bottom = (stop - 1) * sh - ph + window.extent[0]
    strip = x[:, :, max(top, 0) : max(bottom, 0)]
    if top < 0 or bottom > h or pw:
        strip = _with_border(strip, (max(-top, 0), pw), (n, c, bottom - top, w + 2 * pw))
    out[...] = sliding_windows(strip, window, (stop - start, ow))
    return out


def empty_scratch(name: str, shape: tuple[int, ...], dtype: Any, like: Array) -> Array:
    """Scratch memory for pictures (N, C, H, W), channels-last if `like` is."""
    if not channels_last(like):
        return scratch(np, name, shape, dtype)
    n, c, h, w = shape
    return scratch(np, name, (n, h, w, c), dtype).transpose(0, 3, 1, 2)


def _with_border(x: Array, corner: Pair, shape: tuple[int, ...]) -> Array:
    """x with zeros around it, its upper left pixel at `corner`."""
    bordered = empty_scratch("border", shape, x.dtype, like=x)
    bordered[...] = 0
    (top, left), (h, w) = corner, x.shape[2:]
    bordered[:, :, top : top + h, left : left + w] = x
    return bordered


def col2im(columns: Array, window: Window, size: Pair, out: Array | None = None) -> Array:
    """x[n, c, h, w] = the sum of all columns[n, c, i, j, a, b] that `im2col` reads from there.

    Shapes: (N, C, KH, KW, OH, OW) → (N, C, *size).
    """
    xp = array_module(columns)
    n, c, kh, kw, *places = columns.shape
    if out is None:
        out = xp.empty((n, c, *size), columns.dtype)
    if xp is not np:
        return kernels.col2im(columns, window, out)
    (h, w), (ph, pw) = size, window.padding
    bordered = out
    if ph or pw:
        bordered = empty_scratch("border", (n, c, h + 2 * ph, w + 2 * pw), columns.dtype, like=out)
    bordered[...] = 0
    seen = sliding_windows(bordered, window, (places[0], places[1]))
    for i in range(kh):
        for j in range(kw):
            seen[:, :, i, j] += columns[:, :, i, j]
    if bordered is not out:
        out[...] = bordered[:, :, ph : ph + h, pw : pw + w]
    return out
