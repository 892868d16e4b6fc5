"""What the compiled loops of convolutions share: which pixels places see, when it pays, and pieces."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from minidl.backend import Array
from minidl.backend.compiled import numba
from minidl.backend.im2col import Window

WORTH = 1 << 20  # multiplications, from which on it pays to compile: some seconds for a kind of window, once
PIECE = 1 << 22  # multiplications in a piece of the work, about
PIECES = 4, 32  # at least and at most


class Places(NamedTuple):
    """Places of a result that see pixels at the same positions of the window, along one axis.

    The k-th of them is place start + k·every. At the i-th of these positions it sees pixel
    first + k·stride + i·step, if there is one.
    """

    start: int
    every: int
    number: int
    positions: range
    first: int
    stride: int
    step: int

    @classmethod
    def forward(cls, window: Window, axis: int, number: int) -> Places:
        """Place k of x ⋆ w sees pixel k·s + i·d − p at position i."""
        s, p, d = window.stride[axis], window.padding[axis], window.dilation[axis]
        return cls(0, 1, number, range(window.kernel[axis]), -p, s, d)

    @classmethod
    def transposed(cls, window: Window, axis: int, size: int) -> list[Places]:
        """Pixel h of x ⋆ᵀ w gets from place (h + p − i·d) / s what lies at position i, if that is an integer.

        It is one at the same positions for every s-th h. They count in reverse, so that places follow one
        another as they do above.
        """
        s, p, d = window.stride[axis], window.padding[axis], window.dilation[axis]
        last = window.kernel[axis] - 1
        apart = s // math.gcd(s, d)  # from one such position to the next; `at` is the first
        parts = []
        for h in range(min(s, size)):
            at = next((i for i in range(last + 1) if (h + p - (last - i) * d) % s == 0), last + 1)
            first = (h + p - (last - at) * d) // s
            number = len(range(h, size, s))
            parts.append(cls(h, s, number, range(at, last + 1, apart), first, 1, d * apart // s))
        return parts

    @property
    def in_window(self) -> slice:
        """The positions."""
        return slice(self.positions.start, self.positions.stop, self.positions.step)


def pay(x: Array, y: Array, window: Window, work: int) -> bool:
    """Whether loops can be compiled for x and y, and are worth it for so many multiplications."""
    gaps = any(s > k for s, k in zip(window.stride, window.kernel, strict=True))  # `grouped.py`: a kind each
    return (
        isinstance(x, np.ndarray)
        and x.dtype == y.dtype
        and x.dtype in (np.float32, np.float64)
        and not gaps
        and work >= WORTH
        and numba() is not None
    )


def pieces(work: int) -> int:
    """In how many pieces to do so many multiplications."""
    least, most = PIECES
    return min(most, max(least, work // PIECE))
