"""The one-step model: encode → condition → one U-Net step → decode. Independent of the variant."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeAlias

import torch
from torch import Tensor, nn

from rcodsr.diffusion.grouping import latent_metric
from rcodsr.diffusion.schedule import NoiseSchedule
from rcodsr.images.resize import resize
from rcodsr.models.grain import Grain
from rcodsr.models.layout import cast, like_weights
from rcodsr.models.modulation import Modulation, Modulator
from rcodsr.models.passes import OnePass, Passes
from rcodsr.variants import VariantSpec

if TYPE_CHECKING:
    from rcodsr.models.autoencoder import WaveletAutoencoder
    from rcodsr.models.metric_estimator import MetricEstimator
    from rcodsr.models.prompts import FixedPrompt, VisualPrompt
    from rcodsr.models.residual_dense import ResidualDenseNet
    from rcodsr.models.stable_diffusion import KlAutoencoder, SdUNet
    from rcodsr.models.tiny_unet import TinyUNet

    Autoencoder: TypeAlias = WaveletAutoencoder | KlAutoencoder
    Denoiser: TypeAlias = TinyUNet | ResidualDenseNet | SdUNet
    Prompt: TypeAlias = VisualPrompt | FixedPrompt


@dataclass(frozen=True)
class Condition:
    """Inputs of the U-Net besides the latents, indexed by tile; a single entry is broadcast."""

    timestep: Tensor
    """Shape (B,), int64 in [0, 999]."""
    tokens: Tensor
    """Visual tokens or the embedding of a text, shape (B, N, D)."""
    modulation: Modulation = field(default_factory=Modulation)
    origin: Tensor | None = None
    """Row and column of each tile in its picture's latents, shape (B, 2), int64; None means (0, 0)."""

    def __len__(self) -> int:
        return len(self.timestep)

    def __getitem__(self, index: slice) -> Condition:
        origin = None if self.origin is None else self.origin[index]
        return Condition(self.timestep[index], self.tokens[index], self.modulation[index], origin)

    def expand(self, count: int) -> Condition:
        """Return one entry per tile: repeats single entries and keeps those that have `count` entries.

        Tiles of a picture may have their own timesteps and origins and share everything else.

        Raises:
            ValueError: when the number of entries is neither 1 nor `count`.
        """
        if len(self) not in {1, count}:
            raise ValueError(f"{len(self)} conditions do not fit {count} tiles")
        origin = None if self.origin is None else self.origin.expand(count, -1)
        return Condition(self.timestep.expand(count), self.tokens.expand(count, -1, -1), self.modulation.expand(count), origin)

    @property
    def begins(self) -> Tensor:
        """`origin`, or zeros where it is None: shape (B, 2), int64."""
        return self.timestep.new_zeros(len(self), 2) if self.origin is None else self.origin


class NoiseHead(Protocol):
    """Turns the U-Net's output into the eps of Eq. (3)."""

    def __call__(self, net: Tensor, z: Tensor, t: Tensor) -> Tensor:
        """Shapes (B, C, h, w), (B, C, h, w), (B,) → eps (B, C, h, w), float32."""
        ...


class PlainNoise:
    """eps = net, as in Stable Diffusion."""

    def __call__(self, net: Tensor, z: Tensor, t: Tensor) -> Tensor:
        """Return `net` unchanged; shapes as in `NoiseHead`."""
        return net.float()


class ResidualNoise:
    """eps = net + z_L (1 − α_t)/σ_t, so that a zero output keeps z_L: ẑ_H = z_L − (σ_t/α_t) net.

    Eq. (3) holds exactly; the gain σ_t/α_t (0.7 / 1.6 / 4.1 at t = 250 / 500 / 750) lets larger timesteps change more. For
    networks trained from scratch, which would otherwise have to reproduce z_L times 1/α_t.
    """

    def __init__(self, schedule: NoiseSchedule) -> None:
        self.schedule = schedule

    def __call__(self, net: Tensor, z: Tensor, t: Tensor) -> Tensor:
        """Add the share of z_L that Eq. (3) subtracts; shapes as in `NoiseHead`."""
        return net.float() + z.float() * ((1 - self.schedule.alpha(t)) / self.schedule.sigma(t))


class Difference:
    """ẑ_H = z_L − net, as in PiSA-SR: eps = (z_L (1 − α_t) + α_t net)/σ_t, so that Eq. (3) yields ẑ_H."""

    def __init__(self, schedule: NoiseSchedule) -> None:
        self.schedule = schedule

    def __call__(self, net: Tensor, z: Tensor, t: Tensor) -> Tensor:
        """Return the eps that Eq. (3) turns into the difference; shapes as in `NoiseHead`."""
        alpha = self.schedule.alpha(t)
        return (z.float() * (1 - alpha) + alpha * net.float()) / self.schedule.sigma(t)


class CleanLatent:
    """ẑ_H = net (an x0-parameterised network): eps = (z_L − α_t net)/σ_t, which Eq. (3) turns back into net."""

    def __init__(self, schedule: NoiseSchedule) -> None:
        self.schedule = schedule

    def __call__(self, net: Tensor, z: Tensor, t: Tensor) -> Tensor:
        """Return the eps that Eq. (3) turns into the prediction; shapes as in `NoiseHead`."""
        return (z.float() - self.schedule.alpha(t) * net.float()) / self.schedule.sigma(t)


class OneStepSR(nn.Module):
    """One-step diffusion super-resolution with a realism control (paper Eq. 4).

    Args:
        spec: the variant; kept for its scale, padding and grouping.
        autoencoder: pixels ↔ latents.
        unet: the denoising network.
        prompt: context of the U-Net's cross-attention.
        schedule: α_t and σ_t.
        noise_head: converts the U-Net's output to eps.
        modulator: degradation modulation, or the null object.
        metric_estimator: estimates M_L without ground truth, or None.
        grain: samples eps from the U-Net's mean and deviation, or None if the U-Net predicts eps alone.

    Attributes:
        passes: runs the U-Net once per step, or twice if the user has opted in.
        context: computes per-picture projections of the tokens; the identity, unless `models.rewrites` has changed the U-Net.
    """

    def __init__(
        self,
        spec: VariantSpec,
        autoencoder: Autoencoder,
        unet: Denoiser,
        prompt: Prompt,
        schedule: NoiseSchedule,
        noise_head: NoiseHead,
        modulator: Modulator,
        metric_estimator: MetricEstimator | None = None,
        grain: Grain | None = None,
    ) -> None:
        super().__init__()
        self.spec = spec
        self.autoencoder = autoencoder
        self.unet = unet
        self.prompt = prompt
        self.schedule = schedule
        self.noise_head = noise_head
        self.modulator = modulator
        self.metric_estimator = metric_estimator
        self.grain = grain
        self.passes: Passes = OnePass()
        self.context: nn.Module = nn.Identity()

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.unet.parameters()).device

    def to_dtype(self, dtype: torch.dtype) -> OneStepSR:
        """Cast the networks, in place. Eq. (3) and the wavelet transform stay float32, whatever the dtype."""
        networks: tuple[nn.Module, ...] = (self.unet, self.autoencoder, self.prompt, self.context)
        for module in networks:
            cast(module, dtype)
        return self

    def condition(self, x_l: Tensor, timestep: Tensor, lr: Tensor | None = None) -> Condition:
        """Compute the networks' conditions on whole pictures, once before tiling.

        Args:
            x_l: enlarged low-resolution pictures, shape (B, 3, H, W) in [0, 1].
            timestep: shape (B,), int64.
            lr: the same pictures at their own size, (B, 3, h, w) in [0, 1]; if None, `x_l` is reduced again, which comes
                close.
        """
        return Condition(
            timestep, self.context(self.prompt(x_l)), self._measure(x_l) if lr is None else self.modulator.measure(lr)
        )

    def _measure(self, x_l: Tensor) -> Modulation:
        return self.modulator.measure(resize(x_l, *(max(1, side // self.spec.scale) for side in x_l.shape[-2:])))

    def encode(self, x: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [0, 1] → latents, float32. Deterministic (posterior mode)."""
        return self.autoencoder.encode(x)

    def estimate(self, x_l: Tensor) -> Tensor:
        """M̂_L of enlarged low-resolution crops of the estimator's window size: (B, 3, H, W) in [0, 1] → (B,), float32."""
        assert self.metric_estimator is not None
        estimated: Tensor = self.metric_estimator(*self.evidence(x_l))
        return estimated

    def evidence(self, x_l: Tensor) -> tuple[Tensor, Tensor]:
        """Return the metric estimator's inputs for crops (B, 3, H, W) in [0, 1].

        Returns:
            z_L, and (B, F): the degradation features if the LoRA is modulated by the degradation, otherwise the class
            token of the vision tower.
        """
        modulation = self._measure(x_l)
        (features,) = modulation.features or (self.prompt.look(x_l),)
        with self.modulator.using(modulation):
            return self.encode(x_l), features

    def similarity(self, x_l: Tensor, x_h: Tensor) -> Tensor:
        """Compute M_L, Eq. (6), with the grouping's metric; the encoder is modulated by the low-resolution pictures.

        Args:
            x_l: enlarged low-resolution pictures, shape (B, 3, H, W) in [0, 1].
            x_h: their ground truth, same shape.

        Returns:
            Shape (B,), float32, no gradient; NaN for flat latents.
        """
        with torch.no_grad(), self.modulator.using(self._measure(x_l)):
            return latent_metric(self.encode(x_l), self.encode(x_h), self.spec.grouping.metric)

    def restore(self, z_l: Tensor, condition: Condition) -> Tensor:
        """The single U-Net step, Eq. (4): ẑ_H = F_θ(z_L; t, c_y).

        Args:
            z_l: latents of the enlarged low-resolution pictures, shape (B, C, h, w).
            condition: one entry, or one per picture.

        Returns:
            Estimated clean latents, same shape, float32.
        """
        condition = condition.expand(len(z_l))
        dtype, t = self.unet.dtype, condition.timestep
        t_embedded = _fixed(t, self.spec.embedded_timestep)
        t_coefficient = _fixed(t, self.spec.coefficient_timestep)
        z_in = like_weights(z_l.to(dtype), self.unet)
        net = self.passes(self.unet, z_in, t_embedded, condition.tokens.to(dtype))
        if self.grain is not None:
            net = self.grain(net, condition.begins)
        return self.schedule.predict_x0(z_l, self.noise_head(net, z_l, t_coefficient), t_coefficient)

    def decode(self, z: Tensor) -> Tensor:
        """Latents → pictures (B, 3, H, W), float32, nominally in [0, 1]."""
        return self.autoencoder.decode(z)

    def forward(self, x_l: Tensor, condition: Condition) -> Tensor:
        """Encode, restore, decode: (B, 3, H, W) in [0, 1] → the same shape, not clamped."""
        condition = condition.expand(len(x_l))
        with self.modulator.using(condition.modulation):
            return self.decode(self.restore(self.encode(x_l), condition))


def _fixed(t: Tensor, timestep: int | None) -> Tensor:
    """Replace the timesteps by the spec's fixed one, if any."""
    return t if timestep is None else torch.full_like(t, timestep)
