"""Jobs → written files, one result per job, in order. A bad input does not stop the others, but a full disk does.

    read ahead → engine → encode → write

While the engine works on one picture, other threads decode the next ones and encode and write the previous ones.
On a CPU the engine stays in the caller's thread, so that a signal interrupts it. On other devices it takes several pictures
at a time, whose equal tiles share network calls. The number and the pixels of pictures in progress are limited.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, BinaryIO

from rcodsr.batch.memory import has_memory
from rcodsr.batch.plan import Job
from rcodsr.batch.results import Observer, Result, WriteOptions
from rcodsr.batch.stages import LARGE, Passage, Stages, run_step
from rcodsr.batch.threads import Later, Workers
from rcodsr.options import UpscaleOptions

if TYPE_CHECKING:  # a run with nothing to do must not load torch
    from rcodsr.engine.upscaler import Upscaler

_TOGETHER = 8
"""Pictures that share network calls on devices where that helps."""
_PATIENCE = 4.0
"""Seconds to wait for threads on an early exit. Doubled for a write in progress."""
_UNWRITTEN = 3
"""Maximum number of pictures waiting to be written, per picture in the engine."""


def run(
    jobs: list[Job],
    upscaler: Upscaler,
    options: UpscaleOptions,
    output: WriteOptions,
    stdout: BinaryIO | None,
    max_failures: int | None = None,
    together: int | None = None,
    observer: Observer | None = None,
) -> Iterator[Result]:
    """Enlarge and write the jobs. Files are written and results yielded in the jobs' order.

    Args:
        jobs: from `plan`.
        upscaler: the engine.
        options: settings of each picture.
        output: how outputs are written.
        stdout: receives the picture of a job without a target. None if the caller has none.
        max_failures: write nothing after this many failures. The caller stops then.
        together: pictures whose tiles may share network calls. Default: 1 on a CPU, 8 elsewhere.
        observer: notified of tiles, and of pictures written after the caller stopped early.

    Yields:
        One result per job.

    Raises:
        OutputError: after the job's result, when an output cannot be written and every further one would fail too.
    """
    count = together or (1 if upscaler.runtime.device.type == "cpu" else _TOGETHER)
    if count > 1:
        from rcodsr.batch.tiles import TileBatcher

        upscaler = upscaler.through(lambda network: TileBatcher(network, count))
    observer = observer or Observer()
    pipeline = _Pipeline(_stages(jobs)(upscaler, options, output, stdout, observer), count, max_failures)
    try:
        yield from pipeline.results(jobs)
    finally:
        pipeline.close()
        for item, _ in pipeline.unwritten:
            if item.result is not None:
                observer.late(item.result)


def _stages(jobs: list[Job]) -> type[Stages]:
    from rcodsr.batch.remote import RemoteStages, is_remote

    return RemoteStages if any(map(is_remote, jobs)) else Stages


class _Pipeline:
    def __init__(self, stages: Stages, together: int, max_failures: int | None) -> None:
        self.stages = stages
        self.together = together
        self.failures_left = max_failures
        self.closed = False
        self.writing = threading.Lock()
        self.readers = Workers(stages.readers)
        self.engines = Workers(together if together > 1 else 0)
        self.encoders = Workers(1 if together == 1 else min(8, os.cpu_count() or 1))
        self.writer = Workers(1)
        self.unwritten: deque[tuple[Passage, Later[Passage]]] = deque()
        """Pictures in the engine or later, each with its pending result."""

    def results(self, jobs: list[Job]) -> Iterator[Result]:
        """One result per job."""
        for item in self._read_ahead(jobs):
            if self.closed:
                break
            while self.unwritten and not self._has_room(item):
                yield from self._next()
            if item.result is None and item.picture is None:
                run_step(item, self.stages.read_alone)
            self._process(item)
            while self.unwritten and self.unwritten[0][1].ready:
                yield from self._next()
        while self.unwritten:
            yield from self._next()

    def close(self) -> None:
        """Stop writing. Waits for a write in progress, but not for long encodings."""
        self.closed = True
        if self.writing.acquire(timeout=2 * _PATIENCE):
            self.writing.release()
        pools = (self.readers, self.engines, self.encoders, self.writer)
        for pool in pools:
            pool.end()
        deadline = time.monotonic() + _PATIENCE
        for pool in pools:
            pool.join(deadline)

    def _read_ahead(self, jobs: list[Job]) -> Iterator[Passage]:
        reading: deque[Later[Passage]] = deque()
        for job in jobs:
            reading.append(self.readers.submit(partial(self._run, Passage(job), self.stages.read)))
            if len(reading) > 2 * self.together:
                yield reading.popleft().take()
        while reading:
            yield reading.popleft().take()

    def _has_room(self, item: Passage) -> bool:
        """Whether a picture may join those in progress. A picture that needs all memory must wait."""
        if item.result is not None:
            return True
        under_way = item.pixels + sum(other.pixels for other, _ in self.unwritten if other.result is None)
        full = len(self.unwritten) > _UNWRITTEN * self.together
        return item.picture is not None and not full and under_way <= LARGE and has_memory(under_way)

    def _process(self, item: Passage) -> None:
        """Submit a picture to each stage in turn. Each stage waits for the one before."""
        enlarged = self.engines.submit(lambda: self._run(item, self.stages.enlarge))
        encoded = self.encoders.submit(lambda: self._run(enlarged.take(), self.stages.encode))
        written = self.writer.submit(lambda: self._write(encoded.take()))
        self.unwritten.append((item, written))

    def _run(self, item: Passage, step: Callable[[Passage], None]) -> Passage:
        return item if self.closed else run_step(item, step)

    def _write(self, item: Passage) -> Passage:
        """Write a picture unless the batch has ended. Writing in the jobs' order makes the end reproducible."""
        with self.writing:
            if self.closed:
                return item
            run_step(item, self.stages.write)
            if item.result is not None and item.result.status == "failed" and self.failures_left is not None:
                self.failures_left -= 1
            if item.lasting is not None or self.failures_left == 0:
                self.closed = True
        return item

    def _next(self) -> Iterator[Result]:
        item = self.unwritten[0][1].take()
        self.unwritten.popleft()  # not earlier: a signal may raise during the wait
        if item.result is not None:  # None after the batch has ended
            yield item.result
        if item.lasting is not None:
            raise item.lasting
