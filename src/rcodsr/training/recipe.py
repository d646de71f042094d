"""What a training run is: frozen dataclasses. `recipe_file` reads them from TOML."""

import json
import math
from dataclasses import asdict, dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

from rcodsr.data.presets import PRESETS
from rcodsr.errors import UsageError
from rcodsr.variants import RCOD_TINY, VariantSpec

Perceptual = Literal["lpips-vgg", "lpips-squeeze", "wavelet", "none"]
PERCEPTUAL: tuple[Perceptual, ...] = ("lpips-vgg", "lpips-squeeze", "wavelet", "none")

# OSEDiff's wording, which the frozen base's guidance points away from, and a generic counterpart
NEGATIVE = (
    "painting, oil painting, illustration, drawing, art, sketch, cartoon, CG Style, 3D render, unreal engine, blurring, dirty, "
    "messy, worst quality, low quality, frames, watermark, signature, jpeg artifacts, deformed, lowres, over-smooth"
)
POSITIVE = "a sharp, detailed, high quality photo"


@dataclass(frozen=True)
class Phase:
    """A stretch of training with constant settings; the learning rate falls along a cosine.

    Weights of losses are those at the realism timestep where the recipe weights losses by the timestep.
    """

    name: str
    steps: int
    batch: int
    crop: int
    learning_rate: tuple[float, float]
    pixel: Literal["mse", "charbonnier"] = "charbonnier"
    """MSE on clamped pictures, as the paper's bases; or Charbonnier with low frequencies held apart."""
    pixel_weight: float = 1.0
    pixel_fade: float = 0.5
    """Share of the pixel weight that is lost at the realism timestep, where the recipe weights losses by the timestep."""
    perceptual: float = 0.0
    """λ1, weight of the recipe's perceptual distance."""
    vsd: float = 0.0
    """λ2, weight of variational score distillation (L_reg)."""
    adversarial: float = 0.0
    """Weight of the recipe's discriminator."""
    restorer: float = 0.0
    """Weight of the distance to what the recipe's pretrained restorer makes of the picture; it grows with w(t)."""
    restorer_features: float = 0.0
    """Weight of the distance to the features of the restorer's trunk; it grows with w(t)."""
    pairs: float = 0.0
    """Weight of a discriminator that compares each picture with its ground truth, by the features of LPIPS-squeeze."""
    texture_floor: float = 0.0
    """Share of the perceptual and adversarial weights that is left at the fidelity timestep; it grows with w(t) to 1."""
    mesh: float = 0.0
    """Weight of the penalty on patterns that repeat with the low-resolution grid."""
    overshoot: float = 0.0
    """Weight of the penalty on pixels outside the range of the ground truth nearby."""
    restrain: float = 0.0
    """Weight of the distance to what the weights that the run began with make at a timestep nearer to k: see `restraint`."""
    restraint: float = 1.0
    """That timestep is k + restraint · w(t)^bend · (n·k − k): for weights whose knob goes further than pictures bear."""
    bend: float = 1.0
    """Above 1 the knob's middle is drawn in more than its far end."""
    fidelity_share: float = 0.0
    """Share of the batch at the fidelity timestep, whatever its degradation."""
    realism_share: float = 0.0
    """Share of the batch at the realism timestep, whatever its degradation."""
    energy: float = 0.0
    """Weight of the distance between local energies of detail, which asks for texture of the right strength."""
    faint: float = 0.0
    """Weight of the distance between logarithms of weak local energies, which asks for the grain of smooth places."""
    zoom: tuple[float, float] = (0.55, 0.95)
    """Zoomed photos become this many times as large, anything between; above 1 they are soft, as what cameras deliver."""
    zoom_probability: float | None = None
    """Share of the samples whose photo is zoomed; None for the recipe's."""

    def __post_init__(self) -> None:
        """Reject settings that could not run."""
        where = f"phase {self.name}"
        _require(_whole(self.steps, 1) and _whole(self.batch, 1), where, "steps and batch are whole numbers from 1 on")
        _require(_whole(self.crop, 32) and self.crop % 16 == 0, where, "crop is a multiple of 16 from 32 on")
        rates = self.learning_rate
        _require(len(rates) == 2 and all(_number(rate) for rate in rates), where, "learning_rate is [first, last]")
        zooms = len(self.zoom) == 2 and all(_number(zoom) and 0.1 <= zoom <= 4 for zoom in self.zoom)
        _require(zooms and self.zoom[0] <= self.zoom[1], where, "zoom is [least, most], between 0.1 and 4")
        _require(self.pixel in {"mse", "charbonnier"}, where, "pixel is mse or charbonnier")
        judged = (self.pixel_weight, self.perceptual, self.vsd, self.adversarial, self.pairs, self.restrain)
        weights = (
            *judged,
            self.restorer,
            self.restorer_features,
            self.energy,
            self.faint,
            self.mesh,
            self.overshoot,
            self.bend,
        )
        _require(all(_number(weight) for weight in weights), where, "weights of losses and bend are numbers from 0 on")
        names = ("texture_floor", "fidelity_share", "realism_share", "pixel_fade", "restraint")
        shares = (*(getattr(self, name) for name in names), self.zoom_probability or 0)
        sound = all(_number(share) and share <= 1 for share in shares) and self.fidelity_share + self.realism_share <= 1
        _require(sound, where, f"{', '.join(names)} and zoom_probability are shares")


@dataclass(frozen=True)
class Recipe:
    """Everything a training run depends on, besides the photos themselves."""

    photos: Path
    phases: tuple[Phase, ...]
    variant: VariantSpec = RCOD_TINY
    stage: Literal["prior", "generator", "estimator"] = "generator"
    lr: Path | None = None
    """Low-resolution versions of the photos (`data.photos.find_pairs`), in the place of synthetic degradation."""
    output: Path = Path("runs/rcod-tiny")
    seed: int = 0
    mix: dict[str, float] = field(default_factory=lambda: {"light": 1.0})
    """Degradation preset → share of the samples."""
    zoom_probability: float = 0.3
    """Share of the samples whose photo is first zoomed, by default shrunk to 0.55–0.95."""

    base_model: str | None = None
    """Directory or repository in place of the variant's base; `random:SEED` for its shapes with random weights."""
    start: str | None = None
    """Finished weights to go on from, with their latents and groups; a name, directory or repository."""
    prior: Path | None = None
    """Checkpoint of a `stage = "prior"` run: the frozen φ of a variant without a base."""
    only_grain: bool = False
    """Of finished weights with grain, train how much of it there is and nothing else."""
    generator: str | None = None
    """Of `stage = "estimator"`: the finished weights that get a metric estimator; a name, directory or repository."""
    bounds: tuple[float, float] | None = None
    """Of `stage = "estimator"`: M_min and M_max of the weights from now on; None leaves theirs."""
    estimator_weights: Path | None = None
    """The degradation estimator's published weights (safetensors), for a variant whose LoRA follows the degradation."""
    warm_start: str | None = None
    """Weights whose LoRA, and what steers it, a run begins with: a name (s3diff, osediff), directory or repository."""
    fit: bool = False
    """Standardise the latents and fit the grouping's bounds before the first step."""

    grouped_share: float = 1.0
    """Share of the samples whose timestep comes from Eq. (5); the others draw theirs from the whole realism range."""
    weight_by_timestep: bool = False
    """Ours: texture losses grow with w(t), pixel losses shrink, so that the knob has an effect without a teacher."""
    das: bool = True
    """Degradation-aware sampling, Eq. (7); otherwise the regulariser's timestep is uniform, as in OSEDiff."""
    das_width: int | None = None
    """Half width of Eq. (7)'s window; None for the grouping's k."""
    guidance: float = 7.5
    """Classifier-free guidance of the frozen φ. φ′ has none."""
    vsd_prompt: Literal["visual", "text"] = "visual"
    """What conditions φ and φ′: the visual tokens c_y, as Algorithm 1 writes, or a fixed text."""
    positive: str = POSITIVE
    negative: str = NEGATIVE
    perceptual: Perceptual = "none"
    perceptual_weights: Path | None = None
    """Weights of LPIPS with SqueezeNet or VGG16 (safetensors); without them VGG16's come from the lpips package."""
    restorer: Path | None = None
    """Real-ESRGAN's generator (safetensors): the teacher, and where `rcod-small` takes its trunk from when it starts afresh."""

    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 1e-2
    clip: float = 1.0
    """Largest norm of the gradient."""
    warmup: int = 0
    """Steps over which the learning rate rises."""
    regularizer_rate: float = 2e-5
    """Learning rate of φ′."""
    discriminator: Literal["patch", "unet", "dino"] = "patch"
    """Ours for variants without a prior; Real-ESRGAN's kind, which judges every pixel; or S3Diff's on a frozen DINO."""
    discriminator_start: Path | None = None
    """A discriminator to go on with (safetensors)."""
    dino_weights: str | None = None
    """Directory or repository in the place of DINO's; `random:0` for its shapes with random weights."""
    discriminator_rate: float = 4e-4
    accumulate: int = 1
    """Batches per step."""
    ema: float = 0.0
    """Decay of the averaged weights that are exported; 0 exports the weights themselves."""

    device: str = "auto"
    dtype: Literal["fp32", "bf16"] = "fp32"
    """bf16 computes the networks in bfloat16; weights, Eq. (3) and losses stay float32."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them."""
    workers: int = 1
    """Data processes."""
    degrade: Literal["auto", "workers", "device"] = "auto"
    """Where photos are degraded. auto: in the workers, but on a GPU that has less than four of them beside it."""
    threads: int = 0
    """Compute threads; 0 leaves torch's choice."""
    save_minutes: float = 5.0
    keep: int = 2
    """Saved states that are kept."""
    validation: Path | None = None
    """Photos to enlarge and score now and then."""
    validate_steps: int = 500

    def __post_init__(self) -> None:
        """Reject recipes that cannot run."""
        _require(self.stage in {"prior", "generator", "estimator"}, "stage", "prior, generator or estimator")
        if self.stage == "estimator" and self.generator is None:
            raise UsageError("generator", "not given", "add generator=WEIGHTS, the finished weights to extend")
        if self.only_grain and self.start is None:
            raise UsageError("only_grain", "nothing to give grain to", "add start=WEIGHTS, the finished weights")
        from_0 = {name: getattr(self, name) for name in ("seed", "workers", "threads", "warmup")}
        from_1 = {name: getattr(self, name) for name in ("accumulate", "keep", "validate_steps")}
        for least, counts in enumerate((from_0, from_1)):
            whole = all(_whole(count, least) for count in counts.values())
            _require(whole, "recipe", f"{', '.join(counts)} are whole numbers from {least} on")
        shares = (self.zoom_probability, self.grouped_share, self.ema)
        _require(all(_number(x) and x <= 1 for x in shares), "recipe", "zoom_probability, grouped_share and ema lie in [0, 1]")
        rates = (self.save_minutes, self.guidance, self.weight_decay, self.clip, self.regularizer_rate, self.discriminator_rate)
        _require(all(_number(rate) for rate in rates), "recipe", "rates, weights and minutes are numbers from 0 on")
        known = self.mix.keys() <= PRESETS.keys() and all(_number(share) for share in self.mix.values())
        _require(known and sum(self.mix.values()) > 0, "mix", f"shares of {', '.join(PRESETS)}, not all of them 0")
        bounds = (0.0, 1.0) if self.bounds is None else self.bounds
        numbers = len(bounds) == 2 and all(isinstance(x, int | float) and math.isfinite(x) for x in bounds)
        _require(numbers and bounds[0] < bounds[1], "bounds", "[M_min, M_max], two numbers in ascending order")
        _require(self.bounds is None or self.stage == "estimator", "bounds", "of stage = estimator; else metric_min and _max")
        _require(bool(self.phases), "phases", "at least one [[phases]] table")
        _require(self.dtype in {"fp32", "bf16"}, "dtype", "fp32 or bf16")
        _require(self.perceptual in PERCEPTUAL, "perceptual", f"one of {', '.join(PERCEPTUAL)}")
        _require(self.discriminator in {"patch", "unet", "dino"}, "discriminator", "patch, unet or dino")
        _require(self.degrade in {"auto", "workers", "device"}, "degrade", "auto, workers or device")
        _require(self.vsd_prompt in {"visual", "text"}, "vsd_prompt", "visual or text")
        self._check_losses()

    def _check_losses(self) -> None:
        if any(phase.perceptual for phase in self.phases) and self.perceptual == "none":
            raise UsageError("perceptual", "none, but a phase weights it", f"choose one of {', '.join(PERCEPTUAL[:-1])}")
        seen = any(phase.perceptual or phase.pairs for phase in self.phases)
        if seen and self.perceptual == "lpips-squeeze" and self.perceptual_weights is None:
            remedy = "add perceptual_weights=FILE.safetensors"
            raise UsageError("perceptual_weights", "not given, but a phase needs LPIPS", remedy)
        if any(phase.restorer or phase.restorer_features for phase in self.phases) and self.restorer is None:
            raise UsageError("restorer", "not given, but a phase learns from it", "add restorer=FILE.safetensors")
        if any(phase.pairs for phase in self.phases) and self.perceptual != "lpips-squeeze":
            raise UsageError("pairs", "compares by the features of LPIPS-squeeze", "set perceptual = lpips-squeeze")
        if any(phase.vsd for phase in self.phases) and self.variant.base is None and self.prior is None:
            remedy = 'train a prior with stage = "prior", then add prior=DIRECTORY'
            raise UsageError("vsd", f"{self.variant.name} has no base to distil from", remedy)
        if any(phase.vsd for phase in self.phases) and self.variant.modulation is not None:
            raise UsageError("vsd", f"{self.variant.name} distils nothing, its judge is a discriminator", "set vsd = 0")

    def settings(self, step: int) -> dict[str, Any]:
        """What has decided a run up to a step, JSON-ready. Phases that have not begun may still be changed or added."""
        values = json.loads(json.dumps(asdict(self) | {"variant": self.variant.to_dict()}, default=str))
        for name in _FREE_TO_CHANGE:
            del values[name]
        ends = list(accumulate(phase.steps for phase in self.phases))
        phases = zip(values["phases"], [0, *ends], strict=False)
        return values | {"phases": [phase for phase, first in phases if first < step]}

    @property
    def steps(self) -> int:
        """Steps of all phases together."""
        return sum(phase.steps for phase in self.phases)


_FREE_TO_CHANGE = (
    *(
        "photos",
        "lr",
        "output",
        "start",
        "prior",
        "generator",
        "warm_start",
        "base_model",
        "perceptual_weights",
        "estimator_weights",
        "dino_weights",
        "restorer",
        "discriminator_start",
    ),  # may lie elsewhere on another machine
    "bounds",  # decide what an estimate leads to, not the estimate
    *(
        "device",
        "workers",
        "degrade",
        "threads",
        "gradient_checkpointing",
        "save_minutes",
        "keep",
        "validation",
        "validate_steps",
    ),
)
"""What a resumed run may change without becoming another run."""


def differences(saved: dict[str, Any], asked: dict[str, Any], prefix: str = "") -> list[str]:
    """Settings that differ, as `name: saved → asked`, for people to read."""
    lines = []
    for key in sorted({*saved, *asked}):
        a, b = saved.get(key), asked.get(key)
        if isinstance(a, list) and isinstance(b, list):
            a, b = dict(enumerate(a)), dict(enumerate(b))
        if isinstance(a, dict) and isinstance(b, dict):
            lines += differences({str(k): v for k, v in a.items()}, {str(k): v for k, v in b.items()}, f"{prefix}{key}.")
        elif a != b:
            lines.append(f"{prefix}{key}: {a} → {b}")
    return lines


def _require(holds: bool, subject: str, rule: str) -> None:
    if not holds:
        raise UsageError(subject, "a value is out of range", rule)


def _whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf
