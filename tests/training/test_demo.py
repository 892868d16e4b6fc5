"""The demo, made small: what it compares, what it leaves."""

from __future__ import annotations

import json

import numpy as np
import pytest

from minidl.cli import main
from minidl.data.drawn import draw_cats_and_dogs
from minidl.training import demo, load_model


@pytest.fixture
def small(monkeypatch):
    """A demo of seconds."""
    for name, value in {
        "BLOCKS": ((4,), (8,)),
        "DENSE": (16, 16),
        "SHAPES_COUNT": 64,
        "TRAIN_COUNT": 64,
        "VALID_COUNT": 20,
        "SHAPES_EPOCHS": 1,
        "EPOCHS": 2,
    }.items():
        monkeypatch.setattr(demo, name, value)


@pytest.mark.slow
def test_the_command(small, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["demo", "--seeds", "2", "--out", str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"{out}: report.html, model.safetensors, history.csv"
    assert lines[-2].startswith("What it learned from shapes is worth")
    assert [line.split()[0] for line in lines[-6:-2]] == ["seed", "0", "1", "mean"]

    model = load_model(out / "model.safetensors")
    assert model.classes == ["cats", "dogs"]
    picture = draw_cats_and_dogs(1, demo.SIZE, seed=0)[0]
    assert model.preprocessing.normalize(picture).shape == (1, 3, demo.SIZE, demo.SIZE)
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "from scratch" in page
    assert len(json.loads((out / "history.json").read_text())) > 0
    assert (out / "from scratch" / "history.csv").exists()

    assert main(["demo", "--out", str(out)]) == 1
    assert "holds a run already" in capsys.readouterr().err


@pytest.mark.slow
def test_the_comparison_is_fair(small):
    """As many steps, the same pictures; and the same numbers every time."""
    first, again = demo.run_demo([3]), demo.run_demo([3])
    run = first[0]
    assert len(run.finetuned) == len(run.scratch) == len(run.linear) == demo.EPOCHS
    assert run.predictions.accuracy == pytest.approx(demo.final_accuracy(run.finetuned))
    np.testing.assert_array_equal(run.predictions.probabilities, again[0].predictions.probabilities)
    assert run.pictures.shape == (demo.VALID_COUNT, demo.SIZE, demo.SIZE, 3)
