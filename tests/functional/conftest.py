"""Numba, there and not there, for the tests of the loops that it compiles."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from minidl.functional import depthwise, grouped, places


@pytest.fixture
def as_python(monkeypatch):
    """The loops as they stand, whether Numba is there or not."""
    for file in (depthwise, grouped):
        monkeypatch.setattr(file, "compiled", lambda function: function)


@pytest.fixture
def numba_there(monkeypatch):
    monkeypatch.setattr(places, "numba", lambda: SimpleNamespace())
