"""FeatureCache: whole or not there, continued after an interruption, rebuilt when stale."""

from __future__ import annotations

import errno
import json
import os
import shutil

import numpy as np
import pytest

from minidl.data import FeatureCache, describe_files
from minidl.errors import DataError

FINGERPRINT = {"weights": "397923af", "size": (224, 224), "files": [["a.jpg", 12, 5]]}
ROWS = np.random.default_rng(0).standard_normal((10, 3, 2)).astype(np.float32)
LABELS = np.arange(10)


def fill(cache, stop=10):
    for start in range(cache.written, stop, 2):
        cache.append(ROWS[start : start + 2], LABELS[start : start + 2])


def test_written_in_pieces_and_read_back(tmp_path):
    path = tmp_path / "features"
    cache = FeatureCache.create(path, 10, (3, 2), FINGERPRINT)
    fill(cache)
    assert FeatureCache.open(path, FINGERPRINT) is None  # not before it is finished
    for opened in (cache.finish(), FeatureCache.open(path, FINGERPRINT)):
        assert isinstance(opened.features, np.memmap)
        assert len(opened) == opened.written == 10
        np.testing.assert_array_equal(opened.features, ROWS)
        np.testing.assert_array_equal(opened.labels, LABELS)
    assert [entry.name for entry in tmp_path.iterdir()] == ["features"]


def test_interrupted_and_continued(tmp_path):
    cache = FeatureCache.create(tmp_path / "f", 10, (3, 2), FINGERPRINT)
    fill(cache, 6)
    cache.save()
    cache.append(ROWS[:2], LABELS[:2])  # lost: never saved
    again = FeatureCache.create(tmp_path / "f", 10, (3, 2), FINGERPRINT)
    assert again.written == 6
    fill(again)
    np.testing.assert_array_equal(again.finish().features, ROWS)


@pytest.mark.parametrize("change", ["fingerprint", "length", "shape", "dtype", "damage"])
def test_another_beginning_is_cleaned_away(tmp_path, change):
    cache = FeatureCache.create(tmp_path / "f", 10, (3, 2), FINGERPRINT)
    fill(cache, 6)
    cache.save()
    if change == "damage":
        (tmp_path / "f.partial" / "features.npy").write_bytes(b"\x93NUMPY")
    again = FeatureCache.create(
        tmp_path / "f",
        8 if change == "length" else 10,
        (2, 3) if change == "shape" else (3, 2),
        {"weights": "else"} if change == "fingerprint" else FINGERPRINT,
        np.float16 if change == "dtype" else np.float32,
    )
    assert again.written == 0
    assert not again.features.any()


def test_stale_and_damaged_caches_are_not_opened(tmp_path):
    path = tmp_path / "f"
    assert FeatureCache.open(path, FINGERPRINT) is None
    cache = FeatureCache.create(path, 10, (3, 2), FINGERPRINT)
    fill(cache)
    cache.finish()
    assert FeatureCache.open(path, {**FINGERPRINT, "weights": "other"}) is None
    whole = (path / "features.npy").read_bytes()
    (path / "features.npy").write_bytes(whole[:-8])
    assert FeatureCache.open(path, FINGERPRINT) is None
    (path / "features.npy").write_bytes(whole)
    assert FeatureCache.open(path, FINGERPRINT) is not None
    (path / "cache.json").write_text("{")
    assert FeatureCache.open(path, FINGERPRINT) is None


def test_pickles_are_never_read(tmp_path):
    path = tmp_path / "f"
    cache = FeatureCache.create(path, 10, (3, 2), FINGERPRINT)
    fill(cache)
    cache.finish()
    np.save(path / "labels.npy", np.array([object()] * 10), allow_pickle=True)
    assert FeatureCache.open(path, FINGERPRINT) is None


def test_a_stale_cache_is_replaced(tmp_path):
    for weights in ("old", "new"):
        cache = FeatureCache.create(tmp_path / "f", 10, (3, 2), {"weights": weights})
        fill(cache)
        cache.finish()
    assert FeatureCache.open(tmp_path / "f", {"weights": "new"}) is not None
    assert json.loads((tmp_path / "f" / "cache.json").read_text())["written"] == 10


def test_refusals(tmp_path, monkeypatch):
    cache = FeatureCache.create(tmp_path / "f", 3, (3, 2), FINGERPRINT)
    cache.append(ROWS[:2], LABELS[:2])
    with pytest.raises(DataError, match="expected 3 rows, got 2"):
        cache.finish()
    with pytest.raises(DataError, match="expected 3 rows, got at least 4"):
        cache.append(ROWS[:2], LABELS[:2])
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10**9))
    with pytest.raises(DataError, match=r"the features need 2\.4 GB, the disk has 1\.0 GB free"):
        FeatureCache.create(tmp_path / "g", 100_000, (3, 2000), FINGERPRINT)
    assert not (tmp_path / "g.partial").exists()


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="POSIX reserves blocks")
def test_a_disk_that_fills_up_while_reserving(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(DataError, match=r"f: cannot make room for the features: .*No space left on device"):
        FeatureCache.create(tmp_path / "f", 10, (3, 2), FINGERPRINT)
    assert not list(tmp_path.iterdir())


def test_describe_files(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"12345")
    (described,) = describe_files([str(path)])
    assert described == [str(path), 5, path.stat().st_mtime_ns]
