"""The recorded validations of a run, with their checkpoints."""

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
    """Scores by name, as in `validation.jsonl`."""
    sheet: Path
    """The contact sheet: bicubic, the levels, ground truth."""
    size: tuple[int, int] | None
    """Width and height of the sheet in pixels; None if the file is missing."""
    checkpoint: Path | None
    """The weights of that step, if they were kept."""


def looks(run: Path) -> list[Look]:
    """Read a run's validations, ordered by step; of repeated steps, the later one counts.

    Raises:
        InputError: when there are none, or the record cannot be read.
    """
    record = run / "validation.jsonl"
    found: dict[int, dict[str, float]] = {}
    try:
        for line in record.read_text(encoding="utf-8").splitlines():
            values = json.loads(line)
            found[int(values.pop("step"))] = {name: float(value) for name, value in values.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(record, f"not the record of a run's validations ({error})", "pass the directory of a run") from error
    if not found:
        raise InputError(record, "contains no validation yet", "wait for one, or train with validation.photos=DIR")
    return [_look(run, step, found[step]) for step in sorted(found)]


def alike(seen: list[Look]) -> list[Look]:
    """Select validations whose sheet exists and has the newest one's size, that is, the same photos."""
    pictured = [look for look in seen if look.size is not None]
    return [look for look in pictured if look.size == pictured[-1].size]


def table(seen: list[Look]) -> tuple[list[str], list[list[str]]]:
    """Columns and rows: each score at fidelity, neutral and realism, the knob's spread, and the share of monotone pictures."""
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
    """Format as in `bench quality`: four digits between 0 and 1, else two."""
    if value is None:
        return "-"
    return f"{value:.2f}" if name in {"psnr", "niqe", "knob_spread", "knob_monotone"} else f"{value:.4f}"
