"""The downloader, against a server on 127.0.0.1 that behaves well or badly."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import shutil
import threading

import pytest

from minidl.errors import WeightsError
from minidl.weights import download as module
from minidl.weights.download import PUBLISHED, Published, download, download_vgg16

CONTENT = bytes(range(256)) * 4000
CHECKSUM = "sha256:" + hashlib.sha256(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT at every path; what it does besides is set on `server`."""

    def do_GET(self):
        self.server.requests.append(self.headers.get("Range"))
        if self.server.status:
            self.send_response(self.server.status)
            if self.server.location:
                self.send_header("Location", self.server.location)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start = 0
        if self.server.ranges and (wanted := self.headers.get("Range")):
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
        else:
            self.send_response(200)
        body = self.server.content[start:]
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        cut = self.server.cuts.pop(0) if self.server.cuts else len(body)
        with contextlib.suppress(ConnectionError):  # the client may have seen enough
            self.wfile.write(body[:cut])
        self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(module, "PAUSES", (0.01, 0.01))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.requests, server.cuts = [], []
        server.content, server.ranges, server.status, server.location = CONTENT, True, None, None
        server.url = f"http://127.0.0.1:{server.server_port}/vgg16.pth"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def fetch(server, destination, checksum=CHECKSUM):
    return download(server.url, checksum, len(CONTENT), destination)


def test_whole_file(server, tmp_path):
    path = fetch(server, tmp_path / "new" / "vgg16.pth")
    assert path.read_bytes() == CONTENT
    assert [file.name for file in path.parent.iterdir()] == ["vgg16.pth"]
    assert server.requests == [None]


def test_existing_file_is_not_fetched_again(server, tmp_path):
    fetch(server, tmp_path / "vgg16.pth")
    fetch(server, tmp_path / "vgg16.pth")
    assert len(server.requests) == 1


def test_md5(server, tmp_path):
    checksum = "md5:" + hashlib.md5(CONTENT).hexdigest()
    assert fetch(server, tmp_path / "vgg16.h5", checksum).exists()


def test_goes_on_where_an_earlier_call_stopped(server, tmp_path):
    (tmp_path / "vgg16.pth.part").write_bytes(CONTENT[:1000])
    assert fetch(server, tmp_path / "vgg16.pth").read_bytes() == CONTENT
    assert server.requests == ["bytes=1000-"]


def test_whole_part_needs_no_server(tmp_path):
    (tmp_path / "vgg16.pth.part").write_bytes(CONTENT)
    path = download("https://nowhere.invalid/vgg16.pth", CHECKSUM, len(CONTENT), tmp_path / "vgg16.pth")
    assert path.read_bytes() == CONTENT


def test_server_without_range_starts_over(server, tmp_path):
    server.ranges = False
    (tmp_path / "vgg16.pth.part").write_bytes(CONTENT[:1000])
    assert fetch(server, tmp_path / "vgg16.pth").read_bytes() == CONTENT
    assert server.requests == ["bytes=1000-"]


def test_cut_connection_is_resumed(server, tmp_path):
    server.cuts = [300_000, 300_000]
    assert fetch(server, tmp_path / "vgg16.pth").read_bytes() == CONTENT
    assert len(server.requests) == 3
    starts = [0 if wanted is None else int(wanted[6:-1]) for wanted in server.requests]
    assert starts == sorted(set(starts))


def test_connection_cut_too_often_keeps_the_part(server, tmp_path):
    server.cuts = [300_000] * 3
    with pytest.raises(WeightsError, match=r"cannot be fetched: the connection broke.*What came is kept"):
        fetch(server, tmp_path / "vgg16.pth")
    kept = (tmp_path / "vgg16.pth.part").read_bytes()
    assert len(kept) > 300_000
    assert CONTENT.startswith(kept)
    assert not (tmp_path / "vgg16.pth").exists()


def test_wrong_checksum_removes_the_part(server, tmp_path):
    with pytest.raises(WeightsError, match=r"the checksum is wrong, and what came was removed\. Try again\."):
        fetch(server, tmp_path / "vgg16.pth", "sha256:" + "0" * 64)
    assert list(tmp_path.iterdir()) == []


def test_damaged_part_does_not_become_the_file(server, tmp_path):
    (tmp_path / "vgg16.pth.part").write_bytes(b"?" * 1000)
    with pytest.raises(WeightsError, match="checksum"):
        fetch(server, tmp_path / "vgg16.pth")
    assert fetch(server, tmp_path / "vgg16.pth").read_bytes() == CONTENT


def test_other_size(server, tmp_path):
    server.content = CONTENT + b"more"
    with pytest.raises(WeightsError, match=r"has 1,024,004 bytes, the published file 1,024,000"):
        fetch(server, tmp_path / "vgg16.pth")


def test_not_found_is_not_tried_again(server, tmp_path):
    server.status = 404
    with pytest.raises(WeightsError, match=r"cannot be fetched: the server answered 404 Not Found\."):
        fetch(server, tmp_path / "vgg16.pth")
    assert len(server.requests) == 1


def test_busy_server_is_tried_again(server, tmp_path):
    server.status = 503
    with pytest.raises(WeightsError, match="the server answered 503 Service Unavailable"):
        fetch(server, tmp_path / "vgg16.pth")
    assert len(server.requests) == 3


def test_server_down(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "PAUSES", ())
    with pytest.raises(WeightsError, match=r"no connection \(.*refused"):
        download("http://127.0.0.1:9/vgg16.pth", CHECKSUM, len(CONTENT), tmp_path / "vgg16.pth")


@pytest.mark.parametrize("url", ["http://example.org/a.pth", "file:///etc/passwd", "ftp://a.org/a", "a.pth"])
def test_https_only(url, tmp_path):
    with pytest.raises(WeightsError, match="by https only, not from"):
        download(url, CHECKSUM, len(CONTENT), tmp_path / "vgg16.pth")


def test_redirect_away_from_https(server, tmp_path):
    server.status, server.location = 302, "http://example.org/vgg16.pth"
    with pytest.raises(WeightsError, match=r"by https only, not from http://example\.org"):
        fetch(server, tmp_path / "vgg16.pth")


def test_another_file_in_the_way_is_kept(server, tmp_path):
    (tmp_path / "vgg16.pth").write_bytes(b"mine")
    with pytest.raises(WeightsError, match=r"is not the file published as http.*Move it away"):
        fetch(server, tmp_path / "vgg16.pth")
    assert (tmp_path / "vgg16.pth").read_bytes() == b"mine"
    assert server.requests == []


def test_too_little_space_is_said_before_anything_is_fetched(server, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 500_000))
    with pytest.raises(WeightsError, match=r"0 MB free, and 1 MB are needed.*MINIDL_HOME"):
        fetch(server, tmp_path / "vgg16.pth")
    assert server.requests == []


def test_disk_that_fills_up(server, tmp_path):
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, limits[1]))
    try:
        with pytest.raises(WeightsError, match=r"vgg16\.pth cannot be written: File too large"):
            fetch(server, tmp_path / "vgg16.pth")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


def test_folder_that_is_a_file(server, tmp_path):
    (tmp_path / "home").write_text("a file")
    with pytest.raises(WeightsError, match=r"cannot be written"):
        fetch(server, tmp_path / "home" / "vgg16.pth")


def test_published_file_lands_in_minidl_home(server, tmp_path, monkeypatch):
    monkeypatch.setenv("MINIDL_HOME", str(tmp_path))
    monkeypatch.setitem(PUBLISHED, "vgg16", Published(server.url, CHECKSUM, len(CONTENT)))
    assert download_vgg16() == tmp_path / "vgg16.pth"
    assert download_vgg16("vgg16", home=tmp_path / "other") == tmp_path / "other" / "vgg16.pth"


def test_unknown_name():
    with pytest.raises(WeightsError, match="'vgg19'; there are vgg16, vgg16-keras, vgg16-keras-notop"):
        download_vgg16("vgg19")


def test_published_facts():
    lengths = {"sha256": 64, "md5": 32}
    for file in PUBLISHED.values():
        algorithm, _, digest = file.checksum.partition(":")
        assert len(digest) == lengths[algorithm]
        assert file.url.startswith("https://")
        assert digest[:8] in file.url or file.url.endswith(".h5")
