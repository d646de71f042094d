"""Builds a trainer from a recipe: the model, its base and the judges."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from rcodsr.checkpoints.bases import load_bases, load_dino
from rcodsr.checkpoints.config import read_config
from rcodsr.checkpoints.format import load_model, read_adapter
from rcodsr.checkpoints.named import find_weights
from rcodsr.checkpoints.resolve import ResolvedWeights, resolve_base
from rcodsr.checkpoints.tensors import load_strictly
from rcodsr.checkpoints.text_encoder import TextEncoder
from rcodsr.errors import UsageError
from rcodsr.messages import Log
from rcodsr.models.autoencoder import WaveletAutoencoder
from rcodsr.models.build import build_grain, build_metric_estimator, build_model, random_model
from rcodsr.models.degradation_estimator import DegradationEstimator
from rcodsr.models.discriminator import PairDiscriminator, PatchDiscriminator, UNetDiscriminator
from rcodsr.models.layout import cast
from rcodsr.models.lpips import LpipsSqueeze, LpipsVgg
from rcodsr.models.one_step import OneStepSR
from rcodsr.models.prompts import FixedPrompt, VisualPrompt
from rcodsr.models.real_esrgan import RealEsrgan, take_over
from rcodsr.models.residual_dense import ResidualDenseNet
from rcodsr.models.tiny_unet import TinyUNet
from rcodsr.options import prompt_digest
from rcodsr.parts import ClipSpec, MetricSpec, TextSpec, TinyUNetSpec, TowerSpec
from rcodsr.training.generator_trainer import GeneratorTrainer
from rcodsr.training.metric_trainer import MetricTrainer
from rcodsr.training.objectives import (
    AdversarialObjective,
    DinoObjective,
    Objective,
    PairObjective,
    RestorerObjective,
    VsdObjective,
)
from rcodsr.training.perceptual import build_perceptual
from rcodsr.training.prior_trainer import PriorTrainer
from rcodsr.training.processes import Processes
from rcodsr.training.recipe import Recipe
from rcodsr.training.teachers import SeparateTeachers, SharedTeachers, Teachers
from rcodsr.training.trainer import HALF, Trainer
from rcodsr.variants import VariantSpec

_WARM = {"unet_lora", "vae_lora", "modulation", "degradation_estimator"}
"""Adapter files that a warm start reads."""


def resolve_bases(recipe: Recipe, log: Log) -> dict[str, ResolvedWeights]:
    """Find or download the bases of a recipe's variant; `random:SEED` needs no files.

    Raises:
        WeightsError: when one is not available.
    """
    finished = recipe.generator if recipe.stage == "estimator" else recipe.start
    if finished is not None:
        return _bases_of(find_weights(finished, log=log), recipe.base_model, log)
    names = [name for name in (recipe.variant.base, recipe.variant.vision) if name is not None]
    if _random_seed(recipe) is not None:
        hashes = {"random": str(recipe.base_model)}
        return {name: ResolvedWeights(name, recipe.output, hashes) for name in names}
    overrides = {recipe.variant.base: recipe.base_model}
    return {name: resolve_base(name, overrides.get(name), log=log) for name in names}


def _bases_of(weights: ResolvedWeights, override: str | None, log: Log) -> dict[str, ResolvedWeights]:
    config = read_config(weights.directory)
    return {name: resolve_base(name, override if name == config.spec.base else None, log=log) for name in config.bases}


def _with_estimator(recipe: Recipe, bases: Mapping[str, ResolvedWeights], log: Log) -> OneStepSR:
    """Trained weights, frozen, with a new trainable metric estimator."""
    assert recipe.generator is not None  # checked by the recipe
    model = load_model(find_weights(recipe.generator, log=log).directory, bases, merge=False)
    grouping = model.spec.grouping
    if recipe.bounds is not None:
        grouping = replace(grouping, metric_min=recipe.bounds[0], metric_max=recipe.bounds[1])
    spec = replace(model.spec, grouping=grouping, metric_estimator=metric_spec(model.spec))
    _check_crops(recipe, spec)
    if isinstance(model.prompt, FixedPrompt):
        raise UsageError("generator", f"{recipe.generator} has a fixed prompt", "use weights with visual prompts")
    torch.manual_seed(recipe.seed)
    model.spec, model.metric_estimator = spec, build_metric_estimator(spec)
    assert model.metric_estimator is not None
    model.metric_estimator.requires_grad_(True)
    return model


def _check_crops(recipe: Recipe, spec: VariantSpec) -> None:
    """Reject estimator training on crops smaller than the estimator's window."""
    assert spec.metric_estimator is not None
    window = spec.metric_estimator.window
    for number, phase in enumerate(recipe.phases):
        if phase.crop < window:
            cause = f"{phase.crop} is smaller than the {window}-pixel window of the estimator of {spec.name}"
            raise UsageError(f"phases.{number}.crop", cause, f"use {window} or more")


def _start(recipe: Recipe, spec: VariantSpec, bases: Mapping[str, ResolvedWeights], log: Log) -> OneStepSR:
    """Trained weights to continue from, without their estimator; keeps their groups unless new ones are fitted."""
    assert recipe.start is not None
    model = load_model(find_weights(recipe.start, log=log).directory, bases, merge=False)
    grouping = spec.grouping if recipe.fit else model.spec.grouping
    model.spec = replace(model.spec, grouping=grouping, limit_overshoot=spec.limit_overshoot, metric_estimator=None)
    model.metric_estimator = None
    if isinstance(model.unet, TinyUNet) and isinstance(spec.unet, TinyUNetSpec) and spec.unet != model.unet.spec:
        torch.manual_seed(recipe.seed)
        model.unet = model.unet.grown(spec.unet)
        model.spec = replace(model.spec, unet=model.unet.spec)
        model.grain = build_grain(model.spec)
    if recipe.only_grain:
        train_grain(model)
        return model
    if model.spec.lora is None:
        return trained_whole(model)
    from rcodsr.models.lora import require_gradients

    require_gradients(model, model.spec.lora)
    return model


def train_grain(model: OneStepSR) -> None:
    """Make only the amount of grain trainable.

    Raises:
        UsageError: when the variant has no grain.
    """
    deviation = model.unet.deviation if isinstance(model.unet, TinyUNet) else None
    if deviation is None:
        raise UsageError("only_grain", f"{model.spec.name} has no grain", "set grain = true, which only rcod-tiny has")
    model.requires_grad_(False)
    deviation.requires_grad_(True)


def trained_whole(model: OneStepSR) -> OneStepSR:
    """Make a variant without LoRA trainable as a whole, except for a shared vision tower."""
    model.requires_grad_(True)
    if isinstance(model.unet, ResidualDenseNet) and isinstance(model.prompt, VisualPrompt):
        model.prompt.tower.requires_grad_(False)
    return model


def prior_spec(spec: VariantSpec) -> VariantSpec:
    """The prior of a variant: it predicts noise and draws no grain."""
    unet = replace(spec.unet, grain=False) if isinstance(spec.unet, TinyUNetSpec) else spec.unet
    return replace(spec, name=f"{spec.name}-prior", unet=unet, noise_head="plain", limit_overshoot=False)


def metric_spec(spec: VariantSpec) -> MetricSpec:
    """The estimator that suits a variant: learned latents are also passed as a small grid."""
    if spec.modulation is not None:
        features = DegradationEstimator.BRANCHES * spec.modulation.estimator_channels[-1]
        return MetricSpec(window=512, pool=8, features=features, hidden=256)
    if isinstance(spec.prompt, ClipSpec):
        return MetricSpec(window=512, pool=8, features=spec.prompt.width, hidden=256)
    return MetricSpec(features=spec.prompt.tower_channels[-1]) if isinstance(spec.prompt, TowerSpec) else MetricSpec()


def build_networks(recipe: Recipe, spec: VariantSpec, bases: Mapping[str, ResolvedWeights], log: Log) -> OneStepSR:
    """Build the model a run starts from, on the CPU. Only its trainable parameters require gradients.

    Args:
        recipe: names the base and the prior.
        spec: the variant, with fitted bounds for a resumed run.
        bases: from `resolve_bases`.
        log: receives progress lines.
    """
    if recipe.stage == "estimator":
        return _with_estimator(recipe, bases, log)
    if recipe.start is not None:
        return _start(recipe, spec, bases, log)
    if recipe.stage == "prior":
        spec = prior_spec(spec)
    torch.manual_seed(recipe.seed)  # every process and every resumed run starts from the same weights
    seed = _random_seed(recipe)
    if seed is not None:
        log(f"base: random weights (seed {seed}); suitable only for rehearsals")
        model = random_model(spec, seed)
    else:
        model = build_model(spec)
        load_bases(model, bases)
    _start_prompt(model, recipe)
    _start_estimator(model, recipe)
    if isinstance(model.unet, ResidualDenseNet):
        _begin_at_restorer(model, model.unet, recipe, log)
    if spec.lora is None:
        return trained_whole(model)
    from rcodsr.models.lora import add_lora

    add_lora(model, spec.lora)
    _warm_start(model, recipe, log)
    return model


def build_trainer(recipe: Recipe, model: OneStepSR, processes: Processes, hollow: bool = False) -> Trainer:
    """The trainer of a recipe's stage; moves the model to its device.

    Args:
        recipe: names the judges.
        model: the model to train.
        processes: the training processes.
        hollow: skip reading the judges' weights, if only shapes are needed.

    Raises:
        UsageError: when a required package or setting is missing.
        WeightsError: when the prior or the perceptual weights cannot be read.
    """
    torch.manual_seed(recipe.seed + 1)
    model.to(processes.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    torch.backends.cudnn.benchmark = processes.device.type == "cuda"  # shapes are constant within a phase
    if recipe.machine.gradient_checkpointing:
        checkpoint_activations(model)
    if recipe.stage == "prior":
        return PriorTrainer(recipe, model, processes)
    if recipe.stage == "estimator":
        return MetricTrainer(recipe, model, processes)
    objectives: list[Objective] = []
    if any(phase.vsd for phase in recipe.phases):
        objectives.append(_distillation(recipe, model, processes.device, hollow))
    if any(phase.adversarial for phase in recipe.phases):
        objectives.append(_discriminator(recipe, processes.device))
    if any(phase.restorer or phase.restorer_features for phase in recipe.phases):
        restorer = _restorer(recipe, hollow).to(processes.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        objectives.append(RestorerObjective(restorer, model))
        _cast_frozen(restorer, recipe)
    perceptual = build_perceptual(recipe.perceptual, processes.device, hollow)
    if isinstance(perceptual, LpipsVgg):
        _cast_frozen(perceptual, recipe)
    if any(phase.pairs for phase in recipe.phases):
        assert isinstance(perceptual, LpipsSqueeze)  # checked by the recipe
        objectives.append(PairObjective(PairDiscriminator(perceptual).to(processes.device)))
    tell = None if recipe.captions is None else _encoder(recipe, model, keep=False, device=processes.device)
    return GeneratorTrainer(recipe, model, objectives, perceptual, processes, tell)


def _restorer(recipe: Recipe, hollow: bool = False) -> RealEsrgan:
    """Real-ESRGAN's generator, frozen."""
    assert recipe.restorer is not None  # checked by the recipe
    restorer = RealEsrgan()
    if not hollow:
        load_strictly(restorer, recipe.restorer, RealEsrgan.module_name)
    return restorer.eval().requires_grad_(False)


def _cast_frozen(network: nn.Module, recipe: Recipe) -> None:
    """Cast a network once that autocast would cast at every step, because it keeps no copy of what is not trained."""
    if (half := HALF.get(recipe.machine.dtype)) is not None:
        cast(network, half)


def _begin_at_restorer(model: OneStepSR, net: ResidualDenseNet, recipe: Recipe, log: Log) -> None:
    """Copy the restorer's trunk, and rcod-tiny's latents and vision tower, which both share with their metric estimator."""
    if recipe.restorer is None:
        raise UsageError("restorer", f"not given, but {model.spec.name} starts from its trunk", "add restorer=FILE.safetensors")
    tiny = load_model(find_weights("rcod-tiny", log=log).directory)
    assert isinstance(tiny.autoencoder, WaveletAutoencoder) and isinstance(model.autoencoder, WaveletAutoencoder)
    model.autoencoder.load_state_dict(tiny.autoencoder.state_dict(), strict=False)
    model.prompt.load_state_dict(tiny.prompt.state_dict())
    missed = take_over(net, _restorer(recipe), model.autoencoder)
    log(f"trunk of {recipe.restorer}: {len(net.body)} blocks; input layer approximated with an error of {missed:.1%}")


def _discriminator(recipe: Recipe, device: torch.device) -> Objective:
    if recipe.discriminator.architecture != "dino":
        judge = PatchDiscriminator() if recipe.discriminator.architecture == "patch" else UNetDiscriminator()
        if recipe.discriminator.start is not None:
            load_strictly(judge, recipe.discriminator.start)
        return AdversarialObjective(judge.to(device, memory_format=torch.channels_last))  # type: ignore[call-overload]
    from rcodsr.models.dino import DinoDiscriminator

    dino = DinoDiscriminator()
    source = recipe.discriminator.dino_weights or recipe.base_model
    if not (source or "").startswith("random:"):
        load_dino(dino.backbone, resolve_base("dino-vitb16", recipe.discriminator.dino_weights))
    return DinoObjective(dino.to(device), apart=recipe.discriminator.steps == "apart")


def _distillation(recipe: Recipe, model: OneStepSR, device: torch.device, hollow: bool) -> VsdObjective:
    window = recipe.distill.das_width or model.spec.grouping.k
    teachers = _teachers(recipe, model, device, hollow)
    return VsdObjective(teachers, model.schedule, window if recipe.distill.das else None, recipe.distill.guidance)


def _teachers(recipe: Recipe, model: OneStepSR, device: torch.device, hollow: bool) -> Teachers:
    if model.spec.lora is not None:
        negative = _text(recipe, recipe.distill.negative, model).to(device)
        positive = _text(recipe, recipe.distill.positive, model).to(device) if recipe.distill.prompt == "text" else None
        return SharedTeachers(model, negative, positive)
    assert recipe.distill.prior is not None  # the recipe has seen to it
    found = find_weights(recipe.distill.prior).directory
    prior = build_model(read_config(found).spec).eval().requires_grad_(False) if hollow else load_model(found)
    prior.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if prior.spec.autoencoder != model.spec.autoencoder:
        cause = f"{recipe.distill.prior} does not share the latents of {model.spec.name}"
        raise UsageError("distill.prior", cause, "train a prior of this variant")
    if prior.spec.noise_head != "plain":
        raise UsageError("distill.prior", f"{recipe.distill.prior} does not predict noise", 'train one with stage = "prior"')
    return SeparateTeachers(prior)


def _start_prompt(model: OneStepSR, recipe: Recipe) -> None:
    """Fill a fixed prompt; initialise VPIM's linear layer near the empty text, which the base's U-Net knows."""
    prompt = model.prompt
    if isinstance(prompt, FixedPrompt):
        own = model.spec.prompt.text if isinstance(model.spec.prompt, TextSpec) else None
        prompt.embedding.copy_(_text(recipe, recipe.distill.positive if own is None else own, model))
    elif isinstance(prompt, VisualPrompt) and model.spec.vision is not None:
        nn.init.normal_(prompt.linear.weight, std=0.02)
        with torch.no_grad():
            prompt.linear.bias.copy_(_text(recipe, "", model).mean((0, 1)))


def _start_estimator(model: OneStepSR, recipe: Recipe) -> None:
    """Load the frozen degradation estimator, if the variant has one and its base has real weights."""
    estimator = model.modulator.parts().get("degradation_estimator")
    if estimator is None or _random_seed(recipe) is not None:
        return
    if recipe.estimator_weights is None and recipe.warm_start is not None:
        return  # the warm start contains them
    if recipe.estimator_weights is None:
        remedy = "add warm_start=s3diff, or estimator_weights=FILE.safetensors"
        raise UsageError("estimator_weights", f"not given, but {model.spec.name} needs them", remedy)
    load_strictly(estimator, recipe.estimator_weights)


def _warm_start(model: OneStepSR, recipe: Recipe, log: Log) -> None:
    """Load the LoRA of trained weights and its modulation; VPIM keeps its usual initialisation."""
    if recipe.warm_start is None:
        return
    found = find_weights(recipe.warm_start, log=log)
    config = read_config(found.directory)
    if config.layout != "adapter" or (config.spec.lora, config.spec.modulation) != (model.spec.lora, model.spec.modulation):
        cause = f"{recipe.warm_start} has no LoRA that fits {model.spec.name}"
        raise UsageError("warm_start", cause, "use s3diff for rcod-s, osediff for rcod-o, or an adapter of the same ranks")
    read_adapter(model, found.directory, [part for part in config.parts if part in _WARM])
    log(f"warm start: LoRA of {found.id}")


def _text(recipe: Recipe, text: str, model: OneStepSR) -> Tensor:
    """Embed a text with the base's encoder, (1, N, D)."""
    return _encoder(recipe, model)(text)


def _encoder(
    recipe: Recipe, model: OneStepSR, keep: bool = True, device: torch.device | str = "cpu"
) -> Callable[[str], Tensor]:
    """The base's text encoder, or a seeded stand-in if the base has random weights."""
    seed, base = _random_seed(recipe), model.spec.base
    if seed is not None:
        return partial(_stand_in, seed, model.spec.prompt.context)
    if base is None:
        raise UsageError("prompt", f"{model.spec.name} has no text encoder", "leave variant.prompt and distill.prompt visual")
    return TextEncoder(resolve_base(f"{base}-text", recipe.base_model), keep, device)


def _stand_in(seed: int, width: int, text: str) -> Tensor:
    generator = torch.Generator().manual_seed(seed + int(prompt_digest(text), 16))
    return torch.randn(1, 77, width, generator=generator, device=generator.device)


def _random_seed(recipe: Recipe) -> int | None:
    kind, colon, seed = (recipe.base_model or "").partition(":")
    if kind != "random" or not colon:
        return None
    if not seed.isdecimal():
        raise UsageError("base_model", f"'{recipe.base_model}' is not random:SEED", "write for example base_model=random:0")
    return int(seed)


def checkpoint_activations(model: OneStepSR) -> None:
    """Make the diffusers networks recompute activations in the backward pass instead of keeping them."""
    from functools import partial

    from torch.utils.checkpoint import checkpoint

    again = partial(checkpoint, use_reentrant=False, context_fn=model.modulator.again)
    for network in (model.unet, model.autoencoder):
        for module in network.modules():
            if hasattr(module, "gradient_checkpointing"):
                module.gradient_checkpointing = True  # type: ignore[assignment]
                module._gradient_checkpointing_func = again  # type: ignore[assignment]
