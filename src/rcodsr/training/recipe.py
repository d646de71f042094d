"""Settings of a training run, as frozen dataclasses. `recipe_file` reads them from TOML.

A field declares its bounds, and `Note.FREE` if a resumed run may change it. No other module needs to know.
"""

from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from rcodsr.data.presets import PRESETS
from rcodsr.errors import UsageError
from rcodsr.spec import Length, NonNegative, Note, Range, Share, Spec, choose
from rcodsr.variants import RCOD_TINY, VariantSpec

_T = TypeVar("_T")
Free = Annotated[_T, Note.FREE]
Weights = Annotated[_T, Note.FREE, Note.WEIGHTS]
"""A file, as a path; or a name, directory or repository, as text."""
Positive = Annotated[int, Range(1)]
Natural = Annotated[int, Range(0)]
Zoom = Annotated[float, Range(0.1, 4)]

PerceptualDistance = Literal["lpips-vgg", "lpips-squeeze", "wavelet", "none"]

# OSEDiff's negative prompt for guiding the frozen base, and a generic counterpart
NEGATIVE = (
    "painting, oil painting, illustration, drawing, art, sketch, cartoon, CG Style, 3D render, unreal engine, blurring, dirty, "
    "messy, worst quality, low quality, frames, watermark, signature, jpeg artifacts, deformed, lowres, over-smooth"
)
POSITIVE = "a sharp, detailed, high quality photo"


@dataclass(frozen=True)
class Phase(Spec):
    """A training phase with constant settings; the learning rate follows a cosine.

    If the recipe weights losses by the timestep, loss weights are those at the realism timestep.
    """

    name: str
    steps: Positive
    batch: Positive
    """Samples per update, in each process."""
    crop: Annotated[int, Range(32, multiple=16)]
    learning_rate: tuple[NonNegative, NonNegative]
    """At the phase's beginning and at its end."""
    pieces: Free[Positive] = 1
    """Number of successive passes per batch: less memory, more time, the same update."""
    pixel: Literal["mse", "charbonnier"] = "charbonnier"
    """MSE on clamped pictures, as in OSEDiff and S3Diff; or Charbonnier with a separate term for low frequencies."""
    pixel_weight: NonNegative = 1.0
    pixel_fade: Share = 0.5
    """Share of the pixel weight removed at the realism timestep, if the recipe weights losses by the timestep."""
    perceptual: NonNegative = 0.0
    """λ1, weight of the recipe's perceptual distance."""
    vsd: NonNegative = 0.0
    """λ2, weight of variational score distillation (L_reg)."""
    adversarial: NonNegative = 0.0
    """Weight of the recipe's discriminator."""
    restorer: NonNegative = 0.0
    """Weight of the distance to the output of the recipe's pretrained restorer; scaled by w(t)."""
    restorer_features: NonNegative = 0.0
    """Weight of the distance to the features of the restorer's trunk; scaled by w(t)."""
    pairs: NonNegative = 0.0
    """Weight of a discriminator that compares each picture with its ground truth on features of LPIPS-squeeze."""
    texture_floor: Share = 0.0
    """Share of the perceptual and adversarial weights left at the fidelity timestep; it rises with w(t) to 1."""
    mesh: NonNegative = 0.0
    """Weight of the penalty on patterns that repeat with the low-resolution grid."""
    overshoot: NonNegative = 0.0
    """Weight of the penalty on pixels outside the local range of the ground truth."""
    restrain: NonNegative = 0.0
    """Weight of the distance to the output of the run's initial weights at a timestep nearer to k: see `restraint`."""
    restraint: Share = 1.0
    """That timestep is k + restraint · w(t)^bend · (n·k − k): for weights whose knob is too strong at its end."""
    bend: NonNegative = 1.0
    """Above 1, the middle of the knob is restrained more than its end."""
    fidelity_share: Share = 0.0
    """Share of the batch at the fidelity timestep, regardless of degradation."""
    realism_share: Share = 0.0
    """Share of the batch at the realism timestep, regardless of degradation."""
    energy: NonNegative = 0.0
    """Weight of the distance between local energies of detail; rewards texture of the right strength."""
    faint: NonNegative = 0.0
    """Weight of the distance between logarithms of weak local energies; rewards the right grain in smooth areas."""
    zoom: tuple[Zoom, Zoom] = (0.55, 0.95)
    """Range of factors by which zoomed photos are resized; above 1 they become soft, like camera pictures."""
    zoom_probability: Share | None = None
    """Share of the samples whose photo is zoomed; None uses the recipe's."""

    def __post_init__(self) -> None:
        """Reject settings that contradict each other.

        Raises:
            UsageError: when a value is out of bounds, the zoom is empty, the batch cannot be split into the pieces, or more
                than the whole batch has a fixed timestep.
        """
        super().__post_init__()
        if self.zoom[0] > self.zoom[1]:
            raise UsageError("zoom", f"{[*self.zoom]} is empty", "use [least, most]")
        if self.batch % self.pieces:
            raise UsageError("pieces", f"{self.batch} samples do not split into {self.pieces}", "use a divisor of the batch")
        if self.fidelity_share + self.realism_share > 1:
            raise UsageError("realism_share", "exceeds the whole batch together with fidelity_share", "use at most 1 in all")


@dataclass(frozen=True)
class DataSettings(Spec):
    """The picture pairs used for training."""

    mix: dict[str, NonNegative] = field(default_factory=lambda: {"light": 1.0})
    """Degradation preset → share of the samples."""
    zoom_probability: Share = 0.3
    """Share of the samples whose photo is first zoomed; phases set the range, 0.55–0.95 by default."""
    transpose: bool = True
    """Transpose half of the samples, in addition to mirroring; OSEDiff and S3Diff only mirror."""

    def __post_init__(self) -> None:
        """Reject unknown presets and empty mixes.

        Raises:
            UsageError: when the mix is one of these, or a value is out of bounds.
        """
        super().__post_init__()
        if unknown := sorted(self.mix.keys() - PRESETS.keys()):
            raise UsageError(f"mix.{unknown[0]}", "unknown preset", choose(unknown[0], PRESETS))
        if not sum(self.mix.values()) > 0:
            raise UsageError("mix", "has no shares", f"set a share above 0 for one of {', '.join(PRESETS)}")


@dataclass(frozen=True)
class TimestepSettings(Spec):
    """Timesteps used for training, and their effect on losses."""

    grouped_share: Share = 1.0
    """Share of the samples whose timestep comes from Eq. (5); the others draw it from the whole realism range."""
    weight_losses: bool = False
    """Ours: texture losses rise with w(t) and pixel losses fall, so that the knob has an effect without a teacher."""


@dataclass(frozen=True)
class PerceptualSettings(Spec):
    """The perceptual distance, weighted by each phase."""

    distance: PerceptualDistance = "none"
    weights: Weights[Path | None] = None
    """Weights of LPIPS with SqueezeNet or VGG16 (safetensors); if missing, VGG16's come from the lpips package."""


@dataclass(frozen=True)
class DistillSettings(Spec):
    """Variational score distillation, Eq. (8): the teacher φ, and φ′, which follows the student."""

    prior: Weights[str | None] = None
    """Checkpoint of a `stage = "prior"` run: the frozen φ for a variant without a base."""
    das: bool = True
    """Degradation-aware sampling, Eq. (7); otherwise the regulariser's timestep is uniform, as in OSEDiff."""
    das_width: Annotated[int, Range(1, 1000)] | None = None
    """Half width of the window in Eq. (7); None uses the grouping's k."""
    guidance: NonNegative = 7.5
    """Classifier-free guidance scale of the frozen φ. φ′ uses none."""
    prompt: Literal["visual", "text"] = "visual"
    """Condition of φ and φ′: the visual tokens c_y, as in Algorithm 1, or a fixed text."""
    positive: str = POSITIVE
    negative: str = NEGATIVE
    learning_rate: NonNegative = 2e-5
    """Learning rate of φ′."""


@dataclass(frozen=True)
class DiscriminatorSettings(Spec):
    """The discriminator, weighted by each phase as `adversarial`."""

    architecture: Literal["patch", "unet", "dino"] = "patch"
    """Ours for variants without a prior, Real-ESRGAN's, which judges every pixel, or S3Diff's on a frozen DINO."""
    learning_rate: NonNegative = 4e-4
    steps: Literal["joint", "apart"] = "joint"
    """apart, as in S3Diff: the generator learns from the data loss, then in a second pass from the discriminator. The
    discriminator learns from real pictures, then from generated ones. joint: one step each, at half the cost."""
    start: Weights[Path | None] = None
    """Discriminator weights to continue with (safetensors)."""
    dino_weights: Free[str | None] = None
    """Directory or repository that replaces DINO's; `random:0` for random weights of its shapes."""


@dataclass(frozen=True)
class OptimSettings(Spec):
    """AdamW and weight averaging."""

    betas: tuple[Share, Share] = (0.9, 0.999)
    weight_decay: NonNegative = 1e-2
    clip: NonNegative = 1.0
    """Largest norm of the gradient; 0 disables clipping."""
    warmup: Natural = 0
    """Steps over which the learning rate rises."""
    accumulate: Positive = 1
    """Batches per step."""
    ema: Share = 0.0
    """Decay of the averaged weights, which are exported; 0 exports the weights themselves."""


@dataclass(frozen=True)
class MachineSettings(Spec):
    """Hardware and storage settings of a run."""

    device: Free[str] = "auto"
    dtype: Literal["fp32", "bf16", "fp16"] = "fp32"
    """bf16 runs the networks in bfloat16; weights, Eq. (3) and losses stay in float32. fp16 uses float16 with scaled losses,
    for GPUs without bfloat16."""
    memory: Free[Literal["as-given", "24gb", "40gb", "80gb"]] = "as-given"
    """The GPU's memory: `pieces` and `gradient_checkpointing` are chosen so that a step fits. Batch sizes stay."""
    gradient_checkpointing: Free[bool] = False
    """Recompute activations in the backward pass instead of keeping them."""
    workers: Annotated[int, Range(0, 1024), Note.FREE] = 1
    """Data worker processes."""
    degrade: Free[Literal["auto", "workers", "device"]] = "auto"
    """Where photos are degraded. auto: in the workers, or on the GPU if it has fewer than four workers."""
    threads: Annotated[int, Range(0, 1024), Note.FREE] = 0
    """Compute threads; 0 leaves torch's default."""
    save_minutes: Free[NonNegative] = 5.0
    """Minutes between saved states."""
    keep: Free[Positive] = 2
    """Number of saved states to keep."""
    keep_every: Free[Natural] = 0
    """Steps between exported checkpoints to keep, as `checkpoints/00000500` of the run; 0 keeps only the newest."""
    keep_checkpoints: Free[Positive] = 60
    """Number of these checkpoints to keep; the oldest are deleted."""


@dataclass(frozen=True)
class ValidationSettings(Spec):
    """Validation during training."""

    photos: Path | None = None
    """Photos to enlarge and score."""
    steps: Positive = 500
    """Steps between validations."""
    judges: Path | None = None
    """Directory of judges, same as for `rcodsr bench quality`: LPIPS and NIQE beside PSNR and SSIM."""


@dataclass(frozen=True)
class Recipe(Spec):
    """Every setting of a training run; only the photos themselves are not part of it."""

    photos: Free[Path]
    phases: Annotated[tuple[Phase, ...], Length(1, 100)]
    variant: VariantSpec = RCOD_TINY
    stage: Literal["prior", "generator", "estimator"] = "generator"
    output: Free[Path] = Path("runs/rcod-tiny")
    seed: Natural = 0
    lr: Free[Path | None] = None
    """Low-resolution versions of the photos (`data.pairs.find_pairs`), which replace synthetic degradation."""

    captions: Weights[Path | None] = None
    """A text for each photo, as JSON lines of picture and text: the prompt of variants with a text prompt, as in OSEDiff."""
    base_model: Free[str | None] = None
    """Directory or repository that replaces the variant's base; `random:SEED` for random weights of its shapes."""
    start: Weights[str | None] = None
    """Trained weights to continue from, with their latents and groups; a name, directory or repository."""
    warm_start: Weights[str | None] = None
    """Weights whose LoRA and modulation a run starts with: a name (s3diff, osediff), directory or repository."""
    estimator_weights: Weights[Path | None] = None
    """The published weights of the degradation estimator (safetensors), for variants whose LoRA follows the degradation."""
    restorer: Weights[Path | None] = None
    """Real-ESRGAN's generator (safetensors): the teacher, and the initial trunk of a new `rcod-small`."""
    generator: Weights[str | None] = None
    """Trained weights that `stage = "estimator"` adds a metric estimator to; a name, directory or repository."""
    bounds: Free[tuple[float, float] | None] = None
    """New M_min and M_max of the weights in `stage = "estimator"`; None keeps theirs."""
    only_grain: bool = False
    """Train only the amount of grain, for trained weights with grain."""
    fit: bool = False
    """Standardise the latents and fit the grouping's bounds before the first step."""

    data: DataSettings = field(default_factory=DataSettings)
    timestep: TimestepSettings = field(default_factory=TimestepSettings)
    perceptual: PerceptualSettings = field(default_factory=PerceptualSettings)
    distill: DistillSettings = field(default_factory=DistillSettings)
    discriminator: DiscriminatorSettings = field(default_factory=DiscriminatorSettings)
    optim: OptimSettings = field(default_factory=OptimSettings)
    machine: MachineSettings = field(default_factory=MachineSettings)
    validation: Free[ValidationSettings] = field(default_factory=ValidationSettings)
    trackers: Annotated[tuple[Literal["tensorboard", "wandb"], ...], Length(0, 2), Note.FREE] = ("tensorboard",)
    """Where curves and pictures are watched; `metrics.jsonl` and `validation.jsonl` are written all the same."""

    def __post_init__(self) -> None:
        """Reject recipes that cannot run.

        Raises:
            UsageError: when a value is out of bounds, or a setting lacks another that it needs.
        """
        super().__post_init__()
        if self.stage == "estimator" and self.generator is None:
            raise UsageError("generator", "not given", "add generator=WEIGHTS, the trained weights to extend")
        if self.only_grain and self.start is None:
            raise UsageError("only_grain", "has no weights to add grain to", "add start=WEIGHTS, the trained weights")
        if self.bounds is not None and self.stage != "estimator":
            remedy = "set variant.grouping.metric_min and metric_max"
            raise UsageError("bounds", f"need stage = estimator, not {self.stage}", remedy)
        if self.bounds is not None and self.bounds[0] >= self.bounds[1]:
            raise UsageError("bounds", f"{[*self.bounds]} are empty", "use [M_min, M_max], in ascending order")
        if self.captions is not None and (self.stage != "generator" or not self.variant.takes_prompt):
            remedy = "leave captions out, or set variant.prompt.kind=text or variant=osediff"
            raise UsageError("captions", f"{self.variant.name} has no text prompt", remedy)
        if self.discriminator.steps == "apart" and self.discriminator.architecture != "dino":
            cause = f"apart is not supported by {self.discriminator.architecture}"
            raise UsageError("discriminator.steps", cause, "set discriminator.architecture = dino, or steps = joint")
        self._check_losses()

    def _check_losses(self) -> None:
        distance = self.perceptual.distance
        if any(phase.perceptual for phase in self.phases) and distance == "none":
            raise UsageError("perceptual.distance", "is none, but a phase uses it", "use lpips-vgg, lpips-squeeze or wavelet")
        seen = any(phase.perceptual or phase.pairs for phase in self.phases)
        if seen and distance == "lpips-squeeze" and self.perceptual.weights is None:
            remedy = "add perceptual.weights=FILE.safetensors"
            raise UsageError("perceptual.weights", "not given, but a phase needs LPIPS", remedy)
        if any(phase.restorer or phase.restorer_features for phase in self.phases) and self.restorer is None:
            raise UsageError("restorer", "not given, but a phase needs it", "add restorer=FILE.safetensors")
        if any(phase.pairs for phase in self.phases) and distance != "lpips-squeeze":
            raise UsageError("pairs", "needs the features of LPIPS-squeeze", "set perceptual.distance = lpips-squeeze")
        if any(phase.vsd for phase in self.phases) and self.variant.base is None and self.distill.prior is None:
            remedy = 'train a prior with stage = "prior", then add distill.prior=DIRECTORY'
            raise UsageError("vsd", f"{self.variant.name} has no base to distil from", remedy)
        if any(phase.vsd for phase in self.phases) and self.variant.modulation is not None:
            raise UsageError("vsd", f"{self.variant.name} is trained with a discriminator, not by distillation", "set vsd = 0")

    def settings(self, step: int) -> dict[str, Any]:
        """Settings that affected the run up to a step, JSON-ready. Phases that have not begun may still be changed or added."""
        values = self.to_dict(without=Note.FREE)
        begun = [phase for phase, end in zip(values["phases"], self._ends, strict=True) if end - phase["steps"] < step]
        return values | {"phases": begun}

    @property
    def _ends(self) -> list[int]:
        return list(accumulate(phase.steps for phase in self.phases))

    @property
    def steps(self) -> int:
        """Total steps of all phases."""
        return sum(phase.steps for phase in self.phases)


def differences(saved: dict[str, Any], asked: dict[str, Any], prefix: str = "") -> list[str]:
    """Settings that differ, one readable line each: `name: saved → asked`."""
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
