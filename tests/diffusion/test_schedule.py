import pytest
import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

from rcodsr.diffusion.schedule import NoiseSchedule
from rcodsr.models.one_step import PlainNoise, ResidualNoise

# recipes of the field: α, σ of Stable Diffusion's schedule
TABLE = {250: (0.8208, 0.5711), 500: (0.5257, 0.8507), 750: (0.2370, 0.9715), 999: (0.0683, 0.9977)}


@pytest.mark.parametrize("t", TABLE)
def test_alpha_and_sigma_of_stable_diffusion(t: int) -> None:
    schedule, index = NoiseSchedule(), torch.tensor([t])
    assert schedule.alpha(index).item() == pytest.approx(TABLE[t][0], abs=1e-4)
    assert schedule.sigma(index).item() == pytest.approx(TABLE[t][1], abs=1e-4)


def test_schedule_preserves_variance() -> None:
    schedule, t = NoiseSchedule(), torch.arange(1000)
    torch.testing.assert_close(schedule.alpha(t) ** 2 + schedule.sigma(t) ** 2, torch.ones(1000, 1, 1, 1))


@pytest.mark.parametrize("t", [1, 250, 500, 750, 999])
def test_eq_3_agrees_with_diffusers(t: int) -> None:
    scheduler = DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, prediction_type="epsilon"
    )
    z, eps = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    theirs = scheduler.step(eps, t, z).pred_original_sample
    ours = NoiseSchedule().predict_x0(z, eps, torch.full((2,), t))
    # at t = 999 values reach ±60, so the tolerance is relative
    assert ((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1)).item() < 1e-5


def test_eq_3_undoes_the_forward_process_with_one_timestep_per_sample() -> None:
    schedule = NoiseSchedule()
    z, eps, t = torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8), torch.tensor([250, 500, 750])
    torch.testing.assert_close(schedule.predict_x0(schedule.add_noise(z, eps, t), eps, t), z, atol=1e-5, rtol=1e-5)


def test_eq_3_runs_in_float32_for_half_precision_networks() -> None:
    z = torch.randn(1, 4, 8, 8)
    restored = NoiseSchedule().predict_x0(z, z.bfloat16(), torch.tensor([750]))
    assert restored.dtype == torch.float32


@pytest.mark.parametrize("t", [250, 500, 750])
def test_residual_head_leaves_the_latent_alone_at_zero(t: int) -> None:
    schedule, z, index = NoiseSchedule(), torch.randn(1, 4, 8, 8), torch.tensor([t])
    eps = ResidualNoise(schedule)(torch.zeros_like(z), z, index)
    torch.testing.assert_close(schedule.predict_x0(z, eps, index), z, atol=2e-6, rtol=1e-5)


def test_residual_head_has_the_gain_sigma_over_alpha() -> None:
    schedule, z, index = NoiseSchedule(), torch.randn(1, 4, 8, 8), torch.tensor([750])
    eps = ResidualNoise(schedule)(torch.ones_like(z), z, index)
    torch.testing.assert_close(schedule.predict_x0(z, eps, index), z - 4.0988, atol=1e-3, rtol=1e-4)


def test_plain_head_is_the_output() -> None:
    net = torch.randn(1, 4, 2, 2)
    assert torch.equal(PlainNoise()(net, net, torch.tensor([1])), net)
