"""The model card that lies in every exported checkpoint."""

from typing import Any

from rcodsr.checkpoints.manifest import read_manifest
from rcodsr.variants import VariantSpec

_LAYOUTS = {"merged": "complete weights", "adapter": "an adapter over its base: LoRA and VPIM's linear layer"}


def model_card(spec: VariantSpec, training: dict[str, Any], layout: str) -> str:
    """A README.md with the metadata the Hub reads.

    Args:
        spec: the variant.
        training: `training` of the checkpoint's config.json; what it does not tell is left out.
        layout: merged or adapter.
    """
    rows = "\n".join(f"| {name} | {value} |" for name, value in _facts(spec, training).items())
    base = f"\nbase_model: {_repository(spec.base)}" if spec.base else ""
    return f"""---
library_name: rcodsr
pipeline_tag: image-to-image
tags: [super-resolution, one-step-diffusion, rcod]{base}
---

# {spec.name}

One-step super-resolution ×{spec.scale} with a realism knob, trained with [rcodsr](https://pypi.org/project/rcodsr/).
This is {_LAYOUTS[layout]}.

    rcodsr upscale in.png --weights DIRECTORY_OR_REPOSITORY --realism 0.5

| | |
|---|---|
{rows}

All that is known of the training stands in `config.json` under `training`.
"""


def as_merged(card: str) -> str:
    """The card of an adapter, kept for its merged weights: ours calls them complete, other words stay."""
    return card.replace(_LAYOUTS["adapter"], _LAYOUTS["merged"])


def _facts(spec: VariantSpec, training: dict[str, Any]) -> dict[str, object]:
    grouping, recipe = spec.grouping, training.get("recipe", training)
    mix = recipe.get("mix") if isinstance(recipe, dict) else None
    facts = {
        "steps": f"{training['steps']} of {training['planned_steps']}" if {"steps", "planned_steps"} <= {*training} else None,
        "photos": training.get("photos"),
        "degradation": ", ".join(f"{name} {share}" for name, share in mix.items()) if isinstance(mix, dict) else None,
        "timesteps": ", ".join(str(min(999, i * grouping.k)) for i in range(1, grouping.n + 1)),
        "M_L bounds": f"{grouping.metric_min} to {grouping.metric_max} ({grouping.metric}, {grouping.metric_encoder} encoder)",
    }
    return {name: value for name, value in facts.items() if value is not None}


def _repository(base: str) -> str:
    """Where a base comes from: the Hub wants one of its own names there."""
    entry = read_manifest().get(base)
    return entry.sources[0].repo if entry is not None and entry.sources else base
