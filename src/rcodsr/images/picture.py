"""A decoded picture: pixels as tensors, with the file's metadata."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from rcodsr.errors import InputError
from rcodsr.images.color import bleed
from rcodsr.images.deep import Samples
from rcodsr.images.metadata import Metadata


@dataclass(frozen=True)
class Picture:
    """One picture in memory."""

    rgb: Tensor
    """Shape (3, h, w), float32 in [0, 1], sRGB, upright. Three equal channels if `gray`."""
    alpha: Tensor | None = None
    """Shape (1, h, w), float32 in [0, 1]. None if the picture is opaque."""
    gray: bool = False
    """Whether the picture was read as grey and is written as grey."""
    neutral: bool = False
    """Whether a colour picture has equal channels in all visible pixels, and keeps them; see `as_neutral`."""
    metadata: Metadata = field(default_factory=Metadata)
    depth: int = 8
    """Bits per channel of the file: 8 or 16."""
    beyond: Tensor | None = None
    """Shape (3, h, w): values of the file's colour profile beyond sRGB, in the profile's own values. None if there are none."""
    notes: tuple[str, ...] = ()
    """Messages for the user about how it was read."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.rgb.shape[2], self.rgb.shape[1]

    def with_pixels(self, rgb: Tensor, alpha: Tensor | None, beyond: Tensor | None = None) -> "Picture":
        """A copy with other pixels. A picture without colour stays so, whatever a network has produced."""
        if self.gray or self.neutral:
            rgb = rgb.mean(0, keepdim=True).expand(3, -1, -1)
        return replace(self, rgb=rgb, alpha=alpha, beyond=beyond)

    def as_neutral(self, step: float = 0.0) -> "Picture":
        """A copy that stays without colour from here on, if no visible pixel has any.

        Args:
            step: maximum difference between channels that count as equal, such as the rounding of a lossy file.
        """
        red, green, blue = self.rgb
        spread = torch.maximum(torch.maximum(red, green), blue) - torch.minimum(torch.minimum(red, green), blue)
        visible = spread if self.alpha is None else spread * (self.alpha[0] > 0)
        if self.gray or visible.max() > step:
            return self
        return replace(self, neutral=True).with_pixels(self.rgb, self.alpha)

    def without_unset_alpha(self) -> "Picture":
        """A copy without alpha if that hides every pixel, which is never intended."""
        if self.alpha is None or self.alpha.any():
            return self
        return replace(self, alpha=None).with_note("its alpha channel is 0 everywhere and was ignored")

    def without_alpha(self) -> "Picture":
        """An opaque copy whose invisible pixels continue the colours around them, as the network sees them."""
        return self if self.alpha is None else replace(self, rgb=bleed(self.rgb, self.alpha), alpha=None)

    def is_one_colour(self) -> bool:
        """Whether all pixels are equal at 8 bits per channel."""
        return bool((self.rgb.amax((1, 2)) - self.rgb.amin((1, 2))).max() < 0.5 / 255)

    def laid_on(self, background: tuple[int, int, int] = (255, 255, 255)) -> "Picture":
        """A copy without transparency, composited on a background (R, G, B) in 0..255."""
        if self.alpha is None:
            return self
        below = torch.tensor(background).view(3, 1, 1) / 255
        grey = len(set(background)) == 1
        seen = below.lerp(self.rgb, self.alpha)
        return replace(self, rgb=seen, alpha=None, gray=self.gray and grey, neutral=self.neutral and grey)

    def with_metadata(self, metadata: Metadata) -> "Picture":
        """A copy with other metadata."""
        return replace(self, metadata=metadata)

    def with_note(self, *notes: str) -> "Picture":
        """A copy with further notes."""
        return replace(self, notes=(*self.notes, *notes))


def from_pil(image: Image.Image, name: object = "image") -> Picture:
    """Convert the pixels of a decoded Pillow image of any mode to [0, 1].

    16-bit grey is scaled by its range, because Pillow's own conversion clips it to white. 32-bit numbers are scaled by the
    first usual range that contains them (1, 255, 65535), or else by their own range.

    Args:
        image: any mode except CMYK and LAB, whose colours a profile defines.
        name: for the error message.

    Raises:
        InputError: when pixels are NaN or infinite.
    """
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        return _from_16_bit(image)
    if image.mode in {"I", "F"}:
        return _from_32_bit(image, name)
    transparent = image.mode in {"LA", "La", "PA", "RGBA", "RGBa"} or "transparency" in image.info
    gray = image.mode in {"1", "L", "LA", "La"}
    # premultiplied modes convert only to their straight counterpart
    image = image.convert({"La": "LA", "RGBa": "RGBA"}.get(image.mode, image.mode))
    planes = _planes(image.convert("RGBA" if transparent else "L" if gray else "RGB"))
    rgb = planes[:3] if len(planes) >= 3 else planes.expand(3, -1, -1)
    return Picture(rgb, planes[3:] if transparent else None, gray)


def from_samples(samples: Samples, transparent: Any = None) -> Picture:
    """Convert 16-bit samples to a picture.

    Args:
        samples: shape (h, w, 1 to 4), uint16: grey, grey and alpha, colour, colour and alpha.
        transparent: the grey value or colour that means transparent, if any.
    """
    channels = samples.shape[2]
    planes = torch.from_numpy(samples.astype(np.float32)).permute(2, 0, 1).contiguous().div_(65535)
    alpha = planes[channels - 1 :] if channels in {2, 4} else None
    if channels in {1, 3} and isinstance(transparent, int | tuple):
        alpha = torch.from_numpy((samples != np.array(transparent)).any(-1))[None].float()
    gray = channels < 3
    return Picture(planes[:1].expand(3, -1, -1) if gray else planes[:3], alpha, gray, depth=16)


def _from_16_bit(image: Image.Image) -> Picture:
    values = np.asarray(image).astype(np.int32)
    if _is_inverted(image):
        values = 65535 - values
    return from_samples(values.clip(0, 65535)[..., None], image.info.get("transparency"))


def _is_inverted(image: Image.Image) -> bool:
    """Whether a 16-bit TIFF defines zero as white, which Pillow handles only for 8 bits."""
    return image.format == "TIFF" and getattr(image, "tag_v2", {}).get(262) == 0


def _from_32_bit(image: Image.Image, name: object) -> Picture:
    values = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).all():
        raise InputError(name, "contains NaN or infinite values", "save it as 8-bit or 16-bit")
    low, high = float(values.min()), float(values.max())
    usual = (1.0, 255.0, 65535.0) if image.mode == "F" else (255.0, 65535.0)
    top = next((top for top in usual if low >= 0 and high <= top), None)
    if top is None:
        values, top = values - low, max(high - low, 1.0)
    gray = torch.from_numpy((values / top).astype(np.float32)).expand(3, -1, -1)
    said = f"{top:g} becomes white" if low >= 0 and high <= top else f"{low:g} becomes black and {high:g} white"
    return Picture(gray, gray=True, depth=16).with_note(f"32-bit pixels: {said}")


def turned(picture: Picture, orientation: int) -> Picture:
    """The picture upright, given its EXIF orientation. Values other than 2 to 8 change nothing."""

    def turn(planes: Tensor) -> Tensor:
        if orientation in {5, 6, 7, 8}:
            planes = planes.transpose(1, 2)
        axes = {2: [2], 3: [1, 2], 4: [1], 6: [2], 7: [1, 2], 8: [1]}.get(orientation, [])
        return planes.flip(axes).contiguous() if axes or orientation == 5 else planes

    return picture.with_pixels(turn(picture.rgb), None if picture.alpha is None else turn(picture.alpha))


def to_pil(picture: Picture) -> Image.Image:
    """Convert to an 8-bit Pillow image of mode L, LA, RGB or RGBA, in sRGB."""
    pixels = to_samples(picture, 8)
    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)


def to_samples(picture: Picture, depth: int) -> Samples:
    """Convert to samples of 8 or 16 bits, shape (h, w, channels)."""
    rgb = picture.rgb.mean(0, keepdim=True) if picture.gray else picture.rgb
    planes = rgb if picture.alpha is None else torch.cat((rgb, picture.alpha))
    top, kind = (255, torch.uint8) if depth == 8 else (65535, torch.uint16)
    return planes.mul(top).round_().clamp_(0, top).to(kind).permute(1, 2, 0).contiguous().cpu().numpy()


def _planes(image: Image.Image) -> Tensor:
    pixels = torch.from_numpy(np.array(image))
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    return pixels.permute(2, 0, 1).contiguous().float().div_(255)
