"""Jobs → written files, one result per job. A bad input never stops the others; a full disk stops everything."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

from rcodsr.batch.plan import Job
from rcodsr.batch.records import is_done, record_of
from rcodsr.config import MAX_OUTPUT_PIXELS, UpscaleOptions
from rcodsr.engine.memory import require_memory
from rcodsr.errors import InputError, OutputError, RcodsrError, TileMemoryError
from rcodsr.images import io
from rcodsr.variants import RCOD_TINY

if TYPE_CHECKING:  # a dry run must not load torch
    from rcodsr.engine.upscaler import Upscaler
    from rcodsr.images.picture import Picture


@dataclass(frozen=True)
class Output:
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
    """Something people should know; like the following not a key of `--json`."""
    exit_code: int = 0
    lasting: bool = False
    """Whether the fault ends the batch."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {key: value for key, value in asdict(self).items() if key not in {"note", "exit_code", "lasting"}}


def planned(job: Job, options: UpscaleOptions, output: Output) -> Result:
    """What `run` would do with a job, as far as headers and an existing output tell without loading a model."""
    result = _blank(job, "planned")
    try:
        header = io.read_header(job.source)
        _check(job, header, options, output)
        result.width, result.height = io.output_size(header.size, options.scale)
        exists = job.target is not None and job.target.exists() and not output.overwrite
        known = {"scale": options.scale, "input_sha256": io.digest(job.source)}
        if exists and job.target is not None and is_done(job.source, job.target, known, output.strip):
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
        OutputError: when an output cannot be written, after its result, and every further one would fail as well.
    """
    for job in jobs:
        started = time.perf_counter()
        lasting: OutputError | None = None
        try:
            result = _run_one(job, upscaler, options, output, stdout)
        except OutputError as error:
            result = _failed(job, error)
            lasting, result.lasting = (error, True) if error.lasting else (None, False)
        except RcodsrError as error:
            result = _failed(job, _about(error, job))
        except Exception as error:  # one strange file must not cost the others
            result = _failed(job, _unforeseen(error, job))
        result.seconds = round(time.perf_counter() - started, 3)
        yield result
        if lasting is not None:
            raise lasting


def _run_one(job: Job, upscaler: Upscaler, options: UpscaleOptions, output: Output, stdout: BinaryIO | None) -> Result:
    header = io.read_header(job.source)
    _check(job, header, options, output)
    format = _format(job, output, header)
    record = record_of(job.source, upscaler, options) | ({"quality": output.quality} if format in io.LOSSY else {})
    exists = job.target is not None and job.target.exists() and not output.overwrite
    if exists and job.target is not None and is_done(job.source, job.target, record, output.strip):
        return _blank(job, "skipped")
    picture = io.read(job.source, output.max_pixels, RCOD_TINY.scale)
    upscaled = upscaler.run(picture, options)
    made = record | ({} if "timestep" in record else {"timestep": upscaled.timestep, "similarity": upscaled.similarity})
    _write(job, upscaled.picture, format, output, made, stdout)
    result = _blank(job, "done")
    result.width, result.height = upscaled.picture.size
    result.realism, result.timestep, result.level = upscaled.realism, upscaled.timestep, upscaled.level
    result.similarity = None if upscaled.similarity is None else round(upscaled.similarity, 4)
    result.tiles, result.unet_passes = upscaled.tiles, upscaled.unet_passes
    result.device, result.dtype = str(upscaler.runtime.device), upscaled.dtype
    result.weights = upscaler.weights_id
    result.note = "; ".join(_notes(upscaled.picture, format, output)) or None
    return result


def _write(job: Job, picture: Picture, format: str, output: Output, record: dict[str, Any], stdout: BinaryIO | None) -> None:
    if output.strip:
        picture = picture.with_metadata(picture.metadata.stripped())
    data = io.encode(picture, format, output.quality, None if output.strip else record, output.background)
    if job.target is None:
        io.write_stream(stdout, data)
    else:
        io.write_atomic(job.target, data)


def _notes(picture: Picture, format: str, output: Output) -> list[str]:
    """What people should know about a picture that was written."""
    notes = list(picture.notes)
    if picture.alpha is not None and not io.has_room_for_alpha(format):
        shade = "white" if output.background == (255, 255, 255) else "#{:02x}{:02x}{:02x}".format(*output.background)
        notes.append(f"transparency laid on {shade}, {format} has none")
    if picture.depth == 16 and format not in io.DEEP:
        notes.append(f"16-bit channels become 8, {format} has no more")
    return notes


def _check(job: Job, header: io.Header, options: UpscaleOptions, output: Output) -> None:
    """Refuse what cannot end well before anything is decoded.

    Raises:
        InputError: when the enlarged picture passes the limit or the output format's largest side.
        TileMemoryError: when it cannot fit into the memory that is free.
    """
    # the model works at its own scale, however small the wanted result is
    io.check_size(job.source, header.size, output.max_pixels, max(options.scale, RCOD_TINY.scale))
    format, size = _format(job, output, header), io.output_size(header.size, options.scale)
    if max(size) > io.MAX_SIDE[format]:
        cause = f"would become {size[0]}×{size[1]}, and {format} holds at most {io.MAX_SIDE[format]} pixels a side"
        raise InputError(job.source, cause, "use -f png")
    width, height = io.output_size(header.size, max(options.scale, RCOD_TINY.scale))
    require_memory(job.source, width * height)


def _format(job: Job, output: Output, header: io.Header) -> str:
    if job.target is not None:
        return io.FORMATS[job.target.suffix.lower()]
    return output.format or (header.format if header.format in io.FORMATS.values() else "PNG")


def _unforeseen(error: Exception, job: Job) -> RcodsrError:
    from rcodsr.engine.runtime import is_out_of_memory

    if is_out_of_memory(error):
        return TileMemoryError(job.source, "does not fit into memory", "crop it, or close other programs")
    if isinstance(error, OSError) and error.strerror:
        return InputError(job.source, f"cannot be read ({error.strerror})", "check the file and run again")
    return InputError(job.source, f"unexpected {type(error).__name__}: {error}", "please report it")


def _about(error: RcodsrError, job: Job) -> RcodsrError:
    """The same error with the job's input as its subject."""
    return error if error.subject == str(job.source) else type(error)(job.source, error.cause, error.remedy)


def _failed(job: Job, error: RcodsrError) -> Result:
    result = _blank(job, "failed")
    result.error, result.exit_code = str(error), error.exit_code
    return result


def _blank(job: Job, status: str) -> Result:
    return Result(input=str(job.source), output=None if job.target is None else str(job.target), status=status)
