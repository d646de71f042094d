"""The model card that lies in every exported checkpoint: writer and reader of its metadata."""

import shutil
from pathlib import Path
from typing import Any

from rcodsr.checkpoints.manifest import PACKAGE, read_manifest
from rcodsr.parts import ResidualDenseSpec
from rcodsr.variants import VariantSpec

_LAYOUTS = {"merged": "complete weights", "adapter": "an adapter over its base: LoRA and VPIM's linear layer"}

_LICENCES = {"Apache-2.0": "apache-2.0", "MIT": "mit", "CreativeML Open RAIL++-M": "openrail++"}
"""Names in the manifest → names on the Hub."""
_REAL_ESRGAN = PACKAGE / "assets" / "rcod-small" / "LICENSE.Real-ESRGAN"
_LARGEST = 1 << 20
"""Bytes of a card that is read."""


def model_card(spec: VariantSpec, training: dict[str, Any], layout: str) -> str:
    """A README.md with the metadata the Hub reads.

    Args:
        spec: the variant.
        training: `training` of the checkpoint's config.json; what it does not tell is left out.
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

All that is known of the training stands in `config.json` under `training`.
"""


def notices(spec: VariantSpec) -> list[Path]:
    """The licences that come with what a variant's network was made from."""
    return [_REAL_ESRGAN] if isinstance(spec.unet, ResidualDenseSpec) else []


def write_notices(directory: Path, spec: VariantSpec) -> None:
    """Put `notices` beside a checkpoint."""
    for notice in notices(spec):
        shutil.copyfile(notice, directory / notice.name)


def as_merged(card: str) -> str:
    """The card of an adapter, kept for its merged weights: ours calls them complete, other words stay."""
    return card.replace(_LAYOUTS["adapter"], _LAYOUTS["merged"]).replace("\nbase_model_relation: adapter", "")


def read_card(path: Path) -> dict[str, Any]:
    """The metadata of a card: license, base_model and whatever else it has; empty where it has none that can be read."""
    from huggingface_hub import metadata_load

    try:
        if path.stat().st_size > _LARGEST:
            return {}
        found = metadata_load(path)
    except Exception:  # YAML that anybody wrote
        return {}
    return {str(key): value for key, value in found.items()} if isinstance(found, dict) else {}


def _what(spec: VariantSpec, training: dict[str, Any]) -> str:
    sources = training.get("converted_from")
    if isinstance(sources, dict):
        files = ", ".join(f"`{file}` (sha256 {str(sha256)[:12]}…)" for file, sha256 in sources.items())
        return f"One-step super-resolution ×{spec.scale}: {files} of its authors, converted with rcodsr, not trained anew."
    knob = " with a realism knob" if spec.fixed_timestep is None else ""
    return f"One-step super-resolution ×{spec.scale}{knob}, trained with rcodsr."


def _origin(spec: VariantSpec) -> str:
    if not isinstance(spec.unet, ResidualDenseSpec):
        return ""
    return f"""
**Whose network this is.** Trunk and head were taken over from the generator of
[Real-ESRGAN](https://github.com/xinntao/Real-ESRGAN) (RealESRGAN_x4plus, BSD-3-Clause, © 2021 Xintao Wang;
`{_REAL_ESRGAN.name}`), about half of its blocks left out, the timestep and the visual tokens added, and trained on. Its authors
trained it on DIV2K, Flickr2K and OutdoorSceneTraining, which are not all openly licensed. It is a residual-dense network in the
U-Net's place and predicts ẑ_H itself: one step at the timestep of the wanted realism,
without diffusion pretraining. `rcod-tiny` was trained on openly licensed photos alone.
"""


def _licence(spec: VariantSpec) -> str:
    """Its own where the manifest knows one, else that of the base, whose terms hold for what is made from it."""
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
    """Where a base comes from: the Hub wants one of its own names there."""
    entry = read_manifest().get(base)
    return entry.sources[0].repo if entry is not None and entry.sources else base
