"""The benchmarks work; nothing is asserted of the times."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parity
@pytest.mark.slow
def test_quick(tmp_path):
    pytest.importorskip("torch")
    command = [sys.executable, "-m", "benchmarks", "--quick", "--json", str(tmp_path / "results.json")]
    subprocess.run(command, check=True, cwd=Path(__file__).parent.parent, timeout=300)
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert set(results) == {"3×3 convolutions", "VGG16"}
    assert all(timing["ratio"] > 0 for table in results.values() for timing in table.values())
