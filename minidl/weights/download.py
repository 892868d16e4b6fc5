"""Fetches the published VGG16 files into MINIDL_HOME, and goes on where a broken connection left off."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

from minidl.errors import WeightsError
from minidl.progress import progress_bar

CHUNK = 1 << 18

TIMEOUT = 30.0
"""Seconds of silence after which a connection counts as broken."""

PAUSES = (1.0, 2.0, 4.0)
"""Seconds to wait before each further attempt."""


@dataclass(frozen=True)
class Published:
    """A file as its authors publish it: `checksum` is "sha256:…" or "md5:…" in hex, `size` in bytes."""

    url: str
    checksum: str
    size: int


KERAS = "https://storage.googleapis.com/tensorflow/keras-applications/vgg16/"

PUBLISHED = {
    "vgg16": Published(
        "https://download.pytorch.org/models/vgg16-397923af.pth",
        "sha256:397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
        553_433_881,
    ),
    "vgg16-keras": Published(
        KERAS + "vgg16_weights_tf_dim_ordering_tf_kernels.h5",
        "md5:64373286793e3c8b2b4e3219cbf3544b",
        553_467_096,
    ),
    "vgg16-keras-notop": Published(
        KERAS + "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5",
        "md5:6d6bbae143d832006294945121d1f1fc",
        58_889_256,
    ),
}


def minidl_home() -> Path:
    """The folder of downloaded files: the environment variable MINIDL_HOME, or ~/.cache/minidl."""
    return Path(os.environ.get("MINIDL_HOME") or Path.home() / ".cache" / "minidl")


def download_vgg16(
    name: str = "vgg16", home: str | os.PathLike | None = None, url: str | None = None
) -> Path:
    """Fetch a published VGG16 file, unless it is there already, and return its path.

    Args:
        name: "vgg16" (torchvision's), "vgg16-keras", or "vgg16-keras-notop" (without the dense layers).
        home: the folder to keep it in; by default `minidl_home()`.
        url: another address of the same file. Size and checksum stay those of the published one.

    Raises:
        WeightsError: an unknown name, or what `download` raises.
    """
    if name not in PUBLISHED:
        raise WeightsError(f"no published weights are called {name!r}; there are {', '.join(PUBLISHED)}")
    file = PUBLISHED[name]
    folder = minidl_home() if home is None else Path(home)
    return download(url or file.url, file.checksum, file.size, folder / file.url.rpartition("/")[2])


def download(url: str, checksum: str, size: int, destination: str | os.PathLike) -> Path:
    """Fetch `url` into the file `destination`, which appears only when it is whole and its checksum is right.

    Until then the bytes are kept in `destination`.part, and a later call asks for the rest only. A broken
    connection is tried again, with growing pauses.

    Args:
        url: https, or http on this machine (127.0.0.1).
        checksum: "sha256:…" or "md5:…", in hex.
        size: of the file, in bytes.

    Raises:
        WeightsError: the address is not https, the server is out of reach or has no such file, the disk is
            full or the checksum wrong (both remove the part), or another file is in the way.
    """
    destination = Path(destination)
    part = destination.with_name(destination.name + ".part")
    _check_address(url)
    try:
        if destination.exists():
            if not _is_whole(destination, checksum, size):
                raise WeightsError(f"{destination} is not the file published as {url}. Move it away first.")
            return destination
        destination.parent.mkdir(parents=True, exist_ok=True)
        _check_space(part, size)
        _fetch(url, part, size)
        if not _is_whole(part, checksum, size):
            part.unlink()
            raise WeightsError(f"{url}: the checksum is wrong, and what came was removed. Try again.")
        os.replace(part, destination)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        raise WeightsError(f"{destination} cannot be written: {error.strerror or error}") from None
    return destination


def _is_whole(path: Path, checksum: str, size: int) -> bool:
    if path.stat().st_size != size:
        return False
    algorithm, _, digest = checksum.partition(":")
    with open(path, "rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest() == digest


def _check_space(part: Path, size: int) -> None:
    missing = size - _size(part)
    free = shutil.disk_usage(part.parent).free
    if free < missing:
        raise WeightsError(
            f"{part.parent} has {free / 1e6:,.0f} MB free, and {missing / 1e6:,.0f} MB are needed. "
            "Make room, or set MINIDL_HOME to a folder on another disk."
        )


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


class _ConnectionBroke(Exception):
    """Worth another attempt."""


def _fetch(url: str, part: Path, size: int) -> None:
    """Fill `part` up to `size` bytes, in as many attempts as it takes and `PAUSES` allows."""
    with progress_bar(size, part.stem, unit="B", initial=_size(part)) as bar:
        for pause in (*PAUSES, None):
            try:
                _receive(url, part, size, bar)
                return
            except _ConnectionBroke as error:
                if pause is None:
                    raise WeightsError(
                        f"{url} cannot be fetched: {error}. What came is kept; try again later."
                    ) from None
                time.sleep(pause)


def _receive(url: str, part: Path, size: int, bar: Any) -> None:
    """Ask for what is missing in `part`, and append it. A server that cannot do that sends everything."""
    have = _size(part)
    if have >= size:
        return
    response = _open(url, have)
    with response:
        if response.status != 206:
            bar.update(-have)
            have = 0
        if response.length is not None and have + response.length != size:
            raise WeightsError(f"{url} has {have + response.length:,} bytes, the published file {size:,}.")
        with open(part, "ab" if have else "wb") as file:
            while have < size:
                try:
                    data = response.read(min(CHUNK, size - have))
                except (OSError, HTTPException) as error:
                    raise _ConnectionBroke(f"the connection broke ({error})") from None
                if not data:
                    raise _ConnectionBroke(f"the connection broke after {have:,} of {size:,} bytes")
                file.write(data)
                have += len(data)
                bar.update(len(data))
            file.flush()
            os.fsync(file.fileno())


def _open(url: str, start: int) -> Any:
    """The server's response to a request for the bytes from `start` on."""
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        return urllib.request.build_opener(_HttpsRedirects).open(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        answer = f"the server answered {error.code} {error.reason}"
        if error.code < 500:
            raise WeightsError(f"{url} cannot be fetched: {answer}.") from None
        raise _ConnectionBroke(answer) from None
    except urllib.error.URLError as error:
        raise _ConnectionBroke(f"no connection ({error.reason})") from None
    except (OSError, HTTPException) as error:
        raise _ConnectionBroke(f"no connection ({error})") from None


class _HttpsRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, request, file, code, message, headers, url):
        _check_address(url)
        return super().redirect_request(request, file, code, message, headers, url)


def _check_address(url: str) -> None:
    address = urllib.parse.urlsplit(url)
    if address.scheme != "https" and (address.scheme, address.hostname) != ("http", "127.0.0.1"):
        raise WeightsError(f"weights are fetched by https only, not from {url}")


__all__ = ["PUBLISHED", "Published", "download", "download_vgg16", "minidl_home"]
