"""`import minidl` needs NumPy alone, and takes hardly longer."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys

import pytest

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
