"""What follows a convolution while its result is still in the cache: the bias, a ReLU, and pooling.

Each alone would read the whole map y = x ⋆ w and write another. Here they are done to a few lines of it, that
a thread has just made. Where only the largest of each 2×2 is wanted, y never gets to main memory.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl.backend.blocks import positive_part
from minidl.backend.memory import empty_channels_last
from minidl.backend.pooling import largest, largest_and_where
from minidl.backend.threads import scratch

CLOSED = 255  # the switch of a window of which the ReLU lets nothing through: no pixel has this number


class Epilogue:
    """y ← y + b, then max(y, 0), then the largest of each 2×2; channels-last, on the CPU.

    Attributes:
        shape: that of x ⋆ w, (N, O, OH, OW).
        y: the result, of the same shape, or if it is pooled (N, O, ⌊OH / 2⌋, ⌊OW / 2⌋).
        switches: which pixel of each 2×2 was the largest, as in `pooling.MaxPool2d`, or CLOSED; or None.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        bias: np.ndarray | None = None,
        relu: bool = False,
        pool: bool = False,
        switches: bool = False,
        dtype: Any = np.float32,
    ) -> None:
        n, o, h, w = shape
        size = (n, o, h // 2, w // 2) if pool else (n, o, h, w)
        self.shape, self.bias, self.relu, self.pool = shape, bias, relu, pool
        self.y = empty_channels_last(size, dtype)
        self.switches = empty_channels_last(size, np.uint8) if switches else None

    def lines(self, pictures: slice, rows: slice, width: int) -> np.ndarray:
        """Where to put these rows of x ⋆ w, as (n, rows, width, O): their place in y, or scratch memory.

        They may reach beyond y, to the right and below.
        """
        place = self.y.transpose(0, 2, 3, 1)[pictures, rows]
        shape = (len(place), rows.stop - rows.start, width, place.shape[3])
        return place if not self.pool and place.shape == shape else scratch(np, "y", shape, place.dtype)

    def finish(self, lines: np.ndarray, pictures: slice, rows: slice) -> None:
        """Do what there is to do to these lines. Where they are pooled the rows begin with an even one."""
        if self.pool:
            rows = slice(rows.start // 2, rows.stop // 2)
        place = self.y.transpose(0, 2, 3, 1)[pictures, rows]
        if self.switches is not None:
            self._add_bias(lines)
            switches = self.switches.transpose(0, 2, 3, 1)[pictures, rows]
            switches[...] = 0
            largest_and_where(_windows(lines, place.shape), place, switches)
            if self.relu:
                switches |= (place > 0).view(np.uint8) - np.uint8(1)  # 0 where it is, else all bits
                positive_part(place, out=place)
            return
        if self.pool:
            largest(_windows(lines, place.shape), place)
            lines = place  # the bias comes later: rounding does not change which is the largest
        self._add_bias(lines)
        if self.relu:
            positive_part(lines, out=lines)
        if lines.shape != place.shape:
            place[...] = lines[:, : place.shape[1], : place.shape[2]]

    def _add_bias(self, lines: np.ndarray) -> None:
        if self.bias is not None:
            n, height, width, o = lines.shape
            lines = lines.reshape(n, height, width * o)  # for long loops within NumPy
            lines += np.tile(self.bias, width)


def _windows(lines: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """What the 2×2 windows see of these lines, for `shape` (n, h, w, O): (n, h, 2, 2, w, O)."""
    n, h, w, o = shape
    return lines[:, : 2 * h, : 2 * w].reshape(n, h, 2, w, 2, o).swapaxes(3, 4)
