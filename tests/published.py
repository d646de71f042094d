"""Checkpoints in the layouts that OSEDiff, S3Diff and PiSA-SR publish: their keys and lists, our shapes, random values.

Written as their training scripts write them: `torch.save` of plain lists, numbers and tables of tensors.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rcodsr.models.build import build_model
from rcodsr.models.degradation_estimator import DegradationEstimator
from rcodsr.models.lora import add_lora, modules_of
from rcodsr.models.one_step import OneStepSR
from rcodsr.variants import VariantSpec

S3DIFF_TARGETS = [
    *("to_k", "to_q", "to_v", "to_out.0", "conv", "conv1", "conv2", "conv_shortcut", "conv_out", "proj_in", "proj_out"),
    *("ff.net.2", "ff.net.0.proj"),
]


def osediff(spec: VariantSpec) -> dict[str, Any]:
    modules, model = _prepared(spec)
    unet, vae = modules["unet"], modules["vae"]["default_encoder"]
    return {
        "vae_lora_encoder_modules": [*vae, vae[0]],  # the published list names some modules twice
        "unet_lora_encoder_modules": unet["default_encoder"],
        "unet_lora_decoder_modules": unet["default_decoder"],
        "unet_lora_others_modules": unet["default_others"],
        "rank_unet": _lora(spec).unet_rank,
        "rank_vae": _lora(spec).vae_rank,
        "state_dict_unet": _random(model.unet, "lora", "conv_in"),
        "state_dict_vae": _random(model.autoencoder, "lora"),
    }


def s3diff(spec: VariantSpec) -> dict[str, Any]:
    _, model = _prepared(spec)
    steering = model.get_submodule("modulator.steering")
    state: dict[str, Any] = {
        "unet_lora_target_modules": S3DIFF_TARGETS,
        "vae_lora_target_modules": r"^encoder\..*(conv1|conv2|conv_in|conv_shortcut|conv|conv_out|to_k|to_q|to_v|to_out\.0)$",
        "rank_unet": _lora(spec).unet_rank,
        "rank_vae": _lora(spec).vae_rank,
        "state_dict_unet": _renamed(_random(model.unet, "lora", "conv_in"), ".default_all.", ".default."),
        "state_dict_vae": _renamed(_random(model.autoencoder, "lora"), ".default_encoder.", ".vae_skip."),
        "w": nn.Parameter(torch.randn(steering.get_buffer("w").shape), requires_grad=False),
        "state_embeddings": {},
    }
    for network in ("vae", "unet"):
        for kind in ("de", "block", "fuse"):
            module = _fresh(steering.get_submodule(f"{network}.{kind}_mlp"))
            state[f"state_dict_{network}_{kind}_mlp"] = module.state_dict()
        embeddings = _fresh(steering.get_submodule(f"{network}.block_embeddings"))
        state["state_embeddings"][f"state_dict_{network}_block"] = embeddings.state_dict()
    return state


def de_net(spec: VariantSpec) -> dict[str, Tensor]:
    assert spec.modulation is not None
    return DegradationEstimator(spec.modulation).state_dict()


def pisa_sr(spec: VariantSpec) -> dict[str, Any]:
    modules, model = _prepared(spec)
    lists = {
        f"unet_lora_{side}_modules_{half}": modules["unet"][f"default_{side}_{half}"]
        for half in ("pix", "sem")
        for side in ("encoder", "decoder", "others")
    }
    ranks = {f"lora_rank_unet_{half}": _lora(spec).unet_rank for half in ("pix", "sem")}
    return {**lists, **ranks, "state_dict_unet": _random(model.unet, "lora")}


def save(path: Path, state: Any) -> Path:
    torch.save(state, path)
    return path


def _lora(spec: VariantSpec) -> Any:
    assert spec.lora is not None
    return spec.lora


def _prepared(spec: VariantSpec) -> tuple[dict[str, dict[str, list[str]]], OneStepSR]:
    model = build_model(spec, weightless=True)
    modules = modules_of(model)
    add_lora(model, _lora(spec))
    return modules, model


def _random(module: nn.Module, *words: str) -> dict[str, Tensor]:
    state = module.state_dict()
    return {key: 0.05 * torch.randn(value.shape) for key, value in state.items() if any(word in key for word in words)}


def _renamed(tensors: dict[str, Tensor], old: str, new: str) -> dict[str, Tensor]:
    return {key.replace(old, new): value for key, value in tensors.items()}


def _fresh(module: nn.Module) -> nn.Module:
    """The module with values, its state dict an OrderedDict with `_metadata` as the scripts save it."""
    module = module.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0, 0.05)
    return module
