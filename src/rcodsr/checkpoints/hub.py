"""A repository on the Hugging Face Hub: a pinned commit, file downloads, and every fault as one clear line.

Downloads use huggingface_hub, so its cache, tokens, proxies and environment variables (HF_HOME, HF_ENDPOINT, HF_TOKEN, …)
apply here too. The library may wait for minutes on a silent server, and its errors mislead, so this module adds a watchdog and
better errors. It changes no state that the host program might use: no constants, verbosity or warning filters.
"""

from __future__ import annotations

import importlib.util
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar
from urllib.parse import urlsplit

from rcodsr.checkpoints.manifest import is_inside
from rcodsr.checkpoints.meter import Meter
from rcodsr.errors import HubError, WeightsError
from rcodsr.messages import Log

PATIENCE = 8.0
"""Seconds without an answer or a new byte after which a server counts as hanging."""
ATTEMPTS = 3
"""Attempts at a download whose connection breaks."""
CHUNK = 1 << 16
"""Bytes after which a download reports progress."""
_SLACK = 1 << 20
COMMIT = re.compile(r"[0-9a-f]{40}")
DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
"""sha1 of a git blob, or sha256 of a file."""
_T = TypeVar("_T")


@dataclass(frozen=True)
class RemoteFile:
    """A file as described by the Hub."""

    name: str
    bytes: int | None
    digest: str | None
    """sha256 of the file. For small files the sha1 of their git blob."""


class Repository:
    """A repository on the Hub, by name.

    Args:
        repo: organisation/name.
        log: receives occasional lines.
    """

    def __init__(self, repo: str, log: Log) -> None:
        self.repo = repo
        self.log = log
        self._folder = f"models--{repo.replace('/', '--')}"

    def commit(self, revision: str | None) -> tuple[str, list[RemoteFile]]:
        """Resolve a branch, tag or hash to its current commit and files.

        Raises:
            WeightsError: when the Hub does not answer, refuses, or does not know the repository or revision.
        """
        from huggingface_hub import HfApi

        def ask() -> Any:
            return HfApi().model_info(self.repo, revision=revision, files_metadata=True, timeout=PATIENCE)

        info = self._patiently(ask, lambda: None, revision or "main")
        if not COMMIT.fullmatch(info.sha or ""):
            raise HubError(self.repo, f"{host()} did not report a commit", "check HF_ENDPOINT and the network")
        return info.sha, [_described(sibling) for sibling in info.siblings or ()]

    def cached(self, name: str, revision: str) -> Path | None:
        """Path of a file in the cache, of a commit or of the branch that the cache remembers. Contacts no server."""
        from huggingface_hub import errors, try_to_load_from_cache

        try:
            found = try_to_load_from_cache(self.repo, name, revision=revision)
        except errors.HFValidationError:  # the Hub's rules for names are stricter, and its own errors explain them
            return None
        return Path(found) if isinstance(found, str) else None

    def download(self, name: str, commit: str) -> Path:
        """Download a file of a commit into the cache.

        Raises:
            WeightsError: see `commit`. Also when the connection keeps breaking.
        """
        from tqdm.auto import tqdm  # type: ignore[import-untyped]

        if not is_inside(name):
            raise WeightsError(self.repo, f"'{name}' points outside the repository", "do not use this repository")
        arrivals = 0
        log = self.log

        class Bar(tqdm):  # type: ignore[misc]
            """Shows nothing, but reports that bytes arrive."""

            def __init__(self, *args: Any, **kwargs: Any) -> None:
                kwargs.pop("name", None)
                self.meter = Meter(name, kwargs.get("total"), log)
                super().__init__(*args, **{**kwargs, "disable": True})

            def update(self, n: float | None = 1) -> bool | None:
                nonlocal arrivals
                arrivals += 1
                self.meter.add(int(n or 0))
                if self.meter.total and self.meter.done > 2 * self.meter.total + _SLACK:  # a resumed file may count twice
                    raise RuntimeError("more bytes than announced")
                return super().update(n)

        def fetch() -> str:
            return _own_downloads().hf_hub_download(self.repo, name, revision=commit, tqdm_class=Bar)

        return Path(self._patiently(fetch, lambda: (arrivals, self._bytes_underway()), commit, name))

    def _unfinished(self) -> list[Path]:
        """Files of unfinished downloads by any process, running or killed."""
        return list(Path(cache(), self._folder, "blobs").glob("*.incomplete"))

    def _bytes_underway(self) -> int:
        """Size of all unfinished downloads, because another process may be fetching the same file."""
        total = 0
        for path in self._unfinished():
            with suppress(OSError):  # finished in the meantime
                total += path.stat().st_size
        return total

    def sweep(self) -> None:
        """Remove remains of killed downloads: unfinished files whose lock is free.

        The name of an unfinished file belongs to its process, unlike a lock, so no other process would ever resume it.
        """
        from filelock import FileLock

        for path in self._unfinished():
            lock = Path(cache(), ".locks", self._folder, f"{path.name.split('.')[0]}.lock")
            with suppress(Exception):  # locked by a running download, already gone, or not removable by this user
                lock.parent.mkdir(parents=True, exist_ok=True)
                with FileLock(lock, timeout=0, mode=0o664):
                    path.unlink()

    def discard(self, path: Path) -> None:
        """Remove a damaged file from the cache, including the blob behind the link."""
        blob = path.resolve()
        path.unlink(missing_ok=True)
        blob.unlink(missing_ok=True)

    def _patiently(self, action: Callable[[], _T], signs: Callable[[], object], revision: str, file: str | None = None) -> _T:
        """Run `action` until it hangs. Temporary faults are retried, all others become a `WeightsError`."""
        attempt = 1
        while True:
            watchdog = _Watchdog(PATIENCE, signs)
            try:
                return watchdog.run(action)
            except Exception as error:
                pause = _pause(error, attempt)
                # after a long silence the library has already retried
                if pause is None or attempt == ATTEMPTS or watchdog.idle > PATIENCE / 3:
                    cause = self._cause_of_waiting(revision, file) if isinstance(error, TimeoutError) else None
                    raise self._explain(cause or error, revision, file) from error
                status = _status(error)
                told = f"connection to {host()} was interrupted" if status is None else f"{host()} answers with status {status}"
                self.log(f"{told}, trying again ({attempt} of {ATTEMPTS - 1})")
                time.sleep(pause)
                attempt += 1

    def _cause_of_waiting(self, commit: str, file: str | None) -> Exception | None:
        """Query the Hub about a file now, because the library silently keeps retrying a server that is busy or failing."""
        from huggingface_hub import get_hf_file_metadata, hf_hub_url

        if file is None:
            return None
        try:
            get_hf_file_metadata(hf_hub_url(self.repo, file, revision=commit), timeout=PATIENCE / 5)
        except Exception as error:
            return error
        return None

    def _explain(self, error: Exception, revision: str, file: str | None) -> WeightsError:
        """Describe a fault of the Hub. Subclasses are checked before their bases."""
        from huggingface_hub import errors as hub

        if isinstance(error, hub.LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
            error = error.__cause__  # its text always blames the connection, whatever the Hub has answered
        where, what = host(), f"{self.repo}@{revision[:12]}"
        status = _status(error)
        log_in = "check the name, or log in with `hf auth login` (or HF_TOKEN) if it is private"
        later = "try again later; finished files are kept"
        network = f"check the network, or {later}"
        if isinstance(error, hub.GatedRepoError):
            remedy = f"accept its licence at {address()}/{self.repo}, then log in with `hf auth login`"
            return WeightsError(what, f"gated on {where}", remedy)
        if isinstance(error, hub.RepositoryNotFoundError) or status == 401:
            return WeightsError(what, f"not found on {where}, or private", log_in)
        if isinstance(error, hub.RevisionNotFoundError):
            return WeightsError(self.repo, f"has no revision {revision} on {where}", "check --revision")
        if file and status == 404:
            return WeightsError(what, f"has no file {file}", "choose a repository with this checkpoint")
        if isinstance(error, hub.HFValidationError):
            return WeightsError(self.repo, "not a repository name", "write organisation/name")
        if status == 404:
            return WeightsError(what, f"not found on {where} (404)", log_in)
        if status == 403:
            return WeightsError(
                what, f"{where} refuses access (403)", "check the permissions of your token with `hf auth whoami`"
            )
        if status == 429:
            return HubError(what, f"{where} limits the rate (429)", "wait a few minutes, or log in with `hf auth login`")
        if status is not None:
            return HubError(what, f"{where} answers with status {status}", later)
        if isinstance(error, TimeoutError) or "timeout" in type(error).__name__.lower():
            return HubError(what, f"{where} does not answer", network)
        if isinstance(error, ValueError | TypeError | LookupError | AttributeError | RecursionError | hub.FileMetadataError):
            return HubError(what, f"{where} does not answer as a Hub", "check HF_ENDPOINT and the network")
        if isinstance(error, OSError) and error.errno is not None:
            cause = f"cannot be written ({error.strerror})"
            return WeightsError(error.filename or cache(), cause, "free some space or set HF_HOME")
        cause = str(error).splitlines()[0] if str(error) else type(error).__name__
        return HubError(what, f"the exchange with {where} failed ({cause})", network)


def address() -> str:
    """Address of the Hub, for messages, without a password it may contain."""
    from huggingface_hub import constants

    parts = urlsplit(constants.ENDPOINT)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def host() -> str:
    """Host name of the Hub, for messages."""
    return urlsplit(address()).netloc


def cache() -> str:
    """Cache directory of downloads."""
    from huggingface_hub import constants

    return constants.HF_HUB_CACHE


def _described(sibling: Any) -> RemoteFile:
    """A file description with invalid values dropped, because the Hub's answer may have any type."""
    size, digest = sibling.size, sibling.lfs.sha256 if sibling.lfs else sibling.blob_id
    return RemoteFile(
        str(sibling.rfilename),
        size if isinstance(size, int) and size >= 0 else None,
        digest.lower() if isinstance(digest, str) and DIGEST.fullmatch(digest.lower()) else None,
    )


def _status(error: Exception) -> int | None:
    """HTTP status of an error."""
    return getattr(getattr(error, "response", None), "status_code", None)


def _pause(error: Exception, attempt: int) -> float | None:
    """Seconds to wait before a retry. None if a retry is pointless or the wait too long."""
    status = _status(error)
    if status is None:
        return 0.5 * attempt if _is_broken_connection(error) else None
    if status not in {429, 500, 502, 503, 504}:
        return None
    told = getattr(getattr(error, "response", None), "headers", {}).get("Retry-After", "")
    pause = float(told) if told.isascii() and told.isdecimal() else 0.5
    return pause if pause <= PATIENCE / 3 else None


def _is_broken_connection(error: Exception) -> bool:
    """Whether the connection was reset or cut, not refused or answered."""
    names = {base.__name__ for base in type(error).__mro__}
    broken = names & {"ReadError", "RemoteProtocolError", "WriteError", "ConnectionResetError"}
    return bool(broken) or "Consistency check" in str(error)


def _own_downloads() -> Any:
    """A second, private instance of the library's download module, with smaller chunks.

    It reports each whole chunk. Its own chunks of 10 MB are rare on a slow connection, there is no parameter for their size,
    and the constants belong to the host program.
    """
    from huggingface_hub import constants

    spec = importlib.util.find_spec("huggingface_hub.file_download")
    assert spec is not None and spec.loader is not None  # otherwise the import above would have failed
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    vars(module)["constants"] = SimpleNamespace(**vars(constants) | {"DOWNLOAD_CHUNK_SIZE": CHUNK})
    return module


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide the library's warnings in this thread from standard error, unless the host program has raised its verbosity."""
    from huggingface_hub import logging as library

    ours = threading.get_ident()

    def passes(record: logging.LogRecord) -> bool:
        told = record.levelno > logging.WARNING or library.get_verbosity() < logging.WARNING
        return told or threading.get_ident() != ours

    handlers = logging.getLogger("huggingface_hub").handlers.copy()
    for handler in handlers:
        handler.addFilter(passes)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(passes)


class _Watchdog:
    """Runs an action in a thread, and gives up on it when it shows no sign of progress.

    The library's own retries and waits add up to minutes. A thread that hangs in a socket cannot be stopped, but it can be
    abandoned: it is a daemon and ends with the process.

    Args:
        patience: seconds to wait for the next sign.
        signs: function whose value changes as long as there is progress.
    """

    def __init__(self, patience: float, signs: Callable[[], object]) -> None:
        self.patience, self.signs = patience, signs
        self._last = time.monotonic()

    @property
    def idle(self) -> float:
        """Seconds since the last sign of progress."""
        return time.monotonic() - self._last

    def run(self, action: Callable[[], _T]) -> _T:
        """Return the result of `action`, or raise its exception.

        Raises:
            TimeoutError: when the action hangs.
        """
        outcome: Future[_T] = Future()

        def work() -> None:
            try:
                with _quiet():
                    found = action()
                outcome.set_result(found)
            except Exception as error:
                outcome.set_exception(error)

        threading.Thread(target=work, daemon=True).start()
        seen = self.signs()
        while not wait([outcome], self.patience / 20).done:
            if (now := self.signs()) != seen:
                seen, self._last = now, time.monotonic()
            elif self.idle > self.patience:
                raise TimeoutError(f"no answer for {self.patience:.0f} s")
        return outcome.result()
