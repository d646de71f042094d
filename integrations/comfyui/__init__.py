"""A ComfyUI node that enlarges pictures with rcodsr: `rcodsr.load(...).upscale(...)` for each picture of a batch."""

from functools import lru_cache
from typing import Any

import torch

import rcodsr

_load = lru_cache(maxsize=1)(rcodsr.load)
"""The weights of the last run stay in memory."""


class RcodUpscale:
    """Image (B, H, W, C) in [0, 1] → the same, four times as high and wide."""

    CATEGORY = "image/upscaling"
    DESCRIPTION = "Enlarge photos ×4 with one diffusion step, and say how much may be invented."
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "upscale"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 (ComfyUI's name)
        """What the node can be given, in ComfyUI's words."""
        realism = {
            "default": 0.5,
            "min": 0.0,
            "max": 1.0,
            "step": 0.05,
            "tooltip": "0: the evidence alone; 1: believable texture",
        }
        weights = {"default": "rcod-small", "tooltip": "rcod-small, rcod-tiny, a checkpoint directory, or org/repo"}
        adaptive = {"default": False, "tooltip": "let each picture's degradation decide"}
        return {
            "required": {
                "image": ("IMAGE",),
                "weights": ("STRING", weights),
                "realism": ("FLOAT", realism),
                "adaptive": ("BOOLEAN", adaptive),
            },
            "optional": {"map": ("MASK", {"tooltip": "a realism for each pixel, in the place of the number"})},
        }

    def upscale(
        self, image: torch.Tensor, weights: str, realism: float, adaptive: bool, map: torch.Tensor | None = None
    ) -> tuple[torch.Tensor]:
        """Enlarge a batch.

        Args:
            image: shape (B, H, W, C) in [0, 1], three or four channels.
            weights: as `rcodsr.load` takes them.
            realism: in [0, 1]; not used with `adaptive` or `map`.
            adaptive: each picture's degradation decides.
            map: shape (h, w) or (B or 1, h, w) in [0, 1]: a realism for each pixel.

        Returns:
            Shape (B, 4·H, 4·W, C) in [0, 1], float32, on the CPU.

        Raises:
            rcodsr.RcodsrError: in one line, which ComfyUI shows.
        """
        engine = _load(weights)
        asked: dict[str, Any] = {"adaptive": True} if adaptive else {} if map is not None else {"realism": realism}
        maps = [None] if map is None else map.detach().cpu().float().reshape(-1, *map.shape[-2:]).clamp(0, 1).numpy()
        done = []
        for index, picture in enumerate(image.detach().cpu()):
            mask = maps[index % len(maps)]
            given = asked if mask is None else asked | {"realism_map": mask}
            done.append(torch.from_numpy(engine.upscale(picture.float().clamp(0, 1).numpy(), returns="same", **given)))
        return (torch.stack(done),)


NODE_CLASS_MAPPINGS = {"RcodUpscale": RcodUpscale}
NODE_DISPLAY_NAME_MAPPINGS = {"RcodUpscale": "Upscale (RCOD)"}
