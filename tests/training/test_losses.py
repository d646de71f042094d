import pytest
import torch

from rcodsr.training.losses import (
    charbonnier,
    clamped_mse,
    discriminator_hinge,
    distillation,
    faint_distance,
    generator_hinge,
    low_frequency,
    mesh,
    overshoot,
    realism_weight,
    wavelet_distance,
)


def test_losses_by_hand() -> None:
    """Pixels in [0, 1], differences as in [-1, 1]: twice as large."""
    a, b = torch.zeros(2, 3, 8, 8), torch.zeros(2, 3, 8, 8)
    b[1] = 0.25
    assert charbonnier(a, b).tolist() == pytest.approx([1e-3, (0.25 + 1e-6) ** 0.5])
    assert clamped_mse(3 * torch.ones(1, 3, 8, 8), torch.full((1, 3, 8, 8), 0.5)).item() == 1  # clamped
    checker = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).repeat(4, 4).expand(1, 3, 8, 8)
    assert low_frequency(checker, torch.full((1, 3, 8, 8), 0.5)).item() == 0
    assert low_frequency(checker, torch.full((1, 3, 8, 8), 0.75)).item() == 0.5
    assert realism_weight(torch.tensor([250, 500, 750, 999]), 250, 750).tolist() == [0, 0.5, 1, 1]
    real, fake = torch.tensor([2.0, 0.5]).view(2, 1, 1, 1), torch.tensor([-2.0, 0.0]).view(2, 1, 1, 1)
    assert discriminator_hinge(real, fake).tolist() == pytest.approx([0.0, 0.5 + 1.0])
    assert generator_hinge(fake).tolist() == [2, 0]


def test_mesh_loss_sees_repetition_and_little_else() -> None:
    truth = torch.zeros(1, 3, 64, 64)
    pattern = torch.zeros(4, 4)
    pattern[0, 0] = 0.08  # one pixel of sixteen, everywhere
    assert mesh(pattern.repeat(16, 16).expand(1, 3, 64, 64), truth).item() == pytest.approx(0.01)
    noise = 0.005 * torch.randn(1, 3, 64, 64).sign()  # the same mean amplitude, but no repetition
    assert mesh(noise, truth).item() < 0.0015


def test_overshoot_sees_halos_and_no_texture() -> None:
    edge = torch.zeros(1, 3, 32, 32)
    edge[..., 16:] = 0.25
    halo = edge.clone()
    halo[..., 16] += 0.16  # one column of 32, on the bright side
    assert overshoot(halo, edge).item() == pytest.approx(0.01)
    assert overshoot(edge.roll(1, 3)[..., 2:], edge[..., 2:]).item() == 0  # an edge that is merely displaced
    texture = 0.5 * torch.rand(1, 3, 32, 32)
    assert overshoot(texture.roll(1, 3), texture).mean().item() < 0.01


def test_faint_distance_sees_grain_and_is_blind_to_what_is_strong() -> None:
    grain, strong = torch.randn(2, 3, 64, 64) / 255, torch.randn(1, 3, 64, 64) / 8
    assert faint_distance(grain, grain).tolist() == [0, 0]
    half, twice = (faint_distance(share * grain, grain).mean() for share in (0.5, 2))
    torch.testing.assert_close(half, twice, rtol=0.35, atol=0)  # both near log 2, less for very weak texture
    assert 0.3 < half < 0.7
    assert faint_distance(strong, 3 * strong).item() == 0
    moved = faint_distance(grain.roll(5, 3), grain).mean()
    assert moved < half / 3


def test_wavelet_distance_forgives_phase_but_not_strength() -> None:
    texture = 0.15 * torch.randn(1, 3, 64, 64)
    assert wavelet_distance(texture, texture).item() == 0
    moved, weaker = wavelet_distance(texture.roll(5, 3), texture), wavelet_distance(0.3 * texture, texture)
    assert moved < 0.6 * weaker
    flat = torch.zeros(1, 3, 64, 64, requires_grad=True)
    wavelet_distance(flat, texture).sum().backward()
    assert flat.grad is not None
    assert torch.isfinite(flat.grad).all()


def test_distillation_has_osediffs_gradient() -> None:
    """dL/dẑ = 2 (x0′ − x0*) / (w · numel), w the mean distance of each sample from x0*."""
    z = torch.randn(3, 4, 8, 8, requires_grad=True)
    x0_regularizer, x0_frozen = torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8)
    distillation(z, x0_regularizer, x0_frozen).mean().backward()
    w = (z.detach() - x0_frozen).abs().mean((1, 2, 3), keepdim=True)
    assert z.grad is not None
    torch.testing.assert_close(z.grad, 2 * (x0_regularizer - x0_frozen) / (w * z.numel()), rtol=1e-4, atol=1e-7)


def test_distillation_pulls_towards_the_frozen_prior_and_survives_agreement() -> None:
    z = torch.zeros(1, 4, 8, 8, requires_grad=True)
    target = torch.ones(1, 4, 8, 8)
    distillation(z, z.detach().clone(), target).mean().backward()
    assert z.grad is not None
    assert (z.grad < 0).all()  # descent moves z up, to the target
    same = torch.zeros(1, 4, 8, 8, requires_grad=True)
    distillation(same, same.detach(), same.detach()).mean().backward()
    assert same.grad is not None
    assert torch.isfinite(same.grad).all()
