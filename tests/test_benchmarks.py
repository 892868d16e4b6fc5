"""The benchmarks work; nothing is asserted of the times."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def run(*arguments):
    command = [sys.executable, "-m", "benchmarks", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)


@pytest.mark.parity
@pytest.mark.slow
def test_quick(tmp_path):
    pytest.importorskip("torch")
    done = run("--quick", "--json", tmp_path / "results.json", "--plot", tmp_path / "results.png")
    assert done.returncode == 0, done.stderr
    tables = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["results"]
    assert len(tables) == 16
    rows = [row for table in tables.values() for row in table.values()]
    timings = [row for row in rows if "ratio" in row]
    assert len(timings) >= 16
    assert all(row["ratio"] > 0 and row["ours"] > 0 for row in timings)
    assert sum("sizes" in row for row in rows) == 8
    assert {path.name for path in tmp_path.glob("*.png")} == {"results.png", "results-scaling.png"}


def test_help_needs_no_pytorch():
    """Nor anything else but minidl."""
    code = (
        "import runpy, sys\n"
        "sys.modules |= dict.fromkeys(['torch', 'threadpoolctl', 'matplotlib'])\n"
        "sys.argv[1:] = ['-h']\n"
        "runpy.run_module('benchmarks', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "engine, convolutions, layers" in " ".join(done.stdout.split())


def test_an_unknown_section_is_refused_and_the_others_are_named():
    done = run("optimiser")
    assert done.returncode == 2
    assert "no section called optimiser: there are engine, convolutions, layers" in done.stderr
