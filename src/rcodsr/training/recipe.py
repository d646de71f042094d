"""What a training run is: frozen dataclasses. `recipe_file` reads them from TOML.

A field says its bounds, and `Note.FREE` where a resumed run may change it; nothing else has to know it.
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

# OSEDiff's wording, which the frozen base's guidance points away from, and a generic counterpart
NEGATIVE = (
    "painting, oil painting, illustration, drawing, art, sketch, cartoon, CG Style, 3D render, unreal engine, blurring, dirty, "
    "messy, worst quality, low quality, frames, watermark, signature, jpeg artifacts, deformed, lowres, over-smooth"
)
POSITIVE = "a sharp, detailed, high quality photo"


@dataclass(frozen=True)
class Phase(Spec):
    """A stretch of training with constant settings; the learning rate falls along a cosine.

    Weights of losses are those at the realism timestep where the recipe weights losses by the timestep.
    """

    name: str
    steps: Positive
    batch: Positive
    """Samples of one update, in each process."""
    crop: Annotated[int, Range(32, multiple=16)]
    learning_rate: tuple[NonNegative, NonNegative]
    """At the phase's beginning and at its end."""
    pieces: Free[Positive] = 1
    """So many passes, one after the other, make up a batch: less memory, more time, the same update."""
    pixel: Literal["mse", "charbonnier"] = "charbonnier"
    """MSE on clamped pictures, as the paper's bases; or Charbonnier with low frequencies held apart."""
    pixel_weight: NonNegative = 1.0
    pixel_fade: Share = 0.5
    """Share of the pixel weight that is lost at the realism timestep, where the recipe weights losses by the timestep."""
    perceptual: NonNegative = 0.0
    """λ1, weight of the recipe's perceptual distance."""
    vsd: NonNegative = 0.0
    """λ2, weight of variational score distillation (L_reg)."""
    adversarial: NonNegative = 0.0
    """Weight of the recipe's discriminator."""
    restorer: NonNegative = 0.0
    """Weight of the distance to what the recipe's pretrained restorer makes of the picture; it grows with w(t)."""
    restorer_features: NonNegative = 0.0
    """Weight of the distance to the features of the restorer's trunk; it grows with w(t)."""
    pairs: NonNegative = 0.0
    """Weight of a discriminator that compares each picture with its ground truth, by the features of LPIPS-squeeze."""
    texture_floor: Share = 0.0
    """Share of the perceptual and adversarial weights that is left at the fidelity timestep; it grows with w(t) to 1."""
    mesh: NonNegative = 0.0
    """Weight of the penalty on patterns that repeat with the low-resolution grid."""
    overshoot: NonNegative = 0.0
    """Weight of the penalty on pixels outside the range of the ground truth nearby."""
    restrain: NonNegative = 0.0
    """Weight of the distance to what the weights that the run began with make at a timestep nearer to k: see `restraint`."""
    restraint: Share = 1.0
    """That timestep is k + restraint · w(t)^bend · (n·k − k): for weights whose knob goes further than pictures bear."""
    bend: NonNegative = 1.0
    """Above 1 the knob's middle is drawn in more than its far end."""
    fidelity_share: Share = 0.0
    """Share of the batch at the fidelity timestep, whatever its degradation."""
    realism_share: Share = 0.0
    """Share of the batch at the realism timestep, whatever its degradation."""
    energy: NonNegative = 0.0
    """Weight of the distance between local energies of detail, which asks for texture of the right strength."""
    faint: NonNegative = 0.0
    """Weight of the distance between logarithms of weak local energies, which asks for the grain of smooth places."""
    zoom: tuple[Zoom, Zoom] = (0.55, 0.95)
    """Zoomed photos become this many times as large, anything between; above 1 they are soft, as what cameras deliver."""
    zoom_probability: Share | None = None
    """Share of the samples whose photo is zoomed; None for the recipe's."""

    def __post_init__(self) -> None:
        """Reject settings that contradict each other.

        Raises:
            UsageError: when a value is out of its bounds, the zoom is empty, the batch cannot be cut in such pieces, or more
                than the whole batch has a fixed timestep.
        """
        super().__post_init__()
        if self.zoom[0] > self.zoom[1]:
            raise UsageError("zoom", f"{[*self.zoom]} is empty", "use [least, most]")
        if self.batch % self.pieces:
            raise UsageError("pieces", f"{self.batch} samples cannot be cut in {self.pieces}", "use a divisor of the batch")
        if self.fidelity_share + self.realism_share > 1:
            raise UsageError("realism_share", "with fidelity_share it takes more than the whole batch", "use 1 in all, at most")


@dataclass(frozen=True)
class DataSettings(Spec):
    """Which pairs of pictures training sees."""

    mix: dict[str, NonNegative] = field(default_factory=lambda: {"light": 1.0})
    """Degradation preset → share of the samples."""
    zoom_probability: Share = 0.3
    """Share of the samples whose photo is first zoomed, by default shrunk to 0.55–0.95."""
    transpose: bool = True
    """Turn half of the samples on their side, besides the mirror images; the paper's bases only mirror."""

    def __post_init__(self) -> None:
        """Reject a mix of presets that do not exist, or of nothing.

        Raises:
            UsageError: when it is one, or a value is out of its bounds.
        """
        super().__post_init__()
        if unknown := sorted(self.mix.keys() - PRESETS.keys()):
            raise UsageError(f"mix.{unknown[0]}", "unknown preset", choose(unknown[0], PRESETS))
        if not sum(self.mix.values()) > 0:
            raise UsageError("mix", "no shares", f"give shares of {', '.join(PRESETS)}, not all of them 0")


@dataclass(frozen=True)
class TimestepSettings(Spec):
    """Which timesteps training sees, and what they decide."""

    grouped_share: Share = 1.0
    """Share of the samples whose timestep comes from Eq. (5); the others draw theirs from the whole realism range."""
    weight_losses: bool = False
    """Ours: texture losses grow with w(t), pixel losses shrink, so that the knob has an effect without a teacher."""


@dataclass(frozen=True)
class PerceptualSettings(Spec):
    """The perceptual distance, which phases weight."""

    distance: PerceptualDistance = "none"
    weights: Weights[Path | None] = None
    """Weights of LPIPS with SqueezeNet or VGG16 (safetensors); without them VGG16's come from the lpips package."""


@dataclass(frozen=True)
class DistillSettings(Spec):
    """Variational score distillation, Eq. (8): the teacher φ, and φ′, which follows the student."""

    prior: Weights[str | None] = None
    """Checkpoint of a `stage = "prior"` run: the frozen φ of a variant without a base."""
    das: bool = True
    """Degradation-aware sampling, Eq. (7); otherwise the regulariser's timestep is uniform, as in OSEDiff."""
    das_width: Annotated[int, Range(1, 1000)] | None = None
    """Half width of Eq. (7)'s window; None for the grouping's k."""
    guidance: NonNegative = 7.5
    """Classifier-free guidance of the frozen φ. φ′ has none."""
    prompt: Literal["visual", "text"] = "visual"
    """What conditions φ and φ′: the visual tokens c_y, as Algorithm 1 writes, or a fixed text."""
    positive: str = POSITIVE
    negative: str = NEGATIVE
    learning_rate: NonNegative = 2e-5
    """Of φ′."""


@dataclass(frozen=True)
class DiscriminatorSettings(Spec):
    """The discriminator, which phases weight as `adversarial`."""

    architecture: Literal["patch", "unet", "dino"] = "patch"
    """Ours for variants without a prior; Real-ESRGAN's kind, which judges every pixel; or S3Diff's on a frozen DINO."""
    learning_rate: NonNegative = 4e-4
    steps: Literal["joint", "apart"] = "joint"
    """apart, as S3Diff: the generator learns from the data loss, then in a second pass of its own from the discriminator; the
    discriminator from real pictures, then from generated ones. joint: one step each, at half the cost."""
    start: Weights[Path | None] = None
    """A discriminator to go on with (safetensors)."""
    dino_weights: Free[str | None] = None
    """Directory or repository in the place of DINO's; `random:0` for its shapes with random weights."""


@dataclass(frozen=True)
class OptimSettings(Spec):
    """AdamW, and what becomes of its weights."""

    betas: tuple[Share, Share] = (0.9, 0.999)
    weight_decay: NonNegative = 1e-2
    clip: NonNegative = 1.0
    """Largest norm of the gradient; 0 leaves it alone."""
    warmup: Natural = 0
    """Steps over which the learning rate rises."""
    accumulate: Positive = 1
    """Batches per step."""
    ema: Share = 0.0
    """Decay of the averaged weights that are exported; 0 exports the weights themselves."""


@dataclass(frozen=True)
class MachineSettings(Spec):
    """How and where a run is computed and kept."""

    device: Free[str] = "auto"
    dtype: Literal["fp32", "bf16", "fp16"] = "fp32"
    """bf16 computes the networks in bfloat16; weights, Eq. (3) and losses stay float32. fp16 does so in float16 with scaled
    losses, for GPUs without bfloat16."""
    memory: Free[Literal["as-given", "24gb", "40gb", "80gb"]] = "as-given"
    """The GPU's memory: `pieces` and `gradient_checkpointing` are chosen so that a step fits; every batch stays."""
    gradient_checkpointing: Free[bool] = False
    """Compute activations again in the backward pass instead of keeping them."""
    workers: Annotated[int, Range(0, 1024), Note.FREE] = 1
    """Data processes."""
    degrade: Free[Literal["auto", "workers", "device"]] = "auto"
    """Where photos are degraded. auto: in the workers, but on a GPU that has less than four of them beside it."""
    threads: Annotated[int, Range(0, 1024), Note.FREE] = 0
    """Compute threads; 0 leaves torch's choice."""
    save_minutes: Free[NonNegative] = 5.0
    """Between saved states."""
    keep: Free[Positive] = 2
    """Saved states that are kept."""
    keep_every: Free[Natural] = 0
    """Steps between exported checkpoints that stay, as `checkpoints/00000500` of the run; 0 keeps none but the newest."""
    keep_checkpoints: Free[Positive] = 60
    """So many of those stay; the oldest go."""


@dataclass(frozen=True)
class ValidationSettings(Spec):
    """What is looked at now and then."""

    photos: Path | None = None
    """Photos to enlarge and score."""
    steps: Positive = 500
    """Between two looks."""
    judges: Path | None = None
    """Directory of judges as of `rcodsr bench quality`: LPIPS and NIQE beside PSNR and SSIM."""


@dataclass(frozen=True)
class Recipe(Spec):
    """Everything a training run depends on, besides the photos themselves."""

    photos: Free[Path]
    phases: Annotated[tuple[Phase, ...], Length(1, 100)]
    variant: VariantSpec = RCOD_TINY
    stage: Literal["prior", "generator", "estimator"] = "generator"
    output: Free[Path] = Path("runs/rcod-tiny")
    seed: Natural = 0
    lr: Free[Path | None] = None
    """Low-resolution versions of the photos (`data.pairs.find_pairs`), in the place of synthetic degradation."""

    captions: Weights[Path | None] = None
    """A text for each photo, as JSON lines of picture and text: what a variant with a text prompt is told, as OSEDiff."""
    base_model: Free[str | None] = None
    """Directory or repository in place of the variant's base; `random:SEED` for its shapes with random weights."""
    start: Weights[str | None] = None
    """Finished weights to go on from, with their latents and groups; a name, directory or repository."""
    warm_start: Weights[str | None] = None
    """Weights whose LoRA, and what steers it, a run begins with: a name (s3diff, osediff), directory or repository."""
    estimator_weights: Weights[Path | None] = None
    """The degradation estimator's published weights (safetensors), for a variant whose LoRA follows the degradation."""
    restorer: Weights[Path | None] = None
    """Real-ESRGAN's generator (safetensors): the teacher, and where `rcod-small` takes its trunk from when it starts afresh."""
    generator: Weights[str | None] = None
    """Of `stage = "estimator"`: the finished weights that get a metric estimator; a name, directory or repository."""
    bounds: Free[tuple[float, float] | None] = None
    """Of `stage = "estimator"`: M_min and M_max of the weights from now on; None leaves theirs."""
    only_grain: bool = False
    """Of finished weights with grain, train how much of it there is and nothing else."""
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
            UsageError: when a value is out of its bounds, or a setting lacks another that it needs.
        """
        super().__post_init__()
        if self.stage == "estimator" and self.generator is None:
            raise UsageError("generator", "not given", "add generator=WEIGHTS, the finished weights to extend")
        if self.only_grain and self.start is None:
            raise UsageError("only_grain", "nothing to give grain to", "add start=WEIGHTS, the finished weights")
        if self.bounds is not None and self.stage != "estimator":
            remedy = "set variant.grouping.metric_min and metric_max"
            raise UsageError("bounds", f"belong to stage = estimator, not {self.stage}", remedy)
        if self.bounds is not None and self.bounds[0] >= self.bounds[1]:
            raise UsageError("bounds", f"{[*self.bounds]} are empty", "use [M_min, M_max], in ascending order")
        if self.captions is not None and (self.stage != "generator" or not self.variant.takes_prompt):
            remedy = "leave captions out, or set variant.prompt.kind=text or variant=osediff"
            raise UsageError("captions", f"{self.variant.name} is told no text", remedy)
        if self.discriminator.steps == "apart" and self.discriminator.architecture != "dino":
            cause = f"apart, which {self.discriminator.architecture} does not know"
            raise UsageError("discriminator.steps", cause, "set discriminator.architecture = dino, or steps = joint")
        self._check_losses()

    def _check_losses(self) -> None:
        distance = self.perceptual.distance
        if any(phase.perceptual for phase in self.phases) and distance == "none":
            raise UsageError("perceptual.distance", "none, but a phase weights it", "use lpips-vgg, lpips-squeeze or wavelet")
        seen = any(phase.perceptual or phase.pairs for phase in self.phases)
        if seen and distance == "lpips-squeeze" and self.perceptual.weights is None:
            remedy = "add perceptual.weights=FILE.safetensors"
            raise UsageError("perceptual.weights", "not given, but a phase needs LPIPS", remedy)
        if any(phase.restorer or phase.restorer_features for phase in self.phases) and self.restorer is None:
            raise UsageError("restorer", "not given, but a phase learns from it", "add restorer=FILE.safetensors")
        if any(phase.pairs for phase in self.phases) and distance != "lpips-squeeze":
            raise UsageError("pairs", "compares by the features of LPIPS-squeeze", "set perceptual.distance = lpips-squeeze")
        if any(phase.vsd for phase in self.phases) and self.variant.base is None and self.distill.prior is None:
            remedy = 'train a prior with stage = "prior", then add distill.prior=DIRECTORY'
            raise UsageError("vsd", f"{self.variant.name} has no base to distil from", remedy)
        if any(phase.vsd for phase in self.phases) and self.variant.modulation is not None:
            raise UsageError("vsd", f"{self.variant.name} distils nothing, its judge is a discriminator", "set vsd = 0")

    def settings(self, step: int) -> dict[str, Any]:
        """What has decided a run up to a step, JSON-ready. Phases that have not begun may still be changed or added."""
        values = self.to_dict(without=Note.FREE)
        begun = [phase for phase, end in zip(values["phases"], self._ends, strict=True) if end - phase["steps"] < step]
        return values | {"phases": begun}

    @property
    def _ends(self) -> list[int]:
        return list(accumulate(phase.steps for phase in self.phases))

    @property
    def steps(self) -> int:
        """Steps of all phases together."""
        return sum(phase.steps for phase in self.phases)


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
