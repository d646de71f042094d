"""Exact rewrites of Stable Diffusion's networks for inference: the same function in fewer operations, without training.

Each rewrite replaces some of diffusers' modules by others with the same weights in another order. Rewrites are independent of
the device; `engine.fast` selects those that pay off. LoRA that is not merged (RCOD_S) keeps its layers.
"""

from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from rcodsr.models.norms import FusedNorm
from rcodsr.models.one_step import OneStepSR
from rcodsr.models.stable_diffusion import KlAutoencoder, SdUNet


class Slice(nn.Module):
    """A slice of the last dimension: replaces a linear layer that is computed together with others."""

    def __init__(self, start: int, stop: int) -> None:
        super().__init__()
        self.start, self.stop = start, stop

    def forward(self, x: Tensor) -> Tensor:
        """(…, N) → (…, stop − start)."""
        return x[..., self.start : self.stop]


# ---- nearest-neighbour doubling and a 3×3 convolution are one transposed convolution


class DoublingConv(nn.Module):
    """Nearest-neighbour doubling and the next convolution in one: 4/9 of the multiplications, no enlarged copy.

    Args:
        conv: the transposed convolution, or LoRA over one.
    """

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor, output_size: object = None) -> Tensor:
        """(B, C, h, w) → (B, C', 2h, 2w); the network's input sides are chosen so that doubling is always exact."""
        out: Tensor = self.conv(x)
        return out


def transposed(conv: nn.Conv2d) -> nn.ConvTranspose2d:
    """Convert a 3×3 convolution after nearest-neighbour doubling to ConvTranspose2d(4, stride 2, padding 1).

    Every output position reads two of three neighbouring input positions along each axis, one of them twice: the taps
    (a, b, c) become (c, b + c, a + b, a). Summed in float32, then rounded.
    """
    a, b, c = conv.weight.detach().float().transpose(0, 1).unbind(2)
    rows = torch.stack((c, b + c, a + b, a), 2)
    a, b, c = rows.unbind(3)
    weight = torch.stack((c, b + c, a + b, a), 3).to(conv.weight.dtype)
    with torch.device("meta"):
        out = nn.ConvTranspose2d(conv.in_channels, conv.out_channels, 4, 2, 1, bias=conv.bias is not None)
    out.weight = nn.Parameter(weight, requires_grad=False)
    if conv.bias is not None:
        out.bias = nn.Parameter(conv.bias.detach(), requires_grad=False)
    out._forward_hooks.update(conv._forward_hooks)  # modulated LoRA has a hook on its A
    return out


def merge_doubling(model: OneStepSR) -> int:
    """Replace every nearest-neighbour doubling and its convolution by one transposed convolution. Returns their number."""
    count = 0
    for parent, name, layer in _children(model, Upsample2D):
        conv: Any = layer.conv
        if isinstance(layer.conv, BaseTunerLayer):
            conv.base_layer = transposed(conv.base_layer)
            for adapter, half in conv.lora_A.items():
                conv.lora_A[adapter] = transposed(half)
        elif isinstance(conv, nn.Conv2d):
            conv = transposed(conv)
        setattr_child(parent, name, DoublingConv(conv))
        count += 1
    return count


# ---- group normalisation and SiLU in one


def fuse_norms(model: OneStepSR) -> int:
    """Replace GroupNorm (and a SiLU after it) by `FusedNorm`, which keeps channels_last. Returns the number of norms."""
    count = 0
    for _, _, block in _children(model, ResnetBlock2D):
        _activate_time(block)
        block.norm1, block.norm2 = FusedNorm(block.norm1, silu=True), FusedNorm(block.norm2, silu=True)
        block.nonlinearity = nn.Identity()
        count += 2
    for _, _, network in _children(model, nn.Module):
        if isinstance(getattr(network, "conv_norm_out", None), nn.GroupNorm):
            network.conv_norm_out = FusedNorm(network.conv_norm_out, silu=True)
            network.conv_act = nn.Identity()
            count += 1
    for parent, name, norm in _children(model, nn.GroupNorm):
        if not isinstance(parent, Attention | FusedNorm):  # an attention's norm gets a flattened picture
            setattr_child(parent, name, FusedNorm(norm, silu=False))
            count += 1
    return count


def _activate_time(block: ResnetBlock2D) -> None:
    """Make a block activate the time embedding itself, since its shared activation is about to be removed."""
    if block.time_emb_proj is not None and not block.skip_time_act:
        block.time_emb_proj = nn.Sequential(nn.SiLU(), block.time_emb_proj)  # type: ignore[assignment]
        block.skip_time_act = True


# ---- the timestep: one table, one matrix


class TimeTable(nn.Module):
    """Timesteps → activated time embeddings, precomputed for all timesteps: (B,) → (B, E)."""

    table: Tensor

    def __init__(self, unet: SdUNet) -> None:
        super().__init__()
        device = next(unet.parameters()).device
        steps = torch.arange(1000, device=device)
        with torch.no_grad():
            embedded = unet.time_embedding(unet.time_proj(steps).to(unet.dtype))
        self.register_buffer("table", F.silu(embedded), persistent=False)

    def forward(self, t: Tensor) -> Tensor:
        """Look up the embeddings: (B,), int64 → (B, E)."""
        return self.table[t]


class AllTimeProjections(nn.Module):
    """The time projections of all residual blocks as one matrix: (B, E) → (B, sum of widths)."""

    def __init__(self, layers: list[nn.Linear]) -> None:
        super().__init__()
        self.together = _stacked(layers)

    def forward(self, embedding: Tensor, condition: Tensor | None = None) -> Tensor:
        """Signature of diffusers' TimestepEmbedding: (B, E) → (B, sum of widths); `condition` is ignored."""
        out: Tensor = self.together(embedding)
        return out


def tabulate_time(model: OneStepSR) -> int:
    """Replace the time embedding by a table, and the blocks' projections by one product. Returns the number of blocks."""
    unet = model.unet
    if not isinstance(unet, SdUNet) or isinstance(unet.time_proj, TimeTable):
        return 0
    blocks = [block for _, _, block in _children(unet, ResnetBlock2D)]
    layers = [_linear(block.time_emb_proj) for block in blocks]
    table = TimeTable(unet)
    unet.time_embedding = AllTimeProjections(layers)
    unet.time_proj = table
    for block, part in zip(blocks, _slices(layers), strict=True):
        block.time_emb_proj, block.skip_time_act = part, True
    return len(blocks)


def _linear(layer: nn.Module) -> nn.Linear:
    inner = layer[-1] if isinstance(layer, nn.Sequential) else layer
    assert isinstance(inner, nn.Linear)
    return inner


# ---- keys and values of all cross-attentions: one matrix, once per picture


class ContextProjection(nn.Module):
    """Tokens → concatenated keys and values of all cross-attentions.

    Args:
        layers: the base layers of every `to_k` and `to_v`.
        carry: whether LoRA layers still need the tokens themselves, which then come first.
    """

    def __init__(self, layers: list[nn.Linear], carry: bool) -> None:
        super().__init__()
        self.together, self.carry = _stacked(layers), carry

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, D) → (B, N, sum of widths); inputs that are already projected are returned unchanged."""
        if tokens.shape[-1] != self.together.in_features:
            return tokens
        projected: Tensor = self.together(tokens.to(self.together.weight.dtype))
        return torch.cat((tokens.to(projected.dtype), projected), -1) if self.carry else projected


def project_context_once(model: OneStepSR) -> int:
    """Turn `to_k` and `to_v` of every cross-attention into slices of one product, computed once per picture, not per tile."""
    unet = model.unet
    if not isinstance(unet, SdUNet) or isinstance(unet.context_projection, ContextProjection):
        return 0
    attentions = [block for _, _, block in _children(unet, Attention) if block.is_cross_attention]
    layers = [layer for block in attentions for layer in (block.to_k, block.to_v)]
    wrapped = [isinstance(layer, BaseTunerLayer) for layer in layers]
    bases: list[Any] = [layer.get_base_layer() if isinstance(layer, BaseTunerLayer) else layer for layer in layers]
    projection = ContextProjection(bases, carry=any(wrapped))
    slices = iter(_slices(bases, bases[0].in_features if projection.carry else 0))
    for block in attentions:
        for name in ("to_k", "to_v"):
            layer = getattr(block, name)
            if isinstance(layer, BaseTunerLayer):
                _slice_under_lora(layer, next(slices), bases[0].in_features)
            else:
                setattr(block, name, next(slices))
    model.context = unet.context_projection = projection
    return len(layers)


def _slice_under_lora(layer: BaseTunerLayer, part: Slice, width: int) -> None:
    wrapped = cast(Any, layer)
    wrapped.base_layer = part
    for half in wrapped.lora_A.values():
        half.register_forward_pre_hook(lambda module, args: (args[0][..., :width],))


# ---- the autoencoder's attention


class SingleHeadAttention:
    """Attention in the middle of the autoencoder: FusedNorm, and one product for q, k and v if they have no LoRA."""

    def __init__(self, attention: Any) -> None:
        attention.group_norm = FusedNorm(attention.group_norm, silu=False)
        layers = [attention.to_q, attention.to_k, attention.to_v]
        plain = all(type(layer) is nn.Linear for layer in layers)
        self.fused = _stacked(layers) if plain else None
        if self.fused is not None:  # part of the module, so that it moves and casts with it
            attention.add_module("to_qkv", self.fused)
            for name in ("to_q", "to_k", "to_v"):
                setattr(attention, name, None)

    def __call__(
        self, attention: Any, x: Tensor, encoder_hidden_states: None = None, attention_mask: None = None, temb: None = None
    ) -> Tensor:
        """(B, C, h, w) → the same, residual included; diffusers requires these argument names of its processors."""
        flat = attention.group_norm(x).flatten(2).transpose(1, 2)
        if self.fused is not None:
            q, k, v = (part[:, None] for part in self.fused(flat).chunk(3, -1))
        else:
            q, k, v = (layer(flat)[:, None] for layer in (attention.to_q, attention.to_k, attention.to_v))
        mixed = F.scaled_dot_product_attention(q, k, v)[:, 0]
        return attention.to_out[0](mixed).transpose(1, 2).unflatten(2, x.shape[2:]) + x


def fuse_autoencoder_attention(model: OneStepSR) -> int:
    """Replace the attention in encoder and decoder: no reshaping, and q, k, v as one product. Returns their number."""
    if not isinstance(model.autoencoder, KlAutoencoder):
        return 0
    count = 0
    for _, _, attention in _children(model.autoencoder, Attention):
        simple = attention.heads == 1 and attention.residual_connection and attention.rescale_output_factor == 1
        if simple and attention.group_norm is not None:
            attention.set_processor(SingleHeadAttention(attention))
            count += 1
    return count


REWRITES: dict[str, Callable[[OneStepSR], int]] = {
    "upsample": merge_doubling,
    "norm": fuse_norms,
    "time": tabulate_time,
    "context": project_context_once,
    "vae-attention": fuse_autoencoder_attention,
}
"""Rewrites by name, in the order in which they are applied; each returns how many modules it changed."""


def _children(module: nn.Module, kind: type) -> Iterator[tuple[nn.Module, str, Any]]:
    """Parent, name and module of all modules of a type, listed before any of them is changed."""
    found = [(parent, name, child) for parent in module.modules() for name, child in parent.named_children()]
    return iter([(parent, name, child) for parent, name, child in found if isinstance(child, kind)])


def setattr_child(parent: nn.Module, name: str, child: nn.Module) -> None:
    """Replace a child module, also within a list."""
    parent._modules[name] = child


def _stacked(layers: list[nn.Linear]) -> nn.Linear:
    """Linear layers with the same input as one layer, outputs concatenated."""
    weight = torch.cat([layer.weight.detach() for layer in layers])
    with torch.device("meta"):
        out = nn.Linear(weight.shape[1], weight.shape[0], bias=layers[0].bias is not None)
    out.weight = nn.Parameter(weight, requires_grad=False)
    if layers[0].bias is not None:
        out.bias = nn.Parameter(torch.cat([layer.bias.detach() for layer in layers]), requires_grad=False)
    return out


def _slices(layers: list[nn.Linear], start: int = 0) -> list[Slice]:
    """Slice of each layer's output in the product of all of them."""
    slices = []
    for layer in layers:
        slices.append(Slice(start, start + layer.out_features))
        start += layer.out_features
    return slices
