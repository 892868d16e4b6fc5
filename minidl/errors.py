"""The errors of minidl: each says where, what was expected, what came, and what to do."""

from __future__ import annotations

import importlib
from typing import Any


class MinidlError(Exception):
    """Base of every error that minidl raises on purpose. The command line prints it as one sentence."""


class ShapeError(MinidlError, ValueError):
    """An array has a shape that the operation cannot take.

    Raised by an operation, which does not know which layer called it. On its way out the error passes
    through the modules, and each one tells it the place as seen from there (`nn.Module.__call__`).
    """

    place: str = ""
    module: Any = None  # the innermost module that it passed through

    def __str__(self) -> str:
        message = super().__str__()
        return f"{self.place}: {message}" if self.place else message


class GradientError(MinidlError, RuntimeError):
    """A gradient was asked for that the graph cannot give."""


class AnomalyError(MinidlError, ArithmeticError):
    """In anomaly mode an operation made NaN or ±∞."""


class DeviceError(MinidlError, RuntimeError):
    """No such device, or arrays of two devices in one operation."""


class DataError(MinidlError, ValueError):
    """A picture, a folder of pictures, or labels that cannot be used."""


class WeightsError(MinidlError, ValueError):
    """A weight file or state dict that cannot be used. Nothing was changed."""


class CheckpointError(MinidlError, RuntimeError):
    """A checkpoint that cannot be written or continued from."""


class MissingExtraError(MinidlError, ImportError):
    """An optional dependency is not installed."""


def require(module: str, extra: str) -> Any:
    """Import the optional `module` (dotted names too), or name the extra that brings it.

    Raises:
        MissingExtraError: the module is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != package:
            raise  # it is installed, and something it needs itself is broken
        name = {"PIL": "Pillow"}.get(package, package)
        raise MissingExtraError(f"this needs {name}: pip install 'minidl[{extra}]'") from None


__all__ = [
    "AnomalyError",
    "CheckpointError",
    "DataError",
    "DeviceError",
    "GradientError",
    "MinidlError",
    "MissingExtraError",
    "ShapeError",
    "WeightsError",
    "require",
]
