"""Predict the results of jobs from headers, existing outputs and the weights' hash. Loads no torch and fetches nothing."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property

from rcodsr.batch.memory import require_memory
from rcodsr.batch.plan import Job
from rcodsr.batch.records import is_done, is_result, record_of, size_of
from rcodsr.batch.remote import is_remote, named, near
from rcodsr.batch.results import Result, WriteOptions, about, blank, failed, own_result
from rcodsr.batch.stages import check, format_of, require_no_map
from rcodsr.checkpoints.identity import Identity, identify_here
from rcodsr.errors import InputError, OutputError, RcodsrError
from rcodsr.images import io
from rcodsr.options import PIXELS, Level, UpscaleOptions, WeightsRequest


class Foresight:
    """Predicts the result of a job before the engine is loaded: failed, skipped or planned.

    Args:
        request: the weights, located when the first valid picture needs them.
        options: settings of each picture.
        output: how outputs are written.
    """

    def __init__(self, request: WeightsRequest, options: UpscaleOptions, output: WriteOptions) -> None:
        self._request, self._options, self._output = request, options, output

    @cached_property
    def weights(self) -> Identity | None:
        """Identity of the weights. None if they must be fetched or converted first.

        Raises:
            UsageError: when the weights do not support the options.
            WeightsError: when the weights are unknown, unavailable or damaged.
        """
        return identify_here(self._request, self._options)

    def result(self, job: Job) -> Result:
        """Predict what `pipeline.run` will do with a job.

        Raises:
            UsageError: see `weights`.
            WeightsError: see `weights`.
        """
        try:
            with near(job) as local:
                return named(self._result(local), job, local)
        except (InputError, OutputError) as error:
            return failed(job, error)

    def _result(self, job: Job) -> Result:
        result, output = blank(job, "planned"), self._output
        try:
            header = io.read_header(job.source)
            if not output.again and is_result(job.source):
                return own_result(job.source)
            require_memory(job.source, check(job, header, self._options, output))
            result.width, result.height = self._options.output_size(header.size)
        except RcodsrError as error:
            return failed(job, about(error, job))
        weights = self.weights
        self._describe(result, weights)
        try:
            if job.target is None or output.overwrite or not job.target.exists():
                require_no_map(job, output)
                return result
            record = self._record(job, weights)
            record |= {"quality": output.quality} if format_of(job, output, header) in io.LOSSY else {}
            done = is_done(job.source, job.target, record, output.strip, output.dtypes)
            if done and weights is not None and (job.map is None or job.map.exists()):
                return blank(job, "skipped")
            require_no_map(job, output)
        except RcodsrError as error:
            return failed(job, about(error, job))
        return result

    def _record(self, job: Job, weights: Identity | None) -> dict[str, object]:
        """The record an output must carry, as far as it is known."""
        if weights is None:
            return {"pixels": PIXELS, **size_of(self._options), "input_sha256": io.digest(job.source)}
        return record_of(job.source, job.options(self._options), weights.spec, weights.id, self._request.dtypes[0])

    def _describe(self, result: Result, weights: Identity | None) -> None:
        """Add weights, realism and timestep where they are known before the picture is read."""
        if weights is None:
            return
        result.weights, control = weights.id, self._options.chosen
        if not isinstance(control, Level):
            return
        grouping = weights.spec.grouping
        result.timestep = grouping.realism_timestep(control.realism)
        if weights.spec.fixed_timestep is None:
            result.realism, result.level = control.realism, grouping.level(result.timestep)
        else:
            result.realism = weights.share


def work_off(
    jobs: list[Job], foresight: Foresight, engine: Callable[[list[Job], int], Iterable[Result]], failures: int = 0
) -> Iterator[Result]:
    """Results of jobs, in order. The engine is called at the first job that needs it.

    Args:
        jobs: from `plan`.
        foresight: predicts refused and finished jobs. Objects in a store go to the engine, which requests several at a time.
        engine: takes the remaining jobs and the number of failures so far, loads what it needs, and yields results.
        failures: number of failures before these jobs.
    """
    left = deque(jobs)
    while left and not is_remote(left[0]):
        result = foresight.result(left[0])
        if result.status == "planned":
            break
        left.popleft()
        failures += result.status == "failed"
        yield result
    if left:
        yield from engine(list(left), failures)
