"""What is kept for the next time can be given back."""

from __future__ import annotations

import numpy as np

import minidl as dl
from minidl.backend import kept, threads
from minidl.backend.memory import DIVISIBLE, Loan


def test_all_that_is_kept_is_given_back():
    x = dl.Tensor(np.ones((2, 64, 64, 64), np.float32))
    weight = dl.Tensor(np.ones((64, 64, 3, 3), np.float32))
    with dl.no_grad():
        y = [dl.functional.conv2d(x, weight, padding=1) for _ in range(4)]
    expected = y[0].numpy().copy()
    own = dl.backend.memory.empty(np, (DIVISIBLE,), np.uint8)  # a block of its own, whatever else is in use
    del y, own
    assert kept._memories
    assert threads._scratch.arrays
    assert any(block.idle for block in Loan.arena.blocks)

    dl.release_memory()
    assert not kept._memories
    assert not threads._scratch.arrays
    assert not any(block.idle for block in Loan.arena.blocks)
    assert Loan.arena.unused == sum(stop - start for b in Loan.arena.blocks for start, stop in b.unused)
    with dl.no_grad():
        np.testing.assert_array_equal(dl.functional.conv2d(x, weight, padding=1).numpy(), expected)


def test_what_is_in_use_stays():
    large = dl.backend.memory.empty(np, (1 << 20,), np.float32)
    large[...] = 7
    dl.release_memory()
    again = dl.backend.memory.empty(np, (1 << 20,), np.float32)
    again[...] = 8
    assert (large == 7).all()
