"""Training recipes: a TOML file, overridden by `key=value` arguments, as frozen dataclasses."""

import json
import math
import tomllib
from dataclasses import asdict, dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

from rcodsr.config import RCOD_TINY, VARIANTS, VariantSpec
from rcodsr.data.degradation import PRESETS
from rcodsr.errors import UsageError


@dataclass(frozen=True)
class Phase:
    """A stretch of training with constant settings; the learning rate falls along a cosine."""

    name: str
    steps: int
    batch: int
    crop: int
    learning_rate: tuple[float, float]
    perceptual: float = 0.0
    """Weight of LPIPS at the realism timestep; it grows with w², and a fiftieth of it acts at the fidelity timestep."""
    adversarial: float = 0.0
    """Weight of the patch discriminator at the realism timestep; none at the fidelity timestep."""
    fidelity_share: float = 0.0
    """Share of the batch at the fidelity timestep, whatever its degradation."""
    mesh: float = 0.0
    """Weight of the penalty on patterns that repeat with the low-resolution grid."""

    def __post_init__(self) -> None:
        """Reject settings that could not run."""
        _require(
            _whole(self.steps, 1) and _whole(self.batch, 1), f"phase {self.name}", "steps and batch are whole numbers from 1 on"
        )
        _require(_whole(self.crop, 32) and self.crop % 16 == 0, f"phase {self.name}", "crop is a multiple of 16 from 32 on")
        rates = self.learning_rate
        _require(
            len(rates) == 2 and all(_number(rate) for rate in rates), f"phase {self.name}", "learning_rate is [first, last]"
        )
        weights = (self.perceptual, self.adversarial, self.mesh, self.fidelity_share)
        _require(all(_number(weight) for weight in weights), f"phase {self.name}", "weights of losses are numbers from 0 on")


@dataclass(frozen=True)
class Recipe:
    """Everything a training run depends on, besides the photos themselves."""

    photos: Path
    phases: tuple[Phase, ...]
    variant: VariantSpec = RCOD_TINY
    stage: str = "generator"
    lr: Path | None = None
    """Low-resolution versions of the photos (`data.photos.find_pairs`), in the place of synthetic degradation."""
    output: Path = Path("runs/rcod-tiny")
    seed: int = 0
    mix: dict[str, float] = field(default_factory=lambda: {"light": 1.0})
    zoom_probability: float = 0.3
    workers: int = 1
    threads: int = 0
    """Compute threads; 0 leaves torch's choice."""
    grouped_share: float = 0.5
    """Share of a batch whose timestep comes from Eq. (5); the others draw theirs from the whole realism range."""
    ema: float = 0.999
    save_minutes: float = 5.0
    perceptual_weights: Path | None = None
    """LPIPS-squeeze weights (safetensors), needed by phases with a perceptual weight."""

    def __post_init__(self) -> None:
        """Reject recipes that cannot run."""
        if self.stage != "generator":
            raise UsageError("stage", f"'{self.stage}' is not a stage of this version", 'use stage = "generator"')
        counts = (self.seed, self.workers, self.threads)
        _require(all(_whole(count, 0) for count in counts), "recipe", "seed, workers and threads are whole numbers from 0 on")
        shares = (self.zoom_probability, self.grouped_share, self.ema)
        _require(all(_number(x) and x <= 1 for x in shares), "recipe", "zoom_probability, grouped_share and ema lie in [0, 1]")
        _require(_number(self.save_minutes), "recipe", "save_minutes is a number from 0 on")
        known = self.mix.keys() <= PRESETS.keys() and all(_number(share) for share in self.mix.values())
        _require(known and sum(self.mix.values()) > 0, "mix", f"shares of {', '.join(PRESETS)}, not all of them 0")
        if not self.phases:
            raise UsageError("phases", "the recipe has none", "add at least one [[phases]] table")
        if self.perceptual_weights is None and any(phase.perceptual for phase in self.phases):
            raise UsageError(
                "perceptual_weights", "not given, but a phase needs LPIPS", "add perceptual_weights=FILE.safetensors"
            )

    def settings(self, step: int) -> dict[str, Any]:
        """What has decided a run up to a step, JSON-ready. Phases that have not begun may still be changed or added."""
        names = ("seed", "mix", "zoom_probability", "grouped_share", "ema")
        ends = list(accumulate(phase.steps for phase in self.phases))
        begun = [asdict(phase) for phase, first in zip(self.phases, [0, *ends], strict=False) if first < step]
        settings: dict[str, Any] = json.loads(json.dumps({name: getattr(self, name) for name in names} | {"phases": begun}))
        return settings

    @property
    def steps(self) -> int:
        """Steps of all phases together."""
        return sum(phase.steps for phase in self.phases)


def _require(holds: bool, subject: str, rule: str) -> None:
    if not holds:
        raise UsageError(subject, "a value is out of range", rule)


def _whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf


def read_recipe(path: Path, overrides: list[str]) -> Recipe:
    """Read a recipe and apply `key=value` overrides (`photos=DIR`, `phases.0.steps=100`).

    Raises:
        UsageError: when the file or an override is not valid.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(path, f"cannot be read ({error.strerror})", "give a recipe file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(path, f"not a TOML file ({error})") from error
    for override in overrides:
        _override(values, override)
    if "photos" not in values:
        raise UsageError(path, "no photos given", "add photos=DIRECTORY")
    try:
        return _build(values)
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(path, f"not a valid recipe ({error})") from error


def _build(values: dict[str, Any]) -> Recipe:
    values = dict(values)
    values["variant"] = VARIANTS[values.pop("variant", "rcod-tiny")]
    values["phases"] = tuple(Phase(**{**p, "learning_rate": tuple(p["learning_rate"])}) for p in values.get("phases", ()))
    for name in ("photos", "lr", "output", "perceptual_weights"):
        if name in values:
            values[name] = Path(values[name])
    return Recipe(**values)


def _override(values: dict[str, Any], text: str) -> None:
    key, equals, value = text.partition("=")
    *path, last = key.split(".")
    target: Any = values
    try:
        for step in path:
            target = target[int(step)] if isinstance(target, list) else target.setdefault(step, {})
        if not equals:
            raise KeyError(key)
        target[int(last) if isinstance(target, list) else last] = _parse(value)
    except (KeyError, IndexError, ValueError, TypeError, AttributeError):
        raise UsageError(text, "not an override of this recipe", "write key=value, for example phases.0.steps=100") from None


def _parse(value: str) -> Any:
    try:
        return tomllib.loads(f"v = {value}")["v"]
    except tomllib.TOMLDecodeError:
        return value
