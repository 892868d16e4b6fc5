"""empty: memory is used again when nobody holds it any more, never before, and never grows by being kept."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from minidl.backend import memory
from minidl.backend.memory import KEEP, LARGE, empty, owns_memory

SHAPE = (2, LARGE // 4)  # of float32: twice as much as is kept


@pytest.fixture(autouse=True)
def nothing_kept():
    memory._kept.clear()


def address(x):
    return x.__array_interface__["data"][0]


def kept():
    return [block.nbytes for block in memory._kept]


def test_memory_is_used_again_by_any_array_of_its_size():
    x = empty(np, SHAPE, np.float32)
    assert (x.shape, x.dtype, x.flags.c_contiguous, x.flags.writeable) == (SHAPE, np.float32, True, True)
    before = address(x)
    del x
    y = empty(np, (LARGE // 4,), np.float64)
    assert address(y) == before
    assert kept() == []


def test_not_while_a_view_is_alive():
    x = empty(np, SHAPE, np.float32)
    before, view = address(x), x[1:].reshape(-1)[::2]
    del x
    assert kept() == []
    assert address(empty(np, SHAPE, np.float32)) != before
    del view
    assert kept() == [2 * LARGE] * 2


def test_kept_memory_is_given_back_before_new_memory_is_asked_for():
    several = [empty(np, (size * LARGE,), np.uint8) for size in (1, 2, 3)]
    while several:
        several.pop(0)
    assert kept() == [LARGE, 2 * LARGE, 3 * LARGE]
    x = empty(np, (2 * LARGE + 1,), np.uint8)  # the first two, 3 · LARGE together, make room for it
    assert kept() == [3 * LARGE]
    del x
    assert kept() == [3 * LARGE, 2 * LARGE + 1]


def test_no_more_than_the_limit_is_kept(monkeypatch):
    monkeypatch.setattr(memory, "KEEP", 3 * LARGE)
    several = [empty(np, SHAPE, np.float32) for _ in range(2)]
    several.clear()
    assert kept() == [2 * LARGE]
    assert KEEP >= 1 << 30


def test_small_arrays_are_plain():
    x = empty(np, (LARGE // 4 - 1,), np.float32)
    assert x.base is None
    del x
    assert kept() == []
    assert empty(np, (), np.float32).shape == ()


def test_whose_memory_it_is():
    for x in (empty(np, SHAPE, np.float32), np.empty(3)):
        assert owns_memory(x)
        assert not owns_memory(x[1:])
        assert not owns_memory(x.reshape(-1))
        assert not owns_memory(x[1:][1:])


def test_nothing_is_said_at_the_exit_of_python():
    script = (
        "import numpy as np; from minidl.backend.memory import empty; x = empty(np, (1 << 22,), np.uint8)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr == ""
