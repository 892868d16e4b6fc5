"""The benchmarks work; nothing is asserted of the times."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


def run(*arguments):
    command = [sys.executable, "-m", "benchmarks", *map(str, arguments)]
    root = Path(__file__).parent.parent
    return subprocess.run(command, capture_output=True, text=True, cwd=root, timeout=300)


@pytest.mark.parity
@pytest.mark.slow
def test_quick(tmp_path):
    pytest.importorskip("torch")
    done = run("--quick", "--json", tmp_path / "results.json", "--plot", tmp_path / "results.png")
    assert done.returncode == 0, done.stderr
    tables = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["results"]
    assert len(tables) == 15
    rows = [row for table in tables.values() for row in table.values()]
    timings = [row for row in rows if "ratio" in row]
    assert len(timings) >= 16
    assert all(row["ratio"] > 0 and row["ours"] > 0 for row in timings)
    assert sum("sizes" in row for row in rows) == 8
    assert {path.name for path in tmp_path.glob("*.png")} == {"results.png", "results-scaling.png"}


@pytest.mark.parity
@pytest.mark.slow
def test_an_unknown_section_is_refused_and_the_others_are_named():
    pytest.importorskip("torch")
    done = run("optimiser")
    assert done.returncode == 2
    assert "no section called optimiser: there are engine, convolutions, layers" in done.stderr
