"""Parts of a variant as frozen dataclasses: latents, U-Net, prompt, LoRA and others. Standard library only.

A part is data and does not build its network. `models.build.build_model` turns specs into objects in one place.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from rcodsr.errors import UsageError
from rcodsr.options import LAST_TIMESTEP, LEVELS, realism_hint
from rcodsr.spec import Range, Spec, Width

MetricKind = Literal["cosine", "channel-cosine", "l1", "mse"]
Blocks = Annotated[int, Range(1, 32)]
"""Number of blocks in one level."""
EstimatorBlocks = Annotated[int, Range(0, 32)]
Heads = Annotated[int, Range(1, 1024)]
Side = Annotated[int, Range(1, 1024)]
"""Side in pixels of a vision tower's input."""


@dataclass(frozen=True)
class GroupingSpec(Spec):
    """Latent domain grouping, Eq. (5), and the realism scale that follows from it.

    The paper states neither bound. (0.25, 1.0) reproduces its Fig. S6 for Stable Diffusion latents.
    A variant with other latents stores its own.
    """

    n: Annotated[int, Range(1, LAST_TIMESTEP + 1)] = 3
    """Number of groups."""
    k: Annotated[int, Range(1, LAST_TIMESTEP + 1)] = 250
    """Interval between the groups' timesteps."""
    metric_min: float = 0.25
    """M_L at and below which a picture falls into the group of the largest timestep."""
    metric_max: float = 1.0
    """M_L at and above which a picture falls into the group of the smallest timestep."""
    metric: MetricKind = "cosine"
    """Distance of Eq. (6). The paper uses cosine similarity over all entries."""
    metric_encoder: Literal["trained", "frozen"] = "trained"
    """Encoder of Eq. (6): the one being trained, as in Algorithm 1, or the base's, whose M_L does not drift."""
    continuous: bool = False
    """Our extension: no floor in Eq. (5), so that every timestep between k and n·k is trained."""

    def __post_init__(self) -> None:
        """Reject impossible groupings.

        Raises:
            UsageError: when n or k is not positive, n·k exceeds 1000, or the bounds enclose no interval.
        """
        super().__post_init__()
        if self.n * self.k > LAST_TIMESTEP + 1:
            cause = f"{self.n} groups at intervals of {self.k} exceed the 1000 timesteps"
            raise UsageError("n", cause, "keep n·k at 1000 or below")
        if not self.metric_min < self.metric_max:
            cause = f"bounds {self.metric_min}..{self.metric_max} are empty"
            raise UsageError("metric_min", cause, "set metric_min < metric_max")

    @property
    def timesteps(self) -> tuple[int, ...]:
        """The groups' timesteps, from fidelity to realism: k, 2k, …, n·k, at most 999."""
        return tuple(min(LAST_TIMESTEP, self.k * i) for i in range(1, self.n + 1))

    def realism_timestep(self, realism: float) -> int:
        """Timestep of a realism value: 0 → k, 1 → n·k, linear between, at most 999.

        The groups' own timesteps are the trained ones; values between them interpolate.

        Raises:
            UsageError: when realism is not in [0, 1].
        """
        if not (math.isfinite(realism) and 0.0 <= realism <= 1.0):
            raise UsageError("--realism", f"{realism:g} is not between 0 and 1", realism_hint(realism))
        return min(LAST_TIMESTEP, round(self.k * (1 + realism * (self.n - 1))))

    def timestep_realism(self, timestep: int) -> float:
        """The realism value of a timestep, inverse of `realism_timestep`."""
        if self.n == 1:
            return 0.0
        return min(1.0, max(0.0, (timestep / self.k - 1) / (self.n - 1)))

    def level(self, timestep: int) -> str:
        """Name of the nearest level: fidelity, neutral or realism."""
        realism = self.timestep_realism(timestep)
        return min(LEVELS, key=lambda name: abs(LEVELS[name] - realism))


@dataclass(frozen=True)
class WaveletSpec(Spec):
    """Latent of `rcod-tiny`: a standardised two-level CDF 5/3 wavelet transform, with a refinement after its inverse."""

    kind: ClassVar[str] = "wavelet"
    levels: Annotated[int, Range(1, 4)] = 2
    refine_channels: int = 24
    """Width of the residual refinement after decoding. 0 disables it."""

    @property
    def factor(self) -> int:
        """Pixels per latent position along one side."""
        return int(2**self.levels)

    @property
    def channels(self) -> int:
        """Latent channels: three colours times all sub-bands."""
        return int(3 * 4**self.levels)


@dataclass(frozen=True)
class KlSpec(Spec):
    """Stable Diffusion's autoencoder. The defaults are those of SD 2.1-base and SD-Turbo."""

    kind: ClassVar[str] = "kl"
    widths: tuple[Width, ...] = (128, 256, 512, 512)
    """Width of each level, finest first."""
    blocks: Blocks = 2
    """Residual blocks of each encoder level. The decoder has one more."""
    channels: Width = 4
    """Latent channels."""
    norm_groups: Width = 32
    scaling: Annotated[float, Range(1e-3, 1e3)] = 0.18215
    """Factor on the latents, which gives them about unit variance."""

    @property
    def factor(self) -> int:
        """Pixels per latent position along one side."""
        return int(2 ** (len(self.widths) - 1))


class Levelled:
    """A network that halves its maps from level to level."""

    channels: tuple[int, ...]

    @property
    def reduction(self) -> int:
        """Positions of the latent per position of the coarsest level, along one side."""
        return int(2 ** (len(self.channels) - 1))


@dataclass(frozen=True)
class TinyUNetSpec(Levelled, Spec):
    """The small U-Net of `rcod-tiny`."""

    kind: ClassVar[str] = "tiny"
    channels: tuple[Width, ...] = (64, 96, 160)
    """Width of each level, finest first."""
    blocks: tuple[Blocks, ...] = (2, 2, 4)
    """Residual blocks of each level. The last number is the middle's."""
    embedding: Width = 128
    """Width of the timestep embedding."""
    heads: Heads = 4
    """Heads of the cross-attention to the visual tokens."""
    grain: bool = False
    """Whether the network also outputs a deviation of eps, from which `models.grain` samples."""

    def __post_init__(self) -> None:
        """Reject specs that cannot be built.

        Raises:
            UsageError: when the widest level cannot be split into heads.
        """
        super().__post_init__()
        if self.channels[-1] % self.heads:
            raise UsageError("heads", f"{self.channels[-1]} channels do not split into {self.heads} heads")


@dataclass(frozen=True)
class ResidualDenseSpec(Spec):
    """The residual-dense network of `rcod-small`. The defaults are Real-ESRGAN's with every other block removed."""

    kind: ClassVar[str] = "residual-dense"
    width: Width = 64
    growth: Width = 32
    """Channels added by each convolution of a dense block."""
    blocks: Blocks = 12
    """Number of residual-in-residual dense blocks."""
    embedding: Width = 128
    """Width of the timestep embedding."""
    heads: Heads = 4
    """Heads of the cross-attention to the visual tokens."""
    reduction: ClassVar[int] = 1
    """Accepts latents of any size."""

    def __post_init__(self) -> None:
        """Reject specs that cannot be built.

        Raises:
            UsageError: when the width cannot be split into heads.
        """
        super().__post_init__()
        if self.width % self.heads:
            raise UsageError("heads", f"{self.width} channels do not split into {self.heads} heads")


@dataclass(frozen=True)
class SdUNetSpec(Levelled, Spec):
    """Stable Diffusion's U-Net. The defaults are those of SD 2.1-base and SD-Turbo (865,910,724 parameters)."""

    kind: ClassVar[str] = "sd"
    channels: tuple[Width, ...] = (320, 640, 1280, 1280)
    """Width of each level, finest first. All but the last have attention."""
    blocks: Blocks = 2
    """Residual blocks of each level on the way down, and one more on the way up."""
    heads: tuple[Heads, ...] = (5, 10, 20, 20)
    """Attention heads of each level."""
    norm_groups: Width = 32


@dataclass(frozen=True)
class TowerSpec(Spec):
    """Visual prompt injection (VPIM) of `rcod-tiny`: its own small vision tower and one linear layer."""

    kind: ClassVar[str] = "tower"
    image_side: Side = 64
    """Side in pixels to which the whole picture is resized for the tower."""
    tower_channels: tuple[Width, ...] = (32, 64, 96, 96)
    """Width of each stride-2 stage of the tower."""
    context: Width = 96
    """Width of the visual tokens to which the U-Net attends."""


@dataclass(frozen=True)
class ClipSpec(Spec):
    """Visual prompt injection (VPIM) of the paper: CLIP ViT-L/14, all 257 tokens, and one linear layer 1024 → 1024."""

    kind: ClassVar[str] = "clip"
    image_side: Side = 224
    """Side in pixels to which the whole picture is resized for the tower."""
    patch: Side = 14
    width: Width = 1024
    layers: Annotated[int, Range(1, 64)] = 24
    heads: Heads = 16
    context: Width = 1024
    """Width of the visual tokens to which the U-Net attends."""


@dataclass(frozen=True)
class TextSpec(Spec):
    """A fixed text prompt, for models without VPIM. Its embedding is computed once, without a text encoder per picture."""

    kind: ClassVar[str] = "text"
    tokens: Annotated[int, Range(1, 1024)] = 77
    context: Width = 1024
    """Width of the embedding to which the U-Net attends."""
    text: str | None = None
    """Text for the base's text encoder. None if the checkpoint stores the embedding itself."""
    negative: str | None = None
    """Negative prompt of guidance, for weights that support it."""


@dataclass(frozen=True)
class LoraSpec(Spec):
    """Low-rank adaptation of a base."""

    unet_rank: Annotated[int, Range(1, 1024)] = 4
    vae_rank: Annotated[int, Range(0, 1024)] = 4
    alpha: Annotated[float, Range(1e-3, 1e4)] = 8.0
    """Adapters are scaled by alpha / rank. 8 in every released checkpoint of the field, although none stores it."""
    placement: Literal["osediff", "s3diff", "pisa-sr"] = "osediff"
    """Adapted modules (see `models.lora`)."""

    def __post_init__(self) -> None:
        """Reject a rank of 0 for an autoencoder that the placement adapts.

        Raises:
            UsageError: when the rank is 0.
        """
        super().__post_init__()
        if self.vae_rank == 0 and self.placement != "pisa-sr":
            raise UsageError("vae_rank", f"0, but {self.placement} adapts the autoencoder too", "use at least 1")


@dataclass(frozen=True)
class ModulationSpec(Spec):
    """S3Diff's degradation-guided LoRA: scores of the picture's degradation → one matrix per block of the networks."""

    frequencies: Width = 64
    """Number of random Fourier frequencies that encode a score."""
    block_width: Width = 64
    """Width of each block's embedding."""
    estimator_channels: tuple[Width, Width] = (64, 128)
    """Widths of the degradation estimator before and after it downsamples by 2."""
    estimator_blocks: tuple[EstimatorBlocks, EstimatorBlocks] = (6, 2)
    """Its residual blocks at each width."""
    estimator_hidden: Width = 512
    """Hidden width of its heads."""


@dataclass(frozen=True)
class MetricSpec(Spec):
    """The metric estimator (MEM), trained after the generator."""

    window: Annotated[int, Range(16, 4096)] = 128
    """Side in pixels of the windows of the enlarged picture that are judged one by one, equal to its training crops."""
    pool: Annotated[int, Range(0, 64)] = 0
    """Positions per side to which z_L is also pooled. 0 disables pooling."""
    features: int = 96
    """Width of the class token or of the degradation features."""
    hidden: Width = 128
