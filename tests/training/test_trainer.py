from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from rcodsr.checkpoints.format import load_model
from rcodsr.errors import NoInputError, OutputError, RcodsrError, UsageError, WeightsError
from rcodsr.models.perceptual import LpipsSqueeze
from rcodsr.training.losses import charbonnier, discriminator_hinge, generator_hinge, low_frequency, mesh, realism_weight
from rcodsr.training.recipe import Phase, Recipe, read_recipe
from rcodsr.training.trainer import Trainer, learning_rate
from rcodsr.variants import VariantSpec

RECIPE = Path(__file__).parents[2] / "recipes" / "rcod-tiny" / "generator.toml"


@pytest.fixture
def recipe(tmp_path: Path, photo: Image.Image, small_spec: VariantSpec) -> Recipe:
    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(4):
        photo.crop((100 * i, 0, 100 * i + 128, 128)).save(photos / f"{i}.png")
    lpips = tmp_path / "lpips.safetensors"
    save_file(LpipsSqueeze().state_dict(), lpips)
    return Recipe(
        photos=photos,
        variant=small_spec,
        output=tmp_path / "run",
        workers=0,
        perceptual_weights=lpips,
        phases=(
            Phase("pixel", 3, 2, 64, (1e-3, 1e-4)),
            Phase("knob", 3, 2, 64, (3e-4, 1e-5), perceptual=0.2, adversarial=0.02, mesh=1.0),
        ),
    )


def _silent(_: str) -> None:
    pass


def test_a_stopped_run_goes_on_bit_for_bit(recipe: Recipe, tmp_path: Path) -> None:
    whole = replace(recipe, output=tmp_path / "whole")
    Trainer(whole, _silent).run()
    for stop in (2, 4):
        broken = replace(recipe, output=tmp_path / f"broken{stop}")
        first = Trainer(broken, _silent)
        train_step = first.train_step

        def until_stopped(*arguments: object, first: Trainer = first, stop: int = stop, step=train_step) -> dict[str, float]:  # type: ignore[no-untyped-def]
            if first.step == stop:
                first.save()
                raise KeyboardInterrupt
            return step(*arguments)  # type: ignore[no-any-return]

        first.train_step = until_stopped  # type: ignore[method-assign]
        with pytest.raises(KeyboardInterrupt):
            first.run()
        Trainer(broken, _silent).run()
        a, b = (load_file(run.output / "state.safetensors") for run in (whole, broken))
        assert a.keys() == b.keys()
        assert [key for key in a if not torch.equal(a[key], b[key])] == []


def test_the_result_is_a_loadable_checkpoint_with_fitted_bounds(recipe: Recipe, small_spec: VariantSpec) -> None:
    Trainer(recipe, _silent).run()
    model = load_model(recipe.output / "checkpoint")
    assert model.spec.grouping != small_spec.grouping
    assert model.spec.grouping.metric_min < model.spec.grouping.metric_max < 1.5
    assert model.autoencoder.std.mean() != 1


def test_training_lowers_the_error_on_one_picture(recipe: Recipe) -> None:
    trainer = Trainer(replace(recipe, phases=(Phase("pixel", 60, 2, 64, (3e-3, 1e-3)),)), _silent)
    lr, hr = next(trainer._batches(0, trainer.recipe.phases[0], 0))
    errors = []
    for step in range(60):
        errors.append(trainer.train_step(lr, hr, trainer.recipe.phases[0], 0.0)["pixel"])
        trainer.step = step + 100  # past the warm-up
    assert min(errors[-10:]) < 0.97 * errors[0]


def test_a_loss_that_is_not_finite_stops_the_run(recipe: Recipe) -> None:
    trainer = Trainer(recipe, _silent)
    with torch.no_grad():
        trainer.model.unet.conv_in.weight.fill_(float("inf"))
    with pytest.raises(RcodsrError, match="not finite at step 0"):
        trainer.run()


def test_a_damaged_state_is_named(recipe: Recipe) -> None:
    recipe.output.mkdir()
    (recipe.output / "state.safetensors").write_bytes(b"nonsense")
    with pytest.raises(WeightsError, match="state.safetensors: cannot be resumed"):
        Trainer(recipe, _silent)


def test_a_run_is_not_resumed_with_other_settings(recipe: Recipe) -> None:
    Trainer(replace(recipe, phases=recipe.phases[:1]), _silent).run()
    with pytest.raises(UsageError, match="other settings"):
        Trainer(replace(recipe, phases=recipe.phases[:1], seed=5), _silent)
    assert Trainer(replace(recipe, phases=recipe.phases[:1], seed=5), _silent, resume=False).step == 0


def test_an_output_that_cannot_be_written_is_an_error(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError):
        Trainer(replace(recipe, output=tmp_path / "file" / "run"), _silent).run()


def test_no_photos_is_an_error(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(NoInputError, match="no photos found"):
        Trainer(replace(recipe, photos=tmp_path / "empty"), _silent)


def test_learning_rate_follows_a_cosine_after_warm_up() -> None:
    phase = Phase("p", 1000, 1, 64, (1e-3, 1e-4))
    assert learning_rate(phase, 0.0, 0) == pytest.approx(1e-5)
    assert learning_rate(phase, 0.0, 500) == pytest.approx(1e-3)
    assert learning_rate(phase, 0.5, 500) == pytest.approx(5.5e-4)
    assert learning_rate(phase, 1.0, 500) == pytest.approx(1e-4)


def test_losses_by_hand() -> None:
    a, b = torch.zeros(2, 3, 8, 8), torch.zeros(2, 3, 8, 8)
    b[1] = 0.5
    assert charbonnier(a, b).tolist() == pytest.approx([1e-3, (0.25 + 1e-6) ** 0.5])
    checker = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(4, 4).expand(1, 3, 8, 8)
    assert low_frequency(checker, torch.zeros(1, 3, 8, 8)).item() == 0
    assert realism_weight(torch.tensor([250, 500, 750, 999]), 250, 750).tolist() == [0, 0.5, 1, 1]
    real, fake = torch.tensor([2.0, 0.5]).view(2, 1, 1, 1), torch.tensor([-2.0, 0.0]).view(2, 1, 1, 1)
    assert discriminator_hinge(real, fake).item() == pytest.approx(0.25 + 0.5)
    assert generator_hinge(fake).tolist() == [2, 0]


def test_mesh_loss_sees_repetition_and_little_else() -> None:
    truth = torch.zeros(1, 3, 64, 64)
    pattern = torch.zeros(4, 4)
    pattern[0, 0] = 0.16  # one pixel of sixteen, everywhere
    assert mesh(pattern.repeat(16, 16).expand(1, 3, 64, 64), truth).item() == pytest.approx(0.01)
    noise = 0.01 * torch.randn(1, 3, 64, 64).sign()  # the same mean amplitude, but no repetition
    assert mesh(noise, truth).item() < 0.0015


def test_the_shipped_recipe_reads_and_takes_overrides(tmp_path: Path) -> None:
    recipe = read_recipe(RECIPE, [f"photos={tmp_path}", "perceptual_weights=x.safetensors", "phases.0.steps=7", "seed=3"])
    assert (recipe.phases[0].steps, recipe.seed, recipe.photos) == (7, 3, tmp_path)


GIVEN = ["photos=x", "perceptual_weights=x"]


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["photos"],
        ["photos=x"],
        [*GIVEN, "phases.9.steps=1"],
        [*GIVEN, "nonsense=1"],
        [*GIVEN, "stage=prior"],
        [*GIVEN, "seed=-1"],
        [*GIVEN, "seed=a"],
        [*GIVEN, "mix.foo=1"],
        [*GIVEN, "mix={}"],
        [*GIVEN, "ema=2"],
        [*GIVEN, "threads=-1"],
        [*GIVEN, "phases.0.steps=0"],
        [*GIVEN, "phases.0.crop=66"],
        [*GIVEN, "phases.0.learning_rate=[1]"],
        [*GIVEN, "phases.0.perceptual=much"],
    ],
)
def test_bad_recipes_are_usage_errors(overrides: list[str]) -> None:
    with pytest.raises(UsageError):
        read_recipe(RECIPE, overrides)
