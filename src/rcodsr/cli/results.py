"""Show results as they arrive: lines, JSON, the report, the summary, and the exit code."""

import json
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from rcodsr.batch.results import Observer, Result, decided_ahead
from rcodsr.cli import stopping
from rcodsr.cli.progress import Progress
from rcodsr.cli.streams import error_line, json_line, note
from rcodsr.errors import OutputError, RcodsrError, TileMemoryError, UsageError
from rcodsr.options import DEFAULT_WEIGHTS

if TYPE_CHECKING:
    from rcodsr.batch.plan import Job, Plan


_LONG = 120.0
"""Expected seconds of a run on a CPU from which a hint is shown."""
_FASTER = 5.5
"""Speed of rcod-tiny on a CPU relative to the default weights (docs/embedded-weights.md)."""


@dataclass(frozen=True)
class DisplayOptions:
    """How results are shown and when the batch stops."""

    json: bool = False
    quiet: bool = False
    verbose: bool = False
    bar: bool = True
    stream: bool = False
    """Standard output carries the picture."""
    report: Path | None = None
    max_failures: int | None = None
    print0: bool = False
    """End paths on standard output in NUL."""


@dataclass
class Tally:
    """Counts of the results so far."""

    total: int | None
    """Number of pictures. None if unknown."""
    ignored: int = 0
    system_folders: tuple[str, ...] = ()
    """Names of folders that were not searched."""
    own: int = 0
    """Number of skipped inputs that rcodsr made itself."""
    counts: dict[str, int] = field(default_factory=lambda: {"planned": 0, "done": 0, "skipped": 0, "failed": 0})
    codes: set[int] = field(default_factory=set)
    """Exit codes of the failures."""

    def add(self, result: Result) -> None:
        """Count one result."""
        self.counts[result.status] += 1
        self.own += result.own
        if result.error is not None:
            self.codes.add(result.exit_code)

    @property
    def not_started(self) -> int:
        """Number of pictures that were not reached."""
        return 0 if self.total is None else self.total - sum(self.counts.values())

    @property
    def exit_code(self) -> int:
        """Exit code of the command: the failures' own code if they all share one."""
        if len(self.codes) == 1 and (own := next(iter(self.codes))) in {TileMemoryError.exit_code, OutputError.exit_code}:
            return own
        return 1 if self.codes else 0

    def line(self) -> str:
        """Summary for people."""
        skipped = "skipped" + f" ({self.own} made by rcodsr; pass one alone to enlarge it again)" * (self.own > 0)
        folders = f"system folders not searched ({', '.join(sorted(set(self.system_folders)))})"
        counts = {
            "planned": self.counts["planned"],
            "done": self.counts["done"],
            skipped: self.counts["skipped"],
            "failed": self.counts["failed"],
            "not started": self.not_started,
            "ignored (not pictures by their names)": self.ignored,
            folders: len(self.system_folders),
        }
        return ", ".join(f"{count} {name}" for name, count in counts.items() if count)

    def to_dict(self) -> dict[str, int]:
        """Summary for programs."""
        rare = {"planned": self.counts["planned"], "not_started": self.not_started, "ignored": self.ignored}
        rare |= {"own_results": self.own, "system_folders": len(self.system_folders)}
        usual = {name: self.counts[name] for name in ("done", "skipped", "failed")}
        return {**usual, **{name: count for name, count in rare.items() if count}}


class Watcher(Observer):
    """Shows tiles as they finish, and keeps results that arrive after an early stop."""

    def __init__(self) -> None:
        self.progress: Progress | None = None
        self.finished: list[Result] = []

    def tile(self, job: "Job", done: int, total: int) -> None:
        """Advance the bar."""
        if self.progress is not None:
            self.progress.tile(Path(str(job.source)).name, done, total)

    def late(self, result: Result) -> None:
        """Keep the result."""
        self.finished.append(result)


def show(
    results: Iterator[Result], plan: "Plan", shown: DisplayOptions, watcher: Watcher | None = None, open_ended: bool = False
) -> int:
    """Show results as they arrive. The exit code reports whether any failed.

    Args:
        results: results of the plan's jobs.
        plan: the plan, with skipped and refused inputs.
        shown: display options.
        watcher: notified of tiles by the code that yields the results.
        open_ended: the number of results is unknown.
    """
    watcher = watcher or Watcher()
    decided = decided_ahead(plan)
    total = None if open_ended else len(decided) + len(plan.jobs)
    tally = Tally(total, len(plan.ignored), tuple(path.name for path in plan.system_folders))
    progress = watcher.progress = Progress(total, shown.quiet, shown.bar)
    try:
        with _reporting(shown.report, plan) as report:

            def take(result: Result) -> None:
                tally.add(result)
                _show_one(result, progress, shown)
                _report_one(report, result)

            try:
                for result in chain(decided, results):
                    take(result)
                    if result.status == "done" and tally.counts["done"] == 1 and not shown.quiet:
                        _tell_how_long(result, tally.not_started)
                    stopping.check()
                    many = shown.max_failures is not None and tally.counts["failed"] >= shown.max_failures
                    if many and (open_ended or tally.not_started):
                        progress.close()
                        cause = f"stopped after {tally.counts['failed']} failures"
                        error_line(f"{cause} ({tally.line()}); raise --max-failures to continue")
                        return tally.exit_code
            except stopping.Stopped:
                if isinstance(results, Generator):
                    results.close()
                for result in watcher.finished:
                    take(result)
                raise
    except RcodsrError as error:
        progress.close()
        done = tally.counts["done"] + tally.counts["skipped"]
        if not any(tally.counts.values()):
            raise
        error_line(f"{error} ({done} done, {tally.not_started} not started)")
        return error.exit_code
    except stopping.Stopped as stopped:
        progress.close()
        error_line(f"stopped; finished pictures are complete ({tally.line()})")
        return stopped.exit_code
    finally:
        progress.close()
        if shown.json:
            json_line({"summary": tally.to_dict()})
    if (tally.total != 1 or tally.ignored or tally.system_folders) and not shown.quiet:
        note(tally.line())
    return tally.exit_code


def _tell_how_long(first: Result, left: int) -> None:
    """Estimate from the first picture how long the default weights will take on a CPU, and how long the fast weights would."""
    if first.device != "cpu" or first.seconds is None or not (first.weights or "").startswith(f"{DEFAULT_WEIGHTS}@"):
        return
    seconds = left * first.seconds
    if seconds > _LONG:
        own, fast = (f"{max(1, round(s / 60))} min" for s in (seconds, seconds / _FASTER))
        note(f"about {own} left on this CPU if the others are like the first; --weights rcod-tiny (softer) takes about {fast}")


def _show_one(result: Result, progress: Progress, shown: DisplayOptions) -> None:
    if shown.json:
        json_line(result.to_dict())
    elif result.status != "failed" and result.output is not None and not shown.stream:
        progress.result(result.output, "\0" if shown.print0 else "\n")
    name = Path(result.input).name
    if result.error is None:
        progress.advance(name, _describe(result, shown.verbose))
    elif not result.lasting:  # a lasting fault ends the batch and is shown there
        progress.failed(name, result.error)


@contextmanager
def _reporting(path: Path | None, plan: "Plan") -> Iterator[IO[str] | None]:
    """Open the report and write the skipped inputs first."""
    if path is None:
        yield None
        return
    with _opened(path) as report:
        for ignored in plan.ignored:
            _write(report, {"input": str(ignored), "output": None, "status": "skipped", "error": "not a picture by its name"})
        yield report


def open_report(path: Path | None, plan: "Plan") -> None:
    """Check that the report can be written, before any expensive work.

    Raises:
        UsageError: when it would overwrite an input.
        OutputError: when it cannot be written.
    """
    if path is None:
        return
    from rcodsr.batch.places import RealPaths

    real = RealPaths()
    written = [path for job in plan.jobs for path in (job.target, job.map) if path]
    pictures = [source for source in plan.sources if isinstance(source, Path)] + written
    if real.of(path) in {real.of(picture) for picture in pictures}:
        raise UsageError("--report", f"{path} is a picture of this batch", "choose another name, for example report.jsonl")
    _opened(path).close()


def _opened(path: Path) -> IO[str]:
    try:
        return path.open("w", encoding="utf-8")
    except OSError as error:
        raise OutputError(path, f"cannot be written ({error.strerror})", "choose another path for --report") from error


def _report_one(report: IO[str] | None, result: Result) -> None:
    if report is not None:
        _write(report, result.to_dict())


def _write(report: IO[str], values: dict[str, Any]) -> None:
    try:
        report.write(json.dumps(values) + "\n")
        report.flush()
    except OSError as error:
        raise OutputError(report.name, f"cannot be written ({error.strerror})", "free some space and run again") from error


def _describe(result: Result, verbose: bool) -> str:
    size = f"  {result.width}x{result.height}" if result.width else ""
    seen = f", similarity {result.similarity:.2f}" if result.similarity is not None else ""
    level = f"  realism {result.realism:.3g} (timestep {result.timestep}{seen})" if result.realism is not None else ""
    if result.realism is None and result.timestep is not None:
        level = f"  timestep {result.timestep}"
    seconds = f"  {result.seconds:.1f}s" if result.seconds is not None else ""
    computed = f"  {result.tiles} tiles in {result.dtype} on {result.device}" if verbose and result.tiles else ""
    agreement = f"  consistency {result.consistency:.1f} dB" if verbose and result.consistency is not None else ""
    invented = f"  invented {result.invented:.2f} steps" if result.invented is not None else ""
    remark = f"  ({'; '.join(result.notes)})" if result.notes else ""
    return f"{result.status} {result.input}{size}{level}{seconds}{invented}{computed}{agreement}{remark}"
