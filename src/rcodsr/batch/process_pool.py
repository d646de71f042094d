"""`-j N`: run one plan in several local processes, each with the engine on its own device or its own share of the cores.

If a process is killed (usually for lack of memory), its unreported jobs are run again one by one. A picture fails when it
kills a second process alone.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING

from rcodsr.batch.child import PATIENCE, Broken, Chunk, Note, Ready, work
from rcodsr.batch.discovery import is_there
from rcodsr.batch.order import Report, chunk_length, in_order, told_by_output
from rcodsr.batch.places import existing
from rcodsr.batch.plan import Job, remove_leftovers
from rcodsr.batch.results import Observer, Result, WriteOptions, blank, failed
from rcodsr.errors import WorkerError
from rcodsr.messages import Log
from rcodsr.options import UpscaleOptions, WeightsRequest

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess

_REMEDY = "use fewer --jobs, or close other programs"


def run_processes(
    jobs: list[Job],
    request: WeightsRequest,
    options: UpscaleOptions,
    output: WriteOptions,
    count: int,
    log: Log,
    observer: Observer | None = None,
) -> Iterator[Result]:
    """Enlarge and write the jobs in several processes.

    Args:
        jobs: from `plan`, each with a target.
        request: weights and device of the engine in each process.
        options: settings of each picture.
        output: how outputs are written.
        count: number of processes.
        log: receives the first process's description of the engine, and news of lost processes.
        observer: notified of pictures written after the caller stopped early.

    Yields:
        One result per job, in order.

    Raises:
        RcodsrError: when the engine cannot be loaded, or an output cannot be written and every further one would fail too.
        WorkerError: when processes are killed before they finish any job.
    """
    pool = _Pool(jobs, request, options, output, min(count, len(jobs)), log)
    told = 0
    try:
        for result in in_order(pool.reports()):
            told += 1
            yield result
        pool.dismiss()
    finally:
        pool.stop()
        if told < len(jobs) and observer is not None:
            for result in pool.finished_from(told):
                observer.late(result)


def threads_each(processes: int) -> int:
    """Compute threads of each process: an equal share of the cores, at most OMP_NUM_THREADS."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share, asked = max(1, cores // processes), os.environ.get("OMP_NUM_THREADS", "")
    return min(share, int(asked)) if asked.isdecimal() and int(asked) > 0 else share


@dataclass
class _Worker:
    process: SpawnProcess
    connection: Connection
    sent: bool = False
    """Whether it was sent a request to load the engine."""
    ready: bool = False
    left: deque[int] = field(default_factory=deque)
    """Jobs it has received and not yet reported."""


class _Pool:
    """Process pool that tracks which process has which job."""

    def __init__(
        self,
        jobs: list[Job],
        request: WeightsRequest,
        options: UpscaleOptions,
        output: WriteOptions,
        count: int,
        log: Log,
    ) -> None:
        self.jobs, self.request, self.options, self.output, self.count, self.log = jobs, request, options, output, count, log
        self.workers: list[_Worker] = []
        self.waiting = deque(range(len(jobs)))
        self.suspects: deque[int] = deque()
        """Jobs of lost processes. They run one by one, so that a second loss identifies the cause."""
        self.handed_out: set[int] = set()
        self.tried: set[int] = set()
        self.existed = existing([job.target for job in jobs])
        """Outputs that existed before the batch."""
        self.reported: dict[int, Result] = {}
        self.hired = 0
        self.lost_in_a_row = 0
        self.described = False

    def reports(self) -> Iterator[Report]:
        """Yield one report per job, in order of arrival."""
        while len(self.reported) < len(self.jobs):
            self._staff()
            for connection in wait([worker.connection for worker in self.workers]):
                worker = next(worker for worker in self.workers if worker.connection is connection)
                for report in self._heard(worker):
                    self.reported[report.index] = report.result
                    yield report

    def finished_from(self, first: int) -> Iterator[Result]:
        """Results of jobs from `first` on that were reported or whose output file is new."""
        for index, job in enumerate(self.jobs[first:], first):
            if index in self.reported:
                yield self.reported[index]
            elif (
                job.target is not None and index in self.handed_out and job.target not in self.existed and is_there(job.target)
            ):
                yield blank(job, "done")

    def dismiss(self) -> None:
        """Let idle processes exit after the last job."""
        for worker in self.workers:
            with suppress(OSError):
                worker.connection.send(None)

    def stop(self) -> None:
        """Stop all processes. Those in the middle of a picture abandon it and leave no partial file."""
        busy = [worker for worker in self.workers if worker.left or not worker.ready]
        for worker in busy:
            worker.process.terminate()
        deadline = time.monotonic() + PATIENCE
        for worker in self.workers:
            worker.connection.close()  # a process that still listens exits now
            _bury(worker.process, max(0.0, deadline - time.monotonic()))
        if busy or self.lost_in_a_row or self.tried:
            remove_leftovers(self.jobs)
        self.workers.clear()

    def _staff(self) -> None:
        """Start processes as needed and assign jobs."""
        idle = [worker for worker in self.workers if not worker.left]
        open_jobs = len(self.waiting) + len(self.suspects)
        for _ in range(min(self.count - len(self.workers), open_jobs - len(idle))):
            self._hire()
        for worker in self.workers:
            # the first process fetches and converts missing weights; the others find them ready
            if not worker.sent and (self.described or worker is self.workers[0]):
                worker.sent = self._send(worker, Chunk())
            if worker.ready and not worker.left and (self.waiting or self.suspects):
                self._hand_out(worker)

    def _hire(self) -> None:
        ours, theirs = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
        arguments = (theirs, self.request, self.options, self.output, self.hired, threads_each(self.count))
        process = context.Process(target=work, args=arguments, daemon=True)
        with _uninterrupted():
            self.workers.append(_Worker(process, ours))
            process.start()
        theirs.close()  # otherwise its exit would go unnoticed
        self.hired += 1

    def _hand_out(self, worker: _Worker) -> None:
        if self.suspects:
            numbers = [self.suspects.popleft()]
        else:
            length = chunk_length(len(self.waiting), self.count)
            numbers = [self.waiting.popleft() for _ in range(length)]
        worker.left.extend(numbers)
        self.handed_out.update(numbers)
        self._send(worker, Chunk(tuple((number, self.jobs[number]) for number in numbers)))

    def _send(self, worker: _Worker, chunk: Chunk) -> bool:
        with suppress(OSError):  # it has exited; its connection will report that
            worker.connection.send(chunk)
        return True

    def _heard(self, worker: _Worker) -> Iterator[Report]:
        try:
            message = worker.connection.recv()
        except (EOFError, OSError):
            yield from self._lost(worker)
            return
        if isinstance(message, Broken):
            raise message.error
        if isinstance(message, Note):
            self.log(message.text)
        elif isinstance(message, Ready):
            self._welcome(worker, message)
        elif isinstance(message, Report):
            self.lost_in_a_row = 0
            worker.left.remove(message.index)
            if message.index in self.tried:
                job = self.jobs[message.index]
                told_by_output(message.result, job, job.target in self.existed)
            yield message

    def _welcome(self, worker: _Worker, message: Ready) -> None:
        worker.ready = True
        if not self.described:
            each = threads_each(self.count)
            self.log(f"{message.text}, {self.count} processes with {each} thread{'s' * (each > 1)} each")
        self.described = True

    def _lost(self, worker: _Worker) -> Iterator[Report]:
        """Reassign the jobs of a dead process. A single job that was suspected before fails."""
        self.workers.remove(worker)
        worker.connection.close()
        _bury(worker.process, PATIENCE)
        how, left = _end_of(worker.process.exitcode), list(worker.left)
        self.lost_in_a_row += 1
        if self.lost_in_a_row > 2 * self.count:
            raise WorkerError("--jobs", f"processes are lost one after the other (the last {how})", _REMEDY)
        if len(left) == 1 and left[0] in self.tried:
            cause = f"its process was lost twice (the last {how})"
            yield Report(left[0], failed(self.jobs[left[0]], WorkerError(self.jobs[left[0]].source, cause, _REMEDY)))
            return
        self.log(f"a process {how}; its pictures are done again" if left else f"a process {how}; another one takes its place")
        self.tried.update(left)
        self.suspects.extend(left)


def _bury(process: SpawnProcess, seconds: float) -> None:
    """Wait for a process to exit, then kill it."""
    process.join(seconds)
    if process.is_alive():
        process.kill()
        process.join()


def _end_of(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else str(-code)
        return f"was killed by {name}" + (", usually for lack of memory" if name == "SIGKILL" else "")
    return f"ended with code {code}"


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Start a process with SIGINT blocked: a terminal sends it to all processes, and the parent decides."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
