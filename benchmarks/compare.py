"""Two ways to compute the same thing, timed in turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Timing:
    """Medians over the repetitions: milliseconds of both, and of each pair the ratio ours / theirs."""

    ours: float
    theirs: float
    ratio: float
    spread: tuple[float, float]  # the quartiles of the ratio

    def __str__(self) -> str:
        low, high = self.spread
        return f"{self.ours:9.1f} {self.theirs:9.1f} {self.ratio:7.2f}  ({low:.2f} to {high:.2f})"


def alternate(ours: Callable[[], object], theirs: Callable[[], object], repetitions: int) -> Timing:
    """Call both once to warm up, then in turn."""
    pairs = [(milliseconds(ours), milliseconds(theirs)) for _ in range(repetitions + 1)][1:]
    ratios = sorted(a / b for a, b in pairs)
    quarter = len(ratios) // 4
    mine, peer = zip(*pairs, strict=True)
    return Timing(
        statistics.median(mine),
        statistics.median(peer),
        statistics.median(ratios),
        (ratios[quarter], ratios[-1 - quarter]),
    )


def milliseconds(f: Callable[[], object]) -> float:
    start = time.perf_counter()
    f()
    return 1000 * (time.perf_counter() - start)


def print_table(title: str, timings: Mapping[str, Timing]) -> None:
    print(f"\n{title:<34}   minidl   PyTorch   ratio  (quartiles)     [ms]")
    for name, timing in timings.items():
        print(f"{name:<34}{timing}", flush=True)
