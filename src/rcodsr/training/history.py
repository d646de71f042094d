"""What the validations of a run have seen, checkpoint by checkpoint."""

import json
from dataclasses import dataclass
from pathlib import Path

from rcodsr.bench.scoring import COLUMNS
from rcodsr.errors import InputError
from rcodsr.images.io import read_header
from rcodsr.options import LEVELS

_KNOB = {"knob_spread": "knob", "knob_monotone": "monotone"}


@dataclass(frozen=True)
class Look:
    """One validation."""

    step: int
    scores: dict[str, float]
    """As in `validation.jsonl`."""
    sheet: Path
    """Its pictures: bicubic, the levels, ground truth."""
    size: tuple[int, int] | None
    """Of the sheet, in pixels; None where the file is gone."""
    checkpoint: Path | None
    """The weights of that step, where they have been kept."""


def looks(run: Path) -> list[Look]:
    """A run's validations by step; of a step that was done twice the later one.

    Raises:
        InputError: when there is none, or the record cannot be read.
    """
    record = run / "validation.jsonl"
    found: dict[int, dict[str, float]] = {}
    try:
        for line in record.read_text(encoding="utf-8").splitlines():
            values = json.loads(line)
            found[int(values.pop("step"))] = {name: float(value) for name, value in values.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(record, f"not the record of a run's validations ({error})", "give the directory of a run") from error
    if not found:
        raise InputError(record, "holds no validation yet", "wait for one, or train with validation.photos=DIR")
    return [_look(run, step, found[step]) for step in sorted(found)]


def alike(seen: list[Look]) -> list[Look]:
    """Those whose pictures are there and of the newest one's size: of the same photos."""
    pictured = [look for look in seen if look.size is not None]
    return [look for look in pictured if look.size == pictured[-1].size]


def table(seen: list[Look]) -> tuple[list[str], list[list[str]]]:
    """Columns and rows: each score at fidelity, neutral and realism; the knob's spread, and the share of monotone pictures."""
    scored = {name for look in seen for name in look.scores}
    shown = [name for name in COLUMNS if f"{name}_{next(iter(LEVELS))}" in scored]
    knob = [name for name in _KNOB if name in scored]
    columns = ["step", *(COLUMNS[name] for name in shown), *(_KNOB[name] for name in knob), "checkpoint"]
    rows = []
    for look in seen:
        scores = [" / ".join(_written(name, look.scores.get(f"{name}_{level}")) for level in LEVELS) for name in shown]
        knobs = [_written(name, look.scores.get(name)) for name in knob]
        rows.append([str(look.step), *scores, *knobs, "" if look.checkpoint is None else look.checkpoint.name])
    return columns, rows


def _look(run: Path, step: int, scores: dict[str, float]) -> Look:
    sheet, checkpoint = run / "validation" / f"{step:08}.png", run / "checkpoints" / f"{step:08}"
    return Look(step, scores, sheet, _size(sheet), checkpoint if checkpoint.is_dir() else None)


def _size(path: Path) -> tuple[int, int] | None:
    try:
        return read_header(path).size
    except InputError:
        return None


def _written(name: str, value: float | None) -> str:
    """As `bench quality` does: four digits of what lies between 0 and 1, two of the rest."""
    if value is None:
        return "-"
    return f"{value:.2f}" if name in {"psnr", "niqe", "knob_spread", "knob_monotone"} else f"{value:.4f}"
