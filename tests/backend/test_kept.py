"""What is kept of filters that do not change: the same numbers, and never those of filters that did."""

from __future__ import annotations

import gc

import numpy as np
import pytest

import minidl as dl
import minidl.functional as F
from minidl import nn
from minidl.backend import kept as module
from minidl.backend.kept import kept, release_kept
from minidl.functional import winograd


@pytest.fixture(autouse=True)
def nothing_kept():
    release_kept()
    yield
    release_kept()


@pytest.fixture
def computed(monkeypatch):
    """How often filters were transformed, as a list of their sums."""
    sums, original = [], winograd.transform_filters

    def transform_filters(matrix, weight):
        sums.append(float(weight.sum()))
        return original(matrix, weight)

    monkeypatch.setattr(winograd, "transform_filters", transform_filters)
    return sums


@pytest.fixture
def layer():
    return nn.Conv2d(32, 64, 3, padding=1)


def pictures():
    return dl.Tensor(np.random.default_rng(0).standard_normal((8, 32, 16, 16), np.float32))


def test_the_third_time_the_filters_are_not_transformed_again(computed, layer):
    x = pictures()
    with dl.no_grad():
        first, *others = [layer(x).numpy() for _ in range(4)]
    assert len(computed) == 2
    for other in others:
        np.testing.assert_array_equal(first, other)


@pytest.mark.parametrize("place", [(0, 0, 0, 0), (63, 31, 2, 2), (17, 5, 1, 2)])
def test_one_number_written_into_the_filters_is_seen(computed, layer, place):
    x = pictures()
    with dl.no_grad():
        for _ in range(3):
            layer(x)
        layer.weight.data[place] += 1
        found = layer(x).numpy()
    release_kept()
    np.testing.assert_array_equal(found, layer(x).numpy())
    assert computed[-1] == pytest.approx(computed[0] + 1, abs=1e-3)


def test_after_a_change_the_new_filters_are_kept(computed, layer):
    x = pictures()
    with dl.no_grad():
        for _ in range(3):
            layer(x)
        layer.weight.data *= 2
        expected = layer(x).numpy()
        before = len(computed)
        for _ in range(3):
            np.testing.assert_array_equal(layer(x).numpy(), expected)
    assert len(computed) == before + 1


def test_nothing_is_kept_of_filters_that_learn(computed, layer):
    optimizer = dl.optim.SGD(layer.parameters(), lr=0.1)
    for _ in range(4):
        optimizer.zero_grad()
        F.conv2d(pictures(), layer.weight, layer.bias, padding=1).mean().backward()
        optimizer.step()
    assert len(computed) == 4
    assert [memory.known for memory in module._memories.values()] == [None]


def test_what_was_kept_goes_with_the_filters():
    x, layer = pictures(), nn.Conv2d(32, 64, 3, padding=1)
    with dl.no_grad():
        for _ in range(3):
            layer(x)
    (memory,) = module._memories.values()
    assert memory.known is not None
    del layer, memory
    gc.collect()
    assert not module._memories


def test_nan_is_the_same_as_itself(computed, layer):
    layer.weight.data[3, 3] = np.nan
    with dl.no_grad():
        for _ in range(4):
            layer(pictures())
    assert len(computed) == 2


def test_no_more_is_kept_than_the_limit(monkeypatch):
    monkeypatch.setattr(module, "LIMIT", 1000)  # bytes; an array and its result have 240 each
    arrays = [np.arange(30.0) + i for i in range(3)]
    for _ in range(3):
        for array in arrays:
            np.testing.assert_array_equal(kept(array, lambda array=array: 2 * array), 2 * array)
    assert [memory.known is None for memory in module._memories.values()] == [False, False, True]


def test_an_array_that_is_not_contiguous_is_computed_from_each_time():
    array, calls = np.arange(12.0).reshape(3, 4).T, []
    for _ in range(4):
        kept(array, lambda: calls.append(1) or array)
    assert len(calls) == 4


def test_the_result_is_a_copy():
    scratch, array = np.zeros(5), np.arange(5.0)

    def compute():
        scratch[...] = 2 * array
        return scratch

    for _ in range(2):
        kept(array, compute)
    scratch[...] = -1
    np.testing.assert_array_equal(kept(array, compute), 2 * array)


def test_what_another_thread_writes_meanwhile_is_seen_the_next_time():
    array = np.arange(1000.0)

    def compute(write=False):
        result = 2 * array
        if write:
            array[501] = 7  # none of those that are remembered the first time
        return result

    kept(array, compute)
    kept(array, lambda: compute(write=True))
    np.testing.assert_array_equal(kept(array, compute), 2 * array)


def test_another_thread_that_computes_anew_meanwhile_takes_nothing_away(monkeypatch):
    array, same = np.arange(5.0), module._same

    def meanwhile(*arrays):
        monkeypatch.setattr(module, "_same", lambda *_: False)
        with pytest.raises(ZeroDivisionError):
            kept(array, lambda: 1 / 0)
        return same(*arrays)

    for _ in range(2):
        kept(array, lambda: 2 * array)
    monkeypatch.setattr(module, "_same", meanwhile)
    np.testing.assert_array_equal(kept(array, lambda: 1 / 0), 2 * array)
