"""The two networks of variational score distillation: the frozen prior φ and the regulariser φ′ that follows the generator."""

import copy
from typing import Protocol

import torch
from torch import Tensor, nn

from rcodsr.models.lora import LoraStates
from rcodsr.models.one_step import OneStepSR


class Teachers(Protocol):
    """φ and φ′: noisy latents → predicted noise."""

    def prompts(self, x_l: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return the context with and without the condition, (B, N, D) each.

        Args:
            x_l: enlarged low-resolution pictures (B, 3, H, W) in [0, 1].
            tokens: the generator's c_y, detached.
        """
        ...

    def frozen(self, z_t: Tensor, t: Tensor, tokens: Tensor) -> Tensor:
        """φ: (B, C, h, w), (B,), (B, N, D) → eps (B, C, h, w), float32."""
        ...

    def regularizer(self, z_t: Tensor, t: Tensor, tokens: Tensor) -> Tensor:
        """φ′; shapes as in `frozen`."""
        ...

    def trained(self) -> dict[str, nn.Parameter]:
        """Return the trainable parameters of φ′, by name."""
        ...


class SharedTeachers:
    """Both teachers within the generator's own U-Net, distinguished by their LoRA: one base in memory instead of three.

    Args:
        model: with a fresh generator LoRA.
        negative: embedding of the negative text for guidance, (1, N, D).
        positive: embedding of a fixed text that conditions both; None for the generator's visual tokens.
    """

    def __init__(self, model: OneStepSR, negative: Tensor, positive: Tensor | None = None) -> None:
        assert model.spec.lora is not None
        self.states = LoraStates(model.unet, model.spec.lora)
        self.negative = negative
        self.positive = positive

    def prompts(self, x_l: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return the visual tokens or the fixed text, and the negative text; (B, N, D) each."""
        condition = tokens if self.positive is None else self.positive.expand(len(tokens), -1, -1)
        return condition, self.negative.expand(len(tokens), -1, -1)

    def frozen(self, z_t: Tensor, t: Tensor, tokens: Tensor) -> Tensor:
        """Run the base without any LoRA and with its own `conv_in`; shapes as in `Teachers.frozen`."""
        return self._run(LoraStates.FROZEN, z_t, t, tokens)

    def regularizer(self, z_t: Tensor, t: Tensor, tokens: Tensor) -> Tensor:
        """Run the base with the regulariser's LoRA; shapes as in `Teachers.frozen`."""
        return self._run(LoraStates.REGULARIZER, z_t, t, tokens)

    def trained(self) -> dict[str, nn.Parameter]:
        """Return the parameters of the regulariser's LoRA."""
        chosen = {id(parameter) for parameter in self.states.parameters(LoraStates.REGULARIZER)}
        return {name: p for name, p in self.states.unet.named_parameters() if id(p) in chosen}

    def _run(self, state: str, z_t: Tensor, t: Tensor, tokens: Tensor) -> Tensor:
        with self.states.using(state) as unet:
            out: Tensor = unet(z_t.contiguous(memory_format=torch.channels_last), t, tokens)
        return out.float()


class SeparateTeachers:
    """A prior and its trainable copy, for variants trained from scratch, whose own U-Net is not a denoiser.

    Args:
        prior: from a `stage = "prior"` run; predicts noise with its own visual tokens or none (zeros).
    """

    def __init__(self, prior: OneStepSR) -> None:
        self.prompt = prior.prompt
        self.phi = prior.unet
        self.phi_prime = copy.deepcopy(prior.unet).requires_grad_(True)

    def prompts(self, x_l: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return the prior's own visual tokens of the picture, and zeros; (B, N, D) each."""
        with torch.no_grad():
            own: Tensor = self.prompt(x_l)
        return own, torch.zeros_like(own)

    def frozen(self, z_t: Tensor, t: Tensor, tokens: Tensor) -> Tensor:
        """Run the prior; shapes as in `Teachers.frozen`."""
        out: Tensor = self.phi(z_t.contiguous(memory_format=torch.channels_last), t, tokens)
        return out.float()

    def regularizer(self, z_t: Tensor, t: Tensor, tokens: Tensor) -> Tensor:
        """Run the trainable copy; shapes as in `Teachers.frozen`."""
        out: Tensor = self.phi_prime(z_t.contiguous(memory_format=torch.channels_last), t, tokens)
        return out.float()

    def trained(self) -> dict[str, nn.Parameter]:
        """Return the parameters of the copy."""
        return dict(self.phi_prime.named_parameters())
