"""Reads the arrays of the HDF5 files that Keras writes.

HDF5 can point anywhere: links into other files, data in external files, virtual datasets assembled from
others, and a dataset of 128 GiB declared in a file of 1 kB. Only plain datasets inside the file are read, and
together they may not declare much more than the file holds. Attributes are not read: their strings lie in a
heap of which nothing can be checked first, and HDF5's library may loop for ever over a damaged one.
"""

from __future__ import annotations

import math
import os
import re
from typing import Any

import numpy as np

from minidl.errors import WeightsError, require
from minidl.weights.reading import reading

MAX_RATIO, SLACK = 4, 1 << 24
"""Together the arrays may take MAX_RATIO × the size of the file (it may be compressed) + SLACK bytes."""


def read_hdf5(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The arrays of an HDF5 weight file by their path in it, such as "block1_conv1/block1_conv1_W_1:0".

    They are in the order of their paths with numbers counted ("layer_2" before "layer_10"), which for layers
    that Keras named is their order in the model. Of a whole saved model the weights alone are read
    ("model_weights", left out of the path), and never the state of an optimizer.

    Raises:
        WeightsError: not an HDF5 file, damaged, with links or external or virtual data, or with sizes that
            the file cannot hold.
        MissingExtraError: h5py is not installed.
    """
    h5py = require("h5py", "weights")
    with reading(path), open(path, "rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        try:
            with h5py.File(path, "r") as file:
                datasets = _datasets(h5py, file)
                _check_sizes(datasets, MAX_RATIO * size + SLACK)
                return {name: _read(datasets[name]) for name in sorted(datasets, key=_counted)}
        except WeightsError:
            raise
        except (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError):
            # h5py passes on what the C library finds wrong, as whichever of these is nearest.
            raise WeightsError("not an HDF5 file, or a damaged one. Download or save it again.") from None


def _datasets(h5py: Any, file: Any) -> dict[str, Any]:
    """The datasets with weights, by path. Nothing is followed out of the file, or twice."""
    root = file
    if "model_weights" in list(file):  # a list, because h5py's own `in` follows links
        root = _linked(h5py, file, "model_weights")
        if not isinstance(root, h5py.Group):
            raise WeightsError("'model_weights' is not a group of weights.")
    datasets = {}
    seen = {h5py.h5o.get_info(root.id).addr}
    groups = [("", root)]
    while groups:
        place, group = groups.pop()
        for name in group:
            path = f"{place}{name}"
            if path == "optimizer":
                continue
            item = _linked(h5py, group, name)
            address = h5py.h5o.get_info(item.id).addr
            if address in seen:
                raise WeightsError(f"{path[:100]!r} is a second link to the same data, which is refused.")
            seen.add(address)
            if isinstance(item, h5py.Group):
                groups.append((f"{path}/", item))
            else:
                _check_dataset(path, item)
                datasets[path] = item
    return datasets


def _linked(h5py: Any, group: Any, name: str) -> Any:
    """The group or dataset of that name, if the link stays inside the file."""
    if group.id.links.get_info(name.encode(errors="surrogateescape")).type != h5py.h5l.TYPE_HARD:
        raise WeightsError(f"{name[:100]!r} is a link to another place. Such links are not followed.")
    return group[name]


def _check_dataset(path: str, item: Any) -> None:
    if getattr(item, "shape", None) is None or item.dtype.kind not in "fiu":
        raise WeightsError(f"{path[:100]!r} is not an array of numbers.")
    if item.external or item.is_virtual:
        raise WeightsError(f"the data of {path[:100]!r} lie in another file. Other files are not read.")


def _check_sizes(datasets: dict[str, Any], limit: int) -> None:
    """Compare what the datasets declare, as arrays and as chunks, with what may be allocated."""
    total = 0
    for dataset in datasets.values():
        elements = max(math.prod(dataset.shape), math.prod(dataset.chunks or ()))
        total += elements * dataset.dtype.itemsize
    if total > limit:
        raise WeightsError(f"it declares arrays of {total:,} bytes, far more than the file can hold.")


def _read(dataset: Any) -> np.ndarray:
    array = np.empty(dataset.shape, dataset.dtype.newbyteorder("="))
    dataset.read_direct(array)
    return array


def _counted(path: str) -> str:
    """A path to sort by, in which a longer number comes after a shorter one."""
    return re.sub(r"\d+", lambda digits: digits[0].zfill(10), path)


__all__ = ["read_hdf5"]
