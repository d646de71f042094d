"""Pipeline steps for pictures in a store: objects are fetched to a temporary folder, outputs are sent from memory.

Everything else is the same as in a local run: the checks, the record, the bytes.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rcodsr.batch.places import RemotePath
from rcodsr.batch.plan import Job
from rcodsr.batch.results import Result, unforeseen
from rcodsr.batch.stages import Passage, Stages
from rcodsr.errors import InputError, OutputError, RcodsrError


def is_remote(job: Job) -> bool:
    """Whether a job's picture or output is in a store."""
    return isinstance(job.source, RemotePath) or isinstance(job.target, RemotePath)


@contextmanager
def near(job: Job) -> Iterator[Job]:
    """A local version of the job, with its picture and existing output copied to a temporary folder.

    Raises:
        InputError: when the picture cannot be fetched.
        OutputError: when the store does not report whether the output exists.
    """
    if not is_remote(job):
        yield job
        return
    with tempfile.TemporaryDirectory(prefix="rcodsr-") as directory:
        local = replace(job, source=_source_near(job, Path(directory)), target=_target_near(job, Path(directory)))
        if local.target is not None and local.target.exists():
            _keep_times(job, local)
        yield local


def named(result: Result, job: Job, local: Job) -> Result:
    """The result of the local job with the paths of the original job."""
    result.input, result.output = str(job.source), None if job.target is None or result.own else str(job.target)
    result.error = None if result.error is None else _renamed(result.error, job, local)
    return result


@dataclass(frozen=True)
class RemoteStages(Stages):
    """Steps of jobs in a store. Objects are transferred in the steps that run in threads."""

    readers = 16

    def read(self, item: Passage) -> None:
        """Read the picture. Local copies are deleted at the end of this step."""
        self._near(item, super().read)

    def read_alone(self, item: Passage) -> None:
        """Read a picture that waited for memory."""
        self._near(item, super().read_alone)

    def _near(self, item: Passage, step: Callable[[Passage], None]) -> None:
        """Run a step on local copies, and report its result or error under the job's own paths."""
        job = item.job
        try:
            with near(job) as local:
                item.job = local
                try:
                    step(item)
                except Exception as error:
                    known = error if isinstance(error, RcodsrError) else unforeseen(error, local)
                    words = (_renamed(text, job, local) for text in (known.subject, known.cause, known.remedy))
                    raise type(known)(*words) from error
                if item.result is not None:
                    named(item.result, job, local)
        finally:
            item.job = job

    def encode(self, item: Passage) -> None:
        """Encode the output. An output in a store is already sent here."""
        super().encode(item)
        assert item.data is not None
        if isinstance(item.job.target, RemotePath):
            try:
                item.job.target.send(item.data)
            except OSError as error:
                remedy = "check that the bucket is writable and run again: finished pictures are kept"
                raise OutputError(item.job.target, f"cannot be written ({error.strerror})", remedy) from error

    def write(self, item: Passage) -> None:
        """Write the output unless it has been sent."""
        if isinstance(item.job.target, RemotePath):
            self._write_map(item)
            item.result = item.promised
        else:
            super().write(item)


def _source_near(job: Job, directory: Path) -> Any:
    if not isinstance(job.source, RemotePath):
        return job.source
    local = directory / "input" / job.source.name
    local.parent.mkdir()
    try:
        job.source.fetch(local)
    except OSError as error:
        raise InputError(job.source, f"cannot be read ({error.strerror})", "check its name and your credentials") from error
    return local


def _target_near(job: Job, directory: Path) -> Path | None:
    if not isinstance(job.target, RemotePath):
        return job.target
    local = directory / "output" / job.target.name
    local.parent.mkdir()
    try:
        job.target.fetch(local)  # checking first costs more: a store lists folders before it reports a missing object
    except FileNotFoundError:
        local.unlink(missing_ok=True)
    except OSError as error:
        cause = f"cannot be checked ({error.strerror})"
        raise OutputError(job.target, cause, "check your credentials", lasting=False) from error
    return local


def _keep_times(job: Job, local: Job) -> None:
    """Copy the times: an output that cannot carry a record counts as done if it is newer than its input."""
    for remote, copy in ((job.source, local.source), (job.target, local.target)):
        if isinstance(remote, RemotePath) and isinstance(copy, Path):
            with suppress(OSError):
                os.utime(copy, (remote.written(),) * 2)


def _renamed(text: str, job: Job, local: Job) -> str:
    for ours, theirs in ((local.source, job.source), (local.target, job.target)):
        text = text.replace(str(ours), str(theirs))
    return text
