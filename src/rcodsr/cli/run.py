"""How `rcodsr upscale` carries out a plan: here, in several processes, or on a Ray cluster; or only says what it would do."""

import sys
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from rcodsr.batch.ahead import Foresight, work_off
from rcodsr.batch.places import RemotePath
from rcodsr.batch.plan import Job, Plan, prepare_outputs
from rcodsr.batch.results import Result, WriteOptions
from rcodsr.cli.results import DisplayOptions, open_report, show
from rcodsr.cli.streams import note, results_only
from rcodsr.images.files import require_writable
from rcodsr.messages import Log, silent, size_text
from rcodsr.options import UpscaleOptions, WeightsRequest


@dataclass(frozen=True)
class Run:
    """What to do with the pictures of a plan.

    Args:
        request: weights, device, dtype.
        options: what to do with each picture.
        output: how to write.
        shown: how results are shown and when to give up.
        processes: `-j`; on a cluster, workers.
        on_cluster: `--engine ray`.
        address: of the cluster.
    """

    request: WeightsRequest
    options: UpscaleOptions
    output: WriteOptions
    shown: DisplayOptions
    processes: int | None = None
    on_cluster: bool = False
    address: str | None = None

    @property
    def log(self) -> Log:
        """Receives lines for people."""
        return silent if self.shown.quiet else note

    def promise(self, plan: Plan) -> int:
        """Show what would be done; the exit code is that of the run, as far as it can be known without one."""
        shown = replace(self.shown, bar=False, stream=False, max_failures=None)
        return show(self._promises(plan), plan, shown)

    def carry_out(self, plan: Plan) -> int:
        """Do it."""
        open_report(self.shown.report, plan)
        foresight = Foresight(self.request, self.options, self.output)
        failed_already = len(plan.clashes)

        def engine(jobs: list[Job], failures: int) -> Iterator[Result]:
            prepare_outputs(jobs, plan.alone)
            return self._results(jobs, failed_already + failures)

        with results_only() if self.on_cluster else nullcontext():
            return show(work_off(plan.jobs, foresight, engine), plan, self.shown)

    def _results(self, jobs: list[Job], failures: int) -> Iterator[Result]:
        if self.on_cluster:
            from rcodsr.batch.ray_engine import run_ray

            return run_ray(jobs, self.request, self.options, self.output, self.processes, self.address, self.log)
        if self.processes is not None and min(self.processes, len(jobs)) > 1:
            from rcodsr.batch.process_pool import run_processes

            return run_processes(jobs, self.request, self.options, self.output, self.processes, self.log)
        from rcodsr.batch.pipeline import run
        from rcodsr.engine.upscaler import Upscaler

        upscaler = Upscaler.load(self.request, self.options, self.log)
        self.log(f"{upscaler.weights_id} on {upscaler.runtime.reason}")
        stdout = sys.stdout.buffer if sys.stdout else None
        left = None if self.shown.max_failures is None else self.shown.max_failures - failures
        return run(jobs, upscaler, self.options, self.output, stdout, left)

    def _promises(self, plan: Plan) -> Iterator[Result]:
        foresight, told = Foresight(self.request, self.options, self.output), False
        directories: set[Path] = set()
        for job in plan.jobs:
            result = foresight.result(job)
            if result.status == "planned":
                if not told:
                    self._tell_engine(foresight)
                    told = True
                if job.target is not None and job.target.parent not in directories:
                    directories.add(job.target.parent)
                    if not isinstance(job.target, RemotePath):
                        require_writable(job.target, makes_directory=True)
            yield result

    def _tell_engine(self, foresight: Foresight) -> None:
        """Weights, what must be fetched, and the device where one is named: only then is torch asked.

        Raises:
            UsageError: when it is not a device.
            DeviceError: when it is not there.
        """
        from rcodsr.checkpoints.store import missing

        weights, where = foresight.weights, ""
        if self.request.device != "auto":
            from rcodsr.engine.runtime import choose_runtime

            where = f" on {choose_runtime(self.request.device, self.request.dtype).reason}"
        source = "" if weights is None or weights.resolved is None else f" ({weights.resolved.source})"
        self.log(f"{self.request.name if weights is None else weights.id}{source}{where}")
        config = None if weights is None else weights.config
        for name, count in missing(self.request.name, config, self.request.base_model).items():
            self.log(f"to fetch: {name}" + ("" if count is None else f", {size_text(count)}"))
