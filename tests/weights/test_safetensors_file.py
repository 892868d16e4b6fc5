"""The safetensors reader: what the package writes, and files that lie."""

from __future__ import annotations

import contextlib
import json
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidl.errors import WeightsError
from minidl.weights.safetensors_file import read_safetensors

numpy_files = pytest.importorskip("safetensors.numpy")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "weights.safetensors"


def by_hand(header, data=b""):
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def test_arrays_and_metadata(path):
    arrays = {"a": np.ones((2, 3), np.float32), "b": np.array(3), "c": np.arange(2, dtype=np.float16)}
    numpy_files.save_file(arrays, path, {"minidl": "{}"})
    read, metadata = read_safetensors(path)
    assert metadata == {"minidl": "{}"}
    assert read.keys() == arrays.keys()
    for name, array in arrays.items():
        assert read[name].dtype == array.dtype
        np.testing.assert_array_equal(read[name], array)
    numpy_files.save_file(arrays, path)
    assert read_safetensors(path)[1] == {}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x08",
        struct.pack("<Q", 1 << 62) + b"{}",
        by_hand({"a": entry()}),  # no data
        by_hand({"a": entry()}, bytes(9)),  # too much
        by_hand({"a": entry(shape=(1 << 40,))}, bytes(8)),
        by_hand({"a": entry(shape=(1 << 40,), offsets=(0, 1 << 42))}, bytes(8)),
        by_hand({"a": entry(), "b": entry()}, bytes(8)),  # overlap
        by_hand({"a": entry(offsets=(8, 16))}, bytes(16)),  # hole
        by_hand({"a": entry(dtype="F7")}, bytes(8)),
        struct.pack("<Q", 4) + b"nope",
    ],
)
def test_damaged_files(path, data):
    path.write_bytes(data)
    with pytest.raises(WeightsError, match=r"weights\.safetensors: not a readable safetensors file \("):
        read_safetensors(path)


def test_dtype_that_numpy_lacks(path):
    path.write_bytes(by_hand({"a": entry(dtype="BF16", shape=(4,))}, bytes(8)))
    with pytest.raises(WeightsError, match=r"'a' is BF16, unknown to NumPy\. Save it as float32\."):
        read_safetensors(path)


def test_missing_file(path, tmp_path):
    with pytest.raises(WeightsError, match="No such file"):
        read_safetensors(path)
    with pytest.raises(WeightsError, match="Is a directory"):
        read_safetensors(tmp_path)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_random_damage(tmp_path_factory, data):
    damaged = bytearray(by_hand({"a": entry(), "__metadata__": {"k": "v"}}, bytes(8)))
    for place in data.draw(st.lists(st.integers(0, len(damaged) - 1), max_size=4)):
        damaged[place] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.safetensors"
    path.write_bytes(damaged[: data.draw(st.integers(0, len(damaged)))])
    with contextlib.suppress(WeightsError):
        read_safetensors(path)
