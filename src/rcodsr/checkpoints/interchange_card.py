"""README of a directory for peft or diffusers, with code that loads it without rcodsr. The tests run this code."""

from collections.abc import Sequence

from rcodsr.checkpoints.card import model_card
from rcodsr.checkpoints.config import CheckpointConfig
from rcodsr.parts import ClipSpec
from rcodsr.variants import VariantSpec

_STEPS = {
    "plain": "(z - (1 - a) ** 0.5 * net) / a**0.5",
    "residual": "z - ((1 - a) / a) ** 0.5 * net",
    "difference": "z - net",
    "clean": "net",
}
"""Eq. (3) by noise head; `a` is the square of α_t."""


def readme(config: CheckpointConfig, format: str, networks: Sequence[str], conv_in: bool) -> str:
    """The README, with metadata for the Hub.

    Args:
        config: configuration of the checkpoint.
        format: peft, diffusers or merged-diffusers.
        networks: networks with a LoRA.
        conv_in: whether the U-Net's first convolution is in a file of its own.
    """
    head = model_card(config.spec, config.training, config.layout).split("\n---\n")[0]
    head = head.replace("library_name: rcodsr", f"library_name: {'peft' if format == 'peft' else 'diffusers'}")
    lines = _merged(config.spec) if format == "merged-diffusers" else _adapter(format, networks, conv_in)
    return f"""{head}
---

# {config.spec.name}, for {"peft" if format == "peft" else "diffusers"}

Written by `rcodsr weights export --format {format}`. `rcodsr weights convert DIRECTORY -o OTHER` converts it back to a
checkpoint of rcodsr, tensor for tensor.

```python
{lines}
```

{_after(config.spec, format)}
"""


def _adapter(format: str, networks: Sequence[str], conv_in: bool) -> str:
    """Code for an adapter. `base` and `here` are directories or repositories."""
    classes = {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL"}
    used = sorted({network.partition("_")[0] for network in networks})
    lines = [f"from diffusers import {', '.join(sorted(classes[name] for name in used))}"]
    lines += ["from peft import PeftModel"] if format == "peft" else []
    lines += ["from safetensors.torch import load_file"] if conv_in else []
    lines += ["", *(f'{name} = {classes[name]}.from_pretrained(base, subfolder="{name}")' for name in used)]
    if conv_in:
        lines.append('unet.conv_in.load_state_dict(load_file(f"{here}/conv_in.safetensors"))  # before the LoRA is added')
    loaded = set()
    for network in networks:
        name, _, half = network.partition("_")
        if format == "diffusers":
            weights = 'weight_name="pytorch_lora_weights.safetensors"'
            adapter = f', adapter_name="{half}"' if half else ""
            lines.append(f'{name}.load_lora_adapter(here, prefix="{network}", {weights}{adapter})')
        elif name in loaded:
            lines.append(f'{name}.load_adapter(f"{{here}}/{network}", "{half}")')
        else:
            adapter = f', "{half}"' if half else ""
            lines.append(f'{name} = PeftModel.from_pretrained({name}, f"{{here}}/{network}"{adapter})')
        loaded.add(name)
    if halves := [network.partition("_")[2] for network in networks if "_" in network]:
        both = f"unet.set_adapters({halves})" if format == "diffusers" else f"unet.base_model.set_adapter({halves})"
        lines.append(f"{both}  # both with full weight".replace("'", '"'))
    return "\n".join(lines)


def _merged(spec: VariantSpec) -> str:
    """Code for merged weights. `here` is the directory and `t` the timestep.

    `x` is an enlarged picture (1, 3, H, W) in [0, 1] with sides that are multiples of 64.
    """
    told, coefficient = ("t" if fixed is None else str(fixed) for fixed in (spec.embedded_timestep, spec.coefficient_timestep))
    return f"""from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from safetensors.torch import load_file

unet = UNet2DConditionModel.from_pretrained(here, subfolder="unet")
vae = AutoencoderKL.from_pretrained(here, subfolder="vae")
a = DDPMScheduler.from_pretrained(here, subfolder="scheduler").alphas_cumprod[{coefficient}]
{_tokens(spec)}
z = vae.encode(2 * x - 1).latent_dist.mode() * vae.config.scaling_factor
net = unet(z, {told}, tokens).sample
y = vae.decode(({_STEPS[spec.noise_head]}) / vae.config.scaling_factor).sample / 2 + 0.5"""


def _tokens(spec: VariantSpec) -> str:
    if not isinstance(spec.prompt, ClipSpec):
        return 'tokens = load_file(f"{here}/prompt.safetensors")["embedding"].float()'
    side = spec.prompt.image_side
    return f"""
import torch
import torch.nn.functional as F
from transformers import CLIPVisionModel

tower = CLIPVisionModel.from_pretrained(here, subfolder="image_encoder", dtype=torch.float32)
tower = getattr(tower, "vision_model", tower)  # depends on the version of transformers
mean, std = torch.tensor([[0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]]).view(2, 3, 1, 1)
small = F.interpolate(x, ({side}, {side}), mode="bicubic", antialias=True).clamp(0, 1)
seen = tower.post_layernorm(tower(pixel_values=(small - mean) / std).last_hidden_state)
vpim = load_file(f"{{here}}/vpim.safetensors")
tokens = F.linear(seen, vpim["weight"].float(), vpim["bias"].float())
"""


def _after(spec: VariantSpec, format: str) -> str:
    if format != "merged-diffusers":
        return """`base` is the base's directory or repository, `here` this directory. Files beside the LoRA hold what the
format cannot store: `conv_in.safetensors`, the U-Net's first convolution, if it was trained in full; `vpim.safetensors`, the
layer between CLIP's tokens and the U-Net. The README of `--format merged-diffusers` shows the whole step."""
    first, last = spec.grouping.timesteps[0], spec.grouping.timesteps[-1]
    step = f"{first} (evidence) to {last} (realism)" if spec.fixed_timestep is None else f"{first}"
    size = f"shape (1, 3, H, W) in [0, 1], sides multiples of {spec.multiple} and at least {spec.least_side}"
    fix = f"before the colour fix that rcodsr applies ({spec.color_fix})"
    return f"""`here` is this directory. `x` is the picture enlarged {spec.scale} times (bicubic), {size}.
`t` is the timestep, {step}. `y` is the result, nominally in [0, 1], {fix}."""
