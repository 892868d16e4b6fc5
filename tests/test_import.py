"""`import minidl` needs NumPy alone, and takes hardly longer; inside, imports go one way, down the floors."""

from __future__ import annotations

import ast
import os
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "minidl"
OPTIONAL = ["PIL", "h5py", "safetensors", "matplotlib", "tqdm", "threadpoolctl", "cupy", "torch", "keras"]


def test_nothing_optional_is_imported():
    code = f"import sys, minidl, minidl.cli; print([m for m in {OPTIONAL} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.slow
def test_the_time_of_an_import():
    """At most 1.5 times that of NumPy, as medians of CPU seconds of fresh processes, in turn."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}

    def cpu_seconds(module):
        command = [sys.executable, "-c", f"import time, {module}; print(time.process_time())"]
        return float(subprocess.run(command, capture_output=True, check=True, env=environment).stdout)

    cpu_seconds("minidl")  # the first import compiles, as the installation of NumPy did
    times = [(cpu_seconds("numpy"), cpu_seconds("minidl")) for _ in range(11)]
    numpy_time, minidl_time = (statistics.median(column) for column in zip(*times, strict=True))
    assert minidl_time <= 1.5 * numpy_time


# Which rooms are on which floor of the house (CONTRIBUTING.md), the lowest first.
FLOORS = """
errors files option_types palette words
backend progress
anomaly autograd complaints gradients lazy paths recording tensor
functional
nn
data diagnosis draw explain gradcheck graph models operations optim weights
check_operations training visualize
cli
"""
FLOOR = {room: i for i, line in enumerate(FLOORS.split("\n")) for room in line.split()}


def imports():
    """(file, room, name) of everything that a file of minidl imports from minidl; also for types alone."""
    for file in sorted(ROOT.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "minidl":
                for name in (alias.name for alias in node.names):
                    yield file.relative_to(ROOT), (f"{node.module}.{name}").split(".")[1], name


def test_every_room_has_its_floor():
    rooms = {path.stem for path in ROOT.iterdir() if not path.name.startswith("__")}
    assert set(FLOOR) == rooms - {"py"}  # py.typed


def test_imports_go_down_the_floors():
    wrong = [
        f"{file} imports {room}"
        for file, room, _ in imports()
        if room in FLOOR and FLOOR[room] > FLOOR.get(file.parts[0].removesuffix(".py"), len(FLOOR))
    ]
    assert wrong == []


def test_nobody_imports_what_is_private_to_another_file():
    private = [f"{file} imports {name}" for file, _, name in imports() if name[0] == "_" != name[1]]
    assert private == []
