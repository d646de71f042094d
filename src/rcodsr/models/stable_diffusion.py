"""Networks reused by the paper's variants: Stable Diffusion's U-Net and autoencoder (diffusers) and CLIP (transformers).

Parameter names are those of the published files. Importing this module takes seconds; `models.build` does so only when needed.
"""

from functools import cache

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel

from rcodsr.models.layout import like_weights
from rcodsr.models.pixels import signed, unsigned
from rcodsr.parts import ClipSpec, KlSpec, SdUNetSpec

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class SdUNet(UNet2DConditionModel):
    """Stable Diffusion's U-Net with the call signature of `OneStepSR`: (z, t, tokens) → output."""

    def forward(self, z: Tensor, t: Tensor, tokens: Tensor) -> Tensor:
        """Run the network.

        Args:
            z: latents, shape (B, C, h, w), in the network's dtype.
            t: timesteps, shape (B,), int64.
            tokens: context of the cross-attention, shape (B, N, D).

        Returns:
            Predicted noise, same shape as `z`.
        """
        out: Tensor = super().forward(z, t, self.context_projection(tokens), return_dict=False)[0]
        return out


def sd_unet(spec: SdUNetSpec, latent_channels: int, context: int) -> SdUNet:
    """Build the U-Net of a spec; the defaults are those of SD 2.1-base and SD-Turbo, with 865,910,724 parameters."""
    levels = len(spec.channels)
    unet = SdUNet(
        in_channels=latent_channels,
        out_channels=latent_channels,
        down_block_types=("CrossAttnDownBlock2D",) * (levels - 1) + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * (levels - 1),
        block_out_channels=spec.channels,
        layers_per_block=spec.blocks,
        attention_head_dim=spec.heads,  # diffusers' old name; for SD 2 it holds the number of heads
        cross_attention_dim=context,
        norm_num_groups=spec.norm_groups,
        use_linear_projection=True,
    )
    unet.context_projection = nn.Identity()  # placeholder for `rewrites.ContextProjection`
    return unet


def kl_autoencoder(spec: KlSpec) -> AutoencoderKL:
    """Build diffusers' autoencoder of a spec."""
    levels = len(spec.widths)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=spec.widths,
        layers_per_block=spec.blocks,
        latent_channels=spec.channels,
        norm_num_groups=spec.norm_groups,
        scaling_factor=spec.scaling,
    )


class KlAutoencoder(nn.Module):
    """Stable Diffusion's autoencoder in posterior mode: returns the mean of the posterior, never a sample.

    Args:
        spec: widths and the scaling factor of the latents.
    """

    keeps_float32 = False

    def __init__(self, spec: KlSpec) -> None:
        super().__init__()
        vae = kl_autoencoder(spec)
        self.scaling = spec.scaling
        assert vae.quant_conv is not None and vae.post_quant_conv is not None
        self.encoder, self.quant_conv = vae.encoder, vae.quant_conv
        self.decoder, self.post_quant_conv = vae.decoder, vae.post_quant_conv

    def encode(self, x: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [0, 1] → latents (B, 4, H/8, W/8) of about unit variance, float32."""
        mean = self.quant_conv(self.encoder(self._cast(signed(x)))).chunk(2, 1)[0]
        return mean.float() * self.scaling

    def decode(self, z: Tensor) -> Tensor:
        """Latents → pictures (B, 3, H, W), float32, nominally in [0, 1] but not clamped."""
        out: Tensor = self.decoder(self.post_quant_conv(self._cast(z / self.scaling)))
        return unsigned(out.float())

    def _cast(self, x: Tensor) -> Tensor:
        dtype = next(self.post_quant_conv.parameters()).dtype
        return like_weights(x.to(dtype), self.decoder)


def _clip_statistics(device: torch.device) -> tuple[Tensor, Tensor]:
    mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
    return mean, std


_kept_clip_statistics = cache(_clip_statistics)
"""Cached on a GPU: a copy from the host would synchronise, and cannot be captured in a CUDA graph."""


class ClipVisionTower(nn.Module):
    """CLIP's vision tower: (B, 3, s, s) in [0, 1] → all tokens (B, 1 + N, width), the class token first.

    The frozen final LayerNorm is applied to every token; transformers applies it only to the class token, and a few channels
    of the raw states are huge.
    """

    resample = "bicubic"
    keeps_float32 = False

    def __init__(self, spec: ClipSpec) -> None:
        super().__init__()
        model = CLIPVisionModel(
            CLIPVisionConfig(
                hidden_size=spec.width,
                intermediate_size=4 * spec.width,
                num_hidden_layers=spec.layers,
                num_attention_heads=spec.heads,
                image_size=spec.image_side,
                patch_size=spec.patch,
            )
        )
        self.vision = getattr(model, "vision_model", model)  # its place differs between versions of transformers
        positions = 1 + (spec.image_side // spec.patch) ** 2
        # not in the state dict, so it must be set for a model built on the meta device
        self.vision.embeddings.position_ids = torch.arange(positions, device="cpu").expand(1, -1)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens of pictures already resized to the tower's side: (B, 3, s, s) in [0, 1] → (B, 1 + N, width)."""
        mean, std = (_clip_statistics if x.device.type == "cpu" else _kept_clip_statistics)(x.device)
        pixels = ((x - mean) / std).to(self.vision.post_layernorm.weight.dtype)
        states = self.vision(pixel_values=pixels).last_hidden_state
        out: Tensor = self.vision.post_layernorm(states)
        return out
