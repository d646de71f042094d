"""S3Diff's published weights as a start for RCOD_S.

`s3diff.pkl` is a pickle of nothing but tensors; what it holds is taken here, opening it is left to the caller.
`de_net.pth`, the degradation estimator, has our names: stored as safetensors it is a recipe's `estimator_weights`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rcodsr.checkpoints.tensors import check_fit
from rcodsr.errors import UsageError, WeightsError
from rcodsr.models.lora import TRAINED_IN_FULL, trained_state
from rcodsr.models.one_step import OneStepSR

_ADAPTERS = {"unet": (".default.", ".default_all."), "vae": (".vae_skip.", ".default_encoder.")}
"""S3Diff's and our name of the adapter in each network."""
_MLPS = ("de", "block", "fuse")


def warm_start_s3diff(model: OneStepSR, state: Mapping[str, Any]) -> None:
    """Copy S3Diff's trained tensors into RCOD_S: LoRA, conv_in, and what steers them. VPIM and the estimator stay.

    Args:
        model: with the LoRA layers of `models.lora.add_lora`.
        state: the contents of `s3diff.pkl`: `state_dict_unet`, `state_dict_vae`, `state_dict_{vae,unet}_{de,block,fuse}_mlp`,
            `w`, and `state_embeddings` with `state_dict_{vae,unet}_block`. Other keys (ranks, module names) are not read.

    Raises:
        UsageError: when the model's LoRA does not follow the picture.
        WeightsError: when a tensor is missing, unexpected, of another shape, or not finite; nothing has been copied then.
    """
    steering = model.modulator.parts().get("modulation")
    if steering is None:
        raise UsageError(model.spec.name, "S3Diff's weights do not fit", "use rcod-s")
    try:
        pairs = [
            (_lora(state["state_dict_unet"], "unet"), trained_state(model.unet, TRAINED_IN_FULL)),
            (_lora(state["state_dict_vae"], "vae"), trained_state(model.autoencoder)),
            (_steering(state), dict(steering.state_dict())),
        ]
    except (KeyError, AttributeError, TypeError) as error:
        raise WeightsError("s3diff.pkl", f"not S3Diff's weights ({error})", "give the published file's contents") from error
    for found, expected in pairs:
        check_fit(Path("s3diff.pkl"), found, expected)
        if bad := [key for key, value in found.items() if not torch.isfinite(value).all()]:
            raise WeightsError("s3diff.pkl", f"{bad[0]} holds NaN or infinity", "fetch it again")
    with torch.no_grad():
        for found, expected in pairs:
            for key, value in found.items():
                expected[key].copy_(value)


def _lora(tensors: Mapping[str, Tensor], network: str) -> dict[str, Tensor]:
    theirs, ours = _ADAPTERS[network]
    return {key.replace(theirs, ours): value for key, value in tensors.items()}


def _steering(state: Mapping[str, Any]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {"w": state["w"].detach()}
    for network in ("vae", "unet"):
        found[f"{network}.block_embeddings.weight"] = state["state_embeddings"][f"state_dict_{network}_block"]["weight"]
        for kind in _MLPS:
            tensors = state[f"state_dict_{network}_{kind}_mlp"]
            found |= {f"{network}.{kind}_mlp.{key}": value for key, value in tensors.items()}
    return found
