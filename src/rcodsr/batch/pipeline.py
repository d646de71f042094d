"""Jobs → written files, one result per job. A bad input never stops the others; a full disk stops everything."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from rcodsr import __version__
from rcodsr.batch.plan import Job
from rcodsr.config import MAX_OUTPUT_PIXELS, UpscaleOptions
from rcodsr.errors import InputError, OutputError, RcodsrError
from rcodsr.images import io
from rcodsr.variants import RCOD_TINY

if TYPE_CHECKING:  # a dry run must not load torch
    from rcodsr.engine.upscaler import Upscaler


@dataclass(frozen=True)
class Output:
    """How results are written."""

    quality: int = 95
    overwrite: bool = False
    max_pixels: int = MAX_OUTPUT_PIXELS
    format: str | None = None
    """Of standard output, the input's if None; files follow their suffix."""


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
    device: str | None = None
    dtype: str | None = None
    seconds: float | None = None
    weights: str | None = None
    error: str | None = None
    note: str | None = None
    """Something people should know; like `exit_code` not a key of `--json`."""
    exit_code: int = 0

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {key: value for key, value in asdict(self).items() if key not in {"note", "exit_code"}}


def planned(job: Job, options: UpscaleOptions, output: Output) -> Result:
    """What `run` would do with a job, as far as headers and an existing output tell without loading a model."""
    result = _blank(job, "planned")
    try:
        header = io.read_header(job.source)
        _check(job, header, options, output)
        result.width, result.height = io.output_size(header.size, options.scale)
        exists = job.target is not None and job.target.exists() and not output.overwrite
        if exists and _refuse_or_skip(job, {"scale": options.scale, "input_sha256": _hash(job.source)}):
            result.status = "skipped"
    except RcodsrError as error:
        result.status, result.error = "failed", str(_about(error, job))
    return result


def run(
    jobs: list[Job], upscaler: Upscaler, options: UpscaleOptions, output: Output, stdout: BinaryIO | None
) -> Iterator[Result]:
    """Enlarge and write the jobs in order.

    Args:
        jobs: from `plan`.
        upscaler: the engine.
        options: what to do with each picture.
        output: how to write.
        stdout: receives the picture of a job without a target; None where the caller has none.

    Yields:
        One result per job.

    Raises:
        OutputError: when an output cannot be written, after its result: every further one would fail as well.
    """
    for job in jobs:
        started = time.perf_counter()
        fatal: OutputError | None = None
        try:
            result = _run_one(job, upscaler, options, output, stdout)
        except OutputError as error:
            fatal, result = error, _failed(job, error)
        except RcodsrError as error:
            result = _failed(job, _about(error, job))
        except Exception as error:  # one strange file must not cost the others
            result = _failed(job, InputError(job.source, f"unexpected {type(error).__name__}: {error}", "please report it"))
        result.seconds = round(time.perf_counter() - started, 3)
        yield result
        if fatal is not None:
            raise fatal


def _run_one(job: Job, upscaler: Upscaler, options: UpscaleOptions, output: Output, stdout: BinaryIO | None) -> Result:
    _check(job, io.read_header(job.source), options, output)
    format = _format(job, output)
    record = _record(job.source, upscaler, options) | ({"quality": output.quality} if format in io.LOSSY else {})
    if job.target is not None and job.target.exists() and not output.overwrite and _refuse_or_skip(job, record):
        return _blank(job, "skipped")
    picture = io.read(job.source)
    upscaled = upscaler.run(picture, options)
    made = record | ({} if options.adaptive is None else {"timestep": upscaled.timestep, "similarity": upscaled.similarity})
    data = io.encode(upscaled.picture, format, output.quality, made)
    if job.target is None:
        io.write_stream(stdout, data)
    else:
        io.write_atomic(job.target, data)
    result = _blank(job, "done")
    result.width, result.height = upscaled.picture.size
    result.realism, result.timestep, result.level = upscaled.realism, upscaled.timestep, upscaled.level
    result.similarity = None if upscaled.similarity is None else round(upscaled.similarity, 4)
    result.tiles, result.unet_passes = upscaled.tiles, upscaled.unet_passes
    result.device, result.dtype = str(upscaler.runtime.device), upscaled.dtype
    result.weights = upscaler.weights_id
    if picture.alpha is not None and not io.has_room_for_alpha(format):
        result.note = f"transparency laid on white, {format} has none"
    return result


def _check(job: Job, header: io.Header, options: UpscaleOptions, output: Output) -> None:
    """Refuse what cannot end well before anything is decoded.

    Raises:
        InputError: when the enlarged picture passes the limit or the output format's largest side.
    """
    # the model works at its own scale, however small the wanted result is
    io.check_size(job.source, header.size, output.max_pixels, max(options.scale, RCOD_TINY.scale))
    format, size = _format(job, output), io.output_size(header.size, options.scale)
    if max(size) > io.MAX_SIDE[format]:
        cause = f"would become {size[0]}×{size[1]}, and {format} holds at most {io.MAX_SIDE[format]} pixels a side"
        raise InputError(job.source, cause, "use -f png")


def _format(job: Job, output: Output) -> str:
    if job.target is not None:
        return io.FORMATS[job.target.suffix.lower()]
    return output.format or io.FORMATS.get(job.source.suffix.lower(), "PNG")


def _refuse_or_skip(job: Job, record: dict[str, Any]) -> bool:
    """True for an existing output that is whole and was made exactly like this, False for a damaged one of ours.

    Raises:
        InputError: for any other, which is not ours to replace.
    """
    assert job.target is not None
    found = io.read_record(job.target)
    if found is not None and all(found.get(key) == value for key, value in record.items()):
        return io.is_whole(job.target)
    if found is None and _is_newer_bitmap(job.source, job.target, record["scale"]):
        return True
    cause = f"{job.target} already exists and was made differently"
    raise InputError(job.source, cause, "use -y to replace it or -o for another place")


def _is_newer_bitmap(source: Path, target: Path, scale: float) -> bool:
    """BMP holds no record: there, a whole picture of the right size, newer than its input, counts as done."""
    try:
        found, wanted = io.read_header(target), io.output_size(io.read_header(source).size, scale)
        newer = target.stat().st_mtime_ns >= source.stat().st_mtime_ns
    except (RcodsrError, OSError):
        return False
    return found.format == "BMP" and found.size == wanted and newer and io.is_whole(target)


def _record(source: Path, upscaler: Upscaler, options: UpscaleOptions) -> dict[str, Any]:
    """How a picture is made: all that decides its pixels, nothing that says when or where."""
    spec = upscaler.model.spec
    timestep = {"timestep": spec.grouping.realism_timestep(options.realism)} if options.adaptive is None else {}
    return {
        "made_by": f"rcodsr {__version__}",
        "weights": upscaler.weights_id,
        **timestep,
        "adaptive": options.adaptive,
        "scale": options.scale,
        "color_fix": options.color_fix or spec.color_fix,
        "dtype": upscaler.runtime.dtype_name,
        "input_sha256": _hash(source),
    }


def _hash(source: Path) -> str:
    with source.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _about(error: RcodsrError, job: Job) -> RcodsrError:
    """The same error with the job's input as its subject."""
    return error if error.subject == str(job.source) else type(error)(job.source, error.cause, error.remedy)


def _failed(job: Job, error: RcodsrError) -> Result:
    result = _blank(job, "failed")
    result.error, result.exit_code = str(error), error.exit_code
    return result


def _blank(job: Job, status: str) -> Result:
    return Result(input=str(job.source), output=None if job.target is None else str(job.target), status=status)
