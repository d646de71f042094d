"""Read paths from standard input (`@-`) as they arrive. Each line is planned and answered without waiting for the next."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from threading import Thread

from rcodsr.batch.discovery import Selection, is_directory, source_of
from rcodsr.batch.places import RealPaths, place
from rcodsr.batch.plan import Job, Naming, make_plan, require_fit
from rcodsr.batch.results import Result, decided_ahead, failed, own_result, refused
from rcodsr.errors import InputError, NoInputError, RcodsrError, UsageError
from rcodsr.images.formats import FORMATS
from rcodsr.images.lists import stream_lines
from rcodsr.options import UpscaleOptions

_AT_ONCE = 256
"""Maximum number of lines planned before the first of them is processed."""


class LineReader:
    """Lines of standard input, read by a thread so that the consumer sees which have already arrived.

    Raises:
        InputError: when standard input is closed.
    """

    def __init__(self) -> None:
        if sys.stdin is None:
            raise InputError("@-", "standard input is closed", "pipe something into it")
        self._stdin = sys.stdin.fileno()
        self._queue: SimpleQueue[str | RcodsrError | None] = SimpleQueue()
        Thread(target=self._read, name="rcodsr", daemon=True).start()

    def chunks(self) -> Iterator[list[str | RcodsrError]]:
        """Yield the lines that have arrived since the last call, at least one. An error among them explains why input ended.

        Raises:
            NoInputError: when standard input has no lines.
        """
        item, empty = self._queue.get(), True
        while item is not None:
            chunk, empty = [item], False
            while len(chunk) < _AT_ONCE and not self._queue.empty() and (item := self._queue.get()) is not None:
                chunk.append(item)
            yield chunk
            item = None if item is None else self._queue.get()
        if empty:
            raise NoInputError("@-", "lists no pictures", "write one path per line")

    def _read(self) -> None:
        try:
            # not through sys.stdin: a waiting thread would hold its lock at interpreter exit
            for line in stream_lines("@-", lambda: os.read(self._stdin, 1 << 16)):
                self._queue.put(line)
        except RcodsrError as error:
            self._queue.put(error)
        except OSError as error:
            self._queue.put(InputError("@-", f"standard input cannot be read ({error.strerror})", "pipe something into it"))
        self._queue.put(None)


@dataclass
class LinePlanner:
    """Plans line by line and remembers earlier targets. A bad line, or one that clashes with an earlier line, fails alone.

    Raises:
        UsageError: when `-o` cannot hold several pictures.
    """

    output: str | None
    naming: Naming
    selection: Selection
    options: UpscaleOptions
    shard: tuple[int, int] | None = None
    strip: bool = False

    def __post_init__(self) -> None:
        """Check that the output is a directory."""
        self._real = RealPaths()
        self._inputs: set[str] = set()
        self._targets: dict[str, Path] = {}
        """Outputs, and the pictures they come from."""
        if self.output is None:
            return
        if self.output == "-":
            raise UsageError("-o -", "pictures of a list cannot share one stream", "use -o DIRECTORY")
        path, directory = place(self.output), self.output.endswith(("/", os.sep))
        if path.is_file() or (path.suffix.lower() in FORMATS and not directory and not is_directory(path)):
            raise UsageError(self.output, "names a file, but the inputs need a directory", "use -o DIRECTORY")
        if self.output and not directory:
            self.output += "/"

    def plan(self, line: str | RcodsrError) -> list[Job | Result]:
        """Jobs of a line, and results that are already decided."""
        if isinstance(line, RcodsrError):
            return [refused("@-", line)]
        try:
            plan = make_plan([source_of(line)], self.output, self.naming, self.selection, self.shard, self.strip)
            require_fit(plan, self.options)
        except RcodsrError as error:
            return [refused(line, error)]
        return [*decided_ahead(plan), *(self._claimed(job) for job in plan.jobs)]

    def _claimed(self, job: Job) -> Job | Result:
        """The job, or a failure if an earlier line uses the same files."""
        if not isinstance(job.source, Path) or job.target is None:
            return job
        source, target = (self._real.of(path).casefold() for path in (job.source, job.target))
        if source in self._targets:
            return own_result(job.source)
        if target in self._inputs:
            cause, remedy = f"would overwrite an input, as the output of {job.source}", "choose another path with -o"
            return failed(job, UsageError(job.target, cause, f"{remedy}; inputs are never written"))
        earlier = self._targets.setdefault(target, job.source)
        if self._real.of(earlier).casefold() != source:
            remedy = "set -o, or distinguish them with --name"
            return failed(job, UsageError(job.target, f"would be written for both {earlier} and {job.source}", remedy))
        self._inputs.add(source)
        return job
