"""A decoded picture: pixels as tensors, and what the file said about them."""

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
    """Shape (3, h, w), float32 in [0, 1], sRGB, upright; three equal channels where `gray`."""
    alpha: Tensor | None = None
    """Shape (1, h, w), float32 in [0, 1]; None where the picture is opaque."""
    gray: bool = False
    """Came as grey, leaves as grey."""
    neutral: bool = False
    """Came as colour whose visible pixels have three equal channels, and leaves so; see `as_neutral`."""
    metadata: Metadata = field(default_factory=Metadata)
    depth: int = 8
    """Bits a channel of the file: 8 or 16."""
    beyond: Tensor | None = None
    """Shape (3, h, w): what the file's colour profile holds beyond sRGB, in the profile's own values; None where nothing."""
    notes: tuple[str, ...] = ()
    """What people should know about how it was read."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.rgb.shape[2], self.rgb.shape[1]

    def with_pixels(self, rgb: Tensor, alpha: Tensor | None, beyond: Tensor | None = None) -> "Picture":
        """The same picture with other pixels; one without colour stays without, whatever a network has made of it."""
        if self.gray or self.neutral:
            rgb = rgb.mean(0, keepdim=True).expand(3, -1, -1)
        return replace(self, rgb=rgb, alpha=alpha, beyond=beyond)

    def as_neutral(self, step: float = 0.0) -> "Picture":
        """The same picture, without colour from here on where no visible pixel has any.

        Args:
            step: by how much the channels of a pixel may differ and count as equal; what a lossy file's rounding has left.
        """
        red, green, blue = self.rgb
        spread = torch.maximum(torch.maximum(red, green), blue) - torch.minimum(torch.minimum(red, green), blue)
        visible = spread if self.alpha is None else spread * (self.alpha[0] > 0)
        if self.gray or visible.max() > step:
            return self
        return replace(self, neutral=True).with_pixels(self.rgb, self.alpha)

    def without_unset_alpha(self) -> "Picture":
        """The same picture, opaque where its alpha hides every pixel: nobody means that."""
        if self.alpha is None or self.alpha.any():
            return self
        return replace(self, alpha=None).with_note("its alpha channel is 0 everywhere and counts as none")

    def without_alpha(self) -> "Picture":
        """The same picture, opaque: what nobody saw continues the colours around it, as a network is shown it."""
        return self if self.alpha is None else replace(self, rgb=bleed(self.rgb, self.alpha), alpha=None)

    def is_one_colour(self) -> bool:
        """Whether 8 bits a channel cannot tell its pixels apart."""
        return bool((self.rgb.amax((1, 2)) - self.rgb.amin((1, 2))).max() < 0.5 / 255)

    def laid_on(self, background: tuple[int, int, int] = (255, 255, 255)) -> "Picture":
        """The same picture without transparency: what is seen of it on a background, whose channels count to 255."""
        if self.alpha is None:
            return self
        below = torch.tensor(background).view(3, 1, 1) / 255
        grey = len(set(background)) == 1
        seen = below.lerp(self.rgb, self.alpha)
        return replace(self, rgb=seen, alpha=None, gray=self.gray and grey, neutral=self.neutral and grey)

    def with_metadata(self, metadata: Metadata) -> "Picture":
        """The same picture with other metadata."""
        return replace(self, metadata=metadata)

    def with_note(self, *notes: str) -> "Picture":
        """The same picture with something more to say about it."""
        return replace(self, notes=(*self.notes, *notes))


def from_pil(image: Image.Image, name: object = "image") -> Picture:
    """Pixels of a decoded Pillow image, every mode brought to [0, 1].

    16-bit grey is scaled by its range (Pillow's own conversion clips it to white); 32-bit numbers by the usual range that holds
    them: 1, 255, 65535, or else their own.

    Args:
        image: any mode but CMYK and LAB, whose colours a profile defines.
        name: for the error message.

    Raises:
        InputError: for pixels that are not numbers.
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
    """A picture of 16-bit samples.

    Args:
        samples: shape (h, w, 1 to 4), uint16: grey, grey and alpha, colour, colour and alpha.
        transparent: the one grey value or colour that stands for transparent, if any.
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
    """Whether a 16-bit TIFF says that zero is white; Pillow minds that for 8 bits only."""
    return image.format == "TIFF" and getattr(image, "tag_v2", {}).get(262) == 0


def _from_32_bit(image: Image.Image, name: object) -> Picture:
    values = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).all():
        raise InputError(name, "holds values that are not numbers", "save it as 8-bit or 16-bit")
    low, high = float(values.min()), float(values.max())
    usual = (1.0, 255.0, 65535.0) if image.mode == "F" else (255.0, 65535.0)
    top = next((top for top in usual if low >= 0 and high <= top), None)
    if top is None:
        values, top = values - low, max(high - low, 1.0)
    gray = torch.from_numpy((values / top).astype(np.float32)).expand(3, -1, -1)
    said = f"{top:g} becomes white" if low >= 0 and high <= top else f"{low:g} becomes black and {high:g} white"
    return Picture(gray, gray=True, depth=16).with_note(f"32-bit pixels: {said}")


def turned(picture: Picture, orientation: int) -> Picture:
    """The picture upright, given its EXIF orientation; any number but 2 to 8 leaves it alone."""

    def turn(planes: Tensor) -> Tensor:
        if orientation in {5, 6, 7, 8}:
            planes = planes.transpose(1, 2)
        axes = {2: [2], 3: [1, 2], 4: [1], 6: [2], 7: [1, 2], 8: [1]}.get(orientation, [])
        return planes.flip(axes).contiguous() if axes or orientation == 5 else planes

    return picture.with_pixels(turn(picture.rgb), None if picture.alpha is None else turn(picture.alpha))


def to_pil(picture: Picture) -> Image.Image:
    """8-bit Pillow image of mode L, LA, RGB or RGBA, in sRGB."""
    pixels = to_samples(picture, 8)
    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)


def to_samples(picture: Picture, depth: int) -> Samples:
    """Samples of 8 or 16 bits, shape (h, w, channels)."""
    rgb = picture.rgb.mean(0, keepdim=True) if picture.gray else picture.rgb
    planes = rgb if picture.alpha is None else torch.cat((rgb, picture.alpha))
    top, kind = (255, torch.uint8) if depth == 8 else (65535, torch.uint16)
    return planes.mul(top).round_().clamp_(0, top).to(kind).permute(1, 2, 0).contiguous().cpu().numpy()


def _planes(image: Image.Image) -> Tensor:
    pixels = torch.from_numpy(np.array(image))
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    return pixels.permute(2, 0, 1).contiguous().float().div_(255)
