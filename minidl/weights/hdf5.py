"""Reads the HDF5 files that Keras writes, as NumPy arrays in the order of the model's layers.

HDF5 can point anywhere: links into other files, data in external files, virtual datasets assembled from
others, and a dataset of 128 GiB declared in a file of 1 kB. Only plain datasets inside the file are read, and
together they may not declare much more than the file holds.
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

MAX_NAMES, MAX_NAME = 1000, 1000
"""Most names in an attribute, and the longest."""


def read_hdf5(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The arrays of an HDF5 weight file by their path in it, such as "block1_conv1/block1_conv1_W_1:0".

    Their order is that of the attributes `layer_names` and `weight_names`, which Keras 1, Keras 2 and the
    legacy format of Keras 3 write, and otherwise that of the paths, with numbers counted: "layer_2" before
    "layer_10". Of a whole saved model the weights alone are read ("model_weights", left out of the path), and
    never the state of an optimizer.

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
                groups, datasets = _walk(h5py, file)
                _check_sizes(datasets, MAX_RATIO * size + SLACK)
                return {name: _read(datasets[name]) for name in _order(groups, datasets)}
        except WeightsError:
            raise
        except (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError):
            # h5py passes on what the C library finds wrong, as whichever of these is nearest.
            raise WeightsError("not an HDF5 file, or a damaged one. Download or save it again.") from None


def _walk(h5py: Any, file: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """All groups and datasets with weights, by path. Nothing is followed out of the file, or twice."""
    root = file
    if "model_weights" in file:
        _check_link(h5py, file, "model_weights")
        root = file["model_weights"]
    groups, datasets = {"": root}, {}
    seen = {h5py.h5o.get_info(root.id).addr}
    waiting = [""]
    while waiting:
        place = waiting.pop()
        for name in groups[place]:
            path = f"{place}/{name}".removeprefix("/")
            if path == "optimizer":
                continue
            _check_link(h5py, groups[place], name)
            item = groups[place][name]
            address = h5py.h5o.get_info(item.id).addr
            if address in seen:
                raise WeightsError(f"{path[:100]!r} is a second link to the same data, which is refused.")
            seen.add(address)
            if isinstance(item, h5py.Group):
                groups[path] = item
                waiting.append(path)
            else:
                _check_dataset(path, item)
                datasets[path] = item
    return groups, datasets


def _check_link(h5py: Any, group: Any, name: str) -> None:
    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise WeightsError(f"{name[:100]!r} is a link to another place. Such links are not followed.")


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


def _order(groups: dict[str, Any], datasets: dict[str, Any]) -> list[str]:
    """The paths of the datasets in the order of the layers."""
    if "layer_names" not in groups[""].attrs:
        return sorted(datasets, key=lambda path: re.sub(r"\d+", lambda digits: digits[0].zfill(10), path))
    order = []
    for layer in _names(groups[""], "layer_names"):
        if layer not in groups:
            raise WeightsError(f"its attribute layer_names has {layer!r}, which is not in the file.")
        order += [f"{layer}/{weight}" for weight in _names(groups[layer], "weight_names")]
    if missing := [path for path in order if path not in datasets]:
        raise WeightsError(f"its attribute weight_names has {missing[0]!r}, which is not in the file.")
    return order


def _names(group: Any, attribute: str) -> list[str]:
    """A list of names; Keras 1 and 2 write bytes, Keras 3 strings; an empty list comes as floats."""
    if math.prod(group.attrs.get_id(attribute).shape) > MAX_NAMES:
        raise WeightsError(f"its attribute {attribute} has more than {MAX_NAMES} names.")
    names = [name.decode() if isinstance(name, bytes) else str(name) for name in group.attrs[attribute]]
    if any(len(name) > MAX_NAME for name in names):
        raise WeightsError(f"its attribute {attribute} has a name of more than {MAX_NAME} letters.")
    return names


__all__ = ["read_hdf5"]
