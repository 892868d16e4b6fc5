"""empty: memory is used again when nobody holds it any more, never before, and never grows by being kept."""

from __future__ import annotations

import gc
import itertools
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minidl.backend import memory
from minidl.backend.memory import KEEP, LARGE, LINE, Arena, Loan, empty, owned

SHAPE = (2, LARGE // 4)  # of float32: twice as large as an array has to be


@pytest.fixture(autouse=True)
def arena(monkeypatch):
    monkeypatch.setattr(Loan, "arena", Arena(KEEP))
    return Loan.arena


def address(x):
    return x.__array_interface__["data"][0]


def unused(arena):
    """The sizes of the parts that nobody uses, block by block."""
    sizes = [[stop - start for start, stop in block.unused] for block in arena.blocks]
    assert arena.unused == sum(map(sum, sizes))
    return sizes


def test_memory_is_used_again(arena):
    x = empty(np, SHAPE, np.float32)
    assert (x.shape, x.dtype, x.flags.c_contiguous, x.flags.writeable) == (SHAPE, np.float32, True, True)
    before = address(x)
    del x
    y = empty(np, (LARGE // 4,), np.float64)
    assert address(y) == before
    assert unused(arena) == [[]]


def test_not_while_a_view_is_alive(arena):
    x = empty(np, SHAPE, np.float32)
    before, view = address(x), x[1:].reshape(-1)[::2]
    del x
    assert unused(arena) == [[]]
    assert address(empty(np, SHAPE, np.float32)) != before
    del view
    assert unused(arena) == [[2 * LARGE]] * 2


def test_a_smaller_array_takes_a_part_and_a_larger_one_what_was_put_together(arena):
    whole = empty(np, (4 * LARGE,), np.uint8)
    before = address(whole)
    del whole
    parts = [empty(np, (LARGE,), np.uint8) for _ in range(4)]
    assert [address(part) - before for part in parts] == [0, LARGE, 2 * LARGE, 3 * LARGE]
    assert unused(arena) == [[]]
    for i in (0, 2):
        parts[i] = None
    assert unused(arena) == [[LARGE, LARGE]]
    parts[1] = None
    assert unused(arena) == [[3 * LARGE]]
    larger = empty(np, (3 * LARGE,), np.uint8)
    assert address(larger) == before
    parts.clear()
    assert unused(arena) == [[LARGE]]


def test_large_blocks_are_lent_whole(arena, monkeypatch):
    monkeypatch.setattr(memory, "DIVISIBLE", 3 * LARGE)
    several = [empty(np, (size * LARGE,), np.uint8) for size in (3, 4)]
    expected = [address(x) for x in several]
    several.clear()
    parts = [empty(np, (LARGE,), np.uint8) for _ in range(3)]
    assert address(parts[0]) == expected[0]
    assert unused(arena) == [[], [4 * LARGE]]
    assert address(empty(np, (4 * LARGE,), np.uint8)) == expected[1]


def test_the_smallest_part_that_is_large_enough_is_taken(arena):
    several = [empty(np, (size * LARGE,), np.uint8) for size in (4, 2, 3)]
    expected = address(several[1])
    several.clear()
    x = empty(np, (LARGE + 1,), np.uint8)
    assert address(x) == expected
    assert unused(arena) == [[4 * LARGE], [LARGE - LINE], [3 * LARGE]]


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(LARGE, 5 * LARGE)), max_size=40))
def test_no_two_arrays_share_memory(steps):
    alive = {}
    for number, (place, size) in enumerate(steps):
        alive.pop(place, None)
        alive[place] = empty(np, (size,), np.uint8), number
        alive[place][0][[0, -1]] = number
    assert all(x[0] == x[-1] == number for x, number in alive.values())
    spans = sorted((address(x), address(x) + x.size) for x, _ in alive.values())
    assert all(stop <= start for (_, stop), (start, _) in itertools.pairwise(spans))
    alive.clear()
    assert all(block.idle for block in Loan.arena.blocks)
    unused(Loan.arena)


def test_kept_memory_is_given_back_before_new_memory_is_asked_for(arena):
    several = [empty(np, (size * LARGE,), np.uint8) for size in (1, 2, 3)]
    several.clear()
    assert unused(arena) == [[LARGE], [2 * LARGE], [3 * LARGE]]
    x = empty(np, (3 * LARGE + 1,), np.uint8)  # all three make room for it, and two would not
    assert unused(arena) == [[]]
    del x
    assert unused(arena) == [[3 * LARGE + LINE]]


def test_no_more_than_the_limit_is_kept(arena):
    arena.keep = 3 * LARGE
    several = [empty(np, SHAPE, np.float32) for _ in range(3)]
    several.clear()
    assert unused(arena) == [[2 * LARGE]]
    assert KEEP >= 1 << 30


def test_an_array_may_go_while_the_arena_is_at_work(arena):
    x = empty(np, SHAPE, np.float32)
    with arena.lock:
        del x
        assert arena.unused == 0
    y = empty(np, (LARGE,), np.uint8)
    assert unused(arena) == [[LARGE]]
    del y


def test_arrays_begin_where_a_line_does():
    several = [empty(np, (size,), np.uint8) for size in (LARGE + 1, LARGE + 100, 40 * LARGE)]
    several[0] = None
    several.append(empty(np, (LARGE,), np.uint8))
    assert [address(x) % LINE for x in several[1:]] == [0, 0, 0]


def test_where_there_is_no_memory_nothing_goes_back(arena, monkeypatch):
    ignored = []
    monkeypatch.setattr(sys, "unraisablehook", ignored.append)
    with pytest.raises(MemoryError):
        empty(np, (1 << 62,), np.uint8)
    gc.collect()
    assert ignored == []
    assert arena.blocks == []


def test_small_arrays_are_plain(arena):
    x = empty(np, (LARGE // 4 - 1,), np.float32)
    assert x.base is None
    del x
    assert arena.blocks == []
    assert empty(np, (), np.float32).shape == ()


def test_whose_memory_it_is():
    for x in (empty(np, SHAPE, np.float32), np.empty(3)):
        assert owned(x, x)
        assert not owned(x[1:], x[1:])
        assert not owned(x.reshape(-1), x.reshape(-1))
        assert not owned(x[1:][1:], x[1:][1:])
    assert not owned(np.empty((2, 3)), np.empty((3, 2)).T)


def test_nothing_is_said_at_the_exit_of_python():
    script = (
        "import numpy as np; from minidl.backend.memory import empty; x = empty(np, (1 << 22,), np.uint8)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr == ""
