"""One process of `-j N`: loads the engine once, then receives chunks of jobs over a connection and reports on each job."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from queue import SimpleQueue
from typing import TYPE_CHECKING

from rcodsr.batch.order import Report
from rcodsr.batch.pipeline import run
from rcodsr.batch.plan import Job
from rcodsr.batch.results import Result, WriteOptions
from rcodsr.errors import OutputError, RcodsrError, WorkerError
from rcodsr.options import UpscaleOptions, WeightsRequest

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from types import FrameType

    from rcodsr.engine.upscaler import Upscaler

PATIENCE = 10.0
"""Seconds a stopped process has to exit."""


@dataclass(frozen=True)
class Chunk:
    """Jobs for one process, with their numbers in the plan. An empty chunk only loads the engine."""

    jobs: tuple[tuple[int, Job], ...] = ()


@dataclass(frozen=True)
class Note:
    """A line for the user."""

    text: str


@dataclass(frozen=True)
class Ready:
    """The engine is loaded."""

    text: str
    """Weights, device and dtype."""


@dataclass(frozen=True)
class Broken:
    """The process cannot continue."""

    error: RcodsrError


def work(
    connection: Connection, request: WeightsRequest, options: UpscaleOptions, output: WriteOptions, number: int, threads: int
) -> None:
    """Serve until the connection sends None or is closed by the other side.

    Args:
        connection: receives chunks, sends reports.
        request: weights and device of the engine.
        options: settings of each picture.
        output: how outputs are written.
        number: index of this process, which selects its GPU.
        threads: number of compute threads.
    """
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all processes; the parent decides
    inbox: SimpleQueue[Chunk | None] = SimpleQueue()
    threading.Thread(target=_listen, args=(connection, inbox), daemon=True).start()
    with suppress(BrokenPipeError, ConnectionResetError):  # the parent has exited
        try:
            _serve(connection, inbox, request, options, output, number, threads)
        except RcodsrError as error:
            connection.send(Broken(error))
        except Exception as error:
            connection.send(Broken(WorkerError("--jobs", f"unexpected {type(error).__name__}: {error}", "please report it")))


def _serve(
    connection: Connection,
    inbox: SimpleQueue[Chunk | None],
    request: WeightsRequest,
    options: UpscaleOptions,
    output: WriteOptions,
    number: int,
    threads: int,
) -> None:
    import torch  # before it is asked to, so that processes start side by side

    torch.set_num_threads(threads)
    if inbox.get() is None:
        return
    from rcodsr.engine.upscaler import Upscaler

    upscaler = Upscaler.load(_of_process(request, number), options, lambda text: connection.send(Note(text)))
    connection.send(Ready(f"{upscaler.weights_id} on {upscaler.runtime.reason}"))
    while (chunk := inbox.get()) is not None:
        for report in reports(chunk, upscaler, options, output):
            connection.send(report)


def _of_process(request: WeightsRequest, number: int) -> WeightsRequest:
    """The request with this process's device: processes take the GPUs in turn unless one was named."""
    import torch

    if request.device in {"auto", "cuda"} and torch.cuda.is_available():
        return replace(request, device=f"cuda:{number % torch.cuda.device_count()}")
    return request


def reports(chunk: Chunk, upscaler: Upscaler, options: UpscaleOptions, output: WriteOptions) -> Iterator[Report]:
    """Run the jobs of a chunk. A fault that every further job would meet ends it, as part of its own job's report."""
    numbers = iter([index for index, _ in chunk.jobs])
    results = run([job for _, job in chunk.jobs], upscaler, options, output, None)
    held: Result | None = None
    try:
        for result in results:
            if result.lasting:
                held = result  # the error itself follows
            else:
                yield Report(next(numbers), result)
    except OutputError as error:
        if held is None:
            raise
        yield Report(next(numbers), held, error)


def _listen(connection: Connection, inbox: SimpleQueue[Chunk | None]) -> None:
    """Queue messages from the parent. If the parent dies, stop as if it had requested it, even in the middle of a picture."""
    try:
        while (chunk := connection.recv()) is not None:
            inbox.put(chunk)
        inbox.put(None)
    except (EOFError, OSError):
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Timer(PATIENCE, os._exit, [128 + signal.SIGTERM]).start()


def _leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
