"""Which library an array belongs to, and the explicit moves between them."""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any

import numpy as np

from minidl.errors import DeviceError, MissingExtraError, require

Array = Any  # numpy.ndarray or cupy.ndarray: they share the interface that minidl uses


def array_module(x: Array) -> Any:
    """`numpy` or `cupy`, whichever `x` belongs to. CuPy is not imported to find out.

    Raises:
        TypeError: neither.
    """
    if isinstance(x, (np.ndarray, np.generic)):
        return np
    if not hasattr(x, "__cuda_array_interface__"):
        raise TypeError(f"expected an array of NumPy or CuPy, got {type(x).__name__}")
    return _cupy()


def device_of(x: Array) -> str:
    """`"cpu"` or `"gpu"`."""
    return "cpu" if isinstance(x, (np.ndarray, np.generic)) else "gpu"


def to_device(x: Array, device: str) -> Array:
    """`x` on `device` (`"cpu"` or `"gpu"`): itself if it is there already, else a copy.

    Raises:
        DeviceError: the device has another name, or there is no usable GPU.
    """
    if device not in ("cpu", "gpu"):
        raise DeviceError(f'no device called {device!r}: expected "cpu" or "gpu"')
    if device == device_of(x):
        return x
    return _cupy().asarray(x) if device == "gpu" else x.get()


def as_numpy(x: Array) -> np.ndarray:
    """`x` as a NumPy array, copied from the GPU if it lives there."""
    return to_device(x, "cpu")


def as_array(data: Any, dtype: Any = None) -> Array:
    """An array as it is; a number, or nested lists, as a new one, of float32 where Python's floats are in it.

    What another library says of itself as an array is one.

    Raises:
        TypeError: they are no numbers.
    """
    if isinstance(data, np.generic):  # what NumPy makes of 0-d results, and cannot be written into
        data = np.asarray(data)
    elif hasattr(data, "__array__") and not hasattr(getattr(data, "dtype", None), "kind"):
        data = np.asarray(data)  # of another library, as PyTorch's tensors are
    elif not hasattr(data, "__array__") and not hasattr(data, "__cuda_array_interface__"):
        data = np.asarray(data)
        if dtype is None and data.dtype == np.float64:  # Python's float is no request for float64
            dtype = np.float32
    if data.dtype.kind not in "fiub":
        raise TypeError(f"a Tensor holds numbers, got an array of {data.dtype}")
    return data if dtype is None else data.astype(dtype, copy=False)


def gpu_unavailable() -> str | None:
    """Why no GPU can be used, in one sentence; None if one can."""
    try:
        _cupy()
    except (DeviceError, MissingExtraError) as error:
        return str(error)
    return None


@functools.cache
def _cupy() -> ModuleType:
    try:
        cupy = require("cupy", "gpu12")
    except MissingExtraError:
        raise MissingExtraError(
            "the GPU needs CuPy: pip install 'minidl[gpu12]' (CUDA 12) or 'minidl[gpu13]' (CUDA 13)"
        ) from None
    # CuPy installs and imports without a GPU; only the driver knows whether there is one.
    if not cupy.is_available():
        raise DeviceError("CuPy is installed but finds no CUDA device: use device='cpu'")
    return cupy
