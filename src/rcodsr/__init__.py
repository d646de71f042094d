"""rcodsr: enlarge real photos ×4 with one diffusion step and a realism knob.

    import rcodsr
    rcodsr.load("rcod-tiny").upscale("photo.jpg", realism=0.5).save("photo_x4.png")

Importing the package loads no torch; the first use of `load` or `Upscaler` does.
"""

from typing import TYPE_CHECKING, Any

from rcodsr import errors
from rcodsr.config import UpscaleOptions

if TYPE_CHECKING:
    from rcodsr.batch.shared import SharedUpscaler
    from rcodsr.engine.upscaler import Upscaler, load

__version__ = "0.1.0"
__all__ = ["SharedUpscaler", "UpscaleOptions", "Upscaler", "__version__", "errors", "load"]


def __getattr__(name: str) -> Any:
    if name in {"Upscaler", "load"}:
        from rcodsr.engine import upscaler

        return getattr(upscaler, name)
    if name == "SharedUpscaler":
        from rcodsr.batch.shared import SharedUpscaler

        return SharedUpscaler
    raise AttributeError(f"module 'rcodsr' has no attribute '{name}'")
