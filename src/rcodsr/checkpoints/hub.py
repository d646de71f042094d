"""One repository of the Hugging Face Hub: a pinned commit, downloaded files, and every fault as one clear line.

Downloads go through huggingface_hub, so its cache, tokens, proxies and environment (HF_HOME, HF_ENDPOINT, HF_TOKEN, …) hold
here too. What it lacks is added: it may wait for minutes on a server that never answers, and its errors mislead.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

from rcodsr.errors import HubError, WeightsError

PATIENCE = 10.0
"""Seconds without an answer or a single new byte after which a server counts as hanging."""
ATTEMPTS = 3
"""Tries of a download whose connection breaks."""
COMMIT = re.compile(r"[0-9a-f]{40}")
_T = TypeVar("_T")


@dataclass(frozen=True)
class RemoteFile:
    """A file as the Hub describes it."""

    name: str
    bytes: int | None
    sha256: str | None
    """None for small files, which the Hub names by a git hash."""


class Repository:
    """A repository of the Hub, by name.

    Args:
        repo: organisation/name.
        log: receives one line now and then.
    """

    def __init__(self, repo: str, log: Callable[[str], None]) -> None:
        self.repo = repo
        self.log = log

    def commit(self, revision: str | None) -> tuple[str, list[RemoteFile]]:
        """The commit that a branch, tag or hash means now, and its files.

        Raises:
            WeightsError: when the Hub does not answer, refuses, or knows no such repository or revision.
        """
        from huggingface_hub import HfApi

        def ask(heartbeat: Callable[[], None]) -> Any:
            return HfApi().model_info(self.repo, revision=revision, files_metadata=True, timeout=PATIENCE)

        info = self._patiently(ask, revision or "main")
        if not COMMIT.fullmatch(info.sha or ""):
            raise HubError(self.repo, f"{host()} names no commit", "check HF_ENDPOINT and the network")
        return info.sha, [RemoteFile(s.rfilename, s.size, s.lfs.sha256 if s.lfs else None) for s in info.siblings or ()]

    def cached(self, name: str, revision: str) -> Path | None:
        """A file of a commit (or of the branch the cache remembers) if it is in the cache; asks nobody."""
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(self.repo, name, revision=revision)
        return Path(found) if isinstance(found, str) else None

    def download(self, name: str, commit: str) -> Path:
        """Fetch a file of a commit into the cache, going on where an earlier attempt broke off.

        Raises:
            WeightsError: as `commit`, and when the connection keeps breaking.
        """
        from huggingface_hub import hf_hub_download
        from tqdm.auto import tqdm  # type: ignore[import-untyped]

        def fetch(heartbeat: Callable[[], None]) -> str:
            class Meter(tqdm):  # type: ignore[misc]
                """Shows nothing, but tells that bytes arrive."""

                def __init__(self, *args: Any, **kwargs: Any) -> None:
                    kwargs.pop("name", None)
                    super().__init__(*args, **{**kwargs, "disable": True})

                def update(self, n: float | None = 1) -> bool | None:
                    heartbeat()
                    return super().update(n)

            return hf_hub_download(self.repo, name, revision=commit, tqdm_class=Meter)

        return Path(self._patiently(fetch, commit, name))

    def discard(self, path: Path) -> None:
        """Remove a damaged file from the cache, the blob behind the link too."""
        blob = path.resolve()
        path.unlink(missing_ok=True)
        blob.unlink(missing_ok=True)

    def _patiently(self, action: Callable[[Callable[[], None]], _T], revision: str, file: str | None = None) -> _T:
        """Run `action` until it hangs; broken connections are tried again, everything else becomes a `WeightsError`."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return _with_watchdog(action, PATIENCE)
            except Exception as error:
                if not _is_broken_connection(error) or attempt == ATTEMPTS:
                    raise self._explain(error, revision, file) from error
                self.log(f"connection to {host()} broke off, trying again ({attempt} of {ATTEMPTS - 1})")
                time.sleep(0.5 * attempt)
        raise AssertionError("unreachable")

    def _explain(self, error: Exception, revision: str, file: str | None) -> WeightsError:
        """Every fault of the Hub in words; subclasses before their bases."""
        from huggingface_hub import errors as hub

        where, what = host(), f"{self.repo}@{revision[:12]}"
        status = getattr(getattr(error, "response", None), "status_code", None)
        log_in = "check the name, or log in with `hf auth login` (or HF_TOKEN) if it is private"
        later = "try again later; what is downloaded stays"
        if isinstance(error, hub.GatedRepoError):
            remedy = f"accept its licence at {endpoint()}/{self.repo}, then log in with `hf auth login`"
            return WeightsError(what, f"gated on {where}", remedy)
        if isinstance(error, hub.RepositoryNotFoundError) or status == 401:
            return WeightsError(what, f"not found on {where}, or private", log_in)
        if isinstance(error, hub.RevisionNotFoundError):
            return WeightsError(self.repo, f"has no revision {revision} on {where}", "check --revision")
        if isinstance(error, hub.RemoteEntryNotFoundError) or (status == 404 and file):
            return WeightsError(what, f"has no file {file}", "choose a repository that holds this checkpoint")
        if isinstance(error, hub.HFValidationError):
            return WeightsError(self.repo, "not a repository name", "write organisation/name")
        if status == 404:
            return WeightsError(what, f"not found on {where} (404)", log_in)
        if status == 403:
            return WeightsError(what, f"{where} refuses access (403)", "check the rights of your token with `hf auth whoami`")
        if status == 429:
            return WeightsError(what, f"{where} limits the rate (429)", "wait a few minutes, or log in with `hf auth login`")
        if status is not None:
            return HubError(what, f"{where} answers with status {status}", later)
        if isinstance(error, TimeoutError) or "timeout" in type(error).__name__.lower():
            return HubError(what, f"{where} does not answer", later)
        if isinstance(error, ValueError):
            return HubError(what, f"{where} does not answer as a Hub ({error})", "check HF_ENDPOINT and the network")
        if isinstance(error, OSError) and error.errno is not None and error.filename:
            return WeightsError(error.filename, f"cannot be written ({error.strerror})", "free some space or set HF_HOME")
        cause = str(error).splitlines()[0] if str(error) else type(error).__name__
        return HubError(what, f"cannot be fetched from {where} ({cause})", later)


def endpoint() -> str:
    """Address of the Hub."""
    from huggingface_hub import constants

    return constants.ENDPOINT


def host() -> str:
    """Host of the Hub, for people to read."""
    return urlsplit(endpoint()).netloc


def _is_broken_connection(error: Exception) -> bool:
    """Reset or cut off, as opposed to refused or answered."""
    names = {base.__name__ for base in type(error).__mro__}
    broken = names & {"ReadError", "RemoteProtocolError", "WriteError", "ConnectionResetError"}
    return bool(broken) or "Consistency check" in str(error)


def _with_watchdog(action: Callable[[Callable[[], None]], _T], patience: float) -> _T:
    """Run `action(heartbeat)` in a thread; give up on it when `heartbeat` is not called for `patience` seconds.

    The library's own retries and waits add up to minutes. A thread that hangs in a socket cannot be stopped, but it can be
    left: it is a daemon and ends with the process.

    Raises:
        TimeoutError: when it hangs.
    """
    outcome: list[tuple[bool, Any]] = []
    last = [time.monotonic()]
    finished = threading.Event()

    def beat() -> None:
        last[0] = time.monotonic()

    def work() -> None:
        try:
            outcome.append((True, action(beat)))
        except Exception as error:
            outcome.append((False, error))
        finished.set()

    threading.Thread(target=work, daemon=True).start()
    while not finished.wait(max(0.01, last[0] + patience - time.monotonic())):
        if time.monotonic() - last[0] > patience:
            raise TimeoutError(f"no answer for {patience:.0f} s")
    succeeded, value = outcome[0]
    if not succeeded:
        raise value
    return cast(_T, value)
