"""The model card that lies in every exported checkpoint."""

from typing import Any

from rcodsr.variants import VariantSpec


def model_card(spec: VariantSpec, summary: dict[str, Any]) -> str:
    """A README.md with the metadata the Hub reads.

    Args:
        spec: the variant.
        summary: `training` of the checkpoint's config.json.
    """
    grouping, recipe = spec.grouping, summary["recipe"]
    base = f"\nbase_model: {spec.base}" if spec.base else ""
    layout = "an adapter over its base: LoRA and VPIM's linear layer" if spec.lora else "complete weights"
    mix = ", ".join(f"{name} {share:g}" for name, share in recipe["mix"].items())
    return f"""---
library_name: rcodsr
pipeline_tag: image-to-image
tags: [super-resolution, one-step-diffusion, rcod]{base}
---

# {spec.name}

One-step super-resolution ×{spec.scale} with a realism knob, trained with [rcodsr](https://pypi.org/project/rcodsr/).
This is {layout}.

    rcodsr upscale in.png --weights DIRECTORY_OR_REPOSITORY --realism 0.5

| | |
|---|---|
| steps | {summary["steps"]} of {summary["planned_steps"]} |
| photos | {summary["photos"]} |
| degradation | {mix} |
| timesteps | {", ".join(str(min(999, i * grouping.k)) for i in range(1, grouping.n + 1))} |
| M_L bounds | {grouping.metric_min} to {grouping.metric_max} ({grouping.metric}, {grouping.metric_encoder} encoder) |

The whole recipe stands in `config.json` under `training`.
"""
