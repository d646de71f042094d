"""Upload a checkpoint directory to the Hugging Face Hub, with every fault as one clear line.

Uploads use huggingface_hub like downloads. It waits for ever on a silent server, so timeouts are added.
"""

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rcodsr.checkpoints.config import WEIGHT_FILES
from rcodsr.checkpoints.hub import Repository, address, host
from rcodsr.errors import WeightsError
from rcodsr.messages import Log, size_text

PATIENCE = 30.0
"""Seconds for which the Hub may be silent during an upload. The library then retries five times, with pauses."""


class Destination(Repository):
    """A repository to upload to, by name.

    Args:
        repo: organisation/name.
        log: receives a line.

    Raises:
        WeightsError: when no token is set, the Hub must not be contacted, or the name is not valid.
    """

    def __init__(self, repo: str, log: Log) -> None:
        from huggingface_hub import constants, errors, get_token
        from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

        super().__init__(repo, log)
        try:
            validate_repo_id(repo)
        except errors.HFValidationError as error:
            raise self._explain(error, "main", None) from error
        if repo.count("/") != 1:
            raise WeightsError(repo, "not a repository name", "write organisation/name")
        if constants.is_offline_mode():
            raise WeightsError(repo, "cannot be written offline", "unset HF_HUB_OFFLINE")
        if get_token() is None:
            raise WeightsError(repo, f"no token for {host()}", "log in with `hf auth login`, or set HF_TOKEN")

    def upload(self, directory: Path, private: bool) -> str:
        """Upload a checkpoint and delete other weight files. Other files in the repository are kept.

        Args:
            directory: the checkpoint.
            private: create the repository as private.

        Returns:
            The repository's address.

        Raises:
            WeightsError: when the Hub does not answer or refuses, or the repository is public but should be private.
        """
        from huggingface_hub import HfApi

        api = HfApi()
        url = f"{address()}/{self.repo}"
        self._patiently(lambda: api.create_repo(self.repo, private=private or None, exist_ok=True), lambda: None, "main")
        if private and not self._patiently(lambda: api.model_info(self.repo), lambda: None, "main").private:
            raise WeightsError(self.repo, "exists and is public", "make it private in its settings, or choose another name")
        size = sum(path.stat().st_size for path in directory.iterdir())
        self.log(f"uploading {directory} to {url} ({size_text(size)})")
        try:
            with _calm_library():
                api.upload_folder(
                    repo_id=self.repo,
                    folder_path=directory,
                    delete_patterns=WEIGHT_FILES,
                    commit_message=f"Upload {directory.name} with rcodsr",
                )
        except Exception as error:
            raise self._explain(error, "main", None) from error
        return url

    def _explain(self, error: Exception, revision: str, file: str | None) -> WeightsError:
        """Describe a fault of an upload. Adds missing permissions to the faults of downloads."""
        if isinstance(error, RuntimeError) and isinstance(error.__cause__, Exception):
            error = error.__cause__  # it names the file, not the reason
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status == 401:
            return WeightsError(self.repo, f"{host()} does not accept your token", "log in with `hf auth login` (or HF_TOKEN)")
        if status == 403:
            cause = f"your token may not write to it on {host()} (403)"
            return WeightsError(self.repo, cause, "check the name, and the permissions of your token with `hf auth whoami`")
        if isinstance(error, ValueError) and str(error).startswith("Invalid metadata in README.md"):
            reason = "; ".join(str(error).splitlines()[1:])
            return WeightsError(self.repo, f"{host()} refuses README.md ({reason})", "correct it")
        return super()._explain(error, revision, file)


@contextmanager
def _calm_library() -> Iterator[None]:
    """Silence the library and limit the Hub's silence. Restores both afterwards."""
    from huggingface_hub import get_session
    from huggingface_hub import logging as library
    from huggingface_hub.utils import (  # type: ignore[attr-defined]
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    session, verbosity = get_session(), library.get_verbosity()
    hide = not sys.stderr.isatty() and not are_progress_bars_disabled()
    timeout, session.timeout = session.timeout, PATIENCE
    library.set_verbosity(logging.ERROR)
    if hide:
        disable_progress_bars()
    try:
        with warnings.catch_warnings(action="ignore"):  # about the card's metadata, which the Hub shows on the page
            yield
    finally:
        session.timeout = timeout
        library.set_verbosity(verbosity)
        if hide:
            enable_progress_bars()
