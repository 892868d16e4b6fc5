"""Arrays and devices: NumPy on the CPU, CuPy on the GPU.

An operation never asks which one it has: it takes `xp = array_module(x)` and goes on.
"""

from minidl.backend.device import (
    Array,
    array_module,
    as_array,
    as_numpy,
    device_of,
    gpu_unavailable,
    to_device,
)
from minidl.backend.random import generator, get_rng_state, seed, set_rng_state

__all__ = [
    "Array",
    "array_module",
    "as_array",
    "as_numpy",
    "device_of",
    "generator",
    "get_rng_state",
    "gpu_unavailable",
    "seed",
    "set_rng_state",
    "to_device",
]
