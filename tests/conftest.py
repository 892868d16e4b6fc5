"""What all tests share: the same random numbers in every run, and none left over from the test before."""

from __future__ import annotations

import os

import pytest

# Tests compute with small arrays, on which several threads only get in each other's way. Read by BLAS on import.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import minidl as dl


@pytest.fixture(autouse=True)
def _seed():
    """Weights and dropout masks are drawn anew from the same seed in every test."""
    dl.seed(0)


def pytest_configure():
    """A failing example is printed as a line that repeats it; a slow machine is no failure."""
    try:
        from hypothesis import settings
    except ImportError:
        return
    settings.register_profile("minidl", deadline=None, derandomize=True, print_blob=True)
    settings.load_profile("minidl")
