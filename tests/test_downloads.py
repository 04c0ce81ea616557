"""Downloads from an HTTP server on loopback: good ones, wrong ones, and none."""

from __future__ import annotations

import gc
import gzip
import hashlib
import io
import logging
import sys
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from conftest import TINY, assert_fails, charlstm_command

import charlstm
from charlstm import Corpus, DataConfig, DataError
from charlstm.data import downloads
from charlstm.data.downloads import NAMED, NamedText

# pooch leaves the socket of an answer that it refuses to the garbage collector
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """What pooch leaves is collected here, where its warning is ignored, not in some later test."""
    yield
    gc.collect()


TEXT = "It was a bright cold day in April, and the clocks were striking thirteen.\n" * 40
CONTENT = TEXT.encode()
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def archive() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for split, times in (("train", 8), ("valid", 2), ("test", 3)):
            file.writestr(f"wikitext-2/wiki.{split}.tokens", TEXT * times)
    return buffer.getvalue()


class Server:
    """Serves `files`; counts the requests that each path had."""

    def __init__(self) -> None:
        self.files = {"/good.txt": CONTENT, "/good.txt.gz": gzip.compress(CONTENT), "/wiki.zip": archive()}
        self.requests: list[str] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.requests.append(self.path)
                if self.path.startswith("/short"):  # promises more than it sends
                    self.send_response(200)
                    self.send_header("Content-Length", str(2 * len(CONTENT)))
                    self.end_headers()
                    self.wfile.write(CONTENT)
                    return
                path = self.path.split("?")[0]
                if path not in server.files:
                    self.send_error(404)
                    return
                self.send_response(200)
                self.send_header("Content-Length", str(len(server.files[path])))
                self.end_headers()
                self.wfile.write(server.files[path])

            def log_message(self, *arguments: object) -> None:
                pass

        self.httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.httpd.server_port}"
        self._thread = threading.Thread(target=self.httpd.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self.httpd.shutdown()
        self._thread.join()
        self.httpd.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    pytest.importorskip("pooch")
    server = Server()
    yield server
    server.close()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("CHARLSTM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "downloads"


def name(monkeypatch: pytest.MonkeyPatch, known: NamedText) -> None:
    monkeypatch.setitem(NAMED, "wells", known)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_an_address_is_downloaded_once(
    server: Server, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"{server.address}/good.txt"
    with caplog.at_level(logging.INFO, "charlstm"):
        corpus = Corpus.load(DataConfig(url))
    assert f"downloading {url}" in caplog.text
    assert corpus.name == "good.txt"
    assert corpus.sha256 == SHA256
    assert Corpus.load(DataConfig(url)).sha256 == SHA256
    assert server.requests == ["/good.txt"]
    assert len(files(folder)) == 1
    assert Corpus.load(DataConfig(url + "?another")).sha256 == SHA256
    assert len(files(folder)) == 2


def test_a_compressed_address(server: Server) -> None:
    assert Corpus.load(DataConfig(f"{server.address}/good.txt.gz")).sha256 == SHA256


def test_a_name(server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name(monkeypatch, NamedText(f"{server.address}/good.txt", "wells.txt", SHA256))
    assert Corpus.load(DataConfig("wells")).sha256 == SHA256
    (folder / "wells.txt").write_bytes(CONTENT[:-1])  # damaged: downloaded again
    assert Corpus.load(DataConfig("wells")).sha256 == SHA256
    assert len(server.requests) == 2
    assert files(folder) == ["wells.txt"]


def test_a_name_for_an_archive_of_parts(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = hashlib.sha256(server.files["/wiki.zip"]).hexdigest()
    name(monkeypatch, NamedText(f"{server.address}/wiki.zip", "w.zip", digest, NAMED["wikitext-2"].members))
    corpus = Corpus.load(DataConfig("wells"))
    assert [len(part) // len(TEXT) for part in (corpus.train, corpus.val, corpus.test)] == [8, 2, 3]


def test_a_wrong_hash(server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name(monkeypatch, NamedText(f"{server.address}/good.txt", "wells.txt", "0" * 64))
    with pytest.raises(DataError, match=r"is not the file that is known .*put that file at .*wells\.txt"):
        Corpus.load(DataConfig("wells"))
    assert files(folder) == []


@pytest.mark.parametrize("sha256", [None, SHA256])
@pytest.mark.parametrize(
    ("path", "problem"), [("/short", "more expected"), ("/none.txt", "404"), (None, "Connection refused")]
)
def test_what_cannot_be_downloaded(
    server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch, path: str | None, problem: str,
    sha256: str | None,
) -> None:  # fmt: skip
    url = f"{server.address}{path}"
    if path is None:
        closed = Server()
        closed.close()
        url = f"{closed.address}/good.txt"
    data = url
    if sha256 is not None:
        data = "wells"
        name(monkeypatch, NamedText(url, "wells.txt", sha256))
    with pytest.raises(DataError, match=f"cannot be downloaded .*{problem}.* put it at ") as caught:
        Corpus.load(DataConfig(data))
    assert files(folder) == []
    place = Path(str(caught.value).rsplit(" put it at ", 1)[1])  # the advice works
    place.write_bytes(CONTENT)
    assert Corpus.load(DataConfig(data)).sha256 == SHA256


def test_a_folder_that_cannot_be_written(server: Server, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(DataError, match="cannot be downloaded"):
        Corpus.load(DataConfig(f"{server.address}/good.txt"))


def test_without_pooch(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(DataError, match=r"pip install \"charlstm\[data\]\".* to .*tinyshakespeare\.txt"):
        Corpus.load(DataConfig("tinyshakespeare"))
    monkeypatch.chdir(folder.parents[1])
    (folder.parents[1] / "wikitext-2").mkdir()
    with pytest.raises(DataError, match=r"\(\./wikitext-2 names what you have here\)"):
        Corpus.load(DataConfig("wikitext-2"))
    folder.mkdir(parents=True)
    monkeypatch.setitem(NAMED, "tinyshakespeare", NAMED["tinyshakespeare"]._replace(sha256=SHA256))
    (folder / "tinyshakespeare.txt").write_bytes(CONTENT)
    assert Corpus.load(DataConfig("tinyshakespeare")).sha256 == SHA256


def test_the_known_hash_of_tinyshakespeare(tinyshakespeare: Path) -> None:
    assert hashlib.sha256(tinyshakespeare.read_bytes()).hexdigest() == NAMED["tinyshakespeare"].sha256


def test_the_user_s_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CHARLSTM_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert downloads.cache_folder().name == "charlstm"


def test_runs_from_an_address_go_on(server: Server, tmp_path: Path) -> None:
    """From the cache; where that is gone, from a new download, unless the text has changed."""
    run, url = tmp_path / "run", f"{server.address}/good.txt"
    done = charlstm_command("train", "--data", url, "--max-steps", 2, "--out", run, *TINY)
    assert done.returncode == 0, done.stderr
    assert charlstm_command("train", "--resume", run, "--max-steps", 4).returncode == 0
    assert server.requests == ["/good.txt"]
    for path in (tmp_path / "cache" / "downloads").iterdir():
        path.unlink()
    assert charlstm.load(run, "numpy").evaluate().tokens > 0
    assert len(server.requests) == 2
    for path in (tmp_path / "cache" / "downloads").iterdir():
        path.unlink()
    server.files["/good.txt"] = CONTENT[:-80]
    assert_fails(charlstm_command("train", "--resume", run, "--max-steps", 6), 3, "has changed since")
