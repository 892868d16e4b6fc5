"""progress: the items pass through, with tqdm and without."""

from __future__ import annotations

import sys

import pytest

from minidl.data.progress import progress


@pytest.mark.parametrize("installed", [True, False])
def test_items_pass_through(monkeypatch, capsys, installed):
    if not installed:
        monkeypatch.setitem(sys.modules, "tqdm", None)
    assert list(progress(iter("abc"), 3, "reading")) == ["a", "b", "c"]
    assert capsys.readouterr() == ("", "")  # nobody is looking: no bar
