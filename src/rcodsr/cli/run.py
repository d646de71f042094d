"""Run the plan of `rcodsr upscale`: in this process, in several processes, or on a Ray cluster. Or only show the plan."""

import sys
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from rcodsr.batch.ahead import Foresight, work_off
from rcodsr.batch.discovery import is_there
from rcodsr.batch.places import RemotePath
from rcodsr.batch.plan import Job, Plan, prepare_outputs
from rcodsr.batch.results import Result, WriteOptions
from rcodsr.batch.stream import LinePlanner, LineReader
from rcodsr.cli.results import DisplayOptions, Watcher, open_report, show
from rcodsr.cli.streams import last_words, note, results_only
from rcodsr.images.files import require_writable
from rcodsr.messages import Log, silent, size_text
from rcodsr.options import UpscaleOptions, WeightsRequest

if TYPE_CHECKING:  # a run with nothing to do must not load torch
    from rcodsr.engine.upscaler import Upscaler

_NAMED = 3
"""Number of missing inputs that are named before the work begins."""


@dataclass(frozen=True)
class Run:
    """Runs the pictures of a plan.

    Args:
        request: weights, device, dtype.
        options: settings of each picture.
        output: how outputs are written.
        shown: how results are shown and when the batch stops.
        processes: `-j`. On a cluster, the number of workers.
        on_cluster: `--engine ray`.
        address: address of the cluster.
    """

    request: WeightsRequest
    options: UpscaleOptions
    output: WriteOptions
    shown: DisplayOptions
    processes: int | None = None
    on_cluster: bool = False
    address: str | None = None

    @cached_property
    def _watcher(self) -> Watcher:
        return Watcher()

    @property
    def log(self) -> Log:
        """Receives lines for the user."""
        return silent if self.shown.quiet else note

    @property
    def is_here(self) -> bool:
        """Whether this process does the work itself."""
        return not self.on_cluster and (self.processes or 1) == 1

    def promise(self, plan: Plan) -> int:
        """Show what would be done. The exit code is that of the run, as far as it is known in advance."""
        shown = replace(self.shown, bar=False, stream=False, max_failures=None)
        output = replace(self.output, again=plan.alone)
        foresight = Foresight(self.request, self.options, output)
        return show(self._promises(plan.jobs, foresight, set()), plan, shown)

    def carry_out(self, plan: Plan) -> int:
        """Run the plan."""
        open_report(self.shown.report, plan)
        named_alone = replace(self, output=replace(self.output, again=plan.alone))
        watcher = named_alone._watcher
        foresight = Foresight(self.request, self.options, named_alone.output)
        failed_already = len(plan.clashes) + len(plan.refused)

        def engine(jobs: list[Job], failures: int) -> Iterator[Result]:
            if missing := [str(job.source) for job in jobs if isinstance(job.source, Path) and not is_there(job.source)]:
                self.log(f"missing inputs: {_listed(missing)}; the others will be processed")
            prepare_outputs(jobs, plan.alone)
            return named_alone._results(jobs, failed_already + failures)

        with results_only() if self.on_cluster else nullcontext():
            return show(work_off(plan.jobs, foresight, engine), plan, self.shown, watcher)

    def _results(self, jobs: list[Job], failures: int) -> Iterator[Result]:
        if self.on_cluster:
            from rcodsr.batch.ray_engine import run_ray

            return run_ray(jobs, self.request, self.options, self.output, self.processes, self.address, self.log)
        if self.processes is not None and min(self.processes, len(jobs)) > 1:
            from rcodsr.batch.process_pool import run_processes

            return run_processes(jobs, self.request, self.options, self.output, self.processes, self.log, self._watcher)
        from rcodsr.batch.pipeline import run

        stdout = sys.stdout.buffer if sys.stdout else None
        left = None if self.shown.max_failures is None else self.shown.max_failures - failures
        return run(jobs, self._engine, self.options, self.output, stdout, left, observer=self._watcher)

    @cached_property
    def _engine(self) -> "Upscaler":
        with last_words():
            from rcodsr.engine.upscaler import Upscaler
        upscaler = Upscaler.load(self.request, self.options, self.log)
        self.log(f"{upscaler.weights_id} on {upscaler.runtime.reason}")
        return upscaler

    def stream(self, planner: LinePlanner, dry: bool) -> int:
        """Answer lines of standard input as they arrive. The engine is loaded when the first picture needs it."""
        open_report(self.shown.report, Plan([]))
        results = self._line_by_line(planner, Foresight(self.request, self.options, self.output), dry)
        shown = replace(self.shown, bar=False)
        return show(results, Plan([]), shown, self._watcher, open_ended=True)

    def _line_by_line(self, planner: LinePlanner, foresight: Foresight, dry: bool) -> Iterator[Result]:
        failures, loaded = 0, False
        checked: set[Path] = set()

        def engine(jobs: list[Job], before: int) -> Iterator[Result]:
            nonlocal loaded
            loaded = True
            prepare_outputs(jobs)
            return self._results(jobs, before)

        for chunk in LineReader().chunks():
            items = [item for line in chunk for item in planner.plan(line)]
            jobs = [item for item in items if isinstance(item, Job)]
            if dry:
                results = self._promises(jobs, foresight, checked)
            else:
                results = engine(jobs, failures) if loaded and jobs else work_off(jobs, foresight, engine, failures)
            for item in items:
                result = next(results, None) if isinstance(item, Job) else item
                if result is None:  # stopped after too many failures
                    return
                failures += result.status == "failed"
                yield result
            yield from results  # which ends its threads

    def _promises(self, jobs: list[Job], foresight: Foresight, checked: set[Path]) -> Iterator[Result]:
        """Predicted results. `checked` holds the output directories that were already checked."""
        for job in jobs:
            result = foresight.result(job)
            if result.status == "planned":
                if not checked:
                    self._tell_engine(foresight)
                directory = Path() if job.target is None else job.target.parent
                if directory not in checked and job.target is not None and not isinstance(job.target, RemotePath):
                    require_writable(job.target, makes_directory=True)
                checked.add(directory)
            yield result

    def _tell_engine(self, foresight: Foresight) -> None:
        """Log the weights, files to fetch, and the device if one is named: torch is loaded only then.

        Raises:
            UsageError: when the name is not a valid device.
            DeviceError: when the device is not available.
        """
        from rcodsr.checkpoints.store import missing

        weights, where = foresight.weights, ""
        if self.request.device != "auto":
            from rcodsr.engine.runtime import choose_runtime

            spec = None if weights is None else weights.spec
            where = f" on {choose_runtime(self.request.device, self.request.dtype, spec).reason}"
        source = "" if weights is None or weights.resolved is None else f" ({weights.resolved.source})"
        self.log(f"{self.request.name if weights is None else weights.id}{source}{where}")
        config = None if weights is None else weights.config
        for name, count in missing(self.request.name, config, self.request.base_model).items():
            self.log(f"to fetch: {name}" + ("" if count is None else f", {size_text(count)}"))


def _listed(names: list[str]) -> str:
    """The first few of many names."""
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
