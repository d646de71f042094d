"""Low-rank adaptation (LoRA) of a base, through peft: placement and merging.

Placements, by `LoraSpec.placement`. The timestep embedding stays frozen in both, and the U-Net's `conv_in` is trained in full.

- `osediff`, inherited by RCOD_O: 258 modules of the U-Net in three adapters, 32 of the autoencoder's encoder in one.
- `s3diff`, inherited by RCOD_S: the same without the U-Net's `conv_in` (257) and the autoencoder's `quant_conv` (31), in one
  adapter each.
- `pisa-sr`: the U-Net's 258 modules twice, for pixels and for semantics, in three adapters each; the autoencoder and `conv_in`
  are left unchanged.
"""

import copy
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias, cast

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from rcodsr.models.one_step import OneStepSR
from rcodsr.parts import LoraSpec

_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
_RESNET = ("conv1", "conv2", "conv_shortcut", "conv", "conv_in", "conv_out")
_TRANSFORMER = ("ff.net.0.proj", "ff.net.2", "proj_in", "proj_out")
_SIDE = {"down_blocks": "encoder", "conv_in": "encoder", "up_blocks": "decoder", "conv_out": "decoder"}
TRAINED_IN_FULL = ("conv_in",)
"""Modules of the U-Net whose own weight and bias are trained, in addition to any LoRA."""
HALVES = ("pix", "sem")
"""Suffixes of PiSA-SR's adapters: for pixels and for semantics."""


_Placement: TypeAlias = Callable[[nn.Module], dict[str, list[str]]]


def unet_adapters(unet: nn.Module, state: str = "default") -> dict[str, list[str]]:
    """Modules of Stable Diffusion's U-Net by adapter: `<state>_encoder` (94), `<state>_decoder` (148), `<state>_others` (16).

    Args:
        unet: a diffusers U-Net without LoRA, or with other adapters.
        state: the network that the LoRA belongs to; "default" is the generator.
    """
    adapters: dict[str, list[str]] = {f"{state}_{part}": [] for part in ("encoder", "decoder", "others")}
    for name in targets(unet, (*_ATTENTION, *_RESNET, *_TRANSFORMER)):
        adapters[f"{state}_{_SIDE.get(name.split('.')[0], 'others')}"].append(name)
    return adapters


def vae_adapters(autoencoder: nn.Module, state: str = "default") -> dict[str, list[str]]:
    """Modules of Stable Diffusion's autoencoder by adapter: `<state>_encoder`, the encoder and `quant_conv` (32)."""
    names = targets(autoencoder, (*_ATTENTION, *_RESNET, "quant_conv"))
    return {f"{state}_encoder": [name for name in names if name.split(".")[0] in {"encoder", "quant_conv"}]}


def _s3diff_unet_adapters(unet: nn.Module) -> dict[str, list[str]]:
    return {"default_all": [name for names in unet_adapters(unet).values() for name in names if name not in TRAINED_IN_FULL]}


def _s3diff_vae_adapters(autoencoder: nn.Module) -> dict[str, list[str]]:
    return {key: [name for name in names if name != "quant_conv"] for key, names in vae_adapters(autoencoder).items()}


def _pisa_unet_adapters(unet: nn.Module) -> dict[str, list[str]]:
    adapters = unet_adapters(unet)
    return {f"{name}_{half}": modules for half in HALVES for name, modules in adapters.items()}


_PLACEMENTS: dict[str, tuple[_Placement, _Placement]] = {
    "osediff": (unet_adapters, vae_adapters),
    "s3diff": (_s3diff_unet_adapters, _s3diff_vae_adapters),
    "pisa-sr": (_pisa_unet_adapters, lambda autoencoder: {}),
}
"""Adapters of the generator's LoRA in the U-Net and in the autoencoder, by placement."""


def targets(module: nn.Module, endings: tuple[str, ...]) -> list[str]:
    """Names of convolutions and linear layers whose last components match one of `endings`."""
    layers = (nn.Linear, nn.Conv2d, BaseTunerLayer)
    names = (name for name, layer in module.named_modules() if isinstance(layer, layers) and ".base_layer" not in name)
    return [name for name in names if f".{name}".endswith(tuple(f".{ending}" for ending in endings))]


def add_lora(model: OneStepSR, spec: LoraSpec) -> None:
    """Add the generator's LoRA to a base, initially without effect (B = 0), and freeze all that the paper does not train."""
    unet, autoencoder = (place(module) for place, module in zip(_PLACEMENTS[spec.placement], _networks(model), strict=True))
    inject(model.unet, unet, spec.unet_rank, spec.alpha)
    inject(model.autoencoder, autoencoder, spec.vae_rank, spec.alpha)
    model.modulator.attach(_halves(model))
    require_gradients(model, spec)


def require_gradients(model: OneStepSR, spec: LoraSpec) -> None:
    """Make only the parameters trainable that the paper trains: LoRA, the U-Net's `conv_in`, VPIM's layer, the modulation."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".lora_" in name)
    for name in trained_in_full(spec):
        _base_layer(model.unet, name).requires_grad_(True)
    for name, part in (model.prompt.parts() | model.modulator.parts()).items():
        if name in {"vpim", "modulation"}:
            part.requires_grad_(True)


def trained_in_full(spec: LoraSpec | None) -> tuple[str, ...]:
    """Modules of the U-Net whose own weight and bias are trained with this LoRA placement."""
    return () if spec is None or spec.placement == "pisa-sr" else TRAINED_IN_FULL


def modules_of(model: OneStepSR) -> dict[str, dict[str, list[str]]]:
    """Modules that a variant's LoRA adapts: "unet" and "vae" → adapter → module names. The model has no LoRA yet.

    Raises:
        ValueError: when the variant has no LoRA.
    """
    if model.spec.lora is None:
        raise ValueError(f"{model.spec.name} has no LoRA")
    placements = zip(("unet", "vae"), _PLACEMENTS[model.spec.lora.placement], _networks(model), strict=True)
    return {name: place(network) for name, place, network in placements}


def _networks(model: OneStepSR) -> tuple[nn.Module, nn.Module]:
    return model.unet, model.autoencoder


def _base_layer(module: nn.Module, name: str) -> nn.Module:
    """A module by name, unwrapped from its LoRA."""
    layer = module.get_submodule(name)
    return layer.get_submodule("base_layer") if isinstance(layer, BaseTunerLayer) else layer


def _halves(model: OneStepSR) -> dict[str, nn.Module]:
    """The A of every LoRA layer by layer name."""
    layers = ((name, layer) for name, layer in model.named_modules() if isinstance(layer, BaseTunerLayer))
    return {name: cast(Any, layer).lora_A[adapter] for name, layer in layers for adapter in _adapters(layer)}


def halves(module: nn.Module, ending: str) -> list[nn.Module]:
    """The A of every LoRA layer whose adapter name has this suffix."""
    return [cast(Any, x).lora_A[name] for x in _layers(module) for name in _adapters(x) if name.endswith(ending)]


def inject(module: nn.Module, adapters: dict[str, list[str]], rank: int, alpha: float) -> None:
    """Wrap modules in LoRA layers: A ~ N(0, 1/rank), B = 0, scaled by alpha / rank; only the LoRA requires gradients."""
    for adapter, names in adapters.items():
        config = LoraConfig(r=rank, lora_alpha=alpha, init_lora_weights="gaussian", target_modules=names)  # type: ignore[arg-type]
        inject_adapter_in_model(config, module, adapter)
        vars(module).pop("peft_config", None)  # several adapters are intended; peft would warn
    for layer in _layers(module):  # peft activates the last adapter everywhere, even where it is absent
        _activate(layer, [name for name in _adapters(layer) if name in adapters] or layer.active_adapters)


def _layers(module: nn.Module) -> list[BaseTunerLayer]:
    return [layer for layer in module.modules() if isinstance(layer, BaseTunerLayer)]


def _adapters(layer: BaseTunerLayer) -> list[str]:
    return list(cast(Any, layer).lora_A)


def _activate(layer: BaseTunerLayer, names: list[str]) -> None:
    """Same as peft's `set_adapter`, which also switches requires_grad and would drop gradients between forward and backward."""
    layer._active_adapter = names


class LoraStates:
    """One base U-Net in memory for three networks: the generator, the regulariser φ′, and the frozen base φ.

    The first two have their own LoRA; the base has none. The generator's own `conv_in` is set aside while another state is in
    use. Outside `using` the generator is active, so that a backward pass that recomputes activations (gradient checkpointing)
    uses the network whose gradient it computes.

    Args:
        unet: a base U-Net with a fresh generator LoRA (`add_lora`); the regulariser's LoRA is added to it.
        spec: rank and alpha of the regulariser's LoRA.
    """

    GENERATOR, REGULARIZER, FROZEN = "default", "regularizer", "frozen"

    def __init__(self, unet: nn.Module, spec: LoraSpec) -> None:
        inject(unet, unet_adapters(unet, self.REGULARIZER), spec.unet_rank, spec.alpha)
        self.unet = unet
        self._layers = _layers(unet)
        own = [unet.get_submodule(name) for name in TRAINED_IN_FULL]
        self._in_full = [(layer, layer.get_submodule("base_layer")) for layer in own]
        self._originals = [copy.deepcopy(trained).requires_grad_(False) for _, trained in self._in_full]
        for name, parameter in unet.named_parameters():  # injection has disabled some
            parameter.requires_grad_(".lora_" in name)
        for _, trained in self._in_full:
            trained.requires_grad_(True)
        self._activate(self.GENERATOR)

    def parameters(self, state: str) -> list[nn.Parameter]:
        """The parameters that training changes in a state."""
        full = TRAINED_IN_FULL if state == self.GENERATOR else ()
        chosen = trained_state(self.unet, full, state)
        return [parameter for name, parameter in self.unet.named_parameters() if name in chosen]

    @contextmanager
    def using(self, state: str) -> Iterator[nn.Module]:
        """Run the U-Net as the network of a state, within a `with` block."""
        self._activate(state)
        try:
            yield self.unet
        finally:
            self._activate(self.GENERATOR)

    def _activate(self, state: str) -> None:
        for layer in self._layers:
            _activate(layer, [name for name in _adapters(layer) if name.startswith(f"{state}_")])
            layer._disable_adapters = state == self.FROZEN
        for (wrapped, trained), original in zip(self._in_full, self._originals, strict=True):
            wrapped.add_module("base_layer", trained if state == self.GENERATOR else original)


@contextmanager
def without_lora(module: nn.Module) -> Iterator[None]:
    """Run the base alone, within a `with` block."""
    for layer in _layers(module):
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer in _layers(module):
            layer._disable_adapters = False


def merge_lora(module: nn.Module, keep: str = "") -> None:
    """Merge every LoRA into the weights it adapts, W += (alpha / rank) · B A, and remove its layers. Use float32 weights.

    Args:
        module: a network with LoRA.
        keep: suffix of adapters that stay as layers on top of the merged weights.
    """
    for name, layer in list(module.named_modules()):
        if not isinstance(layer, BaseTunerLayer):
            continue
        kept = [adapter for adapter in _adapters(layer) if keep and adapter.endswith(keep)]
        if kept:
            _fold(layer, [adapter for adapter in _adapters(layer) if adapter not in kept])
        else:
            layer.merge()
            parent, _, child = name.rpartition(".")
            setattr(module.get_submodule(parent), child, layer.get_base_layer())


def _fold(layer: BaseTunerLayer, adapters: list[str]) -> None:
    """Merge some adapters of a layer; peft's own `merge` would deactivate the others."""
    weight = cast(Tensor, layer.get_base_layer().weight)
    kept = [adapter for adapter in _adapters(layer) if adapter not in adapters]
    for adapter in adapters:
        with torch.no_grad():
            weight += cast(Any, layer).get_delta_weight(adapter)
        layer.delete_adapter(adapter)
    _activate(layer, kept)


def trained_state(module: nn.Module, in_full: Iterable[str] = (), state: str = "default") -> dict[str, Tensor]:
    """Tensors that training changes, by name: a state's LoRA, and the base weights of the modules named in `in_full`."""
    names = "|".join(re.escape(name) for name in in_full)
    full = re.compile(rf"({names})\.(base_layer\.)?(weight|bias)")
    lora = re.compile(rf"\.lora_[AB]\.{state}_")
    return {key: value for key, value in module.state_dict().items() if lora.search(key) or full.fullmatch(key)}


def parameter_counts(model: OneStepSR) -> dict[str, int]:
    """Trainable parameters by kind, for a model with LoRA: unet_lora, vae_lora, conv_in, vpim, and the modulator's.

    Training of RCOD_O adds a regulariser's LoRA of the size of `unet_lora`, which inference does not need.
    """

    def count(tensors: Iterable[Tensor]) -> int:
        return sum(tensor.numel() for tensor in tensors)

    unet = trained_state(model.unet, trained_in_full(model.spec.lora))
    full = {key for key in unet if ".lora_" not in key}
    return {
        "unet_lora": count(unet[key] for key in unet.keys() - full),
        "vae_lora": count(trained_state(model.autoencoder).values()),
        "conv_in": count(unet[key] for key in full),
        "vpim": count(p for part in model.prompt.parts().values() for p in part.parameters() if p.requires_grad),
        **model.modulator.parameter_counts(),
    }
