"""How a picture was made, and whether an existing output is that picture: what resuming rests on."""

from __future__ import annotations

from collections.abc import Container
from typing import TYPE_CHECKING, Any

from rcodsr.batch.places import RemotePath
from rcodsr.errors import InputError, RcodsrError
from rcodsr.images import io
from rcodsr.options import PIXELS, Adaptive, Level, RealismMap, TargetSize, UpscaleOptions, prompt_digest
from rcodsr.variants import VariantSpec
from rcodsr.version import __version__

if TYPE_CHECKING:
    from pathlib import Path

_MADE_BY = "made_by"
"""Recorded, not compared: a new version finishes what an older one has begun, as long as `PIXELS` is the same."""


def record_of(source: io.Source, options: UpscaleOptions, spec: VariantSpec, weights: str, dtype: str) -> dict[str, Any]:
    """How a picture is made: all that decides its pixels, nothing that says when or where.

    Args:
        source: the picture.
        options: what is done with it.
        spec: of the weights.
        weights: their id.
        dtype: fp32, bf16 or fp16.

    Raises:
        InputError: when the source cannot be read.
    """
    control = options.chosen
    timestep = {"timestep": spec.grouping.realism_timestep(control.realism)} if isinstance(control, Level) else {}
    return {
        _MADE_BY: f"rcodsr {__version__}",
        "pixels": PIXELS,
        "weights": weights + ("" if options.prompt is None else f"+prompt={prompt_digest(options.prompt)}"),
        **timestep,
        "adaptive": control.by if isinstance(control, Adaptive) else None,
        "realism_map": control.digest if isinstance(control, RealismMap) else None,
        "protect": options.protect,
        **size_of(options),
        "color_fix": options.color_fix or spec.color_fix,
        "dtype": dtype,
        "input_sha256": io.digest(source),
    }


def size_of(options: UpscaleOptions) -> dict[str, Any]:
    """What a record says of the size."""
    return {"scale": options.scale, "size": None if options.size is None else str(options.size)}


def is_result(picture: io.Source) -> bool:
    """Whether rcodsr has made a picture, as its record tells; only the header is read. False for an object in a store."""
    record = None if isinstance(picture, RemotePath) else io.read_record(picture)
    return record is not None and str(record.get("made_by", "")).startswith("rcodsr ")


def is_result_of(source: io.Source, picture: Path, scale: float, size: TargetSize | None, strip: bool) -> bool:
    """Whether a picture that bears the name of a source's output is one.

    Args:
        source: the input.
        picture: what may be its output, or an earlier one.
        scale: of the output, where `size` does not decide.
        size: of the output.
        strip: outputs carry no record, by the user's wish.
    """
    return is_result(picture) or _is_newer(source, picture, UpscaleOptions(scale=scale, size=size), strip)


def is_done(source: io.Source, target: Path, record: dict[str, Any], strip: bool = False, dtypes: Container[str] = ()) -> bool:
    """True for an existing output that is whole and was made exactly like this, False for a damaged one of ours.

    Args:
        source: the input.
        target: an existing output.
        record: as from `record_of`; what is known of it.
        strip: outputs carry no record, by the user's wish.
        dtypes: others that count as well as the record's.

    Raises:
        InputError: for any other, which is not ours to replace.
    """
    found = io.read_record(target)
    if found is not None:
        asked = record | {"dtype": found.get("dtype")} if found.get("dtype") in dtypes else record
        if all(found.get(key) == value for key, value in asked.items() if key != _MADE_BY):
            return io.is_whole(target)
    size = None if record.get("size") is None else TargetSize.parse(record["size"])
    if found is None and _is_newer(source, target, UpscaleOptions(scale=record["scale"], size=size), strip):
        return True
    cause = f"{target} already exists and was made differently"
    raise InputError(source, cause, "use -y to replace it or -o for another place")


def _is_newer(source: io.Source, target: Path, options: UpscaleOptions, strip: bool) -> bool:
    """Without a record, a whole picture of the right size, newer than its input, counts as done."""
    try:
        found, wanted = io.read_header(target), options.output_size(io.read_header(source).size)
        newer = isinstance(source, io.Piped) or target.stat().st_mtime_ns >= source.stat().st_mtime_ns
    except (RcodsrError, OSError):
        return False
    no_record = strip or not io.has_room_for_record(found.format)
    return no_record and found.size == wanted and newer and io.is_whole(target)
