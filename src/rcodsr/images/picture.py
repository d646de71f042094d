"""A decoded picture: pixels as tensors, and what the file said about them."""

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from rcodsr.errors import InputError


@dataclass(frozen=True)
class Metadata:
    """What travels with the pixels from the input file to the output file."""

    icc: bytes | None = None
    exif: Image.Exif | None = None
    """Without orientation (already applied to the pixels) and without tags of the file's own structure."""
    dpi: tuple[float, float] | None = None


@dataclass(frozen=True)
class Picture:
    """One picture in memory."""

    rgb: Tensor
    """Shape (3, h, w), float32 in [0, 1], upright; three equal channels where `gray`."""
    alpha: Tensor | None = None
    """Shape (1, h, w), float32 in [0, 1]; None where the picture is opaque."""
    gray: bool = False
    """Came as grey, leaves as grey."""
    metadata: Metadata = field(default_factory=Metadata)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.rgb.shape[2], self.rgb.shape[1]

    def with_pixels(self, rgb: Tensor, alpha: Tensor | None) -> "Picture":
        """The same picture with other pixels."""
        return replace(self, rgb=rgb, alpha=alpha)

    def with_metadata(self, metadata: Metadata) -> "Picture":
        """The same picture with other metadata."""
        return replace(self, metadata=metadata)


def from_pil(image: Image.Image, name: object = "image") -> Picture:
    """Pixels of a decoded Pillow image, every mode brought to [0, 1].

    16-bit grey is scaled by its range (Pillow's own conversion clips it to white).

    Args:
        image: any mode but 32-bit integer and float.
        name: for the error message.

    Raises:
        InputError: for modes without a defined range.
    """
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        return _from_16_bit(image)
    if image.mode in {"I", "F"}:
        raise InputError(name, "32-bit pixels have no defined range", "save it as 8-bit or 16-bit")
    transparent = image.mode in {"LA", "La", "PA", "RGBA", "RGBa"} or "transparency" in image.info
    gray = image.mode in {"1", "L", "LA", "La"}
    # premultiplied modes convert only to their straight counterpart
    image = image.convert({"La": "LA", "RGBa": "RGBA"}.get(image.mode, image.mode))
    planes = _planes(image.convert("RGBA" if transparent else "L" if gray else "RGB"))
    rgb = planes[:3] if len(planes) >= 3 else planes.expand(3, -1, -1)
    return Picture(rgb, planes[3:] if transparent else None, gray)


def _from_16_bit(image: Image.Image) -> Picture:
    values = np.asarray(image).astype(np.int32)
    gray = torch.from_numpy(values.astype(np.float32) / 65535).clamp(0, 1).expand(3, -1, -1)
    transparent = image.info.get("transparency")  # PNG: one grey value that stands for transparent
    alpha = torch.from_numpy(values != transparent)[None].float() if isinstance(transparent, int) else None
    return Picture(gray, alpha, gray=True)


def to_pil(picture: Picture) -> Image.Image:
    """8-bit Pillow image of mode L, LA, RGB or RGBA."""
    rgb = picture.rgb.mean(0, keepdim=True) if picture.gray else picture.rgb
    planes = rgb if picture.alpha is None else torch.cat((rgb, picture.alpha))
    pixels = planes.mul(255).round_().clamp_(0, 255).byte().permute(1, 2, 0).contiguous().cpu().numpy()
    return Image.fromarray(pixels[..., 0] if len(planes) == 1 else pixels)


def _planes(image: Image.Image) -> Tensor:
    pixels = torch.from_numpy(np.array(image))
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    return pixels.permute(2, 0, 1).contiguous().float().div_(255)
