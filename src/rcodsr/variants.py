"""Variants as frozen dataclasses of parts, listed at the end of the module. Standard library only."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Annotated, Literal

from rcodsr.errors import UsageError
from rcodsr.options import LAST_TIMESTEP, Adaptive, ColorFix, Control, Level, RealismMap, UpscaleOptions
from rcodsr.parts import (
    ClipSpec,
    GroupingSpec,
    KlSpec,
    LoraSpec,
    MetricSpec,
    ModulationSpec,
    ResidualDenseSpec,
    SdUNetSpec,
    TextSpec,
    TinyUNetSpec,
    TowerSpec,
    WaveletSpec,
)
from rcodsr.spec import Note, Range, Spec

_OPTIONS: dict[type[Control], str] = {Level: "-r", Adaptive: "-a", RealismMap: "--realism-map"}
"""Options that errors name for each control."""
_ADAPTIVE_TILE = 128
"""Side in input pixels of a planned tile with its own timestep: small enough to separate parts of a picture."""


@dataclass(frozen=True)
class AuthorsScript:
    """How the authors of weights take a picture in the script they publish, where that is not how we do."""

    enlargement: Literal["bicubic", "bilinear"]
    """Pillow's on bytes, or straight lines."""
    fit: Literal["squeeze", "pad"]
    """How the enlarged picture gets sides that the networks can take."""
    multiple: int
    """The sides are multiples of so many pixels."""
    precision: Literal["fp16", "fp32"]
    """The dtype that the authors compute in: our default for these weights too."""
    least_side: int = 1
    """A picture with a shorter side is enlarged to it first, in input pixels."""
    guidance: float | None = None
    latent_tile: int = 96
    """Latents of up to its square are one tile."""
    latent_overlap: int = 32
    encoder_tile: int = 1024
    """In pixels; somewhat larger pictures are still encoded whole."""
    decoder_tile: int = 224
    """In latent positions; likewise."""


@dataclass(frozen=True)
class VariantSpec(Spec):
    """A variant of the one-step model: everything a checkpoint must state to rebuild it."""

    name: Annotated[str, Note.IDENTIFIER]
    autoencoder: WaveletSpec | KlSpec = field(default_factory=WaveletSpec)
    unet: TinyUNetSpec | ResidualDenseSpec | SdUNetSpec = field(default_factory=TinyUNetSpec)
    prompt: TowerSpec | ClipSpec | TextSpec = field(default_factory=TowerSpec)
    grouping: GroupingSpec = field(default_factory=GroupingSpec)
    lora: LoraSpec | None = None
    """LoRA trained on top of a base. None for a model trained as a whole."""
    modulation: ModulationSpec | None = None
    """Modulation of the LoRA by the picture's degradation, which prevents merging. None without it."""
    base: str | None = None
    """Name of the diffusion base in the manifest, for variants that have one."""
    vision: str | None = None
    """Name of the frozen vision tower in the manifest, for variants that borrow one."""
    noise_head: Literal["plain", "residual", "difference", "clean"] = "residual"
    """Form in which the U-Net's output becomes eps in Eq. (3)."""
    metric_estimator: MetricSpec | None = None
    """Estimator of degradation without ground truth. None for weights without one."""
    embedded_timestep: Annotated[int, Range(0, LAST_TIMESTEP)] | None = None
    """Timestep passed to the U-Net. None: the timestep of Eq. (3). For ablations of t's two roles."""
    coefficient_timestep: Annotated[int, Range(1, LAST_TIMESTEP)] | None = None
    """Timestep of α and σ in Eq. (3). None: the chosen timestep. For ablations of t's two roles."""
    scale: Literal[4] = 4
    """Enlargement of the variant. Degradations, data and memory limits support no other."""
    color_fix: ColorFix = "wavelet"
    """Colour correction applied unless the user chooses another."""
    limit_overshoot: bool = True
    """Limit pixels to the range of the enlarged input nearby: no halos, but no texture beyond it either."""
    least_side: Annotated[int, Range(1, 4096)] = 1
    """Least side in pixels to which enlarged pictures are padded, because a prior has seen few tiny crops."""
    tile: Annotated[int, Range(32, 4096)] = 256
    """Largest side of a planned tile, in input pixels."""
    tile_overlap: Annotated[int, Range(0, 1024)] = 24
    """Input pixels shared by neighbouring tiles unless the user chooses otherwise."""

    def __post_init__(self) -> None:
        """Reject a spec that cannot run.

        Raises:
            UsageError: when a modulation has no LoRA to act on.
        """
        super().__post_init__()
        if self.modulation is not None and self.lora is None:
            raise UsageError("modulation", "without LoRA it has nothing to act on", "set lora as well")

    @property
    def computes_prompt(self) -> bool:
        """Whether the base's text encoder computes the prompt from text, so that no checkpoint stores it."""
        return isinstance(self.prompt, TextSpec) and self.prompt.text is not None

    @property
    def takes_prompt(self) -> bool:
        """Whether another text can replace its prompt, which needs a text encoder."""
        return isinstance(self.prompt, TextSpec) and self.base is not None

    @property
    def mergeable(self) -> bool:
        """Whether LoRA can be merged into the weights, which is impossible if it depends on the picture."""
        return self.modulation is None

    @property
    def fixed_timestep(self) -> int | None:
        """The only timestep of a variant without a knob. None for variants with a knob."""
        return self.grouping.timesteps[0] if self.grouping.n == 1 else None

    @property
    def script(self) -> AuthorsScript | None:
        """How their own authors take pictures; None for our variants."""
        foreign = self.fixed_timestep is not None and isinstance(self.autoencoder, KlSpec)
        return SCRIPTS.get(self.name) if foreign else None

    def check_as_published(self, options: UpscaleOptions, guidance: float | None = None) -> AuthorsScript:
        """Return the authors' script, which settles everything that it has a rule for.

        Args:
            options: options of the pictures.
            guidance: requested scale of the guidance.

        Raises:
            UsageError: when there is none, or an option contradicts it.
        """
        if self.script is None:
            cause = f"{self.name} is rcodsr's own variant, without an earlier script to follow"
            raise UsageError("--as-published", cause, f"omit the option; it is for {', '.join(SCRIPTS)}")
        control = options.control
        given = {
            "-r" if control is None else _OPTIONS[type(control)]: control is not None,
            "--guidance": guidance is not None,
            "--protect": options.protect is not None,
            "--invented": options.invented,
            "--tile": options.tile is not None,
            "--tile-overlap": options.tile_overlap is not None,
        }
        for option in (name for name, asked in given.items() if asked):
            raise UsageError("--as-published", f"contradicts {option}", "use only one of the two")
        return self.script

    def check(self, options: UpscaleOptions, share: float | None = None) -> None:
        """Refuse options that these weights do not support.

        Args:
            options: options of the pictures.
            share: realism fixed at loading that weights two U-Net passes instead (PiSA-SR).

        Raises:
            UsageError: when an option is not supported.
        """
        if options.prompt is not None and not self.takes_prompt:
            raise UsageError("--prompts", f"{self.name} uses the picture instead of a text", "omit the option")
        if self.fixed_timestep is not None and options.invented:
            cause = f"these weights have one fixed timestep, {self.fixed_timestep}, and no realism 0 to compare with"
            raise UsageError("--invented", cause, "omit the option, or choose weights with a knob (rcod-small, rcod-tiny)")
        control = None if share is not None and options.control == Level(share) else options.control
        if self.fixed_timestep is not None and (control is not None or options.protect is not None):
            option = "--protect" if control is None else _OPTIONS[type(control)]
            cause = f"these weights have one fixed timestep, {self.fixed_timestep}"
            remedy = "omit the option, or choose weights with a knob (rcod-small, rcod-tiny, rcod-o, rcod-s)"
            raise UsageError(option, cause, remedy)
        if isinstance(control, Adaptive) and self.metric_estimator is None:
            remedy = "choose a level with -r, or train an estimator (rcodsr train estimator generator=WEIGHTS photos=PHOTOS)"
            raise UsageError("-a", "these weights have no degradation estimator", remedy)

    def tile_side(self, options: UpscaleOptions, most: int | None = None) -> int:
        """Largest side of a tile in input pixels, 0 for no tiles.

        Args:
            options: of the picture.
            most: what memory allows, where that is less than what the variant wants.
        """
        if options.tile is not None:
            return options.tile
        tile = self.tile if most is None else most
        return min(tile, _ADAPTIVE_TILE) if options.control == Adaptive("tile") else tile

    def tile_shared(self, options: UpscaleOptions, tile: int) -> int:
        """Input pixels that neighbouring tiles of that side share."""
        return min(self.tile_overlap if options.tile_overlap is None else options.tile_overlap, tile // 2)

    @property
    def weighable(self) -> bool:
        """Whether its LoRA has a semantic half with adjustable weight, as in PiSA-SR."""
        return self.lora is not None and self.lora.placement == "pisa-sr"

    @property
    def multiple(self) -> int:
        """Sides of the enlarged picture must be multiples of this many pixels."""
        return int(self.autoencoder.factor * self.unet.reduction)


RCOD_TINY = VariantSpec(name="rcod-tiny", grouping=GroupingSpec(metric="channel-cosine"))
"""The small variant packaged with rcodsr. Its grouping bounds are fitted to its own latents before training."""

RCOD_SMALL = VariantSpec(
    name="rcod-small",
    autoencoder=WaveletSpec(refine_channels=0),
    unet=ResidualDenseSpec(),
    grouping=GroupingSpec(metric_min=0.075, metric_max=0.195, metric="channel-cosine"),
    noise_head="clean",
    color_fix="none",
    limit_overshoot=False,
    tile_overlap=56,
)
"""A residual-dense network in place of the U-Net, derived from Real-ESRGAN's generator. It predicts ẑ_H itself, so the
timestep acts through modulation and losses instead of Eq. (3)'s gain."""

RCOD_O = VariantSpec(
    name="rcod-o",
    autoencoder=KlSpec(),
    unet=SdUNetSpec(),
    prompt=ClipSpec(),
    lora=LoraSpec(),
    base="sd21-base",
    vision="clip-vit-l14",
    noise_head="plain",
    color_fix="adain",
    limit_overshoot=False,
    least_side=512,
    tile=192,
)
"""RCOD based on OSEDiff: SD 2.1-base, LoRA of rank 4, and CLIP's tokens of the picture instead of a text prompt."""

RCOD_S = dataclasses.replace(
    RCOD_O,
    name="rcod-s",
    lora=LoraSpec(unet_rank=32, vae_rank=16, placement="s3diff"),
    modulation=ModulationSpec(),
    base="sd-turbo",
    color_fix="wavelet",
)
"""RCOD based on S3Diff: SD-Turbo, and LoRA of ranks 32 and 16 modulated by the picture's own degradation."""

OSEDIFF = dataclasses.replace(
    RCOD_O,
    name="osediff",
    prompt=TextSpec(text="a sharp, detailed, high quality photo"),
    vision=None,
    grouping=GroupingSpec(n=1, k=LAST_TIMESTEP),
)
"""OSEDiff, except that the prompt is fixed instead of each picture's tags."""

S3DIFF = dataclasses.replace(
    RCOD_S,
    name="s3diff",
    prompt=TextSpec(
        text="A high-resolution, 8K, ultra-realistic image with sharp focus, vibrant colors, and natural lighting.",
        negative="oil painting, cartoon, blur, dirty, messy, low quality, deformation, low resolution, oversmooth",
    ),
    vision=None,
    grouping=GroupingSpec(n=1, k=LAST_TIMESTEP),
)
"""S3Diff in one pass. Its guidance is an option."""

PISA_SR = dataclasses.replace(
    OSEDIFF,
    name="pisa-sr",
    prompt=TextSpec(text=""),
    lora=LoraSpec(vae_rank=0, placement="pisa-sr"),
    grouping=GroupingSpec(n=1, k=1),
    noise_head="difference",
)
"""PiSA-SR: two parallel LoRA, for pixels and for semantics; ẑ_H = z_L − net."""

SCRIPTS = {
    "osediff": AuthorsScript("bicubic", "squeeze", 8, "fp16", least_side=128),
    "s3diff": AuthorsScript("bilinear", "pad", 64, "fp32", guidance=1.07),
    "pisa-sr": AuthorsScript("bicubic", "squeeze", 8, "fp16", least_side=128),
}
"""The scripts that `--as-published` follows, by name of the variant."""

VARIANTS = {spec.name: spec for spec in (RCOD_SMALL, RCOD_TINY, RCOD_O, RCOD_S, OSEDIFF, S3DIFF, PISA_SR)}
"""The variants by name."""
