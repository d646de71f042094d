"""`rcodsr bench metric`: rank correlation by hand, seeded crops, the command."""

import json
import math
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from rcodsr.bench.judges import Scorer
from rcodsr.bench.latents import DegradedCrops, correlate, spearman
from rcodsr.engine.upscaler import Upscaler
from rcodsr.errors import InputError, NoInputError, UsageError
from rcodsr.models.lpips import LpipsSqueeze
from rcodsr.models.one_step import OneStepSR
from tests.conftest import RunCli


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([1, 2, 3], [10, 20, 1000], 1.0),
        ([1, 2, 3], [3, 2, 1], -1.0),
        ([1, 2, 3, 4, 5], [2, 1, 4, 3, 5], 1 - 6 * 4 / (5 * 24)),  # 1 − 6 Σd² / n(n² − 1), d² = 1, 1, 1, 1, 0
        ([1, 2, 2, 3], [1, 2, 3, 4], 4.5 / math.sqrt(4.5 * 5)),  # ranks 1, 2.5, 2.5, 4
        ([1, 1, 2, 2], [1, 2, 1, 2], 0.0),
        ([7, 7, 7], [1, 2, 3], math.nan),
        ([1.0, math.nan, 3.0, 2.0], [1.0, 0.0, 3.0, 2.0], 1.0),
        ([1.0], [2.0], math.nan),
        ([], [], math.nan),
    ],
)
def test_spearman_by_hand(a: list[float], b: list[float], expected: float) -> None:
    assert spearman(a, b) == pytest.approx(expected, abs=1e-12, nan_ok=True)
    assert spearman(b, a) == pytest.approx(expected, abs=1e-12, nan_ok=True)


@pytest.fixture
def photos(photo: Image.Image, tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(2):
        photo.crop((120 * index, 40, 120 * index + 200, 200)).save(folder / f"{index}.png")
    return folder


def test_crops_are_seeded_and_independent_of_their_number(photos: Path) -> None:
    def made(count: int, seed: int) -> dict[bytes, bytes]:
        crops = DegradedCrops(photos, count, 64, ["light", "full"], seed, 16)
        return {truth.numpy().tobytes(): enlarged.numpy().tobytes() for enlarged, truth in crops}

    few, many = made(4, 0), made(9, 0)
    assert (len(few), len(many)) == (4, 9)
    assert few.items() <= many.items()
    assert not made(4, 1).keys() & few.keys()


def test_crops_have_one_size_and_range(photos: Path) -> None:
    for enlarged, truth in DegradedCrops(photos, 3, 64, ["full"], 0, 16):
        assert enlarged.shape == truth.shape == (3, 64, 64)
        assert enlarged.min() >= 0 and enlarged.max() <= 1
        assert not torch.equal(enlarged, truth)


def test_crops_that_cannot_be_made(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'heavy' is unknown"):
        DegradedCrops(photos, 2, 64, ["light", "heavy"], 0, 16)
    for crop in (72, 16, 0, -16):
        with pytest.raises(UsageError, match=f"--crop: {crop} does not fit; use a multiple of 16 from 32 on"):
            DegradedCrops(photos, 2, crop, ["light"], 0, 16)
    with pytest.raises(InputError, match="smaller than the 256-pixel crop"):
        DegradedCrops(photos, 2, 256, ["light"], 0, 16)
    (tmp_path / "empty").mkdir()
    with pytest.raises(NoInputError):
        DegradedCrops(tmp_path / "empty", 2, 64, ["light"], 0, 16)


def test_the_unet_never_runs(photos: Path, small_model: OneStepSR) -> None:
    small_model.unet.register_forward_hook(lambda *_: pytest.fail("it ran"))
    table = correlate(DegradedCrops(photos, 10, 64, ["full"], 0, 16), small_model, Scorer())
    assert [*table] == ["cosine", "channel-cosine", "l1", "mse"]
    for values in table.values():
        assert [*values] == ["ssim"]
        assert values["ssim"] is not None and 0 <= values["ssim"] <= 1


def test_every_crop_is_told(photos: Path, small_model: OneStepSR) -> None:
    told = []
    correlate(DegradedCrops(photos, 10, 64, ["full"], 0, 16), small_model, Scorer(), lambda: told.append(1))
    assert len(told) == 10


def test_what_does_not_vary_has_no_correlation(photos: Path, small_model: OneStepSR, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rcodsr.bench.judges.ssim_y", lambda a, b: 1.0)
    table = correlate(DegradedCrops(photos, 3, 64, ["full"], 0, 16), small_model, Scorer())
    assert [values["ssim"] for values in table.values()] == [None] * 4


def test_the_metric_follows_degradation(photos: Path, default_upscaler: Upscaler) -> None:
    table = correlate(DegradedCrops(photos, 40, 64, ["light", "full"], 0, 16), default_upscaler.model, Scorer())
    for kind, least in (("cosine", 0.5), ("channel-cosine", 0.2)):
        found = table[kind]["ssim"]
        assert found is not None and found > least


def test_the_command(run_cli: RunCli, photos: Path, tmp_path: Path) -> None:
    save_file(LpipsSqueeze().state_dict(), tmp_path / "lpips.safetensors")
    options = ("photos", "--count", 5, "--crop", 64, "--preset", "light", "--preset", "full", "--lpips", "lpips.safetensors")
    first, second = (run_cli("bench", "metric", *options, "--device", "cpu") for _ in range(2))
    assert (first.returncode, first.stderr) == (0, "")
    assert first.stdout == second.stdout
    header, *rows = (line.split("\t") for line in first.stdout.splitlines())
    assert header == ["metric", "ssim", "lpips"]
    assert [row[0] for row in rows] == ["cosine", "channel-cosine", "l1", "mse"]

    done = run_cli("bench", "metric", *options, "--device", "cpu", "--json")
    objects = [json.loads(line) for line in done.stdout.splitlines()]
    assert [f"{value['ssim']:.4f}" for value in objects] == [row[1] for row in rows]
    assert all([*value] == ["metric", "crops", "ssim", "lpips"] and value["crops"] == 5 for value in objects)


def test_mistakes_are_one_line(run_cli: RunCli, photos: Path) -> None:
    done = run_cli("bench", "metric", "photos", "--crop", 100)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "rcodsr: --crop: 100 does not fit; use a multiple of 16 from 32 on\n"
