"""Adaptive realism, per picture and per tile."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rcodsr.bench.calibration import borders, group_shares, quality, suggested_bounds
from rcodsr.checkpoints.format import load_model, save_model
from rcodsr.engine.estimation import measure, measure_true
from rcodsr.engine.runtime import choose_runtime
from rcodsr.engine.upscaler import Upscaler
from rcodsr.errors import UsageError
from rcodsr.images.picture import Picture
from rcodsr.models.build import build_model
from rcodsr.models.metric_estimator import MetricEstimator, _statistics
from rcodsr.models.one_step import OneStepSR
from rcodsr.options import Adaptive, Level, UpscaleOptions
from rcodsr.parts import GroupingSpec, MetricSpec
from rcodsr.variants import VariantSpec

GROUPING = GroupingSpec(metric_min=0.0, metric_max=0.9)


@pytest.fixture
def judge(small_spec: VariantSpec, monkeypatch: pytest.MonkeyPatch) -> OneStepSR:
    """A real model whose estimator reads the brightness of a window: black is degraded, white is clean."""
    spec = replace(small_spec, grouping=GROUPING, metric_estimator=MetricSpec(window=32, features=8, hidden=8))
    model = build_model(spec).eval().requires_grad_(False)
    monkeypatch.setattr(model, "estimate", lambda x_l: x_l.mean((1, 2, 3)))
    return model


def _upscaler(model: OneStepSR) -> Upscaler:
    return Upscaler(model, choose_runtime("cpu", "fp32"), "judge@0")


def _halves() -> Tensor:
    """Left half black, right half white: (3, 64, 128)."""
    return (torch.arange(128) >= 64).float().expand(3, 64, 128)


def test_the_estimator_takes_any_size_and_stays_in_range() -> None:
    estimator = MetricEstimator(MetricSpec(pool=2, features=5, hidden=8), 4, bounded=True)
    for side in (1, 7, 40):
        out = estimator(torch.randn(3, 4, side, side + 1), torch.randn(3, 5))
        assert out.shape == (3,)
        assert out.abs().max() <= 1
        assert torch.isfinite(out).all()
    assert MetricEstimator(MetricSpec(features=0), 4, bounded=False)(torch.randn(2, 4, 8, 8), torch.zeros(2, 0)).max() <= 0


def test_the_statistics_of_half_a_window_by_hand() -> None:
    """Upper half 0, lower half 2: mean 1, energy 2. Two of its four blocks have energy 0, two 4. Correlations by counting."""
    z = torch.zeros(1, 1, 8, 8)
    z[..., 4:, :] = 2
    mean, energy, *amplitudes, lowest, low, middle, high, across_1, across_2, down_1, down_2 = _statistics(z)[0].exp().tolist()
    assert math.log(mean) == pytest.approx(1)
    assert energy == pytest.approx(2**0.5, abs=1e-3)
    assert amplitudes == pytest.approx([1.001, 2.001, 2.001])
    assert (lowest, low, middle, high) == pytest.approx((1e-3, 1e-3, 2**0.5, 2), abs=1e-4)
    shares = [math.log(value) for value in (across_1, across_2, down_1, down_2)]
    assert shares == pytest.approx([7 / 8, 6 / 8, 6 / 8, 4 / 8], abs=1e-3)


def test_a_checkpoint_keeps_its_estimator(small_spec: VariantSpec, tmp_path: Path) -> None:
    model = build_model(replace(small_spec, metric_estimator=MetricSpec(window=32, features=8, hidden=8))).eval()
    save_model(tmp_path / "c", model)
    assert (tmp_path / "c" / "metric_estimator.safetensors").exists()
    loaded = load_model(tmp_path / "c")
    assert loaded.metric_estimator is not None
    save_model(tmp_path / "again", loaded)
    name = "metric_estimator.safetensors"
    assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "c" / name).read_bytes()
    x = torch.rand(2, 3, 32, 32)
    assert loaded.estimate(x).shape == (2,)


def test_a_picture_gets_the_timestep_of_its_degradation(judge: OneStepSR) -> None:
    """M̂_L 0.1, 0.5, 0.8 in three groups of [0, 0.9] → 750, 500, 250."""
    upscaler = _upscaler(judge)
    for brightness, timestep, level in ((0.1, 750, "realism"), (0.5, 500, "neutral"), (0.8, 250, "fidelity")):
        picture = Picture(torch.full((3, 20, 30), brightness))
        done = upscaler.run(picture, UpscaleOptions(Adaptive("image")))
        assert (done.timestep, done.level) == (timestep, level)
        assert done.similarity == pytest.approx(brightness, abs=1e-3)
        assert done.realism is not None
        same = upscaler.run(picture, UpscaleOptions(Level(done.realism)))
        assert torch.equal(done.picture.rgb, same.picture.rgb)


def test_every_tile_gets_its_own_timestep_and_no_border_shows(judge: OneStepSR) -> None:
    upscaler, picture = _upscaler(judge), Picture(_halves())
    options = UpscaleOptions(Adaptive("tile"), tile=48, tile_overlap=16, color_fix="none")
    mixed = upscaler.run(picture, options)
    assert mixed.tiles > 2
    assert 250 < mixed.timestep < 750
    dark, bright = (upscaler.run(picture, replace(options, control=Level(realism))).picture.rgb for realism in (1.0, 0.0))
    torch.testing.assert_close(mixed.picture.rgb[..., :100], dark[..., :100], rtol=0, atol=1e-6)
    torch.testing.assert_close(mixed.picture.rgb[..., -100:], bright[..., -100:], rtol=0, atol=1e-6)
    low, high = torch.minimum(dark, bright) - 1e-4, torch.maximum(dark, bright) + 1e-4
    between = (mixed.picture.rgb >= low) & (mixed.picture.rgb <= high)
    assert between.float().mean() > 0.98  # where tiles overlap, the result lies between both


def test_windows_cover_a_picture_and_tiles_see_their_own(judge: OneStepSR) -> None:
    found = measure(judge, _halves()[None])
    assert found.values.shape == (2, 4)
    assert found.inside(slice(0, 64), slice(0, 64)) == pytest.approx(0, abs=1e-3)
    assert found.inside(slice(0, 64), slice(64, 128)) == pytest.approx(1, abs=1e-3)
    assert found.mean == pytest.approx(0.5, abs=1e-3)
    assert measure(judge, torch.rand(1, 3, 5, 3)).values.shape == (1, 1)
    large = measure(judge, torch.rand(1, 3, 32, 2000))
    assert large.values.shape == (1, 16)
    assert large.lefts[-1] + large.width >= 2000 - 8


def test_true_similarity_is_eq_6_over_the_windows(judge: OneStepSR) -> None:
    picture = torch.rand(1, 3, 64, 64)
    assert measure_true(judge, picture, picture).mean == pytest.approx(1, abs=1e-5)
    assert measure_true(judge, picture, 1 - picture).mean < 0.9


def test_weights_without_an_estimator_or_a_knob_say_so(small_upscaler: Upscaler) -> None:
    with pytest.raises(UsageError, match=r"no degradation estimator; choose a level with -r, or train .*estimator"):
        small_upscaler.run(Picture(torch.rand(3, 8, 8)), UpscaleOptions(Adaptive("image")))
    model = small_upscaler.model
    model.spec = replace(model.spec, grouping=GroupingSpec(n=1, k=500))
    with pytest.raises(UsageError, match="one fixed timestep, 500"):
        small_upscaler.run(Picture(torch.rand(3, 8, 8)), UpscaleOptions(Level(0.2)))
    assert small_upscaler.run(Picture(torch.rand(3, 8, 8)), UpscaleOptions()).timestep == 500


def test_calibration_by_hand() -> None:
    values = [0.1, 0.2, 0.4, 0.5, 0.7, 0.8, 0.85, 0.89]
    assert borders(GROUPING) == pytest.approx([0.3, 0.6])
    assert group_shares(values, GROUPING) == {250: 0.5, 500: 0.25, 750: 0.25}
    low, high = suggested_bounds(values, 3)
    shares = group_shares(values, replace(GROUPING, metric_min=low, metric_max=high))
    assert max(shares.values()) - min(shares.values()) <= 0.26
    found = quality([0.1, 0.5, 0.7], [0.2, 0.4, 0.8], GROUPING)
    assert found["mae"] == pytest.approx(0.1)
    assert found["spearman"] == pytest.approx(1)
    assert found["group_accuracy"] == 1
    assert found["majority_share"] == pytest.approx(1 / 3)
