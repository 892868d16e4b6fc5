"""DataLoader: the same batches whatever the threads do, and no thread left behind."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidl.data import DataLoader, TensorDataset
from minidl.errors import DataError
from minidl.tensor import Tensor


class Noisy:
    """Ten items; each is its index plus noise from the generator it is given."""

    def __len__(self):
        return 10

    def item(self, index, generator):
        return np.float32([index, generator.random()]), index


class Broken(Noisy):
    def item(self, index, generator):
        if index == 5:
            raise DataError("cat.5.jpg: the file is empty")
        return super().item(index, generator)


def arrays(loader):
    return [(x.data, y.data) for x, y in loader]


def assert_same(a, b):
    assert len(a) == len(b)
    for (x, y), (u, v) in zip(a, b, strict=True):
        np.testing.assert_array_equal(x, u)
        np.testing.assert_array_equal(y, v)


def loader_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("minidl-loader")]


def test_batches_are_tensors():
    x = np.arange(30, dtype=np.float32).reshape(5, 3, 2, 1)
    batches = list(DataLoader(TensorDataset(x, np.arange(5)), batch_size=2))
    assert [batch[0].shape for batch in batches] == [(2, 3, 2, 1), (2, 3, 2, 1), (1, 3, 2, 1)]
    for images, labels in batches:
        assert isinstance(images, Tensor)
        assert images.data.dtype == np.float32
        assert labels.data.dtype == np.int64
    np.testing.assert_array_equal(np.concatenate([b[0].data for b in batches]), x)


@settings(deadline=None, max_examples=30)
@given(
    n=st.integers(1, 20),
    batch_size=st.integers(1, 7),
    workers=st.integers(0, 3),
    shuffle=st.booleans(),
    drop_last=st.booleans(),
)
def test_every_item_once(n, batch_size, workers, shuffle, drop_last):
    data = TensorDataset(np.arange(n, dtype=np.float32), np.arange(n))
    loader = DataLoader(data, batch_size, shuffle, workers, drop_last=drop_last)
    batches = arrays(loader)
    seen = sorted(label for _, labels in batches for label in labels.tolist())
    assert len(batches) == len(loader)
    if drop_last:
        assert all(len(labels) == batch_size for _, labels in batches)
        assert len(seen) == len(set(seen)) == n // batch_size * batch_size
    else:
        assert seen == list(range(n))


def test_threads_change_nothing():
    reference = [arrays(loader) for loader in [DataLoader(Noisy(), 3, True)] for _ in range(2)]
    for workers in (1, 3):
        loader = DataLoader(Noisy(), 3, True, num_workers=workers)
        assert_same(arrays(loader), reference[0])
        assert_same(arrays(loader), reference[1])  # the loop after it is the epoch after it


def test_epochs_and_seeds_differ():
    loader = DataLoader(Noisy(), 10, shuffle=True)
    first, second = arrays(loader)[0], arrays(loader)[0]
    assert first[1].tolist() != second[1].tolist()
    other = arrays(DataLoader(Noisy(), 10, shuffle=True, generator=1))[0]
    assert first[1].tolist() != other[1].tolist()
    noise = [dict(zip(y.tolist(), x[:, 1].tolist(), strict=True)) for x, y in (first, second, other)]
    assert len({value for epoch in noise for value in epoch.values()}) == 30


def test_a_generator_draws_the_seed():
    seeds = [DataLoader(Noisy(), generator=np.random.default_rng(7)).seed for _ in range(2)]
    assert seeds[0] == seeds[1] != DataLoader(Noisy(), generator=np.random.default_rng(8)).seed


@pytest.mark.parametrize("workers", [0, 2])
def test_continue_in_the_middle(workers):
    loader = DataLoader(Noisy(), 3, shuffle=True, num_workers=workers)
    loader.set_epoch(4)
    whole = arrays(loader)
    loader.set_epoch(4, start=2)
    assert_same(arrays(loader), whole[2:])
    assert_same(arrays(loader), arrays(DataLoaderAt(5)))


def DataLoaderAt(epoch):
    loader = DataLoader(Noisy(), 3, shuffle=True)
    loader.set_epoch(epoch)
    return loader


@pytest.mark.parametrize("workers", [0, 2])
def test_errors_reach_the_loop(workers):
    loader = DataLoader(Broken(), 2, num_workers=workers)
    seen = []
    with pytest.raises(DataError, match=r"cat\.5\.jpg: the file is empty"):
        seen.extend(y.data.tolist() for _, y in loader)
    assert seen == [[0, 1], [2, 3]]
    assert not loader_threads()


def test_break_leaves_no_thread():
    for _ in DataLoader(Noisy(), 1, num_workers=3):
        assert loader_threads()
        break
    assert not loader_threads()


def test_prefetch_is_bounded():
    started = []

    class Counting(Noisy):
        def item(self, index, generator):
            started.append(index)
            return super().item(index, generator)

    batches = iter(DataLoader(Counting(), 1, num_workers=1, prefetch=2))
    next(batches)
    next(batches)
    assert len(started) <= 4  # two taken, two ahead
    batches.close()
    assert not loader_threads()


def test_collate_fn_and_plain_sequences():
    items = [(np.zeros(2), i) for i in range(3)]
    assert [len(batch) for batch in DataLoader(items, 2, collate_fn=list)] == [2, 1]
    (x, y), *_ = DataLoader(items, 3)
    assert x.data.dtype == np.float32
    assert y.data.tolist() == [0, 1, 2]


def test_memory_mapped_arrays(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(12, dtype=np.float32).reshape(6, 2))
    x = np.load(tmp_path / "x.npy", mmap_mode="r")
    (batch, _), *_ = DataLoader(TensorDataset(x, np.zeros(6)), 4)
    np.testing.assert_array_equal(batch.data, x[:4])


def test_refusals():
    for options, message in (
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"num_workers": -1}, "num_workers must be at least 0, got -1"),
        ({"prefetch": 0}, "prefetch must be at least 1, got 0"),
    ):
        with pytest.raises(DataError, match=message):
            DataLoader(Noisy(), **options)
    with pytest.raises(DataError, match="as many labels as pictures, got 3 pictures and 2 labels"):
        TensorDataset(np.zeros(3), np.zeros(2))
    uneven = [(np.zeros((3, 4, 4)), 0), (np.zeros((3, 5, 4)), 0)]
    with pytest.raises(DataError, match=r"must have one size, got \(3, 4, 4\) and \(3, 5, 4\): resize them"):
        next(iter(DataLoader(uneven, 2)))
