"""Builds networks from a spec; the only place where a variant's options become objects."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch

from rcodsr.diffusion.schedule import NoiseSchedule
from rcodsr.models.autoencoder import WaveletAutoencoder
from rcodsr.models.grain import Grain
from rcodsr.models.metric_estimator import MetricEstimator
from rcodsr.models.modulation import DegradationModulation, Modulator, NoModulation
from rcodsr.models.one_step import CleanLatent, Difference, NoiseHead, OneStepSR, PlainNoise, ResidualNoise
from rcodsr.models.prompts import FixedPrompt, TinyVisionTower, VisualPrompt
from rcodsr.models.residual_dense import ResidualDenseNet
from rcodsr.models.tiny_unet import TinyUNet
from rcodsr.parts import ClipSpec, KlSpec, ResidualDenseSpec, SdUNetSpec, TextSpec, TinyUNetSpec, WaveletSpec
from rcodsr.variants import VariantSpec

if TYPE_CHECKING:
    from rcodsr.models.one_step import Autoencoder, Denoiser, Prompt


def build_model(spec: VariantSpec, weightless: bool = False) -> OneStepSR:
    """Build the networks of a variant.

    Args:
        spec: what to build.
        weightless: allocate no parameters (torch's meta device), for counting or because a file will supply them;
            otherwise they are initialised at random.
    """
    schedule = NoiseSchedule()
    with torch.device("meta") if weightless else nullcontext():
        return OneStepSR(
            spec=spec,
            autoencoder=_autoencoder(spec),
            unet=_unet(spec),
            prompt=_prompt(spec),
            schedule=schedule,
            noise_head=_noise_head(spec, schedule),
            modulator=_modulator(spec),
            metric_estimator=build_metric_estimator(spec),
            grain=build_grain(spec),
        )


def build_metric_estimator(spec: VariantSpec) -> MetricEstimator | None:
    """Build the metric estimator of a variant, if it has one."""
    if spec.metric_estimator is None:
        return None
    return MetricEstimator(spec.metric_estimator, spec.autoencoder.channels, spec.grouping.metric.endswith("cosine"))


def build_grain(spec: VariantSpec) -> Grain | None:
    """Build the noise source of a variant, if its U-Net predicts how much noise to add."""
    return Grain(spec.autoencoder.channels) if isinstance(spec.unet, TinyUNetSpec) and spec.unet.grain else None


def random_model(spec: VariantSpec, seed: int, drawn_on: torch.device | None = None) -> OneStepSR:
    """Build a variant with random weights that depend only on the seed: real shapes for tests and benchmarks, no download.

    Args:
        spec: what to build.
        seed: seed of the weights.
        drawn_on: device that draws and holds the weights, by default the CPU. A GPU draws others, in a tenth of the time.
    """
    drawn_on = drawn_on or torch.device("cpu")
    with torch.random.fork_rng(devices=[drawn_on] if drawn_on.type == "cuda" else []), drawn_on:
        torch.manual_seed(seed)
        return build_model(spec).eval().requires_grad_(False)


def _noise_head(spec: VariantSpec, schedule: NoiseSchedule) -> NoiseHead:
    if spec.noise_head == "plain":
        return PlainNoise()
    heads: dict[str, Callable[[NoiseSchedule], NoiseHead]] = {
        "residual": ResidualNoise,
        "difference": Difference,
        "clean": CleanLatent,
    }
    return heads[spec.noise_head](schedule)


def _autoencoder(spec: VariantSpec) -> Autoencoder:
    if isinstance(spec.autoencoder, KlSpec):
        from rcodsr.models.stable_diffusion import KlAutoencoder

        return KlAutoencoder(spec.autoencoder)
    return WaveletAutoencoder(spec.autoencoder)


def _unet(spec: VariantSpec) -> Denoiser:
    channels, context = spec.autoencoder.channels, spec.prompt.context
    if isinstance(spec.unet, SdUNetSpec):
        from rcodsr.models.stable_diffusion import sd_unet

        return sd_unet(spec.unet, channels, context)
    if isinstance(spec.unet, ResidualDenseSpec):
        assert isinstance(spec.autoencoder, WaveletSpec)  # its output is a picture
        return ResidualDenseNet(spec.autoencoder, context, spec.unet)
    return TinyUNet(channels, context, spec.unet)


def _prompt(spec: VariantSpec) -> Prompt:
    prompt = spec.prompt
    if isinstance(prompt, TextSpec):
        return FixedPrompt(prompt)
    if isinstance(prompt, ClipSpec):
        from rcodsr.models.stable_diffusion import ClipVisionTower

        return VisualPrompt(ClipVisionTower(prompt), prompt.image_side, prompt.width, prompt.context)
    tower = TinyVisionTower(prompt.tower_channels)
    return VisualPrompt(tower, prompt.image_side, prompt.tower_channels[-1], prompt.context)


def _modulator(spec: VariantSpec) -> Modulator:
    if spec.modulation is None or spec.lora is None:
        return NoModulation()
    assert isinstance(spec.autoencoder, KlSpec) and isinstance(spec.unet, SdUNetSpec)  # other kinds have no LoRA
    return DegradationModulation(spec.modulation, spec.lora, len(spec.autoencoder.widths), len(spec.unet.channels))
