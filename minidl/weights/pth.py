"""Reads PyTorch's `.pth` files, both the zip form and the legacy stream, as NumPy arrays.

The zip form (since PyTorch 1.6) holds `NAME/data.pkl`, a pickle of the state dict in which each tensor refers
to a storage by its key, and one uncompressed entry `NAME/data/KEY` for each storage. Entries are looked up by
name and never written to disk.

The legacy stream, in which the torchvision weights of 2017 are written, is five pickles (a magic number, the
protocol, facts about the machine, the state dict, the list of the storage keys) and then, for each key in
turn, the number of elements as int64 and the elements.

Neither is unpickled (`pickle_reader`), and sizes are checked against the file before memory is taken.
"""

from __future__ import annotations

import math
import os
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any

import numpy as np

from minidl.errors import WeightsError
from minidl.weights.pickle_reader import Global, read_pickle
from minidl.weights.reading import reading

ZIP_START, ZIP_END = b"PK\x03\x04", b"PK\x05\x06"
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_START = b"\x80\x02\x8a\x0a" + LEGACY_MAGIC.to_bytes(10, "little")
LEGACY_PROTOCOL = 1001

DTYPES: dict[str, np.dtype] = {
    "torch.DoubleStorage": np.dtype("<f8"),
    "torch.FloatStorage": np.dtype("<f4"),
    "torch.HalfStorage": np.dtype("<f2"),
    "torch.LongStorage": np.dtype("<i8"),
    "torch.IntStorage": np.dtype("<i4"),
    "torch.ShortStorage": np.dtype("<i2"),
    "torch.CharStorage": np.dtype("i1"),
    "torch.ByteStorage": np.dtype("u1"),
    "torch.BoolStorage": np.dtype("?"),
}

CHUNK = 1 << 22
"""Bytes that are read at once, so that no second copy of a large storage exists."""


def read_pth(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The state dict in a file written by `torch.save`, in its order, names and dtypes kept.

    The state dict may be the whole file or stand in a checkpoint under "state_dict", "model_state_dict" or
    "model"; the rest of a checkpoint is not read. Tensors that share a storage share the memory here too, and
    a tensor saved transposed is a transposed view.

    Raises:
        WeightsError: not such a file, damaged, or with contents that a state dict does not need.
    """
    with reading(path), open(path, "rb") as file:
        start = file.read(len(LEGACY_START))
        file.seek(0)
        if start.startswith(ZIP_START):
            return _read_zip(file)
        if start == LEGACY_START:
            return _read_legacy(file)
        raise WeightsError("not a file written by torch.save, or cut short. Download or save it again.")


@dataclass(frozen=True)
class Storage:
    """A block of `numel` elements in the file."""

    key: str
    dtype: np.dtype
    numel: int

    @property
    def nbytes(self) -> int:
        return self.numel * self.dtype.itemsize


@dataclass(frozen=True)
class Tensor:
    """A view of a storage, not yet read: `offset` and `strides` count elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def view(self, elements: np.ndarray) -> np.ndarray:
        """The tensor as a view of its storage's elements."""
        itemsize = self.storage.dtype.itemsize
        # PyTorch gives an axis of length one any stride it likes.
        steps = [
            stride * itemsize if length > 1 else 0
            for stride, length in zip(self.strides, self.shape, strict=True)
        ]
        return np.ndarray(self.shape, self.storage.dtype, elements.data, self.offset * itemsize, steps)


def _read_zip(file: IO[bytes]) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(file) as archive:
            return _read_archive(archive, file)
    except WeightsError:
        raise
    except (zipfile.BadZipFile, EOFError, RuntimeError, ValueError, OverflowError, struct.error) as error:
        # RuntimeError: encrypted, or a feature that zipfile does not have.
        raise WeightsError(f"a damaged zip file ({error}). Download or save it again.") from None


def _read_archive(archive: zipfile.ZipFile, file: IO[bytes]) -> dict[str, np.ndarray]:
    size = file.seek(0, os.SEEK_END)
    file.seek(-22, os.SEEK_END)
    if file.read(4) != ZIP_END:
        raise WeightsError("there are bytes behind the end of the zip file.")
    entries = {entry.filename: entry for entry in archive.infolist()}
    if len(entries) < len(archive.infolist()):
        raise WeightsError("two entries of the zip file have the same name.")
    for name, entry in entries.items():
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
            raise WeightsError(f"its entry {name[:100]!r} is compressed, which torch.save never does.")
    if sum(entry.file_size for entry in entries.values()) > size:
        raise WeightsError("its zip entries overlap: together they are larger than the file.")

    programs = [name for name in entries if name.endswith("/data.pkl")]
    if len(programs) != 1:
        raise WeightsError(
            "a zip file, but not one written by torch.save: it has no data.pkl. "
            "From Keras, save the weights alone: model.save_weights('vgg16.weights.h5')."
        )
    folder = programs[0].removesuffix("data.pkl")
    if f"{folder}byteorder" in entries:
        with archive.open(f"{folder}byteorder") as stream:
            _check_byte_order(stream.read(10) == b"little")
    storages: dict[str, Storage] = {}
    with archive.open(programs[0]) as stream:
        tree = read_pickle(stream, GLOBALS, _storage_loader(storages))
        if stream.read(1):
            raise WeightsError("there are bytes behind the end of its pickle.")

    def read_storage(storage: Storage) -> np.ndarray:
        with archive.open(f"{folder}data/{storage.key}") as stream:
            elements = _read_elements(stream, storage)
            stream.read(1)  # the end of the entry: here zipfile compares the checksum
            return elements

    for key, storage in storages.items():
        name = f"{folder}data/{key}"
        if name not in entries or entries[name].file_size != storage.nbytes:
            raise WeightsError(f"storage {key[:100]!r} is missing, or has another size than its tensors say.")
    return _read_tensors(_state_dict(tree), read_storage)


def _read_legacy(file: IO[bytes]) -> dict[str, np.ndarray]:
    magic, protocol, system = (read_pickle(file, {}) for _ in range(3))
    if magic != LEGACY_MAGIC or protocol != LEGACY_PROTOCOL or not isinstance(system, dict):
        raise WeightsError("written in an unknown protocol. Save it again with a newer PyTorch.")
    _check_byte_order(system.get("little_endian") is True)
    storages: dict[str, Storage] = {}
    tree = read_pickle(file, GLOBALS, _storage_loader(storages))
    keys = read_pickle(file, {})
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise WeightsError("its list of storages is damaged. Download or save the file again.")
    if sorted(keys) != sorted(storages):
        raise WeightsError("its list of storages is not that of its tensors. Download or save it again.")

    position = file.tell()
    end = position + sum(8 + storage.nbytes for storage in storages.values())
    size = file.seek(0, os.SEEK_END)
    if size != end:
        what = "is cut short" if size < end else "has bytes behind its end"
        raise WeightsError(
            f"the file {what}: {end:,} bytes expected, {size:,} found. Download or save it again."
        )
    positions: dict[str, int] = {}
    for key in keys:
        file.seek(position)
        count = int.from_bytes(file.read(8), "little", signed=True)
        if count != storages[key].numel:
            raise WeightsError(f"storage {key[:100]!r} has {count:,} elements, its tensors say otherwise.")
        positions[key] = position + 8
        position += 8 + storages[key].nbytes

    def read_storage(storage: Storage) -> np.ndarray:
        file.seek(positions[storage.key])
        return _read_elements(file, storage)

    return _read_tensors(_state_dict(tree), read_storage)


def _check_byte_order(is_little_endian: bool) -> None:
    if not is_little_endian:
        raise WeightsError("written on a big-endian machine. Load and save it with PyTorch on another one.")


def _read_elements(stream: IO[bytes], storage: Storage) -> np.ndarray:
    """The storage's elements, read from where `stream` stands."""
    elements = np.empty(storage.numel, storage.dtype)
    buffer = elements.view(np.uint8).data
    while buffer:
        count = stream.readinto(buffer[:CHUNK])  # type: ignore[attr-defined]
        if not count:
            raise WeightsError("the file became shorter while it was read.")
        buffer = buffer[count:]
    return elements


def _read_tensors(
    tensors: dict[str, Tensor], read_storage: Callable[[Storage], np.ndarray]
) -> dict[str, np.ndarray]:
    """Read each storage that the tensors need, once."""
    elements: dict[Storage, np.ndarray] = {}
    for tensor in tensors.values():
        if tensor.storage not in elements:
            elements[tensor.storage] = read_storage(tensor.storage)
    return {name: tensor.view(elements[tensor.storage]) for name, tensor in tensors.items()}


def _state_dict(tree: Any) -> dict[str, Tensor]:
    """The dict of tensors in what the pickle built."""
    candidates = [tree]
    if isinstance(tree, dict):
        candidates += [tree.get(name) for name in ("state_dict", "model_state_dict", "model")]
    for candidate in candidates:
        if (
            isinstance(candidate, dict)
            and candidate
            and all(isinstance(name, str) and isinstance(item, Tensor) for name, item in candidate.items())
        ):
            return candidate
    raise WeightsError("it holds no state dict. Save one: torch.save(model.state_dict(), path).")


# What the pickle of a state dict refers to and calls.


def _storage_loader(storages: dict[str, Storage]) -> Callable[[Any], Storage]:
    """The function that makes a Storage of its persistent id and notes it in `storages` under its key.

    The id is ("storage", type, key, device, numel), and in the legacy stream a sixth item, the window of
    the storage that is meant: always None for a tensor's whole storage.
    """

    def load(reference: Any) -> Storage:
        match reference:
            case ("storage", Global() as kind, str() as key, _, int() as numel, *window) if (
                kind.name in DTYPES and numel >= 0 and window in ([], [None])
            ):
                storage = Storage(key, DTYPES[kind.name], numel)
                if storages.setdefault(key, storage) == storage:
                    return storage
        raise WeightsError("it refers to a storage in an unknown way. Save it again with a newer PyTorch.")

    return load


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Tensor:
    """Check that the tensor lies inside its storage; what follows the strides concerns gradients only."""
    sizes = (shape, strides)
    if (
        not isinstance(storage, Storage)
        or not all(isinstance(numbers, tuple) and len(numbers) == len(shape) <= 32 for numbers in sizes)
        or not all(isinstance(number, int) and number >= 0 for number in (offset, *shape, *strides))
    ):
        raise WeightsError("one of its tensors is damaged. Download or save the file again.")
    if not _is_dense(shape, strides):
        raise WeightsError(
            f"a tensor of shape {_short(shape)} and strides {_short(strides)} is not one block of memory "
            "with each element once. Save a copy of it: tensor.clone(memory_format=torch.contiguous_format)."
        )
    if offset + math.prod(shape) > storage.numel:
        raise WeightsError(
            f"a tensor of shape {_short(shape)} does not fit into its storage of {storage.numel:,} elements."
        )
    return Tensor(storage, offset, shape, strides)


def _is_dense(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """Whether the strides are those of a C-ordered, not empty array with its axes in any order."""
    expected = 1
    for stride, length in sorted(zip(strides, shape, strict=True)):
        if length == 0 or (length > 1 and stride != expected):
            return False
        expected *= length
    return True


def _short(numbers: tuple[int, ...]) -> str:
    """A shape for a message; a hostile number may have 600 digits."""
    text = ", ".join(str(number) if number < 1 << 64 else "…" for number in numbers)
    return f"({text})"


def _ordered_dict(items: Any = ()) -> dict[str, Any]:
    """OrderedDict(); Python 2 gives it its items as a list of [name, value]."""
    if not all(isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str) for pair in items):
        raise WeightsError("one of its dicts is damaged. Download or save the file again.")
    return dict(items)


def _rebuild_parameter(tensor: Any, *_: Any) -> Any:
    return tensor


GLOBALS = {
    "collections.OrderedDict": Global("collections.OrderedDict", _ordered_dict),
    "torch._utils._rebuild_tensor": Global("torch._utils._rebuild_tensor", _rebuild_tensor),
    "torch._utils._rebuild_tensor_v2": Global("torch._utils._rebuild_tensor_v2", _rebuild_tensor),
    "torch._utils._rebuild_parameter": Global("torch._utils._rebuild_parameter", _rebuild_parameter),
    **{name: Global(name) for name in DTYPES},
}

__all__ = ["read_pth"]
