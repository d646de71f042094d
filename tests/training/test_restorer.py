"""Training with a pretrained restorer, with a discriminator on pixels, and by the clock."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from rcodsr.checkpoints.format import load_model
from rcodsr.checkpoints.named import find_weights
from rcodsr.errors import UsageError
from rcodsr.models.discriminator import UNetDiscriminator
from rcodsr.models.real_esrgan import RealEsrgan
from rcodsr.models.residual_dense import ResidualDenseNet
from rcodsr.parts import ResidualDenseSpec
from rcodsr.training import setup
from rcodsr.training.draws import Draws
from rcodsr.training.generator_trainer import GeneratorTrainer
from rcodsr.training.objectives import Generated, RestorerObjective
from rcodsr.training.pace import Clock
from rcodsr.training.recipe import DiscriminatorSettings, MachineSettings, Phase, Recipe, TimestepSettings
from rcodsr.training.run import Run
from rcodsr.variants import RCOD_SMALL

SHAPE = {"width": 16, "growth": 8, "blocks": 3}


@pytest.fixture
def restorer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small generator under the published names."""
    monkeypatch.setattr(setup, "RealEsrgan", _small_generator())
    path = tmp_path / "restorer.safetensors"
    names = {RealEsrgan.module_name(name): name for name in ("conv_up1", "conv_up2", "conv_hr")}
    state = {}
    for key, value in RealEsrgan(**SHAPE).state_dict().items():
        module, _, kind = key.rpartition(".")
        state[f"{names.get(module, module)}.{kind}"] = value
    save_file(state, path)
    return path


def _small_generator() -> type[RealEsrgan]:
    class Small(RealEsrgan):
        def __init__(self) -> None:
            super().__init__(**SHAPE)

    return Small


@pytest.fixture
def dense_recipe(photos: Path, tmp_path: Path, restorer: Path) -> Recipe:
    spec = replace(RCOD_SMALL, unet=ResidualDenseSpec(16, 8, 2, 16, 2))
    phases = (
        Phase("adapt", 2, 2, 64, (1e-3, 1e-4), restorer=0.5, restorer_features=0.1, realism_share=0.5),
        Phase("texture", 2, 2, 64, (1e-4, 1e-5), restorer=0.1, adversarial=0.1, pixel_fade=0.8),
    )
    return Recipe(
        photos=photos,
        variant=spec,
        output=tmp_path / "run",
        timestep=TimestepSettings(weight_losses=True),
        restorer=restorer,
        discriminator=DiscriminatorSettings("unet"),
        machine=MachineSettings(workers=0),
        phases=phases,
    )


def test_a_run_begins_at_the_restorers_trunk_and_leaves_the_shared_tower_alone(dense_recipe: Recipe) -> None:
    lines: list[str] = []
    run = Run(dense_recipe, lines.append)
    tiny = load_model(find_weights("rcod-tiny").directory)
    begun = {name: value.clone() for name, value in run.model.prompt.tower.state_dict().items()}  # type: ignore[union-attr]
    assert all(torch.equal(value, begun[name]) for name, value in tiny.prompt.tower.state_dict().items())  # type: ignore[union-attr]
    assert any("trunk" in line for line in lines)
    assert run.go()
    trained = load_model(dense_recipe.output / "checkpoint")
    assert isinstance(trained.unet, ResidualDenseNet)
    assert all(torch.equal(value, begun[n].half().float()) for n, value in trained.prompt.tower.state_dict().items())  # type: ignore[union-attr]
    notice = (dense_recipe.output / "checkpoint" / "LICENSE.Real-ESRGAN").read_text(encoding="utf-8")
    assert "Xintao Wang" in notice
    card = (dense_recipe.output / "checkpoint" / "README.md").read_text(encoding="utf-8")
    assert "Real-ESRGAN" in card and "not all openly licensed" in card


def test_a_trunk_needs_the_restorers_file(dense_recipe: Recipe) -> None:
    phases = tuple(replace(phase, restorer=0.0, restorer_features=0.0) for phase in dense_recipe.phases)
    with pytest.raises(UsageError, match="restorer: not given"):
        Run(replace(dense_recipe, restorer=None, phases=phases))


def test_the_restorer_pulls_towards_its_picture_and_only_as_far_as_realism_goes(dense_recipe: Recipe) -> None:
    run = Run(dense_recipe)
    assert isinstance(run.trainer, GeneratorTrainer)
    (objective,) = (o for o in run.trainer.objectives if isinstance(o, RestorerObjective))
    assert objective.name not in run.trainer.judges  # nothing of it learns
    lr = torch.rand(2, 3, 16, 16)
    taught = objective.restorer(lr)
    picture = (taught + 0.05).requires_grad_()
    none, w = torch.zeros(2, 1, 1, 1), torch.tensor([0.0, 1.0])
    made = Generated(none, picture, taught, lr, none, torch.tensor([250, 750]), none[:, 0], w, w, Draws(0, (0, 1)))
    phase = replace(dense_recipe.phases[0], restorer=2.0, restorer_features=0.0)
    assert objective.weight(phase) == 1.0
    term, _ = objective.generator_term(made)
    torch.testing.assert_close(term, torch.tensor([0.0, 0.2]), rtol=0, atol=1e-3)
    term.sum().backward()
    assert picture.grad is not None
    assert not picture.grad[0].any()
    assert (picture.grad[1] > 0).all()  # down, towards the restorer's
    assert objective.weight(replace(phase, restorer=0.0)) == 0.0


def test_the_unet_discriminator_scores_every_pixel_and_sees_around_it() -> None:
    discriminator = UNetDiscriminator(8).eval()
    x = torch.rand(1, 3, 48, 40, requires_grad=True)
    scores = discriminator(x)
    assert scores.shape == (1, 1, 48, 40)
    scores[0, 0, 24, 20].backward()
    assert x.grad is not None
    assert x.grad[0, :, 24, 20].any()
    assert x.grad[0, :, 8, 20].any()  # 16 pixels away


def test_a_run_ends_with_the_clock_and_its_rate_falls_by_it(dense_recipe: Recipe) -> None:
    phases = (dense_recipe.phases[0], replace(dense_recipe.phases[1], steps=100_000))
    run = Run(replace(dense_recipe, phases=phases))
    assert run.go(minutes=0.05)
    assert 2 <= run.step < 10_000
    clock = Clock(1e-9)
    assert clock.share() == 1.0
    assert clock.over
    assert Clock(1000).share() == pytest.approx(0.0, abs=1e-3)
