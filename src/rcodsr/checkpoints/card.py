"""Write and read the model card of exported checkpoints."""

import shutil
from pathlib import Path
from typing import Any

from rcodsr.checkpoints.manifest import PACKAGE, read_manifest
from rcodsr.parts import ResidualDenseSpec
from rcodsr.variants import VariantSpec

_LAYOUTS = {"merged": "complete weights", "adapter": "an adapter over its base: LoRA and VPIM's linear layer"}

_LICENCES = {"Apache-2.0": "apache-2.0", "MIT": "mit", "CreativeML Open RAIL++-M": "openrail++"}
"""Licence names in the manifest → names on the Hub."""
_REAL_ESRGAN = PACKAGE / "assets" / "rcod-small" / "LICENSE.Real-ESRGAN"
_LARGEST = 1 << 20
"""Maximum bytes of a card."""


def model_card(spec: VariantSpec, training: dict[str, Any], layout: str) -> str:
    """A README.md with metadata for the Hub.

    Args:
        spec: the variant.
        training: `training` of the checkpoint's config.json. Missing values are omitted.
        layout: merged or adapter.
    """
    rows = "\n".join(f"| {name} | {value} |" for name, value in _facts(spec, training).items())
    base = f"\nbase_model: {_repository(spec.base)}" if spec.base else ""
    base += "\nbase_model_relation: adapter" if spec.base and layout == "adapter" else ""
    return f"""---
library_name: rcodsr
{_licence(spec)}
pipeline_tag: image-to-image
tags: [super-resolution, one-step-diffusion, rcod]{base}
---

# {spec.name}

{_what(spec, training)}
This is {_LAYOUTS[layout]}.
{_origin(spec)}
    rcodsr upscale in.png --weights DIRECTORY_OR_REPOSITORY{"" if spec.fixed_timestep is not None else " --realism 0.5"}

| | |
|---|---|
{rows}

Everything known about the training is in `config.json` under `training`.
"""


def notices(spec: VariantSpec) -> list[Path]:
    """Licence files of the networks from which a variant's network was made."""
    return [_REAL_ESRGAN] if isinstance(spec.unet, ResidualDenseSpec) else []


def write_notices(directory: Path, spec: VariantSpec) -> None:
    """Copy `notices` to a checkpoint directory."""
    for notice in notices(spec):
        shutil.copyfile(notice, directory / notice.name)


def as_merged(card: str) -> str:
    """Adapt an adapter's card to its merged weights: replace the layout, keep other text."""
    return card.replace(_LAYOUTS["adapter"], _LAYOUTS["merged"]).replace("\nbase_model_relation: adapter", "")


def read_card(path: Path) -> dict[str, Any]:
    """The metadata of a card: license, base_model and others. Empty if it has none or is unreadable."""
    from huggingface_hub import metadata_load

    try:
        if path.stat().st_size > _LARGEST:
            return {}
        found = metadata_load(path)
    except Exception:  # arbitrary YAML
        return {}
    return {str(key): value for key, value in found.items()} if isinstance(found, dict) else {}


def _what(spec: VariantSpec, training: dict[str, Any]) -> str:
    sources = training.get("converted_from")
    if isinstance(sources, dict):
        files = ", ".join(f"`{file}` (sha256 {str(sha256)[:12]}…)" for file, sha256 in sources.items())
        return f"One-step super-resolution ×{spec.scale}: {files} from its authors, converted with rcodsr, not retrained."
    knob = " with a realism knob" if spec.fixed_timestep is None else ""
    return f"One-step super-resolution ×{spec.scale}{knob}, trained with rcodsr."


def _origin(spec: VariantSpec) -> str:
    if not isinstance(spec.unet, ResidualDenseSpec):
        return ""
    return f"""
**Origin of the network.** Trunk and head were taken from the generator of
[Real-ESRGAN](https://github.com/xinntao/Real-ESRGAN) (RealESRGAN_x4plus, BSD-3-Clause, © 2021 Xintao Wang;
`{_REAL_ESRGAN.name}`), about half of its blocks removed, timestep and visual tokens added, and trained further. Its authors
trained it on DIV2K, Flickr2K and OutdoorSceneTraining, which are not all openly licensed. It is a residual-dense network in
place of the U-Net and predicts ẑ_H itself: one step at the timestep of the requested realism,
without diffusion pretraining. `rcod-tiny` was trained only on openly licensed photos.
"""


def _licence(spec: VariantSpec) -> str:
    """Its own licence if the manifest names one, otherwise the base's, whose terms apply to derived weights."""
    manifest = read_manifest()
    known = [manifest[name].licence for name in (spec.name, spec.base or "") if name in manifest and manifest[name].licence]
    if not known:
        return "license: other"
    return f"license: {_LICENCES[known[0]]}" if known[0] in _LICENCES else f"license: other\nlicense_name: {known[0]}"


def _facts(spec: VariantSpec, training: dict[str, Any]) -> dict[str, object]:
    grouping, recipe = spec.grouping, training.get("recipe", training)
    data = recipe.get("data", recipe) if isinstance(recipe, dict) else None  # older recipes were flat
    mix = data.get("mix") if isinstance(data, dict) else None
    facts = {
        "steps": f"{training['steps']} of {training['planned_steps']}" if {"steps", "planned_steps"} <= {*training} else None,
        "photos": training.get("photos"),
        "degradation": ", ".join(f"{name} {share}" for name, share in mix.items()) if isinstance(mix, dict) else None,
        "timesteps": ", ".join(map(str, grouping.timesteps)),
        "M_L bounds": f"{grouping.metric_min} to {grouping.metric_max} ({grouping.metric}, {grouping.metric_encoder} encoder)",
    }
    return {name: value for name, value in facts.items() if value is not None}


def _repository(base: str) -> str:
    """Repository of a base, for the Hub's `base_model`."""
    entry = read_manifest().get(base)
    return entry.sources[0].repo if entry is not None and entry.sources else base
