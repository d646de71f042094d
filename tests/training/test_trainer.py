"""One step of Algorithm 1 on real networks: what changes, what does not, and why."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor

from rcodsr.checkpoints.format import save_model
from rcodsr.data.dataset import Batch
from rcodsr.diffusion.grouping import group_timestep, latent_metric
from rcodsr.errors import UsageError
from rcodsr.images.resize import upsample
from rcodsr.models.build import build_model
from rcodsr.parts import GroupingSpec, TinyUNetSpec
from rcodsr.training.generator_trainer import GeneratorTrainer
from rcodsr.training.recipe import PerceptualSettings, Phase, Recipe
from rcodsr.training.run import Run
from rcodsr.variants import VariantSpec


def _silent(_: str) -> None:
    pass


def _prepared(recipe: Recipe, **changes: object) -> tuple[GeneratorTrainer, list[Batch], Phase]:
    run = Run(replace(recipe, **changes), _silent)  # type: ignore[arg-type]
    phase = run.recipe.phases[0]
    assert isinstance(run.trainer, GeneratorTrainer)
    return run.trainer, next(run._phase_batches(0, phase, 0)), phase


def _snapshot(trainer: GeneratorTrainer) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in trainer.model.state_dict().items()}


def test_exactly_the_intended_parameters_change(sd_recipe: Recipe) -> None:
    trainer, batches, phase = _prepared(sd_recipe)
    before = _snapshot(trainer)
    trainer.train_step(batches, phase, 1e-3, 0)
    trainer.train_step(batches, phase, 1e-3, 1)  # B = 0 at first, so A's gradient is too
    changed = {name for name, tensor in trainer.model.state_dict().items() if not torch.equal(tensor, before[name])}
    expected = {name for name in before if ".lora_" in name or "conv_in.base_layer" in name or name.startswith("prompt.linear")}
    expected -= {name for name in expected if name.startswith("autoencoder") and "conv_in.base_layer" in name}
    assert changed == expected
    assert {name for name in changed if "lora_B.regularizer_" in name}
    assert not [name for name in changed if name.startswith("autoencoder.decoder")]


def test_every_gradient_is_finite_and_the_regulariser_gets_none_of_the_generators(sd_recipe: Recipe) -> None:
    trainer, (batch,), phase = _prepared(sd_recipe)
    made, _ = trainer.generate(batch, phase)
    loss, _ = trainer._generator_loss(made, phase)
    loss.mean().backward()
    judged = [p for objective in trainer.objectives for p in objective.trained().values()]
    assert judged
    assert all(p.grad is None for p in judged)
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in trainer.trained.values())
    assert not {id(p) for p in judged} & {id(p) for p in trainer.trained.values()}


def test_timesteps_are_each_samples_own(sd_recipe: Recipe) -> None:
    """Eq. (6) on the enlarged picture with the trained encoder, Eq. (5) per sample."""
    trainer, (batch,), phase = _prepared(sd_recipe, phases=(replace(sd_recipe.phases[0], batch=4),))
    model = trainer.model
    x_l = upsample(batch.lr, 4)
    with torch.no_grad():
        metric = latent_metric(model.encode(x_l), model.encode(batch.hr))
    middle = float(metric.median())
    model.spec = replace(model.spec, grouping=GroupingSpec(metric_min=middle - 0.1, metric_max=middle + 0.02))
    made, facts = trainer.generate(batch, phase)
    assert torch.equal(made.timestep, group_timestep(metric, model.spec.grouping))
    assert len(set(made.timestep.tolist())) > 1
    assert sum(facts[f"share_{t}"].item() for t in (250, 500, 750)) == pytest.approx(1)


def test_the_frozen_encoder_measures_the_same_whatever_training_did(sd_recipe: Recipe) -> None:
    trainer, (batch,), phase = _prepared(sd_recipe)
    grouping = trainer.model.spec.grouping
    metrics = {}
    encoders: tuple[Literal["trained", "frozen"], ...] = ("trained", "frozen")
    for encoder in encoders:
        trainer.model.spec = replace(trainer.model.spec, grouping=replace(grouping, metric_encoder=encoder))
        metrics[encoder, "before"] = trainer.generate(batch, phase)[1]["metric"]
    with torch.no_grad():
        for name, parameter in trainer.trained.items():
            if name.startswith("autoencoder"):
                parameter.add_(torch.randn_like(parameter), alpha=0.2)
    for encoder in encoders:
        trainer.model.spec = replace(trainer.model.spec, grouping=replace(grouping, metric_encoder=encoder))
        metrics[encoder, "after"] = trainer.generate(batch, phase)[1]["metric"]
    assert metrics["frozen", "before"] == metrics["frozen", "after"]
    assert metrics["trained", "before"] != metrics["trained", "after"]


def test_embedding_and_coefficient_can_have_their_own_timesteps(sd_recipe: Recipe) -> None:
    trainer, (batch,), phase = _prepared(sd_recipe)
    spec, latents = trainer.model.spec, {}
    for name, change in {"plain": {}, "embed": {"embedded_timestep": 999}, "coeff": {"coefficient_timestep": 10}}.items():
        trainer.model.spec = replace(spec, **change)  # type: ignore[arg-type]
        latents[name] = trainer.generate(batch, phase)[0].z.detach()
    assert not torch.equal(latents["plain"], latents["embed"])
    assert not torch.equal(latents["plain"], latents["coeff"])


def test_recomputed_activations_give_the_same_gradients(sd_recipe: Recipe) -> None:
    """The backward pass runs the U-Net again, and must run the generator, not one of its teachers."""
    gradients = []
    for checkpointing in (False, True):
        trainer, (batch,), phase = _prepared(
            sd_recipe, machine=replace(sd_recipe.machine, gradient_checkpointing=checkpointing)
        )
        with torch.no_grad():
            for parameter in trainer.trained.values():
                parameter.add_(torch.ones_like(parameter), alpha=0.01)
        made, _ = trainer.generate(batch, phase)
        trainer._generator_loss(made, phase)[0].mean().backward()
        gradients.append([p.grad for p in trainer.trained.values()])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_two_small_batches_are_one_large(sd_recipe: Recipe) -> None:
    (phase,) = sd_recipe.phases
    large = replace(sd_recipe, phases=(replace(phase, batch=4),))
    small = replace(sd_recipe, phases=(replace(phase, batch=2),), optim=replace(sd_recipe.optim, accumulate=2))
    facts = []
    for each in (large, small):
        trainer, batches, this = _prepared(each)
        facts.append([trainer.train_step(batches, this, 1e-3, step)["loss"] for step in range(3)])
    assert facts[0] == pytest.approx(facts[1], rel=1e-4)


def test_bfloat16_computes_close_to_float32(sd_recipe: Recipe) -> None:
    losses = []
    for dtype in ("fp32", "bf16"):
        trainer, (batch,), phase = _prepared(sd_recipe, machine=replace(sd_recipe.machine, dtype=dtype))
        facts = trainer.train_step([batch], phase, 1e-3, 0)
        losses.append(facts["pixel"])
        assert all(p.dtype == torch.float32 for p in trainer.model.parameters())
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


def test_the_average_lags_behind_and_steps_in_for_export(recipe: Recipe) -> None:
    trainer, batches, phase = _prepared(recipe)
    for step in range(3):
        trainer.train_step(batches, phase, 1e-2, step)
    live = _snapshot(trainer)
    with trainer.averaged():
        averaged = _snapshot(trainer)
    assert any(not torch.equal(live[name], averaged[name]) for name in live)
    after = _snapshot(trainer)
    assert all(torch.equal(live[name], after[name]) for name in live)


def test_training_lowers_the_error_on_one_batch(recipe: Recipe) -> None:
    trainer, batches, _ = _prepared(recipe)
    phase = Phase("pixel", 60, 2, 64, (3e-3, 1e-3))
    errors = [trainer.train_step(batches, phase, 3e-3, step)["pixel"] for step in range(60)]
    assert min(errors[-10:]) < 0.97 * errors[0]


def test_restraint_asks_for_what_the_beginning_made_at_a_calmer_timestep(recipe: Recipe) -> None:
    phase = replace(recipe.phases[0], pixel_weight=0.0, perceptual=0.0, adversarial=0.0, mesh=0.0, restrain=1.0, restraint=0.0)
    trainer, (batch,), phase = _prepared(recipe, phases=(phase,), perceptual=PerceptualSettings())
    with torch.no_grad():  # the timestep must matter: fresh networks ignore it
        for model in (trainer.model, trainer.data_loss.before):
            torch.manual_seed(5)
            for parameter in model.parameters():  # type: ignore[union-attr]
                parameter.add_(0.1 * torch.randn_like(parameter))
    made, _ = trainer.generate(batch, phase)
    before = trainer.data_loss.before
    assert before is not None
    condition = before.condition(made.x_l, torch.full_like(made.timestep, 250))
    calm = before(made.x_l, replace(condition, origin=made.draws.origins()))
    torch.testing.assert_close(trainer.data_loss.restrained(made, phase), calm)
    itself = trainer.data_loss.restrained(made, replace(phase, restraint=1.0))
    assert not torch.allclose(itself, calm, atol=1e-3)
    torch.testing.assert_close(itself, made.picture)  # the same noise at the same places
    middle = replace(made, timestep=torch.full_like(made.timestep, 500))
    bent = trainer.data_loss.restrained(middle, replace(phase, restraint=0.8, bend=2.0))  # 250 + 0.8 · 0.5² · 500
    condition = before.condition(made.x_l, torch.full_like(made.timestep, 350))
    lower = before(made.x_l, replace(condition, origin=made.draws.origins()))
    torch.testing.assert_close(bent, lower)
    frozen = {name: tensor.clone() for name, tensor in before.state_dict().items()}
    trainer.train_step([batch], phase, 1e-3, 0)
    assert all(torch.equal(tensor, frozen[name]) for name, tensor in before.state_dict().items())


def test_grain_alone_can_be_trained(recipe: Recipe, small_spec: VariantSpec, tmp_path: Path) -> None:
    assert isinstance(small_spec.unet, TinyUNetSpec)
    plain = replace(small_spec, unet=replace(small_spec.unet, grain=False))
    save_model(tmp_path / "finished", build_model(plain))
    phases = (Phase("grain", 1, 2, 64, (1e-2, 1e-2), faint=0.1),)
    changes = {"start": str(tmp_path / "finished"), "fit": False, "only_grain": True, "phases": phases}
    trainer, batches, phase = _prepared(recipe, **changes, perceptual=PerceptualSettings())
    before = _snapshot(trainer)
    facts = [trainer.train_step(batches, phase, 1e-2, step)["faint"] for step in range(6)]
    changed = {name for name, tensor in trainer.model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"unet.deviation.weight", "unet.deviation.bias"}
    assert facts[-1] < facts[0]
    with pytest.raises(UsageError, match="only_grain: small has no grain"):
        _prepared(recipe, **changes, variant=plain, perceptual=PerceptualSettings())
