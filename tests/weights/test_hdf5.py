"""The HDF5 reader: what Keras writes, and files that point elsewhere or declare too much."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from minidl.errors import WeightsError
from minidl.weights.hdf5 import read_hdf5

h5py = pytest.importorskip("h5py")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "weights.h5"


def write(path, arrays):
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array


ARRAYS = {
    "convolution2d_10/convolution2d_10_W": np.arange(6, dtype=np.float32).reshape(2, 3),
    "convolution2d_9/convolution2d_9_W": np.ones(3),
    "convolution2d_9/convolution2d_9_b": np.ones((3, 1), np.float16),
}


@pytest.mark.parametrize("root", ["", "model_weights/"])
def test_arrays_in_the_order_of_their_numbers(path, root):
    write(path, {root + name: array for name, array in ARRAYS.items()})
    with h5py.File(path, "a") as file:
        file["optimizer/vars/0" if root == "" else "optimizer_weights/iterations"] = 3
    arrays = read_hdf5(path)
    assert list(arrays) == [*list(ARRAYS)[1:], next(iter(ARRAYS))]
    for name, array in ARRAYS.items():
        assert arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(arrays[name], array)


def test_compressed_and_big_endian_and_scalar(path):
    values = np.random.default_rng(0).standard_normal((50, 40))
    with h5py.File(path, "w") as file:
        file.create_dataset("a", data=values.astype(">f4"), compression="gzip", chunks=(10, 40))
        file["b"] = np.int64(7)
    arrays = read_hdf5(path)
    np.testing.assert_array_equal(arrays["a"], values.astype(np.float32))
    assert arrays["a"].dtype.isnative
    assert arrays["b"] == 7


@pytest.mark.parametrize("name", ["b", "group/b", "model_weights"])
@pytest.mark.parametrize("kind", ["external", "soft", "dangling"])
def test_links(path, name, kind):
    write(path.with_name("other.h5"), {"a": np.ones(3)})
    write(path, {"a": np.ones(3)})
    links = {
        "external": h5py.ExternalLink("other.h5", "/a"),
        "soft": h5py.SoftLink("/a"),
        "dangling": h5py.ExternalLink("nothing.h5", "/a"),
    }
    with h5py.File(path, "a") as file:
        file[name] = links[kind]
    with pytest.raises(WeightsError, match=r"'(b|model_weights)' is a link to another place"):
        read_hdf5(path)


def test_circle_of_hard_links(path):
    with h5py.File(path, "w") as file:
        file["group/self"] = file
    with pytest.raises(WeightsError, match="'group/self' is a second link to the same data"):
        read_hdf5(path)


def test_external_storage(path):
    with h5py.File(path, "w") as file:
        file.create_dataset("a", (8,), "u1", external=[("/etc/hostname", 0, 8)])
    with pytest.raises(WeightsError, match="the data of 'a' lie in another file"):
        read_hdf5(path)


def test_virtual_dataset(path):
    layout = h5py.VirtualLayout((3,), "f4")
    layout[:] = h5py.VirtualSource("other.h5", "a", (3,))
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("a", layout)
    with pytest.raises(WeightsError, match="the data of 'a' lie in another file"):
        read_hdf5(path)


@pytest.mark.parametrize("options", [{}, {"chunks": (1024, 1024)}, {"chunks": True, "compression": "gzip"}])
def test_huge_declared_size(path, options):
    with h5py.File(path, "w") as file:
        file.create_dataset("a", (1 << 15, 1 << 20), "f4", **options)
    assert path.stat().st_size < 10_000
    with pytest.raises(WeightsError, match=r"declares arrays of 137,438,953,472 bytes, far more than"):
        read_hdf5(path)


def test_many_middling_sizes(path):
    with h5py.File(path, "w") as file:
        for number in range(40):
            file.create_dataset(f"a{number}", (1 << 20,), "f4")
    with pytest.raises(WeightsError, match=r"declares arrays of 167,772,160 bytes"):
        read_hdf5(path)


def test_huge_chunk(path):
    with h5py.File(path, "w") as file:
        file.create_dataset("a", (3,), "f4", chunks=(1 << 28,), maxshape=(None,))
    with pytest.raises(WeightsError, match=r"declares arrays of 1,073,741,824 bytes"):
        read_hdf5(path)


def test_what_is_not_numbers(path):
    for value in ("text", np.array([b"bytes"]), h5py.Empty("f4"), np.array([(1, 2)], dtype="i4,i4")):
        with h5py.File(path, "w") as file:
            file["a"] = value
        with pytest.raises(WeightsError, match="'a' is not an array of numbers"):
            read_hdf5(path)


def test_model_weights_that_is_no_group(path):
    write(path, {"model_weights": np.ones(3)})
    with pytest.raises(WeightsError, match="'model_weights' is not a group of weights"):
        read_hdf5(path)


def test_not_such_a_file(path, tmp_path):
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + b"\0" * 100)
    with pytest.raises(WeightsError, match=r"weights\.h5: not an HDF5 file, or a damaged one"):
        read_hdf5(path)
    with pytest.raises(WeightsError, match="No such file"):
        read_hdf5(tmp_path / "nothing.h5")
    with pytest.raises(WeightsError, match="Is a directory"):
        read_hdf5(tmp_path)


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore::DeprecationWarning:keras")  # its numpy()
def test_reads_what_keras_writes(tmp_path, path, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    keras = pytest.importorskip("keras")
    convolutions = [keras.layers.Conv2D(2, 3, name=f"block1_conv{number}") for number in range(1, 12)]
    model = keras.Sequential([keras.Input((30, 30, 3)), *convolutions])
    kernels = [weight.numpy() for weight in model.weights if weight.ndim == 4]
    model.compile("adam", "mse")
    model.save_weights(tmp_path / "model.weights.h5")
    model.save(path)
    for file in (tmp_path / "model.weights.h5", path):
        arrays = read_hdf5(file)
        assert len(arrays) == 2 * len(kernels)
        found = [array for array in arrays.values() if array.ndim == 4]
        for array, kernel in zip(found, kernels, strict=True):
            np.testing.assert_array_equal(array, kernel)


FUZZ = """
import sys, numpy as np
from minidl.errors import WeightsError
from minidl.weights.hdf5 import read_hdf5
path, rng = sys.argv[1], np.random.default_rng(int(sys.argv[2]))
whole = open(path, "rb").read()
for _ in range(int(sys.argv[3])):
    damaged = bytearray(whole[: rng.integers(len(whole))] if rng.random() < 0.3 else whole)
    for place in rng.integers(0, max(len(damaged), 1), rng.integers(0, 5)):
        damaged[place:place + 1] = bytes([rng.integers(256)])
    open(path + ".damaged", "wb").write(damaged)
    try:
        read_hdf5(path + ".damaged")
    except WeightsError:
        pass
"""


def test_random_damage(path):
    """In a process of its own: here the parser is HDF5's C library."""
    write(path, ARRAYS)
    subprocess.run([sys.executable, "-c", FUZZ, str(path), "0", "300"], check=True, timeout=60)
