"""Checkpoints: one safetensors file with everything that a model, or a training run, needs to go on.

The tensors are `model/<name>`, the state dict, and `optimizer/<parameter>/<name>`, the optimizer's moments.
The rest is JSON in the metadata under the key `minidl`:

    format          1
    architecture, config, classes, preprocessing    of a whole model; null for a part of one
    optimizer       the options of its groups and the numbers (step counts) of its state
    training        epoch, batch, totals so far, random state, schedule, history, options of the run

The file is written to a temporary one beside it, flushed to the disk and renamed: a full disk, a crash or a
power cut leave the checkpoint before. Reading executes nothing and checks everything first.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from minidl.backend import as_numpy
from minidl.data.preprocessing import Preprocessing
from minidl.errors import CheckpointError, WeightsError, require
from minidl.files import replacing
from minidl.models import VGG
from minidl.nn import Module, init
from minidl.optim import Optimizer

FORMAT = 1
ARCHITECTURES = {"VGG": VGG}
DTYPES = {
    "float16": "F16",
    "float32": "F32",
    "float64": "F64",
    "int32": "I32",
    "int64": "I64",
    "bool": "BOOL",
}


def save_checkpoint(
    path: str | os.PathLike,
    model: Module,
    optimizer: Optimizer | None = None,
    training: Mapping | None = None,
) -> None:
    """Write `model`, and for a run that shall go on its `optimizer` and `training` (JSON-able), to `path`.

    The arrays are streamed to the file one by one, from wherever they live: no second copy is made of them.

    Raises:
        CheckpointError: the file cannot be written. What was at `path` is still there.
    """
    arrays = {f"model/{name}": array for name, array in model.state_dict().items()}
    metadata: dict[str, Any] = {"format": FORMAT, **_description(model), "training": training}
    if optimizer is not None:
        moments, metadata["optimizer"] = _split(optimizer.state_dict())
        arrays |= {f"optimizer/{name}": array for name, array in moments.items()}
    try:
        with replacing(path) as file:
            file.write(_header(arrays, {"minidl": json.dumps(metadata, allow_nan=False)}))
            for array in arrays.values():
                file.write(np.ascontiguousarray(as_numpy(array)).data)
    except OSError as error:
        raise CheckpointError(
            f"could not save {os.fspath(path)}: {error.strerror or error}. What was there before still is"
        ) from None


def load_checkpoint(path: str | os.PathLike, model: Module, optimizer: Optimizer | None = None) -> None:
    """Put the checkpoint's weights into `model`, and its moments into `optimizer`.

    Raises:
        CheckpointError: the checkpoint is of another model, optimizer or version. Nothing was changed.
        WeightsError: there is no such file, it is damaged, or no checkpoint. Nothing was changed.
        MissingExtraError: safetensors is not installed.
    """
    with _opened(path) as (file, metadata):
        own = model.state_dict()
        _check_same(path, own, _shapes(file, "model/"))
        if optimizer is not None:
            if metadata.get("optimizer") is None:
                raise CheckpointError(f"{os.fspath(path)} holds a model only: no run can be resumed from it")
            moments = {name: file.get_tensor(f"optimizer/{name}") for name in _shapes(file, "optimizer/")}
            optimizer.load_state_dict(_joined(moments, metadata["optimizer"]))
        for name in own:  # one by one, so that there is no second model in memory
            model.load_state_dict({name: file.get_tensor(f"model/{name}")}, strict=False)


def load_model(path: str | os.PathLike) -> VGG:
    """The model of a checkpoint, in eval mode, with its `preprocessing` and `classes`.

    Raises:
        CheckpointError: the file holds a part of a model only, or of an architecture that minidl has not.
        WeightsError: there is no such file, it is damaged, or no checkpoint.
        MissingExtraError: safetensors is not installed.
    """
    metadata = read_metadata(path)
    if metadata.get("architecture") is None:
        raise CheckpointError(
            f"{os.fspath(path)} holds only the layers that were trained: use model.safetensors beside it"
        )
    try:
        _check_size(metadata["config"], os.path.getsize(path))
        with init.skip_init():  # memory that is not written to costs nothing: only the biases are
            model = ARCHITECTURES[metadata["architecture"]](**metadata["config"])
        if metadata.get("preprocessing") is not None:
            model.preprocessing = Preprocessing.from_dict(metadata["preprocessing"])
        if metadata.get("classes") is not None:
            model.classes = [str(name) for name in metadata["classes"]]
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError, MemoryError) as error:
        raise CheckpointError(
            f"{os.fspath(path)}: its description of the model makes no sense ({error})"
        ) from None
    load_checkpoint(path, model)
    return model.eval()


def read_metadata(path: str | os.PathLike) -> dict[str, Any]:
    """What the checkpoint says of itself, without its arrays: see the head of this file.

    Raises:
        WeightsError: there is no such file, it is damaged, or no checkpoint.
        CheckpointError: it was written by a newer version of minidl.
    """
    with _opened(path) as (_, metadata):
        return metadata


def is_checkpoint(path: str | os.PathLike) -> bool:
    """Does the file call itself a checkpoint of minidl? Whether it is a whole one only reading it tells."""
    try:
        with open(path, "rb") as file:
            if file.read(9)[8:] != b"{":  # no safetensors file: the package need not be asked
                return False
    except OSError:
        return False
    safetensors = require("safetensors", "weights")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            return "minidl" in (file.metadata() or {})
    except safetensors.SafetensorError:
        return False


# The file


def _header(arrays: Mapping[str, Any], metadata: Mapping[str, str]) -> bytes:
    """The head of a safetensors file: the length of the JSON (8 bytes), the JSON, padding to 8 bytes."""
    entries: dict[str, Any] = {"__metadata__": metadata}
    offset = 0
    for name, array in arrays.items():
        end = offset + array.nbytes
        entries[name] = {
            "dtype": DTYPES[array.dtype.name],
            "shape": array.shape,
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


@contextlib.contextmanager
def _opened(path: str | os.PathLike) -> Iterator[tuple[Any, dict[str, Any]]]:
    """(the safetensors file, our metadata), after the checks that do not need a model."""
    safetensors = require("safetensors", "weights")
    name = os.fspath(path)
    try:
        with open(path, "rb"):  # a missing file is the system's error, not the package's
            pass
        with safetensors.safe_open(path, framework="numpy") as file:
            text = (file.metadata() or {}).get("minidl")
            if text is None:
                raise WeightsError(f"{name} is a safetensors file, but no checkpoint of minidl")
            metadata = json.loads(text)
            if not isinstance(metadata, dict) or not isinstance(metadata.get("format"), int):
                raise WeightsError(f"{name}: the checkpoint's description is damaged")
            if metadata["format"] > FORMAT:
                raise CheckpointError(
                    f"{name} has format {metadata['format']}, and this minidl reads up to {FORMAT}: "
                    "pip install --upgrade minidl"
                )
            yield file, metadata
    except OSError as error:
        raise WeightsError(f"{name}: {error.strerror or error}") from None
    except (json.JSONDecodeError, RecursionError):
        raise WeightsError(f"{name}: the checkpoint's description is damaged") from None
    except safetensors.SafetensorError as error:
        raise WeightsError(f"{name}: damaged, or not a safetensors file ({error})") from None


def _shapes(file: Any, prefix: str) -> dict[str, tuple[int, ...]]:
    names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118 (not a dict)
    return {name.removeprefix(prefix): tuple(file.get_slice(name).get_shape()) for name in names}


def _check_same(path: Any, own: Mapping[str, Any], theirs: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse a file whose arrays have other names or shapes than the model's."""
    problems = [f"{name} is missing" for name in own if name not in theirs]
    problems += [f"{name} is not expected" for name in theirs if name not in own]
    problems += [
        f"{name} is {theirs[name]}, expected {array.shape}"
        for name, array in own.items()
        if name in theirs and theirs[name] != array.shape
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise CheckpointError(
            f"{os.fspath(path)} is of another model: {'; '.join(problems[:3])}{more}. Nothing was changed"
        )


# What stands in it


def _check_size(config: Mapping[str, Any], size: int) -> None:
    """Each unit has a bias in the file, 4 bytes: refuse more units than it can hold before they are made."""
    widths = [*(width for block in config["blocks"] for width in block), *config["dense"]]
    units = sum(map(abs, [*widths, config["num_classes"] or 0]))
    if 4 * units > size:
        raise ValueError(f"{units:,} units in a file of {size:,} bytes")


def _description(model: Module) -> dict[str, Any]:
    """What `load_model` rebuilds the model from; of a part of one, nothing."""
    if type(model).__name__ not in ARCHITECTURES:
        return {"architecture": None}
    preprocessing = model.preprocessing
    return {
        "architecture": type(model).__name__,
        "config": model.config,
        "classes": model.classes,
        "preprocessing": None if preprocessing is None else preprocessing.to_dict(),
    }


def _split(state: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """An optimizer's state dict as its arrays by "parameter/name", and the rest, which is JSON."""
    arrays = {}
    numbers: dict[str, dict[str, Any]] = {}
    for index, values in state["state"].items():
        numbers[str(index)] = {}
        for name, value in values.items():
            if hasattr(value, "shape"):
                arrays[f"{index}/{name}"] = value
            else:
                numbers[str(index)][name] = value
    return arrays, {"state": numbers, "param_groups": state["param_groups"]}


def _joined(arrays: Mapping[str, np.ndarray], rest: Mapping[str, Any]) -> dict[str, Any]:
    """The state dict that `_split` took apart."""
    state = {int(index): dict(values) for index, values in rest["state"].items()}
    for key, array in arrays.items():
        index, _, name = key.partition("/")
        state[int(index)][name] = array
    return {"state": state, "param_groups": rest["param_groups"]}


__all__ = ["is_checkpoint", "load_checkpoint", "load_model", "read_metadata", "save_checkpoint"]
