"""python -m benchmarks.choice: how often does "auto" take the faster convolution?

Each 3×3 convolution of a grid of shapes is computed with shifted rows and by Winograd's way, in turn. Arrays
lie as they do within a network: see `benchmarks.convolution`.
"""

from __future__ import annotations

import itertools
import statistics

import numpy as np

import minidl as dl
from benchmarks.compare import milliseconds
from benchmarks.convolution import as_in_a_network
from minidl.backend.im2col import Window
from minidl.functional import convolution
from minidl.functional.convolution import Conv2d, ConvTranspose2d, ConvWeight

MAPS = [(64, 8), (32, 16), (16, 32), (4, 64), (2, 112), (1, 14), (1, 56)]  # pictures, and their size
CHANNELS = [
    *[(3, 16), (3, 64), (8, 8), (16, 16), (16, 32), (16, 64), (32, 32)],
    *[(32, 64), (64, 64), (8, 64), (128, 128), (24, 24), (64, 16), (128, 8)],
]
WINDOW = Window((3, 3), padding=(1, 1))
TIE = 1.05
ROUNDS = 9


def main() -> None:
    good, slower = 0, []
    for (n, size), (c, o) in itertools.product(MAPS, CHANNELS):
        for name, call in _operations(n, c, o, size).items():
            times = _medians(call)
            best = min(times, key=times.__getitem__)
            ratio = times[_taken_by_auto(call)] / times[best]
            good += ratio <= TIE
            if ratio > TIE:
                slower.append(f"{n} × {c}→{o} at {size}², {name}: {best} takes {1 / ratio:.2f} of the time")
    print(*slower, f"right, or within {TIE - 1:.0%}, in {good} of {good + len(slower)}", sep="\n")


def _operations(n, c, o, size):
    rng = np.random.default_rng(0)
    x, w, y = (
        rng.standard_normal(shape, np.float32)
        for shape in ((n, c, size, size), (o, c, 3, 3), (n, o, size, size))
    )
    x, w, y = as_in_a_network(x, 1), dl.Tensor(w), as_in_a_network(y, 1)
    return {
        "forward": lambda: Conv2d(WINDOW, 1)(x, w),
        "∂L/∂x": lambda: ConvTranspose2d(WINDOW, 1, (size, size))(y, w),
        "∂L/∂w": lambda: ConvWeight(WINDOW, 1)(x, y),
    }


def _medians(call) -> dict[str, float]:
    times: dict[str, list[float]] = {"rows": [], "winograd": []}
    try:
        for _ in range(ROUNDS + 2):
            for name, found in times.items():
                dl.conv_algorithm(name)
                found.append(milliseconds(call))
    finally:
        dl.conv_algorithm("auto")
    return {name: statistics.median(found[2:]) for name, found in times.items()}


def _taken_by_auto(call) -> str:
    """The algorithm that "auto" takes for this call, found by looking over its shoulder."""
    taken = []
    original = convolution._algorithm

    def watched(*arguments):
        taken.append(original(*arguments))
        return taken[-1]

    convolution._algorithm = watched
    try:
        call()
    finally:
        convolution._algorithm = original
    return next(name for name, module in convolution.ALGORITHMS.items() if module is taken[0])


if __name__ == "__main__":
    main()
