"""Estimate how degraded pictures are and which timestep follows. Compares with ground truth if available."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rcodsr.batch.memory import require_memory
from rcodsr.errors import InputError, RcodsrError, UsageError
from rcodsr.images import io
from rcodsr.images.matching import match
from rcodsr.options import MAX_OUTPUT_PIXELS

if TYPE_CHECKING:
    from rcodsr.engine.upscaler import Upscaler


@dataclass(frozen=True)
class Estimate:
    """One picture's row. The fields are the keys of `--json`."""

    input: str
    similarity: float | None = None
    """Estimated similarity M̂_L."""
    timestep: int | None = None
    realism: float | None = None
    level: str | None = None
    true_similarity: float | None = None
    error: str | None = None
    exit_code: int = 0
    """Not written to `--json`."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready. Keys without a value are omitted, except the first five."""
        always = ("input", "similarity", "timestep", "realism", "level")
        values = {key: value for key, value in asdict(self).items() if key in always or value is not None}
        del values["exit_code"]
        return values


def estimates(
    sources: list[io.Source],
    upscaler: Upscaler,
    truths: Mapping[io.Source, Path] | None = None,
    max_pixels: int = MAX_OUTPUT_PIXELS,
) -> Iterator[Estimate]:
    """Estimate pictures one by one. Runs the encoder and the estimator, but not the U-Net or the decoder.

    Args:
        sources: low-resolution pictures.
        upscaler: an engine whose weights have an estimator.
        truths: ground truth of each source, four times as large, to compare with.
        max_pixels: maximum number of pixels of an enlarged picture.

    Yields:
        One row per picture. A bad picture does not stop the others.
    """
    for source in sources:
        try:
            yield _estimate(source, upscaler, truths[source] if truths else None, max_pixels)
        except RcodsrError as error:
            yield Estimate(str(source), error=str(error), exit_code=error.exit_code)
        except Exception as error:  # one odd file must not stop the others
            cause = f"{source}: unexpected {type(error).__name__}: {error}; please report it"
            yield Estimate(str(source), error=cause, exit_code=1)


def _estimate(source: io.Source, upscaler: Upscaler, truth: Path | None, max_pixels: int) -> Estimate:
    from rcodsr.engine.estimation import measure_true
    from rcodsr.images.resize import upsample

    model = upscaler.model
    width, height = io.output_size(io.read_header(source).size, model.spec.scale)
    require_memory(source, width * height)
    seen = io.read(source, max_pixels, model.spec.scale).without_alpha().rgb
    found = upscaler.judge(seen)
    true = None
    if truth is not None:
        enlarged = upsample(seen[None], model.spec.scale)
        rgb = io.read(truth).rgb[None]
        if rgb.shape != enlarged.shape:
            cause = f"is not {model.spec.scale} times as large as {source}"
            raise InputError(truth, cause, "use the ground truth of the same pictures")
        true = round(measure_true(model, enlarged, rgb).mean, 4)
    return Estimate(
        str(source), round(found.similarity, 4), found.timestep, round(found.realism, 4), found.level, true_similarity=true
    )


def match_truths(sources: list[io.Source], folder: Path) -> dict[io.Source, Path]:
    """Find each source's ground truth: the file of the same name in a folder. Endings such as _LR4, _HR and _x4 are ignored.

    Raises:
        UsageError: when a source has no match, or two.
    """
    if not folder.is_dir():
        raise UsageError("--gt", f"{folder} is {'a file' if folder.exists() else 'not there'}", "pass a directory")
    files = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in io.SUFFIXES]
    truths = match(sources, files)
    for source in sources:
        if source not in truths:
            raise UsageError("--gt", f"{folder} has no ground truth for {source}", "use a folder with the same file names")
    return truths
