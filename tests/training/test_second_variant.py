"""RCOD_S in training: modulated LoRA, S3Diff's losses, no distillation."""

import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rcodsr.checkpoints.config import read_config
from rcodsr.data.dataset import Batch
from rcodsr.errors import UsageError
from rcodsr.models import dino
from rcodsr.training.generator_trainer import GeneratorTrainer
from rcodsr.training.recipe import DiscriminatorSettings, MachineSettings, PerceptualSettings, Phase, Recipe
from rcodsr.training.recipe_file import read_recipe
from rcodsr.training.run import Run
from rcodsr.variants import RCOD_S, VariantSpec
from tests.training.test_dino import SMALL

RECIPE = Path(__file__).parents[2] / "recipes" / "rcod-s.toml"


@pytest.fixture
def s_recipe(photos: Path, small_s_spec: VariantSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    monkeypatch.setattr(dino, "DinoSpec", lambda: SMALL)
    return Recipe(
        photos=photos,
        variant=small_s_spec,
        output=tmp_path / "s-run",
        base_model="random:3",
        perceptual=PerceptualSettings("wavelet"),
        discriminator=DiscriminatorSettings("dino"),
        machine=MachineSettings(workers=0),
        phases=(Phase("RCOD_S", 3, 2, 64, (1e-3, 1e-3), pixel="mse", pixel_weight=2.0, perceptual=5.0, adversarial=0.5),),
    )


def _prepared(recipe: Recipe, **changes: object) -> tuple[GeneratorTrainer, list[Batch], Phase]:
    run = Run(replace(recipe, **changes), lambda _: None)  # type: ignore[arg-type]
    phase = run.recipe.phases[0]
    assert isinstance(run.trainer, GeneratorTrainer)
    return run.trainer, next(run._phase_batches(0, phase, 0)), phase


def _shake(trainer: GeneratorTrainer) -> None:
    generator = torch.Generator().manual_seed(8)
    with torch.no_grad():
        for parameter in trainer.trained.values():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)


def test_the_recipe_says_what_the_base_says() -> None:
    recipe = read_recipe(RECIPE, ["photos=x"])
    (phase,) = recipe.phases
    assert recipe.variant == RCOD_S
    assert (recipe.data.mix, recipe.discriminator.architecture, recipe.discriminator.learning_rate) == (
        {"light": 1.0},
        "dino",
        2e-5,
    )
    assert (phase.batch, phase.learning_rate, phase.crop) == (4, (2e-5, 2e-5), 512)
    assert (phase.pixel, phase.pixel_weight, phase.perceptual, phase.adversarial) == ("mse", 2.0, 5.0, 0.5)
    assert recipe.discriminator.steps == "apart"
    assert phase.vsd == 0
    with pytest.raises(UsageError, match="not by distillation"):
        read_recipe(RECIPE, ["photos=x", "phases.0.vsd=1"])


def test_exactly_the_intended_parameters_change(s_recipe: Recipe) -> None:
    trainer, batches, phase = _prepared(s_recipe)
    model, (judge,) = trainer.model, trainer.objectives
    before = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    heads = {name: p.detach().clone() for name, p in judge.trained().items()}
    for step in range(2):  # B = 0 at first, so the gradients of A and of the steering are too
        facts = trainer.train_step(batches, phase, 1e-3, step)
        assert all(torch.isfinite(torch.tensor(value)) for value in facts.values())
    assert {"pixel", "perceptual", "adversarial", "adversarial_own"} <= facts.keys()
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    expected = {name for name in before if ".lora_" in name or name.startswith(("unet.conv_in.", "prompt.linear."))}
    expected |= {name for name in before if name.startswith("modulator.steering.") and name != "modulator.steering.w"}
    assert changed == expected
    assert all(not torch.equal(p, heads[name]) for name, p in judge.trained().items() if name.endswith("weight"))


def test_the_loss_is_s3diffs(s_recipe: Recipe) -> None:
    trainer, (batch,), phase = _prepared(s_recipe)
    made, _ = trainer.generate(batch, phase)
    loss, facts = trainer._generator_loss(made, phase)
    expected = 2 * facts["pixel"] + 5 * facts["perceptual"] + 0.5 * facts["adversarial"]
    torch.testing.assert_close(loss.mean(), expected, rtol=1e-4, atol=1e-6)


def test_s3diffs_steps_are_two_for_each_side(s_recipe: Recipe) -> None:
    """Apart: θ is updated by the data loss, then by the discriminator alone; the heads by real pictures first."""
    judge = replace(s_recipe.discriminator, steps="apart")
    trainer, batches, phase = _prepared(s_recipe, discriminator=judge)
    _shake(trainer)
    updates: list[str] = []
    for name, optimizer in {"theta": trainer.optimizer, **trainer.judges}.items():
        optimizer.inner.register_step_pre_hook(lambda *_, name=name: updates.append(name))
    facts = trainer.train_step(batches, phase, 1e-3, 0)
    assert updates == ["theta", "theta", "adversarial", "adversarial"]
    expected = 2 * facts["pixel"] + 5 * facts["perceptual"] + 0.5 * facts["adversarial"]
    # the data terms are those of the first pass, the discriminator's those of the second, with weights updated by the first
    assert facts["loss"] == pytest.approx(expected, rel=1e-4)
    first, second = trainer._turns(phase)
    made, _ = trainer.generate(batches[0], phase)
    alone, seen = trainer._generator_loss(made, phase, second)
    assert seen.keys() == {"adversarial"}
    torch.testing.assert_close(alone.mean(), 0.5 * seen["adversarial"])
    assert "adversarial" not in trainer._generator_loss(made, phase, first)[1]
    assert len(trainer._turns(replace(phase, adversarial=0.0))) == 1


def test_recomputed_activations_see_the_same_modulation(s_recipe: Recipe) -> None:
    gradients: list[list[Tensor | None]] = []
    # a GPU's backward pass runs in a thread of its own, so here it does too
    for checkpointing in (False, True):
        trainer, (batch,), phase = _prepared(s_recipe, machine=replace(s_recipe.machine, gradient_checkpointing=checkpointing))
        _shake(trainer)
        made, _ = trainer.generate(batch, phase)
        loss = trainer._generator_loss(made, phase)[0].mean()
        elsewhere = threading.Thread(target=loss.backward)
        elsewhere.start()
        elsewhere.join()
        gradients.append([p.grad for p in trainer.trained.values()])
    for a, b in zip(*gradients, strict=True):
        assert a is not None
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_both_pictures_of_m_l_pass_the_same_encoder(s_recipe: Recipe) -> None:
    """A picture compared with itself: M_L = 1, although its LoRA is modulated."""
    trainer, (batch,), _ = _prepared(s_recipe)
    _shake(trainer)
    x_l = torch.rand(2, 3, 64, 64)
    model = trainer.model
    with torch.no_grad(), model.modulator.using(model.modulator.measure(batch.lr)):
        metric = trainer._metric(model.encode(x_l), x_l, x_l)
    torch.testing.assert_close(metric, torch.ones(2))


def test_a_run_ends_in_an_adapter_and_goes_on_bit_by_bit(s_recipe: Recipe) -> None:
    whole = Run(s_recipe, lambda _: None)
    assert whole.go()
    config = read_config(s_recipe.output / "checkpoint")
    assert (config.layout, config.spec.modulation) == ("adapter", s_recipe.variant.modulation)
    assert (s_recipe.output / "checkpoint" / "modulation.safetensors").exists()
    again = replace(s_recipe, output=s_recipe.output.with_name("again"))
    first = Run(again, lambda _: None)
    assert not first.go(stop=lambda: first.step == 1)
    assert Run(again, lambda _: None).go()
    for name in ("unet_lora", "vae_lora", "vpim", "modulation", "degradation_estimator"):
        files = [run.output / "checkpoint" / f"{name}.safetensors" for run in (s_recipe, again)]
        assert files[0].read_bytes() == files[1].read_bytes(), name


def test_a_real_base_needs_the_estimators_weights(s_recipe: Recipe, base_directory: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    from rcodsr.models.degradation_estimator import DegradationEstimator
    from rcodsr.training.setup import _start_estimator

    trainer, _, _ = _prepared(s_recipe)
    real = replace(s_recipe, base_model=str(base_directory))
    with pytest.raises(
        UsageError,
        match=r"estimator_weights: not given, but small-s needs them; add warm_start=s3diff, or estimator_weights=FILE",
    ):
        _start_estimator(trainer.model, real)
    assert real.variant.modulation is not None
    weights = DegradationEstimator(real.variant.modulation).state_dict()
    save_file(weights, tmp_path / "de_net.safetensors")
    _start_estimator(trainer.model, replace(real, estimator_weights=tmp_path / "de_net.safetensors"))
    estimator = trainer.model.get_submodule("modulator.estimator")
    assert all(torch.equal(value, weights[name]) for name, value in estimator.state_dict().items())


def test_bfloat16_computes_close_to_float32(s_recipe: Recipe) -> None:
    facts = []
    for dtype in ("fp32", "bf16"):
        trainer, batches, phase = _prepared(s_recipe, machine=replace(s_recipe.machine, dtype=dtype))
        _shake(trainer)
        facts.append(trainer.train_step(batches, phase, 1e-3, 0))
        assert all(p.dtype == torch.float32 for p in trainer.model.parameters())
    for name in ("pixel", "adversarial", "adversarial_own"):
        assert facts[0][name] != facts[1][name]
        assert facts[0][name] == pytest.approx(facts[1][name], rel=0.05), name
