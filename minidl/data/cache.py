"""Features kept on disk: what a frozen trunk computes is computed once.

A cache is a folder with `features.npy` (length, …), `labels.npy` (length,) and `cache.json`, which says
from what it was made. While it is being written it has another name (path + ".partial"), so a folder called
`path` is always whole; an interrupted one is continued where it was last saved.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minidl.errors import DataError
from minidl.files import write_text


class FeatureCache:
    """Features and labels, memory-mapped. Made with `create` and `append`, or opened with `open`.

    Attributes:
        features: (length, …) on disk; a slice reads only what it covers.
        labels: (length,) int64.
        written: how many rows are there; all of them once the cache is finished.
    """

    def __init__(
        self, folder: Path, final: Path, features: np.memmap, labels: np.memmap, description: dict[str, Any]
    ):
        self.folder, self.final = folder, final
        self.features, self.labels = features, labels
        self._description = description

    def __len__(self) -> int:
        return len(self.features)

    @property
    def written(self) -> int:
        return self._description["written"]

    @classmethod
    def open(cls, path: str | os.PathLike, fingerprint: Mapping[str, Any]) -> FeatureCache | None:
        """The finished cache at `path`, or None if there is none, or one made from something else.

        Args:
            fingerprint: what the features depend on, in JSON's types (see `describe_files`).
        """
        path = Path(path)
        return cls._load(path, path, fingerprint, "r")

    @classmethod
    def create(
        cls,
        path: str | os.PathLike,
        length: int,
        shape: Sequence[int],
        fingerprint: Mapping[str, Any],
        dtype: Any = np.float32,
    ) -> FeatureCache:
        """A cache to append `length` rows of `shape` to, from row `written` on.

        That is 0, unless an interrupted cache of the same fingerprint, length, shape and dtype is there.

        Raises:
            DataError: the disk has not enough room; said before anything is computed.
        """
        path = Path(path)
        folder = path.with_name(path.name + ".partial")
        begun = cls._load(folder, path, fingerprint, "r+")
        if begun is not None and begun.features.shape == (length, *shape) and begun.features.dtype == dtype:
            return begun
        del begun  # Windows does not remove files that are mapped
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        needed = length * math.prod(shape) * np.dtype(dtype).itemsize
        free = shutil.disk_usage(folder.parent).free
        if needed > free:
            raise DataError(
                f"{path}: the features need {needed / 1e9:.1f} GB, the disk has {free / 1e9:.1f} GB free"
            )
        try:
            folder.mkdir()
            features = np.lib.format.open_memmap(folder / "features.npy", "w+", dtype, (length, *shape))
            labels = np.lib.format.open_memmap(folder / "labels.npy", "w+", np.int64, (length,))
            _reserve(folder / "features.npy")
        except OSError as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise DataError(f"{path}: cannot make room for the features: {error}") from error
        description = {"written": 0, "fingerprint": _plain(fingerprint)}
        cache = cls(folder, path, features, labels, description)
        cache.save()
        return cache

    @classmethod
    def _load(
        cls, folder: Path, final: Path, fingerprint: Mapping[str, Any], mode: Any
    ) -> FeatureCache | None:
        try:
            description = json.loads((folder / "cache.json").read_text(encoding="utf-8"))
            features = np.load(folder / "features.npy", mmap_mode=mode, allow_pickle=False)
            labels = np.load(folder / "labels.npy", mmap_mode=mode, allow_pickle=False)
            same = description["fingerprint"] == _plain(fingerprint)
            whole = 0 <= description["written"] <= len(features) == len(labels)
            finished = folder != final or description["written"] == len(features)
        except (OSError, ValueError, OverflowError, KeyError, TypeError):  # absent, cut short, or not ours
            return None
        return cls(folder, final, features, labels, description) if same and whole and finished else None

    def append(self, features: np.ndarray, labels: np.ndarray) -> None:
        """Write the next rows. They count as written for a later continuation only after `save`."""
        start, stop = self.written, self.written + len(features)
        if stop > len(self):
            raise DataError(f"{self.final}: expected {len(self)} rows, got at least {stop}")
        self.features[start:stop] = features
        self.labels[start:stop] = labels
        self._description["written"] = stop

    def save(self) -> None:
        """Flush the rows written so far to the disk, so that an interruption loses nothing of them."""
        self.features.flush()
        self.labels.flush()
        write_text(self.folder / "cache.json", json.dumps(self._description))

    def finish(self) -> FeatureCache:
        """Save, give the cache its final name, and open it for reading.

        Raises:
            DataError: rows are missing.
        """
        if self.written < len(self):
            raise DataError(f"{self.final}: expected {len(self)} rows, got {self.written}")
        self.save()
        fingerprint = self._description["fingerprint"]
        del self.features, self.labels
        shutil.rmtree(self.final, ignore_errors=True)  # a stale one
        os.replace(self.folder, self.final)
        cache = self.open(self.final, fingerprint)
        if cache is None:
            raise DataError(f"{self.final}: what was just written cannot be read back")
        return cache


def describe_files(paths: Sequence[str]) -> list[list]:
    """[absolute path, size in bytes, time of the last change in ns] of each file, for a fingerprint."""
    stats = [(os.path.abspath(path), os.stat(path)) for path in paths]
    return [[path, stat.st_size, stat.st_mtime_ns] for path, stat in stats]


def digest(fingerprint: Any) -> str:
    """16 hex digits that stand for a fingerprint: another one has others."""
    return hashlib.sha256(json.dumps(fingerprint).encode()).hexdigest()[:16]


def _reserve(path: Path) -> None:
    """Claim the blocks of a sparse file now: a write to a mapped page that finds no room kills Python."""
    if hasattr(os, "posix_fallocate"):
        with open(path, "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def _plain(fingerprint: Mapping[str, Any]) -> Any:
    """As JSON gives it back: tuples become lists."""
    return json.loads(json.dumps(fingerprint))


__all__ = ["FeatureCache", "describe_files", "digest"]
