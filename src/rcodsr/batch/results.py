"""What becomes of a job, and how outputs are written."""

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
    """How results are written."""

    quality: int = 95
    overwrite: bool = False
    max_pixels: int = MAX_OUTPUT_PIXELS
    format: str | None = None
    """Of standard output, the input's if None; files follow their suffix."""
    strip: bool = False
    """Write the colour profile only, neither metadata nor the record."""
    background: tuple[int, int, int] = (255, 255, 255)
    """What transparency is laid on where the format has none."""
    keep_times: bool = False
    """Files get the time of modification of their inputs."""
    again: bool = False
    """Enlarge also what rcodsr has made; for a picture that is named alone."""
    dtypes: tuple[str, ...] = ()
    """An existing output that was computed in one of these counts as done, whatever this machine would choose."""


@dataclass
class Result:
    """What became of one job; the fields are the keys of `--json`."""

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
    """Spent on it: reading, enlarging, writing; not waiting."""
    weights: str | None = None
    error: str | None = None
    notes: list[str] = field(default_factory=list)
    """What people should know about it."""
    exit_code: int = 0
    """Like the following not a key of `--json`."""
    lasting: bool = False
    """Whether the fault ends the batch."""
    own: bool = False
    """Whether it was passed over because rcodsr has made it."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {key: value for key, value in asdict(self).items() if key not in _INTERNAL}


_INTERNAL = {"exit_code", "lasting", "own"}
"""Fields of a result that are not keys of `--json`."""


class Observer:
    """Hears what happens between two results; this one does not care."""

    def tile(self, job: Job, done: int, total: int) -> None:
        """So many tiles of a picture are done. Called by any thread."""

    def late(self, result: Result) -> None:
        """A picture was finished, although whoever asked has left before its result came."""


def blank(job: Job, status: str) -> Result:
    """A result that says nothing yet but its status."""
    return Result(input=str(job.source), output=None if job.target is None else str(job.target), status=status)


def failed(job: Job, error: RcodsrError) -> Result:
    """The result of a job that an error has ended."""
    result = blank(job, "failed")
    result.error, result.exit_code = str(error), error.exit_code
    return result


def refused(text: str, error: RcodsrError) -> Result:
    """Of what a user wrote and no job came of."""
    return Result(input=text, output=None, status="failed", error=str(error), exit_code=error.exit_code)


def own_result(source: Source) -> Result:
    """Of a picture that rcodsr has made, which a folder or a glob has brought among the inputs."""
    result = Result(input=str(source), output=None, status="skipped", own=True)
    result.notes = ["made by rcodsr; name it alone to enlarge it again"]
    return result


def decided_ahead(plan: Plan) -> list[Result]:
    """What the plan has decided without looking further: arguments refused, clashes, and outputs among the inputs."""
    unread = [refused(text, error) for text, error in plan.refused]
    return unread + [failed(job, error) for job, error in plan.clashes] + [own_result(picture) for picture in plan.results]


def about(error: RcodsrError, job: Job) -> RcodsrError:
    """The same error with the job's input as its subject."""
    return error if error.subject == str(job.source) else type(error)(job.source, error.cause, error.remedy)


def unforeseen(error: Exception, job: Job) -> RcodsrError:
    """Our sentence for an error that nobody raised on purpose."""
    if tells_of_memory(error):
        return TileMemoryError(job.source, "does not fit into memory", "crop it, or close other programs")
    if isinstance(error, OSError) and error.strerror:
        return InputError(job.source, f"cannot be read ({error.strerror})", "check the file and run again")
    return InputError(job.source, f"unexpected {type(error).__name__}: {error}", "please report it")
