"""Texts from the web, downloaded once into the user's cache; those known by name have a fixed SHA-256."""

from __future__ import annotations

import hashlib
import logging
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import DataError

CACHE = "CHARLSTM_CACHE"  # names the folder in place of the user's cache
TIMEOUT = 30  # seconds without an answer
_BLOCK = 1 << 20


class NamedText(NamedTuple):
    """A corpus known by name."""

    url: str
    file: str
    sha256: str
    members: dict[str, str] | None = None  # of a zip archive: the file of each split


NAMED = {
    "tinyshakespeare": NamedText(
        "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
        "tinyshakespeare.txt",
        "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    ),
    "shakespeare": NamedText(
        "https://cs.stanford.edu/people/karpathy/char-rnn/shakespeare_input.txt",
        "shakespeare_input.txt",
        "59a0ad62833b2e15ec811c548618876359e902717431236e52699a0e2bc253ca",
    ),
    "wikitext-2": NamedText(
        "https://wikitext.smerity.com/wikitext-2-v1.zip",
        "wikitext-2-v1.zip",
        "92675f1d63015c1c8b51f1656a52d5bdbc33aafa60cc47a218a66e7ee817488c",
        {
            "train": "wikitext-2/wiki.train.tokens",
            "val": "wikitext-2/wiki.valid.tokens",
            "test": "wikitext-2/wiki.test.tokens",
        },
    ),
}


def cache_folder() -> Path:
    """Where downloads and encoded texts are kept; it may be deleted at any time."""
    if os.environ.get(CACHE):
        return Path(os.environ[CACHE])
    import platformdirs

    return platformdirs.user_cache_path("charlstm", appauthor=False)


def fetch_named(name: str) -> Path:
    """The file of a corpus known by name; DataError where it is neither there nor can be had."""
    known = NAMED[name]
    try:
        return _fetch(known.url, cache_folder() / "downloads" / known.file, known.sha256)
    except DataError as error:
        own = f" (./{name} names what you have here)" if os.path.exists(name) else ""
        raise DataError(f"{error}{own}") from None


def fetch_url(url: str) -> Path:
    """The file at an http(s) address, from the cache where it was downloaded before."""
    digest = hashlib.sha256(url.encode("utf-8", "surrogateescape")).hexdigest()[:12]
    last = url.split("?")[0].split("#")[0].rstrip("/").rsplit("/", 1)[-1]
    name = "".join(s for s in last if s.isalnum() or s in "._-")[-80:] or "text"
    return _fetch(url, cache_folder() / "downloads" / f"{digest}-{name}", None)


def _fetch(url: str, path: Path, sha256: str | None) -> Path:
    if path.is_file() and (sha256 is None or _sha256(path) == sha256):
        return path
    try:
        import pooch
        from requests import RequestException
    except ImportError:
        raise DataError(
            f'downloads need pooch (pip install "charlstm[data]"); or download {url} yourself, to {path}'
        ) from None
    log = logging.getLogger("charlstm")
    log.info("downloading %s to %s", url, path)
    pooch.get_logger().setLevel(logging.ERROR)  # the hash of each file is no news
    bar = _Bar() if sys.stderr.isatty() and log.isEnabledFor(logging.INFO) else None
    # a host of wikitext-2 refuses clients that do not say who they are
    get = pooch.HTTPDownloader(
        progressbar=bar or False, chunk_size=_BLOCK, timeout=TIMEOUT, headers={"User-Agent": "charlstm"}
    )
    try:
        pooch.retrieve(url, sha256, path.name, path.parent, downloader=get)
    except ValueError as error:
        if sha256 is None or isinstance(error, RequestException):  # an address that cannot be one
            raise DataError(_advice(url, path, error)) from None
        raise DataError(
            f"what {url} gives is not the file that is known (SHA-256 {sha256}); put that file at {path}"
        ) from None
    except (OSError, RequestException) as error:
        raise DataError(_advice(url, path, error)) from None
    finally:
        if bar is not None:
            bar.close()
    return path


def _advice(url: str, path: Path, error: Exception) -> str:
    cause: BaseException = (
        error  # the first in the chain names the fault, the last the classes it went through
    )
    while (before := cause.__cause__ or cause.__context__) is not None:
        cause = before
    reason = " ".join(str(cause).split())
    return f"{url} cannot be downloaded ({reason[:200]}): get the file by other means and put it at {path}"


def _sha256(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None


class _Bar:
    """What pooch takes for a progress bar, on rich's."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn

        columns: Any = (BarColumn(), DownloadColumn(), TransferSpeedColumn())
        self.total = 0
        self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._progress.add_task("", total=None)
        self._progress.start()

    def update(self, size: int) -> None:
        self._progress.update(self._task, advance=size, total=self.total or None)

    def reset(self) -> None:
        """Asked for at the end, with a last update by the total size."""
        self._progress.reset(self._task)

    def close(self) -> None:
        self._progress.stop()
