"""The results as pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.compare import Series, Timing
from minidl.errors import require

OURS, AIM = "#2a6f97", "#c1440e"


def draw(sections: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """The ratios as bars in `path`; what was measured at several sizes as lines, in `path`-scaling."""
    rows = {name: row for table in sections.values() for name, row in table.items()}
    timings = {name: row for name, row in rows.items() if isinstance(row, Timing)}
    series = {name: row for name, row in rows.items() if isinstance(row, Series)}
    if timings:
        _bars(timings, path)
    if series:
        _lines(series, path.with_stem(path.stem + "-scaling"))


def _bars(timings: Mapping[str, Timing], path: Path) -> None:
    plt = require("matplotlib.pyplot", "plots")
    figure, axes = plt.subplots(figsize=(9, 1.2 + 0.27 * len(timings)), layout="constrained")
    places = range(len(timings))
    axes.barh(places, [t.ratio for t in timings.values()], color=OURS, height=0.65)
    for place, t in zip(places, timings.values(), strict=True):
        axes.plot(t.spread, (place, place), color="black", linewidth=1)
        axes.text(max(t.ratio, t.spread[1]) * 1.03, place, f"{t.ratio:.2f}", va="center", fontsize=8)
        if t.aim is not None:
            axes.plot((t.aim, t.aim), (place - 0.42, place + 0.42), color=AIM, linewidth=2)
    axes.axvline(1.0, color="grey", linewidth=0.8)
    axes.set_yticks(places, list(timings), fontsize=8)
    axes.set_ylim(len(timings) - 0.4, -0.6)
    axes.set_xscale("log")
    ticks = [0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5]
    low, high = min(t.ratio for t in timings.values()), max(t.spread[1] for t in timings.values())
    axes.set_xlim(min(0.2, low / 1.3), max(1.5, high * 1.4))
    shown = [tick for tick in ticks if axes.get_xlim()[0] <= tick <= axes.get_xlim()[1]]
    axes.set_xticks(shown, [f"{tick:g}" for tick in shown])
    axes.minorticks_off()
    axes.set_xlabel("minidl / peer (shorter is better; black: quartiles, red: what was aimed at)")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _lines(series: Mapping[str, Series], path: Path) -> None:
    plt = require("matplotlib.pyplot", "plots")
    rows = math.ceil(len(series) / 2)
    figure, grid = plt.subplots(rows, 2, figsize=(9, 2.6 * rows), layout="constrained", squeeze=False)
    for axes, (name, s) in zip(grid.flat, series.items(), strict=False):
        axes.plot(s.sizes, s.values, "o-", color=OURS, markersize=4)
        if "depth: time" in name:  # over several powers of ten
            axes.set_xscale("log")
            axes.set_yscale("log")
        else:
            axes.set_xlim(0)
        if axes.get_yscale() == "linear":
            axes.set_ylim(0, max(s.values) * 1.15)
        axes.set_title(name, fontsize=9)
        axes.set_xlabel(f"{s.per}s", fontsize=8)
        axes.set_ylabel(s.unit, fontsize=8)
        axes.tick_params(which="both", labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
    plt.close(figure)
