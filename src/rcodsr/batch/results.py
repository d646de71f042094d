"""Results of jobs, and how outputs are written."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from rcodsr.errors import InputError, RcodsrError, TileMemoryError, tells_of_memory
from rcodsr.options import MAX_OUTPUT_PIXELS

if TYPE_CHECKING:  # the command line shows its help without them
    from rcodsr.batch.plan import Job, Plan
    from rcodsr.images.io import Source


@dataclass(frozen=True)
class WriteOptions:
    """How outputs are written."""

    quality: int = 95
    overwrite: bool = False
    max_pixels: int = MAX_OUTPUT_PIXELS
    format: str | None = None
    """Format of standard output, the input's if None. Files follow their suffix."""
    strip: bool = False
    """Write only the ICC profile, without metadata or record."""
    background: tuple[int, int, int] = (255, 255, 255)
    """Colour behind transparent pixels (R, G, B in 0..255) if the format has no transparency."""
    keep_times: bool = False
    """Copy the input's time of modification to the output."""
    again: bool = False
    """Also enlarge rcodsr's own outputs. Set for a single picture passed by name."""
    dtypes: tuple[str, ...] = ()
    """An existing output computed in one of these dtypes counts as done, whatever this machine would choose."""


@dataclass
class Result:
    """Result of one job. The fields are the keys of `--json`."""

    input: str
    output: str | None
    status: str
    width: int | None = None
    height: int | None = None
    realism: float | None = None
    timestep: int | None = None
    similarity: float | None = None
    level: str | None = None
    tiles: int | None = None
    unet_passes: int | None = None
    consistency: float | None = None
    invented: float | None = None
    device: str | None = None
    dtype: str | None = None
    seconds: float | None = None
    """Time for reading, enlarging and writing, without waiting."""
    weights: str | None = None
    error: str | None = None
    notes: list[str] = field(default_factory=list)
    """Messages about the picture for the user."""
    exit_code: int = 0
    """Not written to `--json`, nor are the fields below."""
    lasting: bool = False
    """Whether the fault ends the batch."""
    own: bool = False
    """Whether it was skipped because rcodsr made it."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {key: value for key, value in asdict(self).items() if key not in _INTERNAL}


_INTERNAL = {"exit_code", "lasting", "own"}
"""Fields of a result that are not keys of `--json`."""


class Observer:
    """Receives events between two results. This base class ignores them."""

    def tile(self, job: Job, done: int, total: int) -> None:
        """Called by any thread when `done` of `total` tiles of a picture are finished."""

    def late(self, result: Result) -> None:
        """Called when a picture is finished after the caller has stopped early."""


def blank(job: Job, status: str) -> Result:
    """A result with only a status."""
    return Result(input=str(job.source), output=None if job.target is None else str(job.target), status=status)


def failed(job: Job, error: RcodsrError) -> Result:
    """The result of a job that failed with an error."""
    result = blank(job, "failed")
    result.error, result.exit_code = str(error), error.exit_code
    return result


def refused(text: str, error: RcodsrError) -> Result:
    """The result of an argument that produced no job."""
    return Result(input=text, output=None, status="failed", error=str(error), exit_code=error.exit_code)


def own_result(source: Source) -> Result:
    """The result of a picture made by rcodsr that was found in a folder or by a glob."""
    result = Result(input=str(source), output=None, status="skipped", own=True)
    result.notes = ["made by rcodsr; pass it alone to enlarge it again"]
    return result


def decided_ahead(plan: Plan) -> list[Result]:
    """Results that follow from the plan alone: refused arguments, clashes, and outputs among the inputs."""
    unread = [refused(text, error) for text, error in plan.refused]
    return unread + [failed(job, error) for job, error in plan.clashes] + [own_result(picture) for picture in plan.results]


def about(error: RcodsrError, job: Job) -> RcodsrError:
    """The same error with the job's input as its subject."""
    return error if error.subject == str(job.source) else type(error)(job.source, error.cause, error.remedy)


def unforeseen(error: Exception, job: Job) -> RcodsrError:
    """Turn an unexpected exception into an error about the job's input."""
    if tells_of_memory(error):
        return TileMemoryError(job.source, "does not fit into memory", "crop it, or close other programs")
    if isinstance(error, OSError) and error.strerror:
        return InputError(job.source, f"cannot be read ({error.strerror})", "check the file and run again")
    return InputError(job.source, f"unexpected {type(error).__name__}: {error}", "please report it")
