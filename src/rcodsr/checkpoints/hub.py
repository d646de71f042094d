"""One repository of the Hugging Face Hub: a pinned commit, downloaded files, and every fault as one clear line.

Downloads go through huggingface_hub, so its cache, tokens, proxies and environment (HF_HOME, HF_ENDPOINT, HF_TOKEN, …) hold
here too. What it lacks is added: it may wait for minutes on a server that never answers, and its errors mislead. Nothing of it
that the host program might use is changed: neither constants nor verbosity, and no filter of warnings.
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
"""Seconds without an answer or a single new byte after which a server counts as hanging."""
ATTEMPTS = 3
"""Tries of a download whose connection breaks."""
CHUNK = 1 << 16
"""Bytes after which a download tells that it goes on."""
_SLACK = 1 << 20
COMMIT = re.compile(r"[0-9a-f]{40}")
DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
"""sha1 of a git blob, or sha256."""
_T = TypeVar("_T")


@dataclass(frozen=True)
class RemoteFile:
    """A file as the Hub describes it."""

    name: str
    bytes: int | None
    digest: str | None
    """sha256 of the file, or of small ones the sha1 of their git blob."""


class Repository:
    """A repository of the Hub, by name.

    Args:
        repo: organisation/name.
        log: receives one line now and then.
    """

    def __init__(self, repo: str, log: Log) -> None:
        self.repo = repo
        self.log = log
        self._folder = f"models--{repo.replace('/', '--')}"

    def commit(self, revision: str | None) -> tuple[str, list[RemoteFile]]:
        """The commit that a branch, tag or hash means now, and its files.

        Raises:
            WeightsError: when the Hub does not answer, refuses, or knows no such repository or revision.
        """
        from huggingface_hub import HfApi

        def ask() -> Any:
            return HfApi().model_info(self.repo, revision=revision, files_metadata=True, timeout=PATIENCE)

        info = self._patiently(ask, lambda: None, revision or "main")
        if not COMMIT.fullmatch(info.sha or ""):
            raise HubError(self.repo, f"{host()} names no commit", "check HF_ENDPOINT and the network")
        return info.sha, [_described(sibling) for sibling in info.siblings or ()]

    def cached(self, name: str, revision: str) -> Path | None:
        """A file of a commit (or of the branch the cache remembers) if it is in the cache; asks nobody."""
        from huggingface_hub import errors, try_to_load_from_cache

        try:
            found = try_to_load_from_cache(self.repo, name, revision=revision)
        except errors.HFValidationError:  # the Hub's rules for names are stricter than ours, and are explained when it is asked
            return None
        return Path(found) if isinstance(found, str) else None

    def download(self, name: str, commit: str) -> Path:
        """Fetch a file of a commit into the cache.

        Raises:
            WeightsError: as `commit`, and when the connection keeps breaking.
        """
        from tqdm.auto import tqdm  # type: ignore[import-untyped]

        if not is_inside(name):
            raise WeightsError(self.repo, f"'{name}' leads out of the repository", "do not use it")
        arrivals = 0
        log = self.log

        class Bar(tqdm):  # type: ignore[misc]
            """Shows nothing, but tells that bytes arrive."""

            def __init__(self, *args: Any, **kwargs: Any) -> None:
                kwargs.pop("name", None)
                self.meter = Meter(name, kwargs.get("total"), log)
                super().__init__(*args, **{**kwargs, "disable": True})

            def update(self, n: float | None = 1) -> bool | None:
                nonlocal arrivals
                arrivals += 1
                self.meter.add(int(n or 0))
                if self.meter.total and self.meter.done > 2 * self.meter.total + _SLACK:  # a resumed file may count twice
                    raise RuntimeError("more bytes than it has announced")
                return super().update(n)

        def fetch() -> str:
            return _own_downloads().hf_hub_download(self.repo, name, revision=commit, tqdm_class=Bar)

        return Path(self._patiently(fetch, lambda: (arrivals, self._bytes_underway()), commit, name))

    def _unfinished(self) -> list[Path]:
        """Files of downloads that are under way, of any process, or were killed."""
        return list(Path(cache(), self._folder, "blobs").glob("*.incomplete"))

    def _bytes_underway(self) -> int:
        """Size of all unfinished downloads: another process may be fetching what this one waits for."""
        total = 0
        for path in self._unfinished():
            with suppress(OSError):  # finished meanwhile
                total += path.stat().st_size
        return total

    def sweep(self) -> None:
        """Remove what killed downloads have left: unfinished files whose lock nobody holds.

        Unlike a lock, the name of an unfinished file is its process's own: nobody would ever go on with it.
        """
        from filelock import FileLock

        for path in self._unfinished():
            lock = Path(cache(), ".locks", self._folder, f"{path.name.split('.')[0]}.lock")
            with suppress(Exception):  # locked: someone is at it; or gone meanwhile; or not ours to remove
                lock.parent.mkdir(parents=True, exist_ok=True)
                with FileLock(lock, timeout=0, mode=0o664):
                    path.unlink()

    def discard(self, path: Path) -> None:
        """Remove a damaged file from the cache, the blob behind the link too."""
        blob = path.resolve()
        path.unlink(missing_ok=True)
        blob.unlink(missing_ok=True)

    def _patiently(self, action: Callable[[], _T], signs: Callable[[], object], revision: str, file: str | None = None) -> _T:
        """Run `action` until it hangs; faults that may pass are tried again, everything else becomes a `WeightsError`."""
        attempt = 1
        while True:
            watchdog = _Watchdog(PATIENCE, signs)
            try:
                return watchdog.run(action)
            except Exception as error:
                pause = _pause(error, attempt)
                # where nothing came for long, the library has already tried again
                if pause is None or attempt == ATTEMPTS or watchdog.idle > PATIENCE / 3:
                    cause = self._cause_of_waiting(revision, file) if isinstance(error, TimeoutError) else None
                    raise self._explain(cause or error, revision, file) from error
                status = _status(error)
                told = f"connection to {host()} broke off" if status is None else f"{host()} answers with status {status}"
                self.log(f"{told}, trying again ({attempt} of {ATTEMPTS - 1})")
                time.sleep(pause)
                attempt += 1

    def _cause_of_waiting(self, commit: str, file: str | None) -> Exception | None:
        """What the Hub says of a file now; the library keeps asking a server that is busy or out of order, and says nothing."""
        from huggingface_hub import get_hf_file_metadata, hf_hub_url

        if file is None:
            return None
        try:
            get_hf_file_metadata(hf_hub_url(self.repo, file, revision=commit), timeout=PATIENCE / 5)
        except Exception as error:
            return error
        return None

    def _explain(self, error: Exception, revision: str, file: str | None) -> WeightsError:
        """Every fault of the Hub in words; subclasses before their bases."""
        from huggingface_hub import errors as hub

        if isinstance(error, hub.LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
            error = error.__cause__  # it says to check the connection, whatever the Hub has said
        where, what = host(), f"{self.repo}@{revision[:12]}"
        status = _status(error)
        log_in = "check the name, or log in with `hf auth login` (or HF_TOKEN) if it is private"
        later = "try again later; finished files stay"
        network = f"check the network, or {later}"
        if isinstance(error, hub.GatedRepoError):
            remedy = f"accept its licence at {address()}/{self.repo}, then log in with `hf auth login`"
            return WeightsError(what, f"gated on {where}", remedy)
        if isinstance(error, hub.RepositoryNotFoundError) or status == 401:
            return WeightsError(what, f"not found on {where}, or private", log_in)
        if isinstance(error, hub.RevisionNotFoundError):
            return WeightsError(self.repo, f"has no revision {revision} on {where}", "check --revision")
        if file and status == 404:
            return WeightsError(what, f"has no file {file}", "choose a repository that holds this checkpoint")
        if isinstance(error, hub.HFValidationError):
            return WeightsError(self.repo, "not a repository name", "write organisation/name")
        if status == 404:
            return WeightsError(what, f"not found on {where} (404)", log_in)
        if status == 403:
            return WeightsError(what, f"{where} refuses access (403)", "check the rights of your token with `hf auth whoami`")
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
    """Address of the Hub, for people to read: without the password that one may hold."""
    from huggingface_hub import constants

    parts = urlsplit(constants.ENDPOINT)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def host() -> str:
    """Host of the Hub, for people to read."""
    return urlsplit(address()).netloc


def cache() -> str:
    """Where downloads go."""
    from huggingface_hub import constants

    return constants.HF_HUB_CACHE


def _described(sibling: Any) -> RemoteFile:
    """A file as far as its description makes sense; what a Hub says is not to be trusted in type either."""
    size, digest = sibling.size, sibling.lfs.sha256 if sibling.lfs else sibling.blob_id
    return RemoteFile(
        str(sibling.rfilename),
        size if isinstance(size, int) and size >= 0 else None,
        digest.lower() if isinstance(digest, str) and DIGEST.fullmatch(digest.lower()) else None,
    )


def _status(error: Exception) -> int | None:
    """The status that a server has answered with."""
    return getattr(getattr(error, "response", None), "status_code", None)


def _pause(error: Exception, attempt: int) -> float | None:
    """Seconds after which to ask again; None where that makes no sense, or is too long to wait for."""
    status = _status(error)
    if status is None:
        return 0.5 * attempt if _is_broken_connection(error) else None
    if status not in {429, 500, 502, 503, 504}:
        return None
    told = getattr(getattr(error, "response", None), "headers", {}).get("Retry-After", "")
    pause = float(told) if told.isascii() and told.isdecimal() else 0.5
    return pause if pause <= PATIENCE / 3 else None


def _is_broken_connection(error: Exception) -> bool:
    """Reset or cut off, as opposed to refused or answered."""
    names = {base.__name__ for base in type(error).__mro__}
    broken = names & {"ReadError", "RemoteProtocolError", "WriteError", "ConnectionResetError"}
    return bool(broken) or "Consistency check" in str(error)


def _own_downloads() -> Any:
    """The library's module of downloads once more, for us alone, with smaller chunks.

    It tells of each whole chunk: of its own, 10 MB, a slow line makes few. There is no parameter for it, and the constants
    themselves belong to the host program.
    """
    from huggingface_hub import constants

    spec = importlib.util.find_spec("huggingface_hub.file_download")
    assert spec is not None and spec.loader is not None  # or the import above had failed
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    vars(module)["constants"] = SimpleNamespace(**vars(constants) | {"DOWNLOAD_CHUNK_SIZE": CHUNK})
    return module


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps what the library warns of in this thread off standard error; not where the host program asks it to say more."""
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
    """Runs something that may hang, in a thread, and gives up on it when there is no sign of it going on.

    The library's own retries and waits add up to minutes. A thread that hangs in a socket cannot be stopped, but it can be
    left: it is a daemon and ends with the process.

    Args:
        patience: seconds to wait for the next sign.
        signs: its value changes as long as things go on.
    """

    def __init__(self, patience: float, signs: Callable[[], object]) -> None:
        self.patience, self.signs = patience, signs
        self._last = time.monotonic()

    @property
    def idle(self) -> float:
        """Seconds since the last sign."""
        return time.monotonic() - self._last

    def run(self, action: Callable[[], _T]) -> _T:
        """The result of `action`, or its exception.

        Raises:
            TimeoutError: when it hangs.
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
