"""What is done with one job: read, enlarge, encode, write. Each step takes what the one before has left in the `Passage`."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from rcodsr.batch.memory import has_memory, require_memory
from rcodsr.batch.plan import Job
from rcodsr.batch.records import is_done, is_result, record_of
from rcodsr.batch.results import Observer, Result, WriteOptions, about, blank, failed, own_result, unforeseen
from rcodsr.errors import InputError, OutputError, RcodsrError
from rcodsr.images import io
from rcodsr.images.departures import encode_map
from rcodsr.options import UpscaleOptions
from rcodsr.variants import VariantSpec

if TYPE_CHECKING:  # a run with nothing to do must not load torch
    from rcodsr.engine.upscaler import Upscaled, Upscaler
    from rcodsr.images.picture import Picture

LARGE = 1 << 25
"""Pixels of the model's enlargement, of all pictures under way together; a picture beyond has the memory to itself."""


@dataclass
class Passage:
    """A job on its way; one thread at a time has it."""

    job: Job
    pixels: int = 0
    """Of the model's enlargement; 0 until the header is read."""
    format: str = ""
    record: dict[str, Any] = field(default_factory=dict)
    picture: Picture | None = None
    """Decoded; None also where that must wait until the memory is free."""
    upscaled: Upscaled | None = None
    data: bytes | None = None
    map: bytes | None = None
    """What was invented, as a file, where that was asked for."""
    seconds: float = 0.0
    promised: Result | None = None
    """The result it will have once it is written."""
    result: Result | None = None
    """Set when there is nothing more to do."""
    lasting: OutputError | None = None
    """The fault that ends the batch."""


@dataclass(frozen=True)
class Stages:
    """The steps of all jobs of a batch; `run_step` carries one out.

    Args:
        upscaler: the engine.
        options: what to do with each picture.
        output: how to write.
        stdout: receives the picture of a job without a target; None where the caller has none.
        observer: hears of tiles.
    """

    upscaler: Upscaler
    options: UpscaleOptions
    output: WriteOptions
    stdout: BinaryIO | None
    observer: Observer = field(default_factory=Observer)

    readers = 2
    """Threads that read ahead."""

    def read(self, item: Passage) -> None:
        """Look at the input and, where an output exists, at that; decode unless memory must be waited for."""
        job = item.job
        header = io.read_header(job.source)
        if not self.output.again and is_result(job.source):
            item.result = own_result(job.source)
            return
        item.pixels = check(job, header, self.options, self.output)
        item.format = format_of(job, self.output, header)
        quality = {"quality": self.output.quality} if item.format in io.LOSSY else {}
        item.record = self._record(job) | quality
        exists = job.target is not None and job.target.exists() and not self.output.overwrite
        output = self.output
        done = exists and job.target is not None and is_done(job.source, job.target, item.record, output.strip, output.dtypes)
        if done and (job.map is None or job.map.exists()):
            item.result = blank(job, "skipped")
            return
        require_no_map(job, self.output)
        if item.pixels <= LARGE and has_memory(item.pixels):
            item.picture = io.read(job.source, self.output.max_pixels, VariantSpec.scale)

    def _record(self, job: Job) -> dict[str, Any]:
        engine = self.upscaler
        return record_of(job.source, job.options(self.options), engine.model.spec, engine.weights_id, engine.runtime.dtype_name)

    def read_alone(self, item: Passage) -> None:
        """Decode what has been waited for, or refuse it for good."""
        require_memory(item.job.source, item.pixels)
        item.picture = io.read(item.job.source, self.output.max_pixels, VariantSpec.scale)

    def enlarge(self, item: Passage) -> None:
        """Run the engine."""
        assert item.picture is not None
        item.upscaled = self.upscaler.run(item.picture, item.job.options(self.options), partial(self.observer.tile, item.job))

    def encode(self, item: Passage) -> None:
        """Make the output file in memory."""
        assert item.upscaled is not None
        upscaled, picture = item.upscaled, item.upscaled.picture
        found = {} if "timestep" in item.record else {"timestep": upscaled.timestep, "similarity": upscaled.similarity}
        record = item.record | found | {"consistency": upscaled.consistency}
        if self.output.strip:
            picture = picture.with_metadata(picture.metadata.stripped())
        kept = None if self.output.strip else record
        item.data = io.encode(picture, item.format, self.output.quality, kept, self.output.background)
        if upscaled.invented is not None:
            item.map = encode_map(upscaled.invented.numpy(), record)
        item.promised = self._done(item)
        item.picture = item.upscaled = None  # by far the larger part of it

    def write(self, item: Passage) -> None:
        """Write it; after this there is a result."""
        assert item.data is not None
        if item.job.target is None:
            io.write_stream(self.stdout, item.data)
        else:
            source = item.job.source
            # an object in a store has no such time
            dated = source if self.output.keep_times and isinstance(source, Path) and source.is_file() else None
            io.write_atomic(item.job.target, item.data, dated)
        self._write_map(item)
        item.result = item.promised

    def _write_map(self, item: Passage) -> None:
        """After the picture: what is killed in between is made again, because its map is missing."""
        if item.map is None:
            return
        if item.job.map is None:
            io.write_stream(self.stdout, item.map)
        else:
            io.write_atomic(item.job.map, item.map)

    def _done(self, item: Passage) -> Result:
        assert item.picture is not None
        assert item.upscaled is not None
        result, upscaled = blank(item.job, "done"), item.upscaled
        result.width, result.height = upscaled.picture.size
        result.realism, result.timestep, result.level = upscaled.realism, upscaled.timestep, upscaled.level
        result.similarity = None if upscaled.similarity is None else round(upscaled.similarity, 4)
        result.tiles, result.unet_passes = upscaled.tiles, upscaled.unet_passes
        result.consistency = upscaled.consistency
        result.invented = None if upscaled.invented is None else round(float(upscaled.invented.mean()), 3)
        result.device, result.dtype = str(self.upscaler.runtime.device), upscaled.dtype
        result.weights = self.upscaler.weights_id
        result.notes = _notes(upscaled.picture, item.format, self.output)
        return result


def run_step(item: Passage, step: Callable[[Passage], None]) -> Passage:
    """Carry out a step of `Stages` on an item that has no result yet; an error becomes its result."""
    if item.result is not None:
        return item
    started = time.perf_counter()
    try:
        step(item)
    except OutputError as error:
        item.result = failed(item.job, error)
        item.lasting, item.result.lasting = (error, True) if error.lasting else (None, False)
    except RcodsrError as error:
        item.result = failed(item.job, about(error, item.job))
    except Exception as error:  # one strange file must not cost the others
        item.result = failed(item.job, unforeseen(error, item.job))
    item.seconds += time.perf_counter() - started
    if item.result is not None:
        item.result.seconds = round(item.seconds, 3)
        item.picture = item.upscaled = item.data = item.map = None
    return item


def require_no_map(job: Job, output: WriteOptions) -> None:
    """Refuse to replace a map unless that is wished.

    Raises:
        InputError: naming it.
    """
    if job.map is not None and not output.overwrite and job.map.exists():
        cause = f"{job.map} already exists"
        raise InputError(job.source, cause, "use -y to replace it, or choose another place for --invented")


def check(job: Job, header: io.Header, options: UpscaleOptions, output: WriteOptions) -> int:
    """Refuse what cannot end well before anything is decoded.

    Returns:
        Pixels of the model's enlargement, or of the wanted one where that is larger.

    Raises:
        InputError: when the enlarged picture passes the limit or the output format's largest side.
    """
    # the model works at its own scale, however small the wanted result is
    most = max(options.factor(header.size), VariantSpec.scale)
    io.check_size(job.source, header.size, output.max_pixels, most)
    format, size = format_of(job, output, header), options.output_size(header.size)
    if max(size) > io.MAX_SIDE[format]:
        cause = f"would become {size[0]}×{size[1]}, and {format} holds at most {io.MAX_SIDE[format]} pixels a side"
        raise InputError(job.source, cause, "use -f png")
    width, height = io.output_size(header.size, most)
    return width * height


def format_of(job: Job, output: WriteOptions, header: io.Header) -> str:
    """The format a job's output is written in."""
    if job.target is not None:
        return io.FORMATS[job.target.suffix.lower()]
    return output.format or (header.format if header.format in io.FORMATS.values() else "PNG")


def _notes(picture: Picture, format: str, output: WriteOptions) -> list[str]:
    """What people should know about a picture that was written."""
    notes = list(picture.notes)
    if picture.alpha is not None and not io.has_room_for_alpha(format):
        shade = "white" if output.background == (255, 255, 255) else "#{:02x}{:02x}{:02x}".format(*output.background)
        notes.append(f"transparency laid on {shade}, {format} has none")
        if picture.laid_on(output.background).is_one_colour():
            notes.append("nothing but one flat colour is left of it: choose another --background or -f png")
    if picture.depth == 16 and format not in io.DEEP:
        notes.append(f"16-bit channels become 8, {format} has no more")
    if not output.strip and (lost := io.losses(picture.metadata, format)):
        notes.append(lost)
    return notes
