"""Batches from a data set: shuffled, augmented, decoded ahead by threads, and the same every time.

Everything that is random is a function of (seed, epoch) and, for augmentation, of the index of the picture:
never of the threads, of what was loaded before, or of the moment the training was interrupted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from minidl.errors import DataError
from minidl.tensor import Tensor


class TensorDataset:
    """Arrays of equal length, memory-mapped ones too; item i is (x[i], y[i])."""

    def __init__(self, x: np.ndarray, y: np.ndarray):
        if len(x) != len(y):
            raise DataError(f"expected as many labels as pictures, got {len(x)} pictures and {len(y)} labels")
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        return self.x[index], int(self.y[index])


class DataLoader:
    """The batches of one epoch after the other: (Tensor (N, …) float32, Tensor (N,) int64).

    `for x, y in loader` runs through epoch `loader.epoch`, and the next such loop through the one after it.
    Threads, not processes: Pillow and NumPy let go of the interpreter while they decode and resize. When the
    loop is left, by `break` or by an error, the threads are gone.

    Args:
        dataset: anything with len() and [index] → (array, label). If it also has item(index, generator), as
            ImageFolder has, that is called with a generator for augmentation.
        batch_size: pictures a batch; the last one may be smaller.
        shuffle: a new order in each epoch.
        num_workers: threads that load ahead (0: load in the loop itself).
        collate_fn: from a list of items to a batch, instead of the two Tensors.
        drop_last: leave the last batch out if it is smaller.
        generator: a seed, or a generator that draws one.
        prefetch: how many batches each thread may be ahead: bounds the memory.
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int = 1,
        shuffle: bool = False,
        num_workers: int = 0,
        collate_fn: Callable[[list], Any] | None = None,
        drop_last: bool = False,
        generator: int | np.random.Generator = 0,
        prefetch: int = 2,
    ):
        for name, value, least in (
            ("batch_size", batch_size, 1),
            ("num_workers", num_workers, 0),
            ("prefetch", prefetch, 1),
        ):
            if value < least:
                raise DataError(f"{name} must be at least {least}, got {value}")
        self.dataset, self.batch_size, self.shuffle = dataset, batch_size, shuffle
        self.num_workers, self.prefetch, self.drop_last = num_workers, prefetch, drop_last
        self.collate_fn = _collate if collate_fn is None else collate_fn
        if isinstance(generator, np.random.Generator):
            generator = int(generator.integers(2**32))
        self.seed = generator
        self.epoch = self.start = 0

    def __len__(self) -> int:
        """Batches in a whole epoch."""
        whole, rest = divmod(len(self.dataset), self.batch_size)
        return whole if self.drop_last or not rest else whole + 1

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Let the next loop run through `epoch` from batch `start` on: to continue what was interrupted."""
        self.epoch, self.start = epoch, start

    def order(self, epoch: int) -> np.ndarray:
        """The indices of the data set in the order of `epoch`."""
        if not self.shuffle:
            return np.arange(len(self.dataset))
        return np.random.default_rng((self.seed, epoch)).permutation(len(self.dataset))

    def __iter__(self) -> Iterator[Any]:
        epoch, start = self.epoch, self.start
        self.set_epoch(epoch + 1)
        order = self.order(epoch).tolist()
        batches = [order[i * self.batch_size : (i + 1) * self.batch_size] for i in range(start, len(self))]
        return self._load_ahead(epoch, batches) if self.num_workers else self._load_here(epoch, batches)

    def _load_here(self, epoch: int, batches: list[list[int]]) -> Iterator[Any]:
        for indices in batches:
            yield self._batch(epoch, indices)

    def _load_ahead(self, epoch: int, batches: list[list[int]]) -> Iterator[Any]:
        pool = ThreadPoolExecutor(self.num_workers, thread_name_prefix="minidl-loader")
        waiting: deque[Future] = deque()
        try:
            for indices in batches:
                waiting.append(pool.submit(self._batch, epoch, indices))
                if len(waiting) > self.num_workers * self.prefetch:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _batch(self, epoch: int, indices: Sequence[int]) -> Any:
        if hasattr(self.dataset, "item"):
            return self.collate_fn([self.dataset.item(i, self._generator(epoch, i)) for i in indices])
        return self.collate_fn([self.dataset[i] for i in indices])

    def _generator(self, epoch: int, index: int) -> np.random.Generator:
        # The spawn key keeps these streams apart from each other and from the one that shuffles.
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(epoch, index)))


def _collate(items: list[tuple[np.ndarray, int]]) -> tuple[Tensor, Tensor]:
    arrays, labels = zip(*items, strict=True)
    if len(shapes := {np.shape(array) for array in arrays}) > 1:
        a, b = sorted(shapes)[:2]
        raise DataError(f"pictures of one batch must have one size, got {a} and {b}: resize them to the same")
    return Tensor(np.stack(arrays).astype(np.float32, copy=False)), Tensor(np.array(labels, np.int64))


__all__ = ["DataLoader", "TensorDataset"]
