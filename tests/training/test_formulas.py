"""Constants and formulas that no other test covers: texts, AdamW, inputs of LPIPS and CLIP, the estimator's loss."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from rcodsr.data.dataset import Batch
from rcodsr.models.build import build_metric_estimator, build_model
from rcodsr.models.one_step import OneStepSR
from rcodsr.parts import MetricSpec, TextSpec
from rcodsr.training.data_loss import DataLoss
from rcodsr.training.draws import Draws
from rcodsr.training.metric_trainer import MetricTrainer, windows
from rcodsr.training.objectives import Generated
from rcodsr.training.optimizer import Optimizer
from rcodsr.training.processes import Processes
from rcodsr.training.recipe import NEGATIVE, OptimSettings, Phase, Recipe
from rcodsr.training.run import Run
from rcodsr.variants import S3DIFF, VariantSpec


def test_texts_are_the_published_ones() -> None:
    """OSEDiff's negative text, S3Diff's positive and negative one: their length and sha256."""
    assert isinstance(S3DIFF.prompt, TextSpec)
    published = {NEGATIVE: (232, "ea001469"), S3DIFF.prompt.text: (100, "0a636db9"), S3DIFF.prompt.negative: (95, "aaff042f")}
    for text, (length, digest) in published.items():
        assert text is not None
        assert (len(text), hashlib.sha256(text.encode()).hexdigest()[:8]) == (length, digest)


def test_adamw_by_hand() -> None:
    """Three steps with a gradient that is clipped to norm 0.5, in numpy, with moments and decay of the recipe's kind."""
    start, gradient = np.array([1.0, -2.0]), np.array([3.0, 4.0])
    parameter = nn.Parameter(torch.tensor(start))
    optimizer = Optimizer({"p": parameter}, (0.6, 0.8), 0.1, 0.5, Processes("cpu"))
    p, m, v = start, np.zeros(2), np.zeros(2)
    for step, scale in enumerate((1.0, -0.5, 2.0), start=1):
        parameter.grad = torch.tensor(scale * gradient)
        assert optimizer.gather().item() == pytest.approx(5 * abs(scale))
        optimizer.step(0.01)
        g = 0.5 * np.sign(scale) * gradient / 5
        m, v = 0.6 * m + 0.4 * g, 0.8 * v + 0.2 * g**2
        p = p * (1 - 0.01 * 0.1) - 0.01 * (m / (1 - 0.6**step)) / (np.sqrt(v / (1 - 0.8**step)) + 1e-8)
        np.testing.assert_allclose(parameter.detach().numpy(), p, rtol=1e-6)


def test_the_trainer_takes_the_recipes_rates(sd_recipe: Recipe) -> None:
    optim = OptimSettings(betas=(0.8, 0.95), weight_decay=0.03, clip=2.0)
    optimizer = Run(replace(sd_recipe, optim=optim), lambda _: None).trainer.optimizer
    (group,) = optimizer.inner.param_groups
    assert (group["betas"], group["weight_decay"], optimizer.clip) == ((0.8, 0.95), 0.03, 2.0)


@pytest.mark.parametrize(("pixel", "seen"), [("mse", [0.0, 1.0]), ("charbonnier", [-0.5, 1.5])])
def test_lpips_judges_clamped_pictures_where_the_bases_do(
    recipe: Recipe, small_model: OneStepSR, pixel: str, seen: list[float]
) -> None:
    shown: list[Tensor] = []

    def distance(picture: Tensor, target: Tensor) -> Tensor:
        shown.append(picture)
        return (picture - target).square().mean((1, 2, 3))

    picture = torch.tensor([-0.5, 1.5, -0.5, 1.5]).view(1, 1, 1, 4).expand(1, 3, 4, 4)
    zeros, one = torch.zeros(1, 3, 4, 4), torch.ones(1)
    tokens = torch.zeros(1, 1, 1)
    made = Generated(zeros, picture, zeros, zeros, zeros, torch.tensor([250]), tokens, one, one, Draws(0, (0,)))
    phase = Phase("p", 1, 1, 64, (1e-3, 1e-3), pixel=pixel, perceptual=2.0)  # type: ignore[arg-type]
    DataLoss(recipe, small_model, distance)(made, phase)
    assert shown[0][0, 0, 0, :2].tolist() == seen


def test_clip_sees_a_squashed_picture_with_its_own_statistics(small_sd_spec: VariantSpec, photo: Image.Image) -> None:
    """Bicubic and antialiased as in Pillow; mean and deviation of OpenAI's preprocessing."""
    picture = photo.crop((100, 0, 412, 200))
    prompt = build_model(small_sd_spec).prompt
    seen: list[Tensor] = []
    vision = prompt.get_submodule("tower.vision")
    vision.register_forward_pre_hook(lambda m, inputs, named: seen.append(named["pixel_values"]), with_kwargs=True)
    pixels = np.asarray(picture, np.float32) / 255
    with torch.no_grad():
        prompt(torch.from_numpy(pixels).permute(2, 0, 1)[None])
    mean, deviation = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    for channel, (m, d) in enumerate(zip(mean, deviation, strict=True)):
        squashed = np.asarray(Image.fromarray(pixels[..., channel]).resize((28, 28), Image.Resampling.BICUBIC))
        np.testing.assert_allclose(seen[0][0, channel].numpy(), (squashed.clip(0, 1) - m) / d, atol=2e-3)


def test_visual_tokens_start_at_the_empty_texts_mean(sd_recipe: Recipe, base_directory: Path) -> None:
    """VPIM's bias: the embedding that the base's U-Net knows as no text."""
    from rcodsr.checkpoints.resolve import resolve_base
    from rcodsr.checkpoints.text_encoder import text_embedding
    from rcodsr.training.setup import _start_prompt

    recipe = replace(sd_recipe, base_model=str(base_directory))
    model = build_model(recipe.variant)
    _start_prompt(model, recipe)
    empty = text_embedding(resolve_base("sd21-base-text", str(base_directory)), "")
    linear = model.prompt.get_submodule("linear")
    torch.testing.assert_close(linear.get_parameter("bias"), empty[0].mean(0))
    assert linear.get_parameter("bias").abs().min() > 0
    assert linear.get_parameter("weight").std().item() == pytest.approx(0.02, rel=0.2)


@pytest.fixture
def judged(small_model: OneStepSR) -> OneStepSR:
    """A model whose metric estimator judges windows of 64 pixels."""
    small_model.spec = replace(small_model.spec, metric_estimator=MetricSpec(window=64, features=8))
    torch.manual_seed(0)
    small_model.metric_estimator = build_metric_estimator(small_model.spec)
    return small_model


def _batch(side: int) -> Batch:
    generator = torch.Generator().manual_seed(4)
    hr = torch.rand(6, 3, side, side, generator=generator)
    return Batch(hr=hr, lr=nn.functional.avg_pool2d(hr, 4) * torch.rand(6, 1, 1, 1, generator=generator))


def test_the_middle_of_a_crop_is_judged(judged: OneStepSR) -> None:
    batch = _batch(96)
    x_l, x_h = windows(judged, batch)
    assert torch.equal(x_h, batch.hr[..., 16:80, 16:80])
    assert x_l.shape == x_h.shape


def test_the_estimators_loss_by_hand(judged: OneStepSR, recipe: Recipe) -> None:
    """Smooth L1 that turns linear at 0.1: e²/0.2 below, |e| − 0.05 above."""
    assert judged.metric_estimator is not None
    judged.metric_estimator.requires_grad_(True)
    batch = _batch(64)
    x_l, x_h = windows(judged, batch)
    with torch.no_grad():
        error = (judged.estimate(x_l) - judged.similarity(x_l, x_h)).abs().numpy()
    trainer = MetricTrainer(recipe, judged, Processes("cpu"))
    facts = trainer.train_step([batch], recipe.phases[0], 0.0, 0)
    expected = np.where(error < 0.1, error**2 / 0.2, error - 0.05)
    assert facts["loss"] == pytest.approx(expected.mean(), rel=1e-4)
    assert facts["mae"] == pytest.approx(error.mean(), rel=1e-4)
