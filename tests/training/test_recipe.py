from dataclasses import replace
from pathlib import Path

import pytest

from rcodsr.errors import UsageError
from rcodsr.parts import TextSpec
from rcodsr.training.recipe import Phase, Recipe, differences
from rcodsr.training.recipe_file import find_recipe, read_recipe
from rcodsr.training.run import learning_rate
from rcodsr.variants import RCOD_O

RECIPES = Path(__file__).parents[2] / "recipes"
HISTORY = RECIPES.parent / "dev" / "rcod-tiny"
TINY, PAPER = RECIPES / "rcod-tiny.toml", RECIPES / "rcod-o.toml"
GIVEN = ["photos=x", "perceptual_weights=x"]


def test_the_shipped_recipe_reads_and_takes_overrides(tmp_path: Path) -> None:
    recipe = read_recipe(TINY, [f"photos={tmp_path}", "perceptual_weights=x.safetensors", "phases.0.steps=7", "seed=3"])
    assert (recipe.phases[0].steps, recipe.seed, recipe.photos) == (7, 3, tmp_path)


def test_the_papers_recipe_says_what_the_paper_says() -> None:
    recipe = read_recipe(PAPER, ["photos=x"])
    (phase,) = recipe.phases
    assert recipe.variant == RCOD_O
    assert (phase.batch, phase.learning_rate, phase.steps) == (4, (2e-5, 2e-5), 30000)
    assert (phase.pixel, phase.perceptual, phase.vsd) == ("mse", 2.0, 1.0)
    assert (recipe.guidance, recipe.das, recipe.clip, recipe.weight_decay, recipe.grouped_share) == (7.5, True, 1.0, 1e-2, 1.0)
    assert not recipe.weight_by_timestep


@pytest.mark.parametrize("path", sorted((*RECIPES.rglob("*.toml"), *HISTORY.glob("*.toml"))), ids=lambda path: path.stem)
def test_every_recipe_reads(path: Path) -> None:
    recipe = read_recipe(path, ["photos=x", "perceptual_weights=x", "prior=x", "generator=x", "restorer=x"])
    assert recipe.steps > 0


def test_ablations_are_values() -> None:
    def ablated(*values: str) -> Recipe:
        return read_recipe(PAPER, ["photos=x", *values])

    fixed = ablated("ldg=false", "timestep=500")
    assert (fixed.variant.grouping.n, fixed.variant.grouping.k, fixed.das_width) == (1, 500, 250)
    assert fixed.variant.grouping.realism_timestep(0.0) == fixed.variant.grouping.realism_timestep(1.0) == 500
    assert not ablated("das=false").das
    text = ablated("prompt=text").variant
    assert isinstance(text.prompt, TextSpec)
    assert (text.prompt.context, text.vision) == (1024, None)
    four = ablated("n=4", "k=250", "metric=l1", "metric_min=-0.5", "metric_max=0", "metric_encoder=frozen").variant.grouping
    assert (four.n, four.k, four.metric, four.metric_min, four.metric_encoder) == (4, 250, "l1", -0.5, "frozen")
    assert ablated("grouping=continuous").variant.grouping.continuous
    apart = ablated("t_embed=999", "t_coeff=250").variant
    assert (apart.embedded_timestep, apart.coefficient_timestep) == (999, 250)
    assert ablated("degradation=light").mix == {"light": 1.0}
    assert ablated("vsd_prompt=text").vsd_prompt == "text"
    assert ablated("phases.0.perceptual=5").phases[0].perceptual == 5


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["photos"],
        ["photos=x"],
        [*GIVEN, "phases.9.steps=1"],
        [*GIVEN, "nonsense=1"],
        [*GIVEN, "stage=estimate"],
        [*GIVEN, "seed=-1"],
        [*GIVEN, "seed=a"],
        [*GIVEN, "mix.foo=1"],
        [*GIVEN, "mix={}"],
        [*GIVEN, "ema=2"],
        [*GIVEN, "threads=-1"],
        [*GIVEN, "accumulate=0"],
        [*GIVEN, "dtype=fp64"],
        [*GIVEN, "perceptual=none"],
        [*GIVEN, "only_grain=true"],
        [*GIVEN, "bounds=[0.1, 0.3]"],
        [*GIVEN, "stage=estimator", "generator=x", "bounds=[0.1]"],
        [*GIVEN, "stage=estimator", "generator=x", "bounds=[0.3, 0.1]"],
        [*GIVEN, "stage=estimator", "generator=x", 'bounds=["a", "b"]'],
        [*GIVEN, "stage=estimator", "generator=x", "bounds=0.3"],
        [*GIVEN, "vsd_prompt=tags"],
        [*GIVEN, "prompt=tags"],
        [*GIVEN, "grouping=fuzzy"],
        [*GIVEN, "metric=ssim"],
        [*GIVEN, "n=5"],
        [*GIVEN, "variant=rcod-x"],
        [*GIVEN, "phases.0.vsd=1"],
        [*GIVEN, "phases.0.steps=0"],
        [*GIVEN, "phases.0.crop=66"],
        [*GIVEN, "phases.0.pixel=l7"],
        [*GIVEN, "phases.0.learning_rate=[1]"],
        [*GIVEN, "phases.0.perceptual=much"],
    ],
)
def test_bad_recipes_are_usage_errors(overrides: list[str]) -> None:
    with pytest.raises(UsageError):
        read_recipe(TINY, overrides)


def test_settings_leave_out_what_does_not_decide_a_run(recipe: Recipe) -> None:
    moved = replace(recipe, output=Path("elsewhere"), workers=3, threads=2, device="cpu", gradient_checkpointing=True)
    assert moved.settings(4) == recipe.settings(4)
    later = replace(recipe, phases=(recipe.phases[0], replace(recipe.phases[1], steps=9)))
    assert later.settings(3) == recipe.settings(3)  # the second phase has not begun
    assert later.settings(4) != recipe.settings(4)


def test_differences_are_named(recipe: Recipe) -> None:
    phases = (replace(recipe.phases[0], batch=8), *recipe.phases[1:])
    changed = replace(recipe, seed=5, phases=phases, variant=replace(recipe.variant, color_fix="none"))
    assert differences(recipe.settings(2), changed.settings(2)) == [
        "phases.0.batch: 2 → 8",
        "seed: 0 → 5",
        "variant.color_fix: wavelet → none",
    ]


def test_learning_rate_follows_a_cosine_after_warm_up() -> None:
    phase = Phase("p", 1000, 1, 64, (1e-3, 1e-4))
    assert learning_rate(phase, 0, 0, 100) == pytest.approx(1e-5)
    assert learning_rate(phase, 0, 500, 100) == pytest.approx(1e-3)
    assert learning_rate(phase, 500, 500, 100) == pytest.approx(5.5e-4)
    assert learning_rate(phase, 1000, 1000, 100) == pytest.approx(1e-4)
    assert learning_rate(phase, 0, 0, 0) == pytest.approx(1e-3)  # no warm-up: from the first step on


def test_every_ablation_of_the_table_reads() -> None:
    table = (RECIPES / "ablations" / "README.md").read_text().splitlines()
    rows = [line.split("|")[3] for line in table if line.startswith("| ") and "`" in line and "command" not in line]
    commands = [command.split() for row in rows for command in row.split("`")[1::2]]
    assert len(commands) >= 10
    specs = [read_recipe(PAPER, ["photos=x", *command]).settings(1) for command in commands]
    plain = read_recipe(PAPER, ["photos=x"]).settings(1)
    assert all(differences(plain, settings) for settings in specs)


def test_packaged_recipes_have_names(tmp_path: Path) -> None:
    assert find_recipe("rcod-o").samefile(PAPER)
    assert find_recipe("rcod-tiny").samefile(TINY)
    with pytest.raises(UsageError, match=r"no such recipe; give a TOML file, or one of ablations/tiny, .*rcod-o"):
        find_recipe("rcod-x")
