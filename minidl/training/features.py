"""The features of a frozen trunk: computed once and kept, or anew for each augmented picture."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

from minidl.backend.release import release_memory
from minidl.data import DataLoader, FeatureCache, ImageFolder, TensorDataset
from minidl.data.cache import describe_files, digest
from minidl.functional import concatenate
from minidl.nn import Module
from minidl.progress import progress_bar
from minidl.recording import no_grad
from minidl.tensor import Tensor
from minidl.training.interrupt import DeferredInterrupt, Interrupted
from minidl.weights.download import minidl_home

BATCH = 8  # pictures at once: the first feature maps of VGG16 take 13 MB each
WORKERS = 2
SAVE_EVERY = 10.0  # seconds


class TrunkLoader:
    """The batches of `loader` as a frozen trunk sees them: its features in eval mode, with no past."""

    def __init__(self, trunk: Module, loader: DataLoader) -> None:
        self.trunk, self.loader = trunk.eval(), loader
        self.device = next(trunk.parameters()).device

    @property
    def seed(self) -> int:
        return self.loader.seed

    def __len__(self) -> int:
        return len(self.loader)

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        self.loader.set_epoch(epoch, start)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for x, y in self.loader:
            with no_grad():
                pieces = [self.trunk(x[i : i + BATCH].to(self.device)) for i in range(0, len(x), BATCH)]
                features = concatenate(pieces)
            yield features, y


def cached_features(
    trunk: Module, pictures: ImageFolder, made_from: Mapping[str, Any], title: str
) -> TensorDataset:
    """The trunk's features of all pictures, memory-mapped from `MINIDL_HOME/features`.

    If they are not there they are computed, with a progress bar; an interrupted computation is continued.

    Args:
        trunk: frozen. It is run in eval mode, without recording.
        made_from: what else the features depend on, in JSON's types: the weights, the preprocessing.
        title: of the progress bar.

    Raises:
        DataError: a picture cannot be read, or the disk has not enough room.
        Interrupted: Ctrl-C; what was computed is kept.
    """
    files = describe_files([path for path, _ in pictures.samples])
    fingerprint = {**made_from, "pictures": files, "labels": pictures.targets}
    path = minidl_home() / "features" / digest(fingerprint)
    cache = FeatureCache.open(path, fingerprint)
    if cache is None:
        cache = _compute(trunk, pictures, path, fingerprint, title)
    return TensorDataset(cache.features, cache.labels)


def _compute(trunk: Module, pictures: ImageFolder, path: Any, fingerprint: Any, title: str) -> FeatureCache:
    device = next(trunk.parameters()).device
    trunk.eval()
    with no_grad():
        shape = trunk(Tensor(pictures[0][0][None]).to(device)).shape[1:]
    cache = FeatureCache.create(path, len(pictures), shape, fingerprint)
    loader = DataLoader(pictures, BATCH, num_workers=WORKERS)
    loader.set_epoch(0, start=-(-cache.written // BATCH))  # rounded up: the last batch may be smaller
    saved = time.monotonic()
    with (
        DeferredInterrupt() as interrupt,
        progress_bar(len(pictures), title, "picture", cache.written) as bar,
    ):
        for x, y in TrunkLoader(trunk, loader):
            cache.append(x.numpy(), y.numpy())
            bar.update(len(y))
            if interrupt.requested or time.monotonic() - saved > SAVE_EVERY:
                cache.save()
                saved = time.monotonic()
            if interrupt.requested:
                raise Interrupted(
                    f"interrupted after {cache.written} of {len(cache)} pictures; what they gave is kept"
                )
    release_memory()  # what trains on the features needs none of the convolutions' 400 MB
    return cache.finish()


__all__ = ["TrunkLoader", "cached_features"]
