import json
from dataclasses import replace
from pathlib import Path

import pytest

from rcodsr.checkpoints.config import CheckpointConfig
from rcodsr.errors import UsageError
from rcodsr.parts import TextSpec
from rcodsr.training.pace import learning_rate
from rcodsr.training.recipe import Phase, Recipe, TimestepSettings, ValidationSettings, differences
from rcodsr.training.recipe_file import find_recipe, print_recipe, read_recipe
from rcodsr.variants import RCOD_O, RCOD_TINY, VARIANTS

RECIPES = Path(__file__).parents[2] / "recipes"
HISTORY = RECIPES.parent / "dev" / "rcod-tiny"
TINY, PAPER = RECIPES / "rcod-tiny.toml", RECIPES / "rcod-o.toml"
GIVEN = ["photos=x", "perceptual.weights=x"]


def test_the_shipped_recipe_reads_and_takes_overrides(tmp_path: Path) -> None:
    recipe = read_recipe(TINY, [f"photos={tmp_path}", "perceptual.weights=x.safetensors", "phases.0.steps=7", "seed=3"])
    assert (recipe.phases[0].steps, recipe.seed, recipe.photos) == (7, 3, tmp_path)


def test_the_papers_recipe_says_what_the_paper_says() -> None:
    recipe = read_recipe(PAPER, ["photos=x"])
    (phase,) = recipe.phases
    assert recipe.variant == RCOD_O
    assert (phase.batch, phase.learning_rate, phase.steps) == (4, (2e-5, 2e-5), 30000)
    assert (phase.pixel, phase.perceptual, phase.vsd) == ("mse", 2.0, 1.0)
    assert (recipe.distill.guidance, recipe.distill.das, recipe.distill.learning_rate) == (7.5, True, 2e-5)
    assert (recipe.optim.clip, recipe.optim.weight_decay) == (1.0, 1e-2)
    assert recipe.timestep == TimestepSettings(grouped_share=1.0, weight_losses=False)


@pytest.mark.parametrize("path", sorted((*RECIPES.rglob("*.toml"), *HISTORY.glob("*.toml"))), ids=lambda path: path.stem)
def test_every_recipe_reads(path: Path) -> None:
    recipe = read_recipe(path, ["photos=x", "perceptual.weights=x", "distill.prior=x", "generator=rcod-tiny", "restorer=x"])
    assert recipe.steps > 0


def test_ablations_are_values() -> None:
    def ablated(*values: str) -> Recipe:
        return read_recipe(PAPER, ["photos=x", *values])

    fixed = ablated("variant.grouping.n=1", "variant.grouping.k=500", "distill.das_width=250")
    assert (fixed.variant.grouping.n, fixed.variant.grouping.k, fixed.distill.das_width) == (1, 500, 250)
    assert fixed.variant.grouping.realism_timestep(0.0) == fixed.variant.grouping.realism_timestep(1.0) == 500
    assert not ablated("distill.das=false").distill.das
    text = ablated("variant.prompt.kind=text").variant
    assert isinstance(text.prompt, TextSpec)
    assert (text.prompt.context, text.vision) == (1024, None)
    values = ("n=4", "k=250", "metric=l1", "metric_min=-0.5", "metric_max=0", "metric_encoder=frozen")
    four = ablated(*(f"variant.grouping.{value}" for value in values)).variant.grouping
    assert (four.n, four.k, four.metric, four.metric_min, four.metric_encoder) == (4, 250, "l1", -0.5, "frozen")
    assert ablated("variant.grouping.continuous=true").variant.grouping.continuous
    apart = ablated("variant.embedded_timestep=999", "variant.coefficient_timestep=250").variant
    assert (apart.embedded_timestep, apart.coefficient_timestep) == (999, 250)
    assert ablated("data.mix={light=1}").data.mix == {"light": 1.0}
    assert ablated("distill.prompt=text").distill.prompt == "text"
    assert ablated("phases.0.perceptual=5").phases[0].perceptual == 5


def test_the_papers_bases_only_mirror_their_photos() -> None:
    for name, turned in (("rcod-o", False), ("rcod-s", False), ("rcod-tiny", True), ("rcod-small", True)):
        given = ["photos=x", "perceptual.weights=x", "restorer=x"]
        assert read_recipe(RECIPES / f"{name}.toml", given).data.transpose is turned


@pytest.mark.parametrize(("variant", "mix"), [("rcod-o", {"full": 1}), ("rcod-s", {"light": 1})])
def test_an_estimator_is_trained_as_its_variant_was(tmp_path: Path, variant: str, mix: dict[str, float]) -> None:
    spec = VARIANTS[variant]
    config = CheckpointConfig(spec, "adapter", {str(name): {"unet": "random:0"} for name in (spec.base, spec.vision)})
    for name in config.files:
        (tmp_path / name).write_bytes(b"no weights are read")
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    estimator, given = RECIPES / "estimator.toml", ["photos=x", f"generator={tmp_path}"]
    recipe, own = read_recipe(estimator, given), read_recipe(RECIPES / f"{variant}.toml", ["photos=x"])
    assert (recipe.phases[0].crop, recipe.data.mix) == (512, mix)
    assert recipe.data == own.data
    assert read_recipe(estimator, [*given, "phases.0.crop=640"]).phases[0].crop == 640
    tiny = read_recipe(estimator, ["photos=x", "generator=rcod-tiny"])
    assert (tiny.phases[0].crop, tiny.data.mix["independent"], tiny.data.zoom_probability) == (160, 0.5, 0.3)


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
        [*GIVEN, "data.mix.foo=1"],
        [*GIVEN, "data.mix={}"],
        [*GIVEN, "optim.ema=2"],
        [*GIVEN, "machine.threads=-1"],
        [*GIVEN, "optim.accumulate=0"],
        [*GIVEN, "machine.dtype=fp64"],
        [*GIVEN, "perceptual.distance=none"],
        [*GIVEN, "only_grain=true"],
        [*GIVEN, "bounds=[0.1, 0.3]"],
        [*GIVEN, "stage=estimator", "generator=x", "bounds=[0.1]"],
        [*GIVEN, "stage=estimator", "generator=x", "bounds=[0.3, 0.1]"],
        [*GIVEN, "stage=estimator", "generator=x", 'bounds=["a", "b"]'],
        [*GIVEN, "stage=estimator", "generator=x", "bounds=0.3"],
        [*GIVEN, "discriminator.steps=apart"],
        [*GIVEN, "distill.prompt=tags"],
        [*GIVEN, "variant.prompt.kind=tags"],
        [*GIVEN, "variant.grouping.continuous=fuzzy"],
        [*GIVEN, "variant.grouping.metric=ssim"],
        [*GIVEN, "variant.grouping.n=5"],
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
    machine = replace(recipe.machine, workers=3, threads=2, device="cpu", gradient_checkpointing=True)
    moved = replace(recipe, output=Path("elsewhere"), machine=machine, validation=ValidationSettings(Path("x"), 1))
    assert moved.settings(4) == recipe.settings(4)
    later = replace(recipe, phases=(recipe.phases[0], replace(recipe.phases[1], steps=9)))
    assert later.settings(3) == recipe.settings(3)  # the second phase has not begun
    assert later.settings(4) != recipe.settings(4)
    assert replace(recipe, machine=replace(recipe.machine, dtype="bf16")).settings(4) != recipe.settings(4)


def test_differences_are_named(recipe: Recipe) -> None:
    phases = (replace(recipe.phases[0], batch=8), *recipe.phases[1:])
    changed = replace(
        recipe, seed=5, phases=phases, optim=replace(recipe.optim, ema=0.5), variant=replace(recipe.variant, color_fix="none")
    )
    assert differences(recipe.settings(2), changed.settings(2)) == [
        "optim.ema: 0.9 → 0.5",
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


def test_packaged_recipes_have_names(tmp_path: Path) -> None:
    assert find_recipe("rcod-o").samefile(PAPER)
    assert find_recipe("rcod-tiny").samefile(TINY)
    with pytest.raises(
        UsageError, match=r"no such recipe; did you mean rcod-.\? It may be ablations/tiny, .*rcod-o.*, or a TOML"
    ):
        find_recipe("rcod-x")
    assert find_recipe("recipes/rcod-o.toml").samefile(PAPER)  # from any directory


def _refused(*overrides: str, path: Path = TINY) -> str:
    with pytest.raises(UsageError) as caught:
        read_recipe(path, [*GIVEN, *overrides])
    return str(caught.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.emma=0.9", "optim.emma: unknown name; did you mean optim.ema?"),
        ("weight_decay=1", "weight_decay: unknown name; did you mean optim.weight_decay?"),
        ("phases.1.stepps=3", "phases.1.stepps: unknown name; did you mean phases.1.steps?"),
        ("optim.ema=1.5", "optim.ema: 1.5 is not possible; use a number from 0 to 1"),
        ("phases.0.crop=72", "phases.0.crop: 72 is not possible; use a multiple of 16 from 32 upwards"),
        ("seed=-1", "seed: -1 is not possible; use a whole number from 0 upwards"),
        ("optim.betas=[0.9]", "optim.betas: [0.9] is not possible; use a list of 2 entries, each a number from 0 to 1"),
        (
            "stage=generater",
            "stage: 'generater' is not possible; did you mean generator? It may be prior, ",
        ),
        ("fit=1", "fit: 1 is not possible; use true or false"),
        ("variant.unet.bloks=[1,1]", "variant.unet.bloks: unknown name; did you mean variant.unet.blocks?"),
        ("variant.unet.blocks=[1,99]", "variant.unet.blocks: [1, 99] is not possible; "),
        ("variant.scale=2", "variant.scale: 2 is not possible; use 4"),
        ("variant=rcod-tinny", "variant.name: unknown variant 'rcod-tinny'; did you mean rcod-tiny?"),
        ("data.mix.lihgt=1", "data.mix.lihgt: unknown preset; did you mean light? It may be "),
        ("perceptual=wavelet", "perceptual: 'wavelet' is not possible; use a table of distance, weights"),
        ("phases.0.zoom=[2,1]", "phases.0.zoom: [2, 1] is empty; use [least, most]"),
    ],
)
def test_errors_name_the_field_and_what_it_may_be(override: str, message: str) -> None:
    assert _refused(override).startswith(message)


def test_an_error_of_the_file_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(TINY.read_text().replace("ema = 0.999", "emma = 0.999"))
    assert _refused("seed=3", path=path) == f"{path}: optim.emma: unknown name; did you mean optim.ema?"
    path.write_text("photos = 2024.5\n" + TINY.read_text())
    with pytest.raises(UsageError, match=r"mine\.toml: photos: 2024\.5 is not possible; use a path, in quotes"):
        read_recipe(path, ["perceptual.weights=x"])


@pytest.mark.parametrize("text", ["2024", "true", "2024-05-01", "1_000", "2024.10", "1e3", "a b", "[x]"])
def test_a_path_or_a_name_on_the_command_line_is_what_is_written(text: str) -> None:
    given = [f"photos={text}", f"perceptual.weights={text}", f"start={text}", f"validation.photos={text}"]
    recipe = read_recipe(TINY, given)
    assert (recipe.photos, recipe.perceptual.weights, recipe.start, recipe.validation.photos) == (
        Path(text),
        Path(text),
        text,
        Path(text),
    )
    assert read_recipe(TINY, [f"photos='{text}'", "perceptual.weights=x"]).photos == Path(text)


@pytest.mark.parametrize("text", ["2024", "true", "2024-05-01"])
def test_a_path_in_a_file_needs_no_quotes(tmp_path: Path, text: str) -> None:
    (tmp_path / "mine.toml").write_text(f"photos = {text}\nstart = {text}\n" + TINY.read_text())
    recipe = read_recipe(tmp_path / "mine.toml", ["perceptual.weights=x"])
    assert (recipe.photos, recipe.start) == (Path(text), text)


def test_a_variant_is_a_name_or_a_table_of_what_differs(tmp_path: Path) -> None:
    wide = read_recipe(PAPER, ["photos=x", "variant.lora.unet_rank=16"]).variant
    assert wide == replace(RCOD_O, lora=replace(RCOD_O.lora, unet_rank=16))  # type: ignore[type-var]
    path = tmp_path / "mine.toml"
    phase = "[[phases]]\nname = 'p'\nsteps = 1\nbatch = 1\ncrop = 32\nlearning_rate = [1e-3, 1e-4]\n"
    path.write_text(f"photos = 'x'\n{phase}[variant]\nname = 'rcod-s'\ngrouping.n = 4\n")
    recipe = read_recipe(path, ["variant.grouping.k=100"])
    assert (recipe.variant.grouping.n, recipe.variant.grouping.k, recipe.variant.base) == (4, 100, "sd-turbo")
    assert read_recipe(path, ["variant=rcod-tiny"]).variant == RCOD_TINY


def test_what_is_shown_reads_as_the_same_recipe(recipe: Recipe, sd_recipe: Recipe) -> None:
    for one in (recipe, sd_recipe):
        assert Recipe.from_dict(json.loads(print_recipe(one)) | {"variant": one.variant}) == one
