"""The noise schedule: forward process (Eq. 1) and the one-step estimate of the clean latent (Eq. 3)."""

import torch
from torch import Tensor


class NoiseSchedule:
    """Discrete variance-preserving schedule of Stable Diffusion (paper Eq. 1).

    z_t = α_t z_0 + σ_t ε,  α_t = Π_{s≤t} √(1 − β_s),  σ_t = √(1 − α_t²), with "scaled-linear" β from 0.00085 to 0.012.
    α_t is the square root of diffusers' `alphas_cumprod`. There is no scheduler object: a single step needs three lines, in
    float32, with one timestep per sample.

    Args:
        steps: number of timesteps.
        beta_start: first β.
        beta_end: last β.
    """

    def __init__(self, steps: int = 1000, beta_start: float = 0.00085, beta_end: float = 0.012) -> None:
        betas = torch.linspace(beta_start**0.5, beta_end**0.5, steps, dtype=torch.float64, device="cpu") ** 2
        alpha_squared = torch.cumprod(1.0 - betas, 0)
        tables = alpha_squared.sqrt().float(), (1.0 - alpha_squared).sqrt().float()
        self._tables = {tables[0].device: tables}

    def alpha(self, t: Tensor) -> Tensor:
        """Return α_t of each sample.

        Args:
            t: timesteps, shape (B,), int64 in [0, 999].

        Returns:
            Shape (B, 1, 1, 1), float32.
        """
        return self._on(t.device)[0][t].view(-1, 1, 1, 1)

    def sigma(self, t: Tensor) -> Tensor:
        """Return σ_t of each sample; shapes as in `alpha`."""
        return self._on(t.device)[1][t].view(-1, 1, 1, 1)

    def _on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Both tables, copied to each device once, since a copy at every step would make a GPU wait."""
        if device not in self._tables:
            alpha, sigma = next(iter(self._tables.values()))
            self._tables[device] = alpha.to(device), sigma.to(device)
        return self._tables[device]

    def add_noise(self, z: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """Forward process, Eq. (1): α_t z + σ_t ε.

        Args:
            z: clean latents, shape (B, C, h, w).
            eps: standard normal noise, same shape.
            t: timesteps, shape (B,), int64.

        Returns:
            Noisy latents, same shape, float32.
        """
        return self.alpha(t) * z.float() + self.sigma(t) * eps.float()

    def predict_x0(self, z: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """One-step estimate of the clean latent, Eq. (3): (z − σ_t ε) / α_t.

        The paper writes β_T for σ_T of the forward process. 1/α_t reaches 4.2 at t = 750, so this runs in float32 regardless of
        the network's dtype.

        Args:
            z: latents, shape (B, C, h, w).
            eps: predicted noise, same shape.
            t: timesteps, shape (B,), int64.

        Returns:
            Clean latents, same shape, float32.
        """
        return (z.float() - self.sigma(t) * eps.float()) / self.alpha(t)
