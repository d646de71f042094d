"""rcodsr: enlarge real photos ×4 with one diffusion step and a realism knob.

    import rcodsr
    rcodsr.save(rcodsr.load().upscale("photo.jpg", realism=0.5), "photo_x4.jpg")

Importing the package loads no torch. The first use of `load` or `Upscaler` does.
"""

import importlib
from typing import TYPE_CHECKING, Any

from rcodsr import errors
from rcodsr.options import UpscaleOptions
from rcodsr.version import __version__

if TYPE_CHECKING:
    from rcodsr.batch.shared import SharedUpscaler
    from rcodsr.engine.loading import load
    from rcodsr.engine.upscaler import Upscaler
    from rcodsr.images.exchange import save

__all__ = ["SharedUpscaler", "UpscaleOptions", "Upscaler", "__version__", "errors", "load", "save"]
_LAZY = {"SharedUpscaler": "batch.shared", "Upscaler": "engine.upscaler", "load": "engine.loading", "save": "images.exchange"}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'rcodsr' has no attribute '{name}'")
    return getattr(importlib.import_module(f"rcodsr.{_LAZY[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
