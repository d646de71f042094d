"""The pipeline's steps for pictures of a store: objects are fetched into a temporary folder, outputs are sent from memory.

A local run and a remote one differ in nothing else: the same checks, the same record, the same bytes.
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
    """Whether a job's picture or its output lies in a store."""
    return isinstance(job.source, RemotePath) or isinstance(job.target, RemotePath)


@contextmanager
def near(job: Job) -> Iterator[Job]:
    """The job on this machine: its picture and what exists of its output, copied into a temporary folder.

    Raises:
        InputError: when the picture cannot be fetched.
        OutputError: when the store does not say whether the output exists.
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
    """A result of the job on this machine, in the words of the job itself."""
    result.input, result.output = str(job.source), None if job.target is None or result.own else str(job.target)
    result.error = None if result.error is None else _renamed(result.error, job, local)
    return result


@dataclass(frozen=True)
class RemoteStages(Stages):
    """The steps of jobs in a store. Objects travel in the steps that have threads of their own."""

    readers = 16

    def read(self, item: Passage) -> None:
        """As the base; the copies on this machine live no longer than this step."""
        self._near(item, super().read)

    def read_alone(self, item: Passage) -> None:
        """As the base."""
        self._near(item, super().read_alone)

    def _near(self, item: Passage, step: Callable[[Passage], None]) -> None:
        """Do a step on copies; its result or its error is then told of the job itself."""
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
        """As the base; an output in a store is sent there already."""
        super().encode(item)
        assert item.data is not None
        if isinstance(item.job.target, RemotePath):
            try:
                item.job.target.send(item.data)
            except OSError as error:
                remedy = "see that the bucket can be written, and run again: finished pictures are kept"
                raise OutputError(item.job.target, f"cannot be written ({error.strerror})", remedy) from error

    def write(self, item: Passage) -> None:
        """As the base, unless the output has been sent."""
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
        job.target.fetch(local)  # asking first would be dearer: a store lists folders before it says no
    except FileNotFoundError:
        local.unlink(missing_ok=True)
    except OSError as error:
        cause = f"cannot be looked at ({error.strerror})"
        raise OutputError(job.target, cause, "check your credentials", lasting=False) from error
    return local


def _keep_times(job: Job, local: Job) -> None:
    """Where an output has no room for a record, it is done when it is newer than its input."""
    for remote, copy in ((job.source, local.source), (job.target, local.target)):
        if isinstance(remote, RemotePath) and isinstance(copy, Path):
            with suppress(OSError):
                os.utime(copy, (remote.written(),) * 2)


def _renamed(text: str, job: Job, local: Job) -> str:
    for ours, theirs in ((local.source, job.source), (local.target, job.target)):
        text = text.replace(str(ours), str(theirs))
    return text
