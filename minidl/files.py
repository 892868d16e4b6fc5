"""Files that are either the old one or the new one, never half of one."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """A new file that takes the place of `path` when the block ends, and vanishes if the block fails.

    It is written under a temporary name beside `path` (a rename is atomic only within a file system), flushed
    to the disk, renamed, and the directory flushed too, so that even a power cut leaves one whole file.
    A process that was killed leaves its temporary file, which the next write of the same path reuses.

    Raises:
        OSError: the disk is full, the folder does not exist, … `path` is as it was.
    """
    path = Path(path)
    if path.exists() and not path.is_file():  # a folder, or a device that a rename would replace
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "no such folder", str(path.parent))
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _flush_directory(path.parent)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write `text` as UTF-8, atomically."""
    with replacing(path) as file:
        file.write(text.encode())


def _flush_directory(directory: Path) -> None:
    if os.name != "posix":  # Windows cannot open a directory
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


__all__ = ["replacing", "write_text"]
