"""Downloads against a real HTTP server on this machine that misbehaves on request."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import io
import socket
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from pqbench.assets import download
from pqbench.assets.download import Remote, fetch
from pqbench.core.errors import ConfigError, DataError, WeightsError
from pqbench.data import imagenette, imdb
from pqbench.data.archive import unpack
from pqbench.data.imagenette import CLASSES, Imagenette
from pqbench.data.imdb import Imdb

CONTENT = bytes(range(256)) * 4000  # 1 MB
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves ``content``; closes the connection after ``cut`` bytes of each answer."""

    content = CONTENT
    cut: int | None = None
    ranges = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers["Range"] if self.server.ranges else None
        self.server.requests.append(self.headers["Range"])
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        body = self.server.content[start:]
        if wanted and not body:
            self.send_error(416)
            return
        self.send_response(206 if wanted else 200)
        if wanted:
            end = len(self.server.content)
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{end}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body if self.server.cut is None else body[: self.server.cut])

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield running
        running.shutdown()


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
    return port


def test_fetch_brings_the_whole_file(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "new" / "file.bin"
    assert fetch(Remote(f"{server.url}/f", SHA256), target, DataError, "h").read_bytes() == CONTENT
    assert [p.name for p in target.parent.iterdir() if not p.name.startswith(".")] == ["file.bin"]


def test_fetch_does_not_ask_again_for_a_file_that_is_there(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "f"
    target.write_bytes(CONTENT)
    fetch(Remote(f"{server.url}/f", SHA256[:8]), target, DataError, "")
    assert server.requests == []


def test_fetch_refuses_a_damaged_file_that_is_there(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "f"
    target.write_bytes(CONTENT[:-1])
    with pytest.raises(WeightsError, match="damaged"):
        fetch(Remote(f"{server.url}/f", SHA256[:8]), target, WeightsError, "")


def test_fetch_resumes_a_connection_that_breaks(server: Server, tmp_path: Path) -> None:
    server.cut = 400_000
    target = fetch(Remote(f"{server.url}/f", SHA256), tmp_path / "f", DataError, "")
    assert target.read_bytes() == CONTENT
    assert server.requests == [None, "bytes=400000-", "bytes=800000-"]


def test_fetch_resumes_what_an_earlier_run_left(server: Server, tmp_path: Path) -> None:
    (tmp_path / "f.part").write_bytes(CONTENT[:1000])
    target = fetch(Remote(f"{server.url}/f", SHA256), tmp_path / "f", DataError, "")
    assert target.read_bytes() == CONTENT
    assert server.requests == ["bytes=1000-"]


def test_fetch_begins_anew_when_the_server_knows_no_ranges(server: Server, tmp_path: Path) -> None:
    server.ranges = False
    (tmp_path / "f.part").write_bytes(b"x" * 1000)
    target = fetch(Remote(f"{server.url}/f", SHA256), tmp_path / "f", DataError, "")
    assert target.read_bytes() == CONTENT


def test_fetch_gives_up_where_the_same_place_breaks_again(server: Server, tmp_path: Path) -> None:
    server.ranges = False
    server.cut = 400_000
    with pytest.raises(DataError, match="closed after 400,000 of 1,024,000 bytes") as caught:
        fetch(Remote(f"{server.url}/f", SHA256), tmp_path / "f", DataError, "do this")
    assert "do this" in str(caught.value)
    assert not (tmp_path / "f").exists()
    assert len(server.requests) == 2


def test_fetch_begins_anew_from_a_part_that_is_too_long(server: Server, tmp_path: Path) -> None:
    (tmp_path / "f.part").write_bytes(CONTENT + b"more")
    target = fetch(Remote(f"{server.url}/f", SHA256), tmp_path / "f", DataError, "")
    assert target.read_bytes() == CONTENT


def test_fetch_never_trusts_a_wrong_checksum(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected 0000"):
        fetch(Remote(f"{server.url}/f", "0000"), tmp_path / "f", DataError, "")
    assert not (tmp_path / "f").exists()
    assert not (tmp_path / "f.part").exists()


def test_fetch_downloads_once_for_threads_that_ask_together(server: Server, tmp_path: Path) -> None:
    remote = Remote(f"{server.url}/f", SHA256)
    threads = [
        threading.Thread(target=fetch, args=(remote, tmp_path / "f", DataError, ""))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "f").read_bytes() == CONTENT
    assert len(server.requests) == 1


def test_fetch_does_not_wait_for_a_server_that_never_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pqbench.assets.download.ANSWER_DEADLINE_S", 0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/f"
        with pytest.raises(DataError, match=r"no answer within 0\.2 s"):
            fetch(Remote(url, SHA256), tmp_path / "f", DataError, "")


def test_fetch_empty_answer_is_not_a_file(server: Server, tmp_path: Path) -> None:
    server.content = b""
    (tmp_path / "f.part").write_bytes(b"x")
    with pytest.raises(DataError, match="expected"):
        fetch(Remote(f"{server.url}/f", SHA256), tmp_path / "f", DataError, "")
    assert server.requests == ["bytes=1-", None]


def test_fetch_names_the_status_of_a_refusal(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Handler, "do_GET", lambda self: self.send_error(404))
    with pytest.raises(DataError, match="404"):
        fetch(Remote(f"{server.url}/f", SHA256), tmp_path / "f", DataError, "")


def test_fetch_says_that_a_folder_cannot_be_made(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write to"):
        fetch(Remote(f"{server.url}/f", SHA256), tmp_path / "file" / "f", DataError, "")


def test_imagenette_without_network_says_what_is_missing_and_what_works(
    closed_port: int, tmp_path: Path
) -> None:
    source = Imagenette(home=str(tmp_path), mirror=f"http://127.0.0.1:{closed_port}")
    with pytest.raises(DataError) as caught:
        source.index()
    message = str(caught.value)
    assert str(tmp_path / "imagenette2-320.tgz") in message
    assert "dataset.root" in message
    assert "dataset=elpv" in message
    assert not (tmp_path / "imagenette2-320").exists()


def tiny_archive(top: str, extra: str | None = None) -> bytes:
    """A gzipped Imagenette of one image per class and split."""
    image = io.BytesIO()
    Image.new("RGB", (8, 8)).save(image, "JPEG")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        names = [f"{top}/{s}/{wnid}/{s}_1.JPEG" for s in ("train", "val") for wnid in CLASSES]
        for name in [*names, f"{top}/val/n01440764/ILSVRC2012_val_7.JPEG"] + [extra] * bool(extra):
            info = tarfile.TarInfo(name)
            info.size = len(image.getvalue())
            tar.addfile(info, io.BytesIO(image.getvalue()))
    return buffer.getvalue()


def test_imagenette_downloads_checks_and_unpacks(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.content = tiny_archive("imagenette2-160")
    server.cut = len(server.content) // 2
    digest = hashlib.sha256(server.content).hexdigest()
    entry = ("imagenette2-160", digest, len(server.content))
    monkeypatch.setitem(imagenette.ARCHIVES, "160", entry)
    index = Imagenette(variant="160", home=str(tmp_path), mirror=server.url).index()
    assert {name: len(split) for name, split in index.splits.items()} == {
        "train": 10,
        "val": 11,
        "clean": 1,
    }
    assert not (tmp_path / "imagenette2-160.tgz").exists()


def test_imdb_download_that_broke_off_is_no_data_set_for_the_next_run(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name in (f"{s}/{c}/1_9.txt" for s in ("train", "test") for c in ("neg", "pos")):
            info = tarfile.TarInfo(f"aclImdb/{name}")
            info.size = len(name)
            tar.addfile(info, io.BytesIO(name.encode()))
    server.content = buffer.getvalue()
    digest = hashlib.md5(server.content).hexdigest()
    monkeypatch.setattr(imdb, "ARCHIVE", Remote(f"{server.url}/aclImdb_v1.tar.gz", "", md5=digest))
    source = Imdb(home=str(tmp_path))
    server.cut, server.ranges = 100, False
    with pytest.raises(DataError, match=r"closed after 100 of .*100 bytes kept"):
        source.index()
    assert sorted(p.name for p in tmp_path.iterdir() if not p.name.startswith(".")) == [
        "aclImdb_v1.tar.gz.part"
    ]
    server.cut, server.ranges = None, True
    index = source.index()
    assert server.requests[-1] == "bytes=100-"
    assert {name: len(split) for name, split in index.splits.items()} == {"train": 2, "val": 2}
    assert (index.split("val").samples or ())[1] == "test/pos/1_9.txt"
    assert not list(tmp_path.glob("*.part"))


def test_imagenette_variant_unknown_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'161'"):
        Imagenette(variant="161", home=str(tmp_path)).index()


@pytest.mark.parametrize("damage", ["truncated", "escaping", "another folder"])
def test_unpack_leaves_nothing_half_done(damage: str, tmp_path: Path) -> None:
    content = {
        "truncated": tiny_archive("a")[:-200],
        "escaping": tiny_archive("a", extra="../../evil.JPEG"),
        "another folder": tiny_archive("b"),
    }[damage]
    home = tmp_path / "home"
    home.mkdir()
    (home / "a.tgz").write_bytes(content)
    with pytest.raises(DataError, match="cannot unpack"):
        unpack(home / "a.tgz", home / "a")
    assert [p.name for p in home.iterdir()] == ["a.tgz"]
    assert [p.name for p in tmp_path.iterdir()] == ["home"]


class Odd(threading.Thread):
    """A server that answers every request with raw bytes, and then drips."""

    def __init__(self, answer: bytes, drip: bytes = b"", every_s: float = 0.05) -> None:
        super().__init__(daemon=True)
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listening.getsockname()[1]}/file"
        self.answer, self.drip, self.every_s = answer, drip, every_s
        self.start()

    def run(self) -> None:
        while True:
            try:
                connection, _ = self.listening.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                connection.recv(65536)
                connection.sendall(self.answer)
                while self.drip:
                    time.sleep(self.every_s)
                    connection.sendall(self.drip)


OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    ("answer", "drip", "size", "words"),
    [
        (OK + b"Content-Length: 1000\r\n\r\n", b"x", 1000, "only .* bytes in"),
        (OK + b"\r\n", b"x" * 4096, 10_000, "more than the 10,000 bytes"),
        (OK + b"Content-Length: 90000\r\n\r\n", b"", 1000, "90,000 bytes, 1,000 are published"),
        (OK + b"Content-Length: many\r\n\r\n", b"", None, "'many'"),
        (OK + b"Content-Length: -1\r\n\r\n", b"", None, "'-1'"),
        (b"SSH-2.0-OpenSSH_9.9\r\n", b"", None, "SSH"),
        (b"\0" * 100_000 + b"\r\n", b"", None, "cannot download"),
        (OK + b"Content-Length: 4\r\n\r\n<p>!", b"", None, "it was deleted"),
    ],
)
def test_fetch_ends_in_time_whatever_a_server_sends(
    answer: bytes,
    drip: bytes,
    size: int | None,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(download, "WINDOW_S", 0.5)
    server = Odd(answer, drip)
    began = time.monotonic()
    with pytest.raises(DataError, match=words):
        fetch(Remote(server.url, SHA256, size), tmp_path / "f", DataError, "give it")
    assert time.monotonic() - began < 8
    assert not (tmp_path / "f").exists()
    server.listening.close()
