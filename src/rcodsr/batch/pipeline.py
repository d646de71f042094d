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
from rcodsr.errors import InputError, OutputError, RcodsrError, WeightsError
from rcodsr.images import io

if TYPE_CHECKING:  # a dry run must not load torch
    from rcodsr.engine.upscaler import Upscaler


@dataclass(frozen=True)
class Output:
    """How results are written."""

    quality: int = 95
    overwrite: bool = False
    max_pixels: int = MAX_OUTPUT_PIXELS
    format: str = "PNG"
    """Of standard output; files follow their suffix."""


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
    """Something people should know; not a key of `--json`."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {key: value for key, value in asdict(self).items() if key != "note"}


def planned(job: Job, options: UpscaleOptions, output: Output) -> Result:
    """What `run` would do with a job, from the file's header."""
    result = _blank(job, "planned")
    try:
        header = io.read_header(job.source)
        result.width, result.height = (max(1, round(side * options.scale)) for side in (header.width, header.height))
        if job.target is not None and job.target.exists() and not output.overwrite:
            result.status = "skipped"
    except RcodsrError as error:
        result.status, result.error = "failed", str(error)
    return result


def run(jobs: list[Job], upscaler: Upscaler, options: UpscaleOptions, output: Output, stdout: BinaryIO) -> Iterator[Result]:
    """Enlarge and write the jobs in order.

    Args:
        jobs: from `plan`.
        upscaler: the engine.
        options: what to do with each picture.
        output: how to write.
        stdout: receives the picture of a job without a target.

    Yields:
        One result per job.

    Raises:
        OutputError: when an output cannot be written: every further one would fail as well.
        WeightsError: likewise for weights.
    """
    for job in jobs:
        started = time.perf_counter()
        try:
            result = _run_one(job, upscaler, options, output, stdout)
        except (OutputError, WeightsError):
            raise
        except RcodsrError as error:
            if error.subject != str(job.source):
                error = type(error)(job.source, error.cause, error.remedy)
            result = _blank(job, "failed")
            result.error = str(error)
        except Exception as error:  # one strange file must not cost the others
            result = _blank(job, "failed")
            result.error = str(InputError(job.source, f"unexpected {type(error).__name__}: {error}", "please report it"))
        result.seconds = round(time.perf_counter() - started, 3)
        yield result


def _run_one(job: Job, upscaler: Upscaler, options: UpscaleOptions, output: Output, stdout: BinaryIO) -> Result:
    picture = io.read(job.source, output.max_pixels, options.scale)
    record = _record(job.source, upscaler, options)
    if job.target is not None and job.target.exists() and not output.overwrite:
        return _existing(job, record)
    upscaled = upscaler.run(picture, options)
    format = output.format if job.target is None else io.FORMATS[job.target.suffix.lower()]
    data = io.encode(upscaled.picture, format, output.quality, record)
    if job.target is None:
        stdout.write(data)
        stdout.flush()
    else:
        io.write_atomic(job.target, data)
    result = _blank(job, "done")
    result.width, result.height = upscaled.picture.size
    result.realism, result.timestep, result.level = upscaled.realism, upscaled.timestep, upscaled.level
    result.tiles, result.unet_passes = upscaled.tiles, upscaled.unet_passes
    result.device, result.dtype = str(upscaler.runtime.device), upscaler.runtime.dtype_name
    result.weights = upscaler.weights_id
    if picture.alpha is not None and not io.has_room_for_alpha(format):
        result.note = f"transparency laid on white, {format} has none"
    return result


def _existing(job: Job, record: dict[str, Any]) -> Result:
    """Skip an output that was made exactly like this; refuse to touch any other."""
    assert job.target is not None
    if _is_done(job.source, job.target, record):
        return _blank(job, "skipped")
    raise InputError(
        job.source, f"{job.target} already exists and was made differently", "use -y to replace it or -o for another place"
    )


def _is_done(source: Path, target: Path, record: dict[str, Any]) -> bool:
    found = io.read_record(target)
    if found is not None:
        return found == record
    # a format without a record: whole, of the right size, and newer than its input
    try:
        header, wanted = io.read_header(target), io.read_header(source)
        sides = tuple(max(1, round(side * record["scale"])) for side in (wanted.width, wanted.height))
        newer = target.stat().st_mtime_ns >= source.stat().st_mtime_ns
    except (RcodsrError, OSError):
        return False
    return header.format == "BMP" and (header.width, header.height) == sides and newer


def _record(source: Path, upscaler: Upscaler, options: UpscaleOptions) -> dict[str, Any]:
    """How a picture is made: all that decides its pixels, nothing that says when or where."""
    return {
        "made_by": f"rcodsr {__version__}",
        "weights": upscaler.weights_id,
        "timestep": upscaler.model.spec.grouping.realism_timestep(options.realism),
        "scale": options.scale,
        "color_fix": options.color_fix or upscaler.model.spec.color_fix,
        "dtype": upscaler.runtime.dtype_name,
        "input_sha256": hashlib.sha256(source.read_bytes()).hexdigest(),
    }


def _blank(job: Job, status: str) -> Result:
    return Result(input=str(job.source), output=None if job.target is None else str(job.target), status=status)
