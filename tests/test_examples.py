"""Every example runs by itself, as a reader would start it, and leaves its pictures."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("PIL")

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("[0-9]*.py"))


def test_there_are_examples():
    assert len(EXAMPLES) >= 8


@pytest.mark.slow
@pytest.mark.parametrize("script", EXAMPLES, ids=lambda script: script.stem)
def test_example(script, tmp_path):
    environment = os.environ | {
        "MPLBACKEND": "Agg",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        "PYTHONIOENCODING": "utf-8",
    }
    run = subprocess.run(
        [sys.executable, "-W", "error", str(script)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        encoding="utf-8",
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip()
    out = tmp_path / "runs" / "examples" / script.stem
    pictures = [*out.rglob("*.png"), *out.rglob("*.svg")]
    assert pictures
    for picture in pictures:
        assert picture.read_bytes().startswith(b"\x89PNG" if picture.suffix == ".png" else b"<svg ")
        assert picture.stat().st_size > (
            5_000 if picture.suffix == ".png" else 2_000
        )  # an empty one is smaller
