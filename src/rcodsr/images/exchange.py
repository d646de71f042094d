"""Convert pictures from and to Python types: paths, bytes, streams, Pillow images, numpy arrays and torch tensors."""

from __future__ import annotations

import io as streams
import os
import threading
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image, ImageCms
from torch import Tensor

from rcodsr.errors import UsageError, in_python
from rcodsr.images import io
from rcodsr.images.formats import parse_background
from rcodsr.images.metadata import written_exif
from rcodsr.images.picture import Picture, from_pil, from_samples, to_pil, to_samples
from rcodsr.images.profiles import parse
from rcodsr.options import MAX_OUTPUT_PIXELS

Array = np.ndarray[Any, np.dtype[Any]]


class Readable(Protocol):
    """A stream of bytes, such as an open file or an upload."""

    def read(self) -> bytes:
        """Read the whole stream."""
        ...


ImageLike = Image.Image | str | os.PathLike[str] | bytes | bytearray | memoryview | Readable | Array | Tensor
"""Types of pictures that can be enlarged."""

_UNDECODED = threading.Lock()
"""Guards Pillow's lazy decoding at first use, which is not thread-safe."""


def to_picture(image: ImageLike, scale: float = 1.0) -> Picture:
    """Convert any of `ImageLike` to a picture in sRGB.

    Args:
        image: a path, a file's bytes or stream, a Pillow image, a numpy array (h, w) or (h, w, 1 to 4), or a torch tensor
            (1 to 4, h, w). Arrays and tensors are uint8, uint16, or floats in [0, 1]. With 2 or 4 channels the last is alpha.
        scale: the planned enlargement.

    Raises:
        InputError: when a file cannot be read.
        UsageError: when an array or a tensor is not a picture.
    """
    if isinstance(image, Image.Image):
        with _UNDECODED:
            return io.from_image(image)
    if isinstance(image, Tensor):
        return _from_array(_array_of(image), "tensor", channels_first=True)
    if isinstance(image, np.ndarray):
        return _from_array(image, "array", channels_first=False)
    if isinstance(image, str | os.PathLike):
        return io.read(Path(image), MAX_OUTPUT_PIXELS, scale)
    if isinstance(image, bytes | bytearray | memoryview):
        return io.read(io.Piped(bytes(image)), MAX_OUTPUT_PIXELS, scale)
    if callable(getattr(image, "read", None)):
        return io.read(io.Piped(image.read()), MAX_OUTPUT_PIXELS, scale)
    kinds = "a path, bytes, a stream, a Pillow image, a numpy array (h, w, c) or a torch tensor (c, h, w)"
    raise UsageError("image", f"{type(image).__name__} is not a picture", f"pass {kinds}")


def to_kind(picture: Picture, like: ImageLike) -> Image.Image | Array | Tensor:
    """Convert a picture to the type of `like`: an array or tensor of its dtype and number of axes, otherwise a Pillow image."""
    if isinstance(like, Tensor):
        planes = torch.from_numpy(_samples_like(picture, _array_of(like).dtype)).permute(2, 0, 1)
        return planes.contiguous().to(like.device, like.dtype)
    if isinstance(like, np.ndarray):
        samples = _samples_like(picture, like.dtype).astype(like.dtype)
        return samples[..., 0] if like.ndim == 2 else samples
    return to_srgb_image(picture)


def to_srgb_image(picture: Picture) -> Image.Image:
    """Convert a picture to an 8-bit Pillow image in sRGB, so that it shows the right colours however it is saved.

    EXIF, XMP and DPI are in `info`. `save` recovers the picture with its own profile and bit depth.
    """
    metadata, image = picture.metadata, _in_srgb(picture)
    exif = written_exif(metadata, picture.size, "PNG", None)
    info = {"dpi": metadata.dpi, "exif": exif.tobytes() if len(exif) else None, "xmp": metadata.resized(picture.size).xmp}
    image.info |= {key: value for key, value in info.items() if value is not None}
    # a picture is five times as large as its image, so keep it only where it holds more; copies and crops inherit nothing
    deeper = picture if picture.depth == 16 or metadata.icc is not None or metadata.color_chunks else None
    image._rcodsr = metadata, image.size, deeper  # type: ignore[attr-defined]
    return image


def _in_srgb(picture: Picture) -> Image.Image:
    """The picture's 8-bit image, converted if its numbers belong to a table-based profile."""
    image, icc = to_pil(picture), picture.metadata.icc
    return image if icc is None or picture.gray or parse(icc) is not None else _by_table(image, icc)


def save(
    image: Image.Image | Array | Tensor, path: str | os.PathLike[str], quality: int = 95, background: str = "white"
) -> None:
    """Write a picture like the command line: atomically, with the input's colour profile, EXIF, XMP and DPI.

    Args:
        image: from `Upscaler.upscale`, or any Pillow image, array (h, w[, c]) or tensor (c, h, w).
        path: output file, whose suffix selects the format. Replaced if it exists.
        quality: quality of JPEG, WebP and AVIF, 1 to 100.
        background: colour behind transparency if the format has none, as #rrggbb or a name.

    Raises:
        OutputError: when it cannot be written.
        UsageError: when the suffix does not belong to an output format, or an array is not a picture.
    """
    target = Path(path)
    with in_python():
        format = io.FORMATS.get(target.suffix.lower())
        if format is None:
            raise UsageError(target, "has no suffix of an output format", f"end it in {', '.join(sorted(io.FORMATS))}")
        if not 1 <= quality <= 100:
            raise UsageError("quality", f"{quality} is not between 1 and 100", "use for example 95")
        data = io.encode(_kept(image), format, quality, background=parse_background(background))
        io.write_atomic(target, data)


def _kept(image: Image.Image | Array | Tensor) -> Picture:
    """The picture passed to `to_srgb_image` if the image has not been edited since, otherwise its pixels and their metadata."""
    if not isinstance(image, Image.Image):
        return to_picture(image)
    metadata, size, picture = getattr(image, "_rcodsr", (None, None, None))
    if metadata is None or size != image.size:
        return to_picture(image)
    if picture is not None and image.tobytes() == _in_srgb(picture).tobytes():
        return picture
    # from here on the numbers are sRGB, which cannot be converted back to a table-based profile
    own = metadata.with_icc(None) if metadata.icc and parse(metadata.icc) is None else metadata
    return from_pil(image).with_metadata(own)


def _by_table(image: Image.Image, icc: bytes) -> Image.Image:
    """Convert an image with a table-based profile to sRGB. Little CMS converts the colours and keeps alpha."""
    alpha = image.getchannel("A") if image.mode == "RGBA" else None
    source, target = ImageCms.ImageCmsProfile(streams.BytesIO(icc)), ImageCms.createProfile("sRGB")
    try:
        converted = ImageCms.profileToProfile(image.convert("RGB"), source, target, outputMode="RGB")
    except ImageCms.PyCMSError:
        return image
    assert converted is not None
    if alpha is not None:
        converted.putalpha(alpha)
    return converted


def _samples_like(picture: Picture, kind: np.dtype[Any]) -> Array:
    """Samples of shape (h, w, channels): integers of the same depth, or float32 in [0, 1]."""
    if kind in (np.uint8, np.uint16):
        return to_samples(picture, 8 if kind == np.uint8 else 16)
    rgb = picture.rgb[:1] if picture.gray else picture.rgb
    planes = rgb if picture.alpha is None else torch.cat((rgb, picture.alpha))
    return planes.clamp(0, 1).permute(1, 2, 0).contiguous().cpu().numpy()


def _array_of(tensor: Tensor) -> Array:
    """Copy a tensor to the CPU as an array. numpy has no bfloat16."""
    tensor = tensor.detach().cpu()
    return tensor.float().numpy() if tensor.is_floating_point() else tensor.numpy()


def _from_array(values: Array, kind: str, channels_first: bool) -> Picture:
    _require_axes(values.shape, kind, channels_first)
    if values.ndim == 2:
        values = values[..., None]
    elif channels_first:
        values = values.transpose(1, 2, 0)
    if values.dtype == np.uint16:
        return from_samples(np.ascontiguousarray(values))
    if values.dtype == np.uint8:
        planes = torch.from_numpy(np.array(values)).permute(2, 0, 1).float().div_(255)
    elif values.dtype.kind == "f":
        if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
            raise UsageError(kind, "holds values that are not in [0, 1]", "scale and clip it, or pass uint8 or uint16")
        planes = torch.from_numpy(np.array(values, np.float32)).permute(2, 0, 1)
    else:
        raise UsageError(kind, f"of {values.dtype} is not a picture", "pass uint8, uint16, or floats in [0, 1]")
    channels = len(planes)
    rgb = planes[:1].expand(3, -1, -1) if channels < 3 else planes[:3]
    return Picture(rgb.contiguous(), planes[channels - 1 :] if channels in {2, 4} else None, channels < 3).as_neutral()


def _require_axes(shape: tuple[int, ...], kind: str, channels_first: bool) -> None:
    wanted = "(c, h, w)" if channels_first else "(h, w) or (h, w, c)"
    other = "(h, w, c)" if channels_first else "(c, h, w)"
    remedy = f"pass {wanted} with 1 to 4 channels"
    if len(shape) == 4:
        raise UsageError(kind, f"of shape {shape} has a batch axis", "pass its pictures one by one")
    if len(shape) != 3 and not (len(shape) == 2 and not channels_first):
        raise UsageError(kind, f"of shape {shape} is not a picture", remedy)
    if not all(shape):
        raise UsageError(kind, f"of shape {shape} is empty", remedy)
    if len(shape) == 3 and not 1 <= shape[0 if channels_first else 2] <= 4:
        misplaced = 1 <= shape[2 if channels_first else 0] <= 4
        raise UsageError(kind, f"of shape {shape} " + (f"is {other}" if misplaced else "is not a picture"), remedy)
