"""The data loss, term by term, and the end of a step, which all trainers share."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rcodsr.errors import RcodsrError
from rcodsr.models.build import build_model
from rcodsr.training import losses
from rcodsr.training.data_loss import DataLoss
from rcodsr.training.draws import Draws
from rcodsr.training.generator_trainer import GeneratorTrainer
from rcodsr.training.objectives import Generated
from rcodsr.training.recipe import Phase, Recipe
from rcodsr.training.run import Run
from rcodsr.variants import VariantSpec

TERMS = {"mesh": 0.5, "overshoot": 2.0, "energy": 0.25, "faint": 0.125, "perceptual": 4.0}
TEXTURED = {"energy", "faint", "perceptual"}


@pytest.fixture
def made() -> Generated:
    """Two samples, the first of which should have no texture: noise, strong and faint."""
    generator = torch.Generator().manual_seed(2)
    picture, target = torch.rand(2, 2, 3, 32, 32, generator=generator)
    picture[..., :16], target[..., :16] = 0.5 + 0.004 * picture[..., :16], 0.5 + 0.008 * target[..., :16]
    none, share = torch.zeros(2, 1, 1, 1), torch.tensor([0.0, 1.0])
    return Generated(
        z=none,
        picture=1.2 * picture,
        target=target,
        lr=none,
        x_l=none,
        timestep=torch.tensor([250, 750]),
        tokens=none[:, 0],
        weight=share,
        texture=share,
        draws=Draws(0, (0, 1)),
    )


@pytest.fixture
def data_loss(recipe: Recipe, small_spec: VariantSpec) -> DataLoss:
    return DataLoss(recipe, build_model(small_spec), lambda a, b: (a - b).abs().mean((1, 2, 3)))


def _by_hand(made: Generated, name: str) -> Tensor:
    known: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "mesh": losses.mesh,
        "overshoot": losses.overshoot,
        "energy": losses.wavelet_distance,
        "faint": losses.faint_distance,
        "perceptual": lambda a, b: (a - b).abs().mean((1, 2, 3)),
    }
    return known[name](made.picture, made.target)


@pytest.mark.parametrize("name", TERMS)
def test_each_term_is_weighted_and_those_of_texture_only_where_there_should_be_some(
    data_loss: DataLoss, made: Generated, name: str
) -> None:
    bare = Phase("bare", 1, 2, 32, (1e-3, 1e-3), pixel_weight=0.0)
    weight: dict[str, Any] = {name: TERMS[name]}
    loss, facts = data_loss(made, replace(bare, **weight))
    expected = TERMS[name] * _by_hand(made, name)
    assert expected.min() > 0
    if name in TEXTURED:
        expected = expected * torch.tensor([0.0, 1.0])
    torch.testing.assert_close(loss, expected)
    assert set(facts) == {"pixel", name}
    torch.testing.assert_close(facts[name], _by_hand(made, name).mean())


def test_terms_add_up(data_loss: DataLoss, made: Generated) -> None:
    bare = Phase("bare", 1, 2, 32, (1e-3, 1e-3), pixel_weight=3.0)
    loss, facts = data_loss(made, replace(bare, **TERMS))  # type: ignore[arg-type]
    assert set(facts) == {"pixel", *TERMS}
    rest, _ = data_loss(made, bare)
    alone = [data_loss(made, replace(bare, pixel_weight=0.0, **{n: w}))[0] for n, w in TERMS.items()]  # type: ignore[arg-type]
    torch.testing.assert_close(loss, rest + torch.stack(alone).sum(0))


def test_the_pixel_error_fades_where_texture_is_free(data_loss: DataLoss, made: Generated) -> None:
    phase = Phase("p", 1, 2, 32, (1e-3, 1e-3), pixel_weight=2.0, pixel_fade=0.25)
    loss, facts = data_loss(made, phase)
    error, coarse = losses.charbonnier(made.picture, made.target), losses.low_frequency(made.picture, made.target)
    torch.testing.assert_close(loss, torch.stack((2 * error[0], 2 * (0.75 * error[1] + coarse[1]))))
    torch.testing.assert_close(facts["pixel"], error.mean())


def test_osediffs_loss_sees_the_clamped_picture(data_loss: DataLoss, made: Generated) -> None:
    """MSE as in [-1, 1], four times that of [0, 1]; values beyond white cost nothing."""
    phase = Phase("p", 1, 2, 32, (1e-3, 1e-3), pixel="mse", perceptual=1.0)
    loss, _ = data_loss(replace(made, texture=torch.ones(2)), phase)
    shown = made.picture.clamp(0, 1)
    assert (made.picture > 1).any()
    expected = 4 * (shown - made.target).square().mean((1, 2, 3)) + (shown - made.target).abs().mean((1, 2, 3))
    torch.testing.assert_close(loss, expected)


# ---------------------------------------------------------------------------------------------------- the end of a step


def _prepared(recipe: Recipe, number: int = 0) -> tuple[Run, Callable[[], dict[str, float]]]:
    run = Run(recipe, lambda _: None)
    phase = recipe.phases[number]
    batches = next(run._phase_batches(number, phase, 0))
    return run, lambda: run.trainer.train_step(batches, phase, 1e-3, 7)


def _poisoned(parameter: nn.Parameter) -> None:
    """A gradient that overflows, while the loss stays finite."""
    parameter.register_hook(lambda gradient: torch.full_like(gradient, float("inf")))


def _copies(parameters: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in parameters.items()}


@pytest.mark.parametrize("stage", ["generator", "prior", "estimator"])
def test_a_gradient_that_is_not_finite_stops_before_the_update(recipe: Recipe, tmp_path: Path, stage: str) -> None:
    if stage == "estimator":
        finished = replace(recipe, phases=recipe.phases[:1])
        Run(finished, lambda _: None).go()
        phase = Phase("estimator", 2, 2, 128, (1e-3, 1e-3))
        recipe = replace(recipe, generator=str(finished.output / "checkpoint"), phases=(phase,), output=tmp_path / "mem")
    run, step = _prepared(replace(recipe, stage=stage))  # type: ignore[arg-type]
    step()
    trained = run.trainer.trained
    before, average = _copies(trained), run.trainer.average
    assert average is not None
    kept = {name: tensor.clone() for name, tensor in average.tensors.items()}
    for parameter in trained.values():
        _poisoned(parameter)
    with pytest.raises(RcodsrError, match="the norm of the gradient is not finite at step 7; resume with a lower"):
        step()
    assert all(torch.equal(p, before[name]) for name, p in trained.items())
    assert all(torch.equal(tensor, kept[name]) for name, tensor in average.tensors.items())


def test_a_discriminators_gradient_that_is_not_finite_stops_before_its_update(recipe: Recipe) -> None:
    run, step = _prepared(recipe, 1)
    trainer = run.trainer
    assert isinstance(trainer, GeneratorTrainer)
    judge = next(o for o in trainer.objectives if o.name == "adversarial").trained()
    before = _copies(judge)
    _poisoned(next(iter(judge.values())))
    with pytest.raises(RcodsrError, match="the norm of the gradient of adversarial is not finite at step 7"):
        step()
    assert all(torch.equal(p, before[name]) for name, p in judge.items())
