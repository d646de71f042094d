"""Records of how a picture was made, which decide whether an existing output is up to date."""

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
"""Recorded but not compared: a new version may finish a batch that an older one began, if `PIXELS` is the same."""


def record_of(source: io.Source, options: UpscaleOptions, spec: VariantSpec, weights: str, dtype: str) -> dict[str, Any]:
    """Record of a picture: every setting that decides its pixels, but no time or place.

    Args:
        source: the picture.
        options: settings of the picture.
        spec: variant of the weights.
        weights: id of the weights.
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
    """Entries of a record about the size."""
    return {"scale": options.scale, "size": None if options.size is None else str(options.size)}


def is_result(picture: io.Source) -> bool:
    """Whether a picture's record says that rcodsr made it. Reads only the header. False for an object in a store."""
    record = None if isinstance(picture, RemotePath) else io.read_record(picture)
    return record is not None and str(record.get("made_by", "")).startswith("rcodsr ")


def is_result_of(source: io.Source, picture: Path, scale: float, size: TargetSize | None, strip: bool) -> bool:
    """Whether a picture with the name of a source's output is that output.

    Args:
        source: the input.
        picture: the possible output, from this run or an earlier one.
        scale: of the output, unless `size` decides.
        size: of the output.
        strip: outputs carry no record, at the user's request.
    """
    return is_result(picture) or _is_newer(source, picture, UpscaleOptions(scale=scale, size=size), strip)


def is_done(source: io.Source, target: Path, record: dict[str, Any], strip: bool = False, dtypes: Container[str] = ()) -> bool:
    """True for an intact existing output made in exactly this way, False for a damaged output of rcodsr.

    Args:
        source: the input.
        target: an existing output.
        record: from `record_of`, possibly incomplete.
        strip: outputs carry no record, at the user's request.
        dtypes: further dtypes that count as equal to the record's.

    Raises:
        InputError: for any other file, which must not be replaced.
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
    raise InputError(source, cause, "use -y to replace it or -o for another path")


def _is_newer(source: io.Source, target: Path, options: UpscaleOptions, strip: bool) -> bool:
    """Whether an intact picture without a record has the right size and is newer than its input."""
    try:
        found, wanted = io.read_header(target), options.output_size(io.read_header(source).size)
        newer = isinstance(source, io.Piped) or target.stat().st_mtime_ns >= source.stat().st_mtime_ns
    except (RcodsrError, OSError):
        return False
    no_record = strip or not io.has_room_for_record(found.format)
    return no_record and found.size == wanted and newer and io.is_whole(target)
