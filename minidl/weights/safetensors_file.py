"""Reads safetensors files, whose format holds nothing but arrays and a dict of strings."""

from __future__ import annotations

import os

import numpy as np

from minidl.errors import WeightsError, require
from minidl.weights.reading import reading


def read_safetensors(path: str | os.PathLike) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays of a safetensors file by name, and its metadata (empty if it has none).

    The package checks the header against the file: no overlaps, no holes, no bytes left over.

    Raises:
        WeightsError: not a safetensors file, damaged, or with a dtype that NumPy does not have.
        MissingExtraError: safetensors is not installed.
    """
    safetensors = require("safetensors", "weights")
    with reading(path), open(path, "rb"):  # a missing file is the system's error, not the package's
        try:
            with safetensors.safe_open(path, framework="numpy") as file:
                return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
        except (safetensors.SafetensorError, TypeError, AttributeError) as error:
            # TypeError, AttributeError: bfloat16 or another dtype unknown to NumPy.
            raise WeightsError(f"not a readable safetensors file ({error}).") from None


__all__ = ["read_safetensors"]
