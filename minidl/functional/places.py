"""Which pixels the places of a result see, along one axis: for loops that do not copy them into columns."""

from __future__ import annotations

import math
from typing import NamedTuple

from minidl.backend.im2col import Window


class Places(NamedTuple):
    """Places of a result that see pixels at the same positions of the window.

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
        apart = s // math.gcd(s, d)
        parts = []
        for h in range(min(s, size)):
            at = next((i for i in range(min(apart, last + 1)) if (h + p - (last - i) * d) % s == 0), last + 1)
            first = (h + p - (last - at) * d) // s
            number = len(range(h, size, s))
            parts.append(cls(h, s, number, range(at, last + 1, apart), first, 1, d * apart // s))
        return parts

    @property
    def in_result(self) -> slice:
        """Where they are in the result."""
        return slice(self.start, None, self.every)

    @property
    def in_window(self) -> slice:
        """The positions."""
        return slice(self.positions.start, self.positions.stop, self.positions.step)
