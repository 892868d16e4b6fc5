"""Loading a state dict: everything is checked before anything is changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from minidl.backend import Array, array_module, to_device
from minidl.errors import WeightsError
from minidl.tensor import Tensor


class IncompatibleKeys(NamedTuple):
    """What `load_state_dict(strict=False)` passed over."""

    missing_keys: list[str]
    unexpected_keys: list[str]


def load_state(
    tensors: Mapping[str, Tensor], state: Mapping[str, Any], strict: bool, assign: bool, owner: str
) -> IncompatibleKeys:
    """Copy each array of `state` into the tensor of its name, or assign it (`Module.load_state_dict`)."""
    if not isinstance(state, Mapping):
        raise WeightsError(
            f"{owner} loads a mapping of path to array, as state_dict() returns, got {type(state).__name__}"
        )
    missing = [name for name in tensors if name not in state]
    unexpected = [name for name in state if name not in tensors]
    mismatched = [
        f"{name}: expected {tensor.shape}, got {_seen(state[name])}"
        for name, tensor in tensors.items()
        if name in state and not _fits(state[name], tensor)
    ]
    lines = [("mismatched", mismatched)]
    if strict:
        lines = [("missing", missing), ("unexpected", unexpected), *lines]
    if any(names for _, names in lines):
        listed = "".join(f"\n  {word}: {', '.join(map(str, names))}" for word, names in lines if names)
        raise WeightsError(f"the state dict does not fit {owner}; nothing was changed{listed}")
    assigned: list[Array] = []
    for name, tensor in tensors.items():
        if name in state:
            array = to_device(_as_array(state[name]), tensor.device)
            if assign and _can_replace(tensor.data, array, assigned):
                tensor.data = array
                assigned.append(array)
            else:
                tensor.data[...] = array
            tensor.increment_version()
    return IncompatibleKeys(missing, unexpected)


def _can_replace(old: Array, new: Array, taken: list[Array]) -> bool:
    """Whether `new` is of the same kind as `old`, and in memory that is nobody else's."""
    same = new.dtype == old.dtype and new.flags.c_contiguous and getattr(new.flags, "writeable", True)
    return same and not any(array_module(new).may_share_memory(new, other) for other in taken)


def _as_array(value: Any) -> Array:
    if isinstance(value, Tensor):
        return value.data
    return value if hasattr(value, "__cuda_array_interface__") else np.asarray(value)


def _fits(value: Any, tensor: Tensor) -> bool:
    return _is_numeric(value) and tuple(value.shape) == tensor.shape


def _seen(value: Any) -> str:
    if _is_numeric(value):
        return str(tuple(value.shape))
    hint = ": take what its numpy() returns" if hasattr(value, "numpy") else ""
    return f"no array of numbers ({type(value).__name__}{hint})"


def _is_numeric(value: Any) -> bool:
    kind = getattr(getattr(value, "dtype", None), "kind", "")
    return hasattr(value, "shape") and kind in ("f", "i", "u", "b")
