"""What follows a convolution while its result is still in the cache: the bias, a ReLU, and pooling.

Each alone would read the whole map y = x ⋆ w and write another. Here they are done to a few lines of it, that
a thread has just made. Where only the largest of each 2×2 is wanted, y never gets to main memory.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl.backend.blocks import positive_part
from minidl.backend.memory import empty
from minidl.backend.pooling import largest, largest_and_where
from minidl.backend.threads import scratch

OVERHANG = 3  # pixels that a line may reach beyond y, as the last of Winograd's tiles of 4 does
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
        shape: tuple[int, int, int, int],
        bias: np.ndarray | None = None,
        relu: bool = False,
        pool: bool = False,
        switches: bool = False,
        dtype: Any = np.float32,
    ) -> None:
        n, o, h, w = shape
        size = (n, h // 2, w // 2, o) if pool else (n, h, w, o)
        self.shape, self.relu, self.pool = shape, relu, pool
        self._lines = empty(np, size, dtype)
        self._switches = empty(np, size, np.uint8) if switches else None
        self._bias_row = None if bias is None else np.tile(bias, w + OVERHANG)  # for long loops within NumPy
        self.y = self._lines.transpose(0, 3, 1, 2)
        self.switches = None if self._switches is None else self._switches.transpose(0, 3, 1, 2)

    def lines(self, pictures: slice, rows: slice, width: int) -> np.ndarray:
        """Where to put these rows of x ⋆ w, as (n, rows, width, O): their place in y, or scratch memory.

        They may reach beyond y, below and, by OVERHANG, to the right.
        """
        place = self._lines[pictures, rows]
        shape = (len(place), rows.stop - rows.start, width, place.shape[3])
        return place if not self.pool and place.shape == shape else scratch(np, "y", shape, place.dtype)

    def finish(self, lines: np.ndarray, pictures: slice, rows: slice) -> None:
        """Do what there is to do to these lines. Where they are pooled the rows begin with an even one."""
        self._add_bias(lines)
        if self.pool:
            rows = slice(rows.start // 2, rows.stop // 2)
            lines = self._pool(lines, pictures, rows)
        if self.relu:
            positive_part(lines, out=lines)
            if self._switches is not None:
                closed = ~(lines > 0)  # also where y is NaN, as in a ReLU
                self._switches[pictures, rows] |= closed.view(np.uint8) * np.uint8(CLOSED)
        place = self._lines[pictures, rows]
        if lines.shape != place.shape:
            place[...] = lines[:, : place.shape[1], : place.shape[2]]

    def _add_bias(self, lines: np.ndarray) -> None:
        if self._bias_row is not None:
            n, height, width, o = lines.shape
            lines = lines.reshape(n, height, width * o)
            lines += self._bias_row[: width * o]

    def _pool(self, lines: np.ndarray, pictures: slice, rows: slice) -> np.ndarray:
        """The largest of each 2×2, in its place in y."""
        y = self._lines[pictures, rows]
        n, h, w, o = y.shape
        seen = lines[:, : 2 * h, : 2 * w].reshape(n, h, 2, w, 2, o).swapaxes(3, 4)
        if self._switches is None:
            largest(seen, y)
        else:
            switches = self._switches[pictures, rows]
            switches[...] = 0
            largest_and_where(seen, y, switches)
        return y
