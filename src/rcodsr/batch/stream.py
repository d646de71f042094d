"""Paths of standard input (`@-`) as they come: each line is planned by itself, and answered without waiting for the next."""

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
"""Lines at most that are planned before the first of them is worked on."""


class LineReader:
    """Lines of standard input, read by a thread, so that whoever takes them sees which have come already.

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
        """What has come since, at least one line; errors among them say why no more can.

        Raises:
            NoInputError: when there is no line at all.
        """
        item, empty = self._queue.get(), True
        while item is not None:
            chunk, empty = [item], False
            while len(chunk) < _AT_ONCE and not self._queue.empty() and (item := self._queue.get()) is not None:
                chunk.append(item)
            yield chunk
            item = None if item is None else self._queue.get()
        if empty:
            raise NoInputError("@-", "lists no pictures", "write one path a line")

    def _read(self) -> None:
        try:
            # not through sys.stdin, whose lock a thread that waits would hold at the interpreter's end
            for line in stream_lines("@-", lambda: os.read(self._stdin, 1 << 16)):
                self._queue.put(line)
        except RcodsrError as error:
            self._queue.put(error)
        except OSError as error:
            self._queue.put(InputError("@-", f"standard input cannot be read ({error.strerror})", "pipe something into it"))
        self._queue.put(None)


@dataclass
class LinePlanner:
    """Plans line after line; knows what earlier ones have claimed. A line that is bad, or clashes with one before, fails alone.

    Raises:
        UsageError: when `-o` cannot take several pictures.
    """

    output: str | None
    naming: Naming
    selection: Selection
    options: UpscaleOptions
    shard: tuple[int, int] | None = None
    strip: bool = False

    def __post_init__(self) -> None:
        """Lines need a directory."""
        self._real = RealPaths()
        self._inputs: set[str] = set()
        self._targets: dict[str, Path] = {}
        """Outputs, and the pictures that they are made of."""
        if self.output is None:
            return
        if self.output == "-":
            raise UsageError("-o -", "pictures of a list cannot share one stream", "give -o DIRECTORY")
        path, directory = place(self.output), self.output.endswith(("/", os.sep))
        if path.is_file() or (path.suffix.lower() in FORMATS and not directory and not is_directory(path)):
            raise UsageError(self.output, "names a file, but the inputs need a directory", "give -o DIRECTORY")
        if self.output and not directory:
            self.output += "/"

    def plan(self, line: str | RcodsrError) -> list[Job | Result]:
        """What a line asks for: jobs, and what is decided already."""
        if isinstance(line, RcodsrError):
            return [refused("@-", line)]
        try:
            plan = make_plan([source_of(line)], self.output, self.naming, self.selection, self.shard, self.strip)
            require_fit(plan, self.options)
        except RcodsrError as error:
            return [refused(line, error)]
        return [*decided_ahead(plan), *(self._claimed(job) for job in plan.jobs)]

    def _claimed(self, job: Job) -> Job | Result:
        """The job, unless an earlier line has a claim on its files."""
        if not isinstance(job.source, Path) or job.target is None:
            return job
        source, target = (self._real.of(path).casefold() for path in (job.source, job.target))
        if source in self._targets:
            return own_result(job.source)
        if target in self._inputs:
            cause, remedy = f"would overwrite an input, as the output of {job.source}", "choose another place with -o"
            return failed(job, UsageError(job.target, cause, f"{remedy}; inputs are never written"))
        earlier = self._targets.setdefault(target, job.source)
        if self._real.of(earlier).casefold() != source:
            remedy = "set -o, or name them apart with --name"
            return failed(job, UsageError(job.target, f"would be written for both {earlier} and {job.source}", remedy))
        self._inputs.add(source)
        return job
