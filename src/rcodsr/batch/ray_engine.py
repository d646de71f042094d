"""`--engine ray`: run the same jobs on a Ray cluster, with Ray Data. Each actor keeps one engine; each job returns one row.

Ray retries lost work for ever. A ledger therefore counts attempts: a chunk started too often is dropped and run once more
picture by picture, so that only a picture that kills its process each time fails.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rcodsr import errors
from rcodsr.batch.child import Chunk, reports
from rcodsr.batch.order import Report, chunk_length, in_order, told_by_output
from rcodsr.batch.places import RemotePath, existing, place
from rcodsr.batch.plan import Job, remove_leftovers
from rcodsr.batch.remote import named
from rcodsr.batch.results import Result, WriteOptions, failed
from rcodsr.errors import DeviceError, RcodsrError, UsageError, WorkerError
from rcodsr.images import io
from rcodsr.messages import Log, first_line
from rcodsr.options import UpscaleOptions, WeightsRequest

_PROBE, _ANSWER = 4.0, 10.0
"""Seconds to wait for a connection, and for a cluster to identify itself."""
_ROUNDS = ((16, 4), (1, 2))
"""Rounds: maximum jobs per chunk, and maximum attempts per chunk. The second round takes what the first left."""
_OBJECT_STORE = 256 << 20
"""Bytes of the object store in a cluster of our own, which holds only names and rows."""


def run_ray(
    jobs: list[Job],
    request: WeightsRequest,
    options: UpscaleOptions,
    output: WriteOptions,
    count: int | None,
    address: str | None,
    log: Log,
) -> Iterator[Result]:
    """Enlarge and write the jobs on a Ray cluster.

    Args:
        jobs: from `plan`, each with a target that every machine reaches.
        request: weights and device of the engine in each actor.
        options: settings of each picture.
        output: how outputs are written.
        count: number of actors. None: one per GPU of the cluster, or one per core without GPUs.
        address: HOST:PORT of the cluster, or "auto" for this machine's. None: RAY_ADDRESS, or a new local cluster.
        log: receives the actors' description of the engine.

    Yields:
        One result per job, in order.

    Raises:
        UsageError: when Ray is not installed or the address is not valid.
        DeviceError: when the cluster does not answer or has no CPUs or GPUs.
        RcodsrError: see `run_processes`.
    """
    where = _checked(jobs, options.invented, address)
    ray = require_ray()
    connect(ray, where)
    try:
        yield from in_order(_reports(ray, jobs, request, options, output, count, log))
    except ray.exceptions.RayError as error:
        raise WorkerError("--engine ray", first_line(error), "see the cluster's logs") from error
    finally:
        ray.shutdown()
        remove_leftovers(jobs)


def require_ray() -> Any:
    """Import Ray with quiet logs and without usage statistics.

    Raises:
        UsageError: when Ray is incomplete.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray.data
        import ray.util.scheduling_strategies
    except ImportError as error:
        raise UsageError("--engine ray", f"Ray is incomplete ({error})", "pip install 'ray[data]' s3fs") from error
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return ray


def connect(ray: Any, where: str) -> None:
    """Join a cluster, or start a new one on this machine ("local").

    Raises:
        DeviceError: when it does not answer within 15 s.
    """
    quiet = {"log_to_driver": False, "logging_level": "CRITICAL"}
    if where == "local":  # its processes die with the thread that starts them
        with _our_signals():
            _join(ray, where, quiet | {"include_dashboard": False, "object_store_memory": _OBJECT_STORE})
        return
    failures: list[RcodsrError] = []

    def join() -> None:
        try:
            _join(ray, where, quiet)
        except RcodsrError as error:
            failures.append(error)

    # it waits for minutes if another service answers
    joining = threading.Thread(target=join, daemon=True)
    joining.start()
    joining.join(_ANSWER)
    if joining.is_alive():
        raise DeviceError("--address", f"{where} does not answer as a Ray cluster", "use the HOST:PORT that ray start printed")
    if failures:
        raise failures[0]


def _join(ray: Any, where: str, options: dict[str, Any]) -> None:
    try:
        ray.init(address=where, **options)
    except Exception as error:
        remedy = "use HOST:PORT of a cluster that this machine belongs to, or submit with ray job submit"
        raise DeviceError("--address", f"{where}: {first_line(error)}", remedy) from error


@contextmanager
def _our_signals() -> Iterator[None]:
    """Keep our signal handlers, which end a batch cleanly, instead of Ray's."""
    ours = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in ours.items():
            signal.signal(number, handler)


def _checked(jobs: list[Job], invented: bool, address: str | None) -> str:
    """Address of the cluster, after every check that needs no cluster."""
    to_stdout = any(job.target is None or (invented and job.map is None) for job in jobs)
    if to_stdout or any(isinstance(job.source, io.Piped) for job in jobs):
        raise UsageError("--engine ray", "standard input and output do not reach a cluster", "pass files, or omit the option")
    if find_spec("ray") is None:
        raise UsageError("--engine ray", "Ray is not installed", "pip install 'ray[data]' s3fs")
    where = address or os.environ.get("RAY_ADDRESS") or "local"
    if where not in {"auto", "local"}:
        _probe(where)
    return where


def _probe(where: str) -> None:
    host, _, port = where.rpartition(":")
    if not host or not port.isdecimal() or "/" in host:
        raise UsageError("--address", f"'{where}' is not a valid address of a Ray cluster", "use HOST:PORT or auto")
    try:
        socket.create_connection((host, int(port)), timeout=_PROBE).close()
    except (OSError, OverflowError) as error:
        cause = f"{where} cannot be reached ({getattr(error, 'strerror', None) or error})"
        raise DeviceError("--address", cause, "check that the cluster runs: ray start --head prints its HOST:PORT") from error


def _reports(
    ray: Any,
    jobs: list[Job],
    request: WeightsRequest,
    options: UpscaleOptions,
    output: WriteOptions,
    count: int | None,
    log: Log,
) -> Iterator[Report]:
    """Yield reports as they arrive: from chunks, then one by one from lost jobs."""
    actors, cpus, gpus = _share(ray, request, count, len(jobs))
    far = [_anywhere(job) for job in jobs]
    existed = existing([job.target for job in jobs])
    left, described = dict.fromkeys(range(len(jobs))), False
    for longest, tries in _ROUNDS:
        if not left:
            return
        rows = [{"job": json.dumps([index, *_texts(far[index])])} for index in left]
        blocks = -(-len(rows) // min(longest, chunk_length(len(rows), actors)))
        _set_up(ray)
        dataset = ray.data.from_items(rows, override_num_blocks=blocks).map_batches(
            Enlarger,
            batch_size=None,
            fn_constructor_args=(request, options, output, cpus, _ledger(ray), tries),
            concurrency=min(actors, blocks),
            num_cpus=cpus,
            num_gpus=gpus,
        )
        for row in dataset.iter_rows():
            said = json.loads(row["report"])
            if "fatal" in said:
                raise _error(said["fatal"])
            if not described:
                each = "a GPU" if gpus else f"{cpus} thread{'s' * (cpus > 1)}"
                log(f"{said['engine']}, {actors} actors with {each} each, on Ray")
                described = True
            index, result = said["index"], Result(**said["result"])
            del left[index]
            named(result, jobs[index], far[index])
            told_by_output(result, jobs[index], jobs[index].target in existed)
            yield Report(index, result, _error(said["lasting"]) if said["lasting"] else None)
    for index in left:
        error = WorkerError(jobs[index].source, "its process was lost each time", "allow it more memory, or crop it")
        yield Report(index, failed(jobs[index], error))


def _anywhere(job: Job) -> Job:
    """The job with paths that are valid in every working directory."""

    def absolute(path: Any) -> Any:
        return path if isinstance(path, RemotePath) else path.absolute()

    return Job(absolute(job.source), absolute(job.target), map=None if job.map is None else absolute(job.map))


def _texts(job: Job) -> tuple[str, str, str]:
    """Source, output and map as a row holds them. The map is empty if there is none."""
    return str(job.source), str(job.target), "" if job.map is None else str(job.map)


def _job(source: str, target: str, map: str) -> Job:
    """Inverse of `_texts`."""
    return Job(place(source), place(target), map=Path(map) if map else None)


def _share(ray: Any, request: WeightsRequest, count: int | None, jobs: int) -> tuple[int, int, int]:
    """Number of actors, then CPUs (= threads) and GPUs of each.

    Raises:
        DeviceError: when the cluster has no resources.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus, cores = (int(sum(node.get(kind, 0) for node in nodes)) for kind in ("GPU", "CPU"))
    wanted = request.device in {"auto", "cuda"} and gpus > 0
    if not cores or (request.device == "cuda" and not gpus):
        raise DeviceError("--engine ray", f"the cluster has {cores} CPUs and {gpus} GPUs", "add machines to it")
    smallest = min(int(node["CPU"]) for node in nodes if node.get("CPU", 0) >= 1)
    actors = max(1, min(count or (gpus if wanted else cores), gpus if wanted else cores, jobs))
    return actors, max(1, min(smallest, cores // actors)), int(wanted)


def _set_up(ray: Any) -> None:
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    context.enable_rich_progress_bars = context.enable_auto_log_stats = False
    context.execution_options.preserve_order = True
    context.max_errored_blocks = -1  # a lost chunk must not end the others


class Enlarger:
    """Callable that Ray keeps in each actor, with its engine.

    Args:
        request: weights and device of the engine.
        options: settings of each picture.
        output: how outputs are written.
        threads: number of compute threads.
        ledger: an actor of `Ledger`.
        tries: maximum number of attempts per chunk.
    """

    def __init__(
        self, request: WeightsRequest, options: UpscaleOptions, output: WriteOptions, threads: int, ledger: Any, tries: int
    ) -> None:
        import torch

        from rcodsr.engine.upscaler import Upscaler

        torch.set_num_threads(threads)
        self.options, self.output = options, output
        self.ledger, self.tries = ledger, tries
        self.fatal: list[str] | None = None
        self.engine = ""
        try:
            self.upscaler = Upscaler.load(request, options)
            self.engine = f"{self.upscaler.weights_id} on {self.upscaler.runtime.reason}"
        except RcodsrError as error:  # returned as a value, because Ray would restart the actor repeatedly
            self.fatal = _plain(error)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Run a chunk of jobs: column `job` in, column `report` out. A dropped chunk returns no rows."""
        import ray

        if self.fatal is not None:
            return {"report": [json.dumps({"fatal": self.fatal})]}
        jobs = [json.loads(text) for text in batch["job"]]
        if ray.get(self.ledger.begin.remote(jobs[0][0])) > self.tries:
            return {"report": []}
        chunk = Chunk(tuple((index, _job(*texts)) for index, *texts in jobs))
        return {"report": [self._row(report) for report in reports(chunk, self.upscaler, self.options, self.output)]}

    def _row(self, report: Report) -> str:
        lasting = None if report.lasting is None else _plain(report.lasting)
        said = {"index": report.index, "result": asdict(report.result), "lasting": lasting}
        return json.dumps(said | {"engine": self.engine})


class Ledger:
    """Counts the attempts at each chunk. Runs on the machine that started the batch and outlives the other actors."""

    def __init__(self) -> None:
        self.begun: Counter[int] = Counter()

    def begin(self, chunk: int) -> int:
        """Count an attempt at a chunk, identified by its first job."""
        self.begun[chunk] += 1
        return self.begun[chunk]


def _ledger(ray: Any) -> Any:
    here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0)(Ledger).options(scheduling_strategy=here).remote()


def _plain(error: RcodsrError) -> list[str]:
    return [type(error).__name__, error.subject, error.cause, error.remedy]


def _error(plain: list[str]) -> RcodsrError:
    """Inverse of `_plain`."""
    kind, *words = plain
    made: RcodsrError = getattr(errors, kind)(*words)
    return made
