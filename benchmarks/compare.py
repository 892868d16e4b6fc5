"""The same thing computed in several ways, timed in turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

Call = Callable[[], object]
PAUSE = 0.03  # seconds: after a call OpenMP's and BLAS's threads go on spinning, and slow the other side
AWAKE = (
    5.0  # milliseconds of calls that bring back the processor's speed and wake threads; then as many timed
)


@dataclass(frozen=True)
class Timing:
    """Medians over the repetitions: of ours, of the peer's, and of the ratio ours / theirs in each round."""

    ours: float
    theirs: float
    ratio: float
    spread: tuple[float, float]  # the quartiles of the ratio
    peer: str = "PyTorch"
    unit: str = "ms"
    aim: float | None = None  # what the ratio should be at most

    def __str__(self) -> str:
        low, high = self.spread
        aim = "" if self.aim is None else f"≤ {self.aim:.2f}"
        return (
            f"{self.ours:9.1f} {self.theirs:9.1f} {self.unit:3}{self.ratio:7.2f}  ({low:.2f} to {high:.2f})"
            f"  {aim:7} {self.peer}"
        )


@dataclass(frozen=True)
class Series:
    """What was measured at several sizes, and the power p of size^p that fits it best."""

    sizes: list[int]
    values: list[float]
    unit: str
    per: str  # what the sizes count

    @property
    def power(self) -> float:
        return float(np.polyfit(np.log(self.sizes), np.log(self.values), 1)[0])

    @property
    def slope(self) -> float:
        """The straight line's rise, in `unit` for one more of what the sizes count."""
        return float(np.polyfit(self.sizes, self.values, 1)[0])

    def __str__(self) -> str:
        values = "  ".join(f"{n}: {value:.4g}" for n, value in zip(self.sizes, self.values, strict=True))
        return f"{values}  {self.unit}  ({self.slope:.3g} a {self.per}, ~ n^{self.power:.2f})"


def alternate(
    ours: Call,
    theirs: Call | Mapping[str, Call],
    repetitions: int,
    aim: float | None = None,
) -> Timing:
    """Call both to warm up, then in turn. Of several peers the one that was quickest in the warm-up stays.

    In each turn the other side's threads stop spinning first, and calls that are not timed wake its own.
    """

    def turn(f: Call) -> float:
        time.sleep(PAUSE)
        milliseconds(f, AWAKE)
        return milliseconds(f, AWAKE)

    peers = theirs if isinstance(theirs, Mapping) else {"PyTorch": theirs}
    for f in (ours, *peers.values()):
        f()
    turn(ours)
    trial = {name: turn(f) for name, f in peers.items()}
    peer = min(trial, key=trial.__getitem__)
    return summary([(turn(ours), turn(peers[peer])) for _ in range(repetitions)], peer, "ms", aim)


def summary(rounds: list[tuple[float, float]], peer: str, unit: str, aim: float | None) -> Timing:
    """The medians of what was measured of (ours, theirs) in each round."""
    ratios = sorted(a / b for a, b in rounds)
    quarter = len(ratios) // 4
    mine, other = zip(*rounds, strict=True)
    spread = (ratios[quarter], ratios[-1 - quarter])
    middle = statistics.median
    return Timing(middle(mine), middle(other), middle(ratios), spread, peer, unit, aim)


def milliseconds(f: Call, least: float = 0.0) -> float:
    """What a call takes: the mean of as many calls as it takes for `least` milliseconds to go by."""
    start, calls, taken = time.perf_counter(), 0, 0.0
    while not calls or taken < least:
        f()
        calls, taken = calls + 1, 1000 * (time.perf_counter() - start)
    return taken / calls


def check(ours: np.ndarray, theirs: np.ndarray, tolerance: float = 1e-4) -> None:
    """Both computed the same: nothing is timed before that is sure."""
    error = np.abs(ours - theirs).max() / max(float(np.abs(theirs).max()), 1e-30)
    assert error < tolerance, f"the results differ by {error:.1e}"


def print_table(title: str, rows: Mapping[str, Timing | Series]) -> None:
    print(f"\n{title}")
    if any(isinstance(row, Timing) for row in rows.values()):
        print(f"{'':46}   minidl      peer      ratio  (quartiles)       aim     peer")
    for name, row in rows.items():
        print(f"{name:<46}{row}", flush=True)
