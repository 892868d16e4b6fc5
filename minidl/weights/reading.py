"""What the readers of weight files share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from minidl.errors import WeightsError


@contextmanager
def reading(path: str | os.PathLike) -> Iterator[None]:
    """Name the file in every error that leaves the block; what the system refuses is a WeightsError too."""
    try:
        yield
    except WeightsError as error:
        raise WeightsError(f"{os.fspath(path)}: {error}") from None
    except OSError as error:
        raise WeightsError(f"{os.fspath(path)}: {error.strerror or error}") from None


__all__ = ["reading"]
