"""Load the frozen parts of a variant from published files: Stable Diffusion's U-Net and autoencoder, CLIP's vision tower."""

import json
from collections.abc import Mapping
from pathlib import Path

from torch import nn

from rcodsr.checkpoints.resolve import ResolvedWeights
from rcodsr.checkpoints.tensors import REMEDY, load_strictly, read_names
from rcodsr.errors import WeightsError
from rcodsr.models.one_step import OneStepSR

_OLD_ATTENTION = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}
"""Old diffusers names of the autoencoder's attention → new ones. Published files use either."""


def load_bases(model: OneStepSR, bases: Mapping[str, ResolvedWeights]) -> None:
    """Load the published weights of a variant's bases. Every key of every file must be known.

    Args:
        model: without LoRA. May have been built weightless.
        bases: verified base directories by name: `spec.base` and `spec.vision`.

    Raises:
        WeightsError: when a file does not fit, or the base predicts something other than noise.
    """
    if model.spec.base is not None:
        diffusion = bases[model.spec.base].directory
        _check_prediction(diffusion / "scheduler" / "scheduler_config.json")
        load_strictly(model.unet, diffusion / "unet" / "diffusion_pytorch_model.safetensors")
        load_strictly(model.autoencoder, diffusion / "vae" / "diffusion_pytorch_model.safetensors", _new_attention_name)
    if model.spec.vision is not None:
        tower = model.prompt.get_submodule("tower.vision")
        load_strictly(tower, bases[model.spec.vision].directory / "model.safetensors", _vision_name)


def load_dino(backbone: nn.Module, base: ResolvedWeights) -> None:
    """Load the published DINO weights into the backbone of a `DinoDiscriminator`.

    Raises:
        WeightsError: when the file does not fit.
    """
    from rcodsr.models.dino import backbone_names

    path = base.directory / "model.safetensors"
    names = backbone_names(read_names(path), set(backbone.state_dict()))
    load_strictly(backbone, path, names.get)


def _new_attention_name(key: str) -> str:
    for old, new in _OLD_ATTENTION.items():
        key = key.replace(f".attentions.0{old}", f".attentions.0{new}")
    return key


def _vision_name(key: str) -> str | None:
    """Name within the vision tower. None for the text encoder, the projections, and position ids in older files."""
    name = key.removeprefix("vision_model.")
    return None if name == key or name == "embeddings.position_ids" else name


def _check_prediction(path: Path) -> None:
    """Check that the base predicts noise, as Eq. (3) needs: SD 2.1 has the shapes of SD 2.1-base but predicts velocity.

    Raises:
        WeightsError: when the base predicts anything else.
    """
    try:
        prediction = json.loads(path.read_text(encoding="utf-8")).get("prediction_type", "epsilon")
    except (OSError, ValueError, AttributeError) as error:
        raise WeightsError(path, f"damaged ({error})", REMEDY) from error
    if prediction != "epsilon":
        raise WeightsError(path, f"this base predicts {prediction}, not noise", "use SD 2.1-base, not SD 2.1")
