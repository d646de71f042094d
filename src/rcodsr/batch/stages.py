"""Steps of one job: read, enlarge, encode, write. Each step uses what the previous one stored in the `Passage`."""

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
"""Maximum pixels of all model outputs in progress. A larger picture is processed alone."""


@dataclass
class Passage:
    """A job in progress, held by one thread at a time."""

    job: Job
    pixels: int = 0
    """Pixels of the model's output. 0 until the header is read."""
    format: str = ""
    record: dict[str, Any] = field(default_factory=dict)
    picture: Picture | None = None
    """Decoded picture. None also while it waits for memory."""
    upscaled: Upscaled | None = None
    data: bytes | None = None
    map: bytes | None = None
    """Encoded map of invented detail, if requested."""
    seconds: float = 0.0
    promised: Result | None = None
    """The result it will have once it is written."""
    result: Result | None = None
    """Set when no step is left."""
    lasting: OutputError | None = None
    """The fault that ends the batch."""


@dataclass(frozen=True)
class Stages:
    """Steps of all jobs of a batch. `run_step` runs one.

    Args:
        upscaler: the engine.
        options: settings of each picture.
        output: how outputs are written.
        stdout: receives the picture of a job without a target. None if the caller has none.
        observer: notified of tiles.
    """

    upscaler: Upscaler
    options: UpscaleOptions
    output: WriteOptions
    stdout: BinaryIO | None
    observer: Observer = field(default_factory=Observer)

    readers = 2
    """Number of threads that read ahead."""

    def read(self, item: Passage) -> None:
        """Check the input and any existing output. Decode the picture unless it must wait for memory."""
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
        """Decode a picture that waited for memory, or refuse it."""
        require_memory(item.job.source, item.pixels)
        item.picture = io.read(item.job.source, self.output.max_pixels, VariantSpec.scale)

    def enlarge(self, item: Passage) -> None:
        """Run the engine."""
        assert item.picture is not None
        item.upscaled = self.upscaler.run(item.picture, item.job.options(self.options), partial(self.observer.tile, item.job))

    def encode(self, item: Passage) -> None:
        """Encode the output file in memory."""
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
        item.picture = item.upscaled = None  # most of its memory

    def write(self, item: Passage) -> None:
        """Write the output and set the result."""
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
        """Write the map, after the picture: if killed in between, the picture is made again because its map is missing."""
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
    """Run a step of `Stages` on an item that has no result yet. An error becomes its result."""
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
    except Exception as error:  # one odd file must not stop the others
        item.result = failed(item.job, unforeseen(error, item.job))
    item.seconds += time.perf_counter() - started
    if item.result is not None:
        item.result.seconds = round(item.seconds, 3)
        item.picture = item.upscaled = item.data = item.map = None
    return item


def require_no_map(job: Job, output: WriteOptions) -> None:
    """Refuse to replace an existing map unless `-y` is set.

    Raises:
        InputError: when the map exists.
    """
    if job.map is not None and not output.overwrite and job.map.exists():
        cause = f"{job.map} already exists"
        raise InputError(job.source, cause, "use -y to replace it, or choose another path for --invented")


def check(job: Job, header: io.Header, options: UpscaleOptions, output: WriteOptions) -> int:
    """Refuse a job that cannot succeed, before anything is decoded.

    Returns:
        Pixels of the model's output, or of the requested size if that is larger.

    Raises:
        InputError: when the enlarged picture exceeds the pixel limit or the output format's largest side.
    """
    # the model works at its own scale, however small the requested size is
    most = max(options.factor(header.size), VariantSpec.scale)
    io.check_size(job.source, header.size, output.max_pixels, most)
    format, size = format_of(job, output, header), options.output_size(header.size)
    if max(size) > io.MAX_SIDE[format]:
        cause = f"would become {size[0]}×{size[1]}, and {format} holds at most {io.MAX_SIDE[format]} pixels per side"
        raise InputError(job.source, cause, "use -f png")
    width, height = io.output_size(header.size, most)
    return width * height


def format_of(job: Job, output: WriteOptions, header: io.Header) -> str:
    """The output format of a job."""
    if job.target is not None:
        return io.FORMATS[job.target.suffix.lower()]
    return output.format or (header.format if header.format in io.FORMATS.values() else "PNG")


def _notes(picture: Picture, format: str, output: WriteOptions) -> list[str]:
    """Messages about a written picture."""
    notes = list(picture.notes)
    if picture.alpha is not None and not io.has_room_for_alpha(format):
        shade = "white" if output.background == (255, 255, 255) else "#{:02x}{:02x}{:02x}".format(*output.background)
        notes.append(f"transparency flattened onto {shade}: {format} has none")
        if picture.laid_on(output.background).is_one_colour():
            notes.append("only one flat colour is left: choose another --background or -f png")
    if picture.depth == 16 and format not in io.DEEP:
        notes.append(f"16-bit channels reduced to 8, the most {format} supports")
    if not output.strip and (lost := io.losses(picture.metadata, format)):
        notes.append(lost)
    return notes
