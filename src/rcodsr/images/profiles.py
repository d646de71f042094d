"""Colour profiles: convert a file's values to sRGB for the model, and back.

Profiles with three primaries and a curve each (Adobe RGB, Display P3, ProPhoto, cameras) and grey profiles are computed here
in float32, so that 16-bit pictures keep their depth. Table-based profiles cannot be inverted exactly: their pixels are not
converted and keep their profile. CMYK and Lab are converted to sRGB permanently, by Little CMS.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageCms
from torch import Tensor

from rcodsr.images.picture import Picture
from rcodsr.images.signals import HLG, PQ, Chunks, hdr_light, hdr_primaries, hdr_transfer, to_d50

Curve = np.ndarray[Any, np.dtype[np.float64]]

_GRID = np.linspace(0, 1, 65_537)
_SRGB = np.array([[0.4360747, 0.3850649, 0.1430804], [0.2225045, 0.7168786, 0.0606169], [0.0139322, 0.0971045, 0.7141733]])
_INVISIBLE = 1 / 1024
"""A difference too small for any 8-bit file."""
_ROWS = 256
_HDR_NAMES = {PQ: "PQ", HLG: "HLG"}
_HDR_NOTE = "HDR ({}) is kept only in PNG; other formats clip values brighter than white"


@dataclass(frozen=True)
class Profile:
    """A profile that can be computed in both directions."""

    curves: tuple[Curve, ...]
    """Value → linear light for each channel, rising, on a grid of [0, 1]. One curve for grey."""
    to_srgb: np.ndarray[Any, np.dtype[np.float64]] | None
    """Linear light → linear sRGB, shape (3, 3). None for grey."""

    def into(self, values: Tensor) -> Tensor:
        """Convert the file's values (3, h, w) to sRGB in [0, 1]. Values outside sRGB are clipped."""
        out = torch.empty_like(values)
        for rows in _row_blocks(values):
            light = self._curved(values[:, rows].double().numpy(), forward=True)
            out[:, rows] = torch.from_numpy(_encoded(self._mixed(light, self.to_srgb)))
        return out

    def out_of(self, srgb: Tensor) -> Tensor:
        """Convert sRGB (3, h, w) in [0, 1] to the file's values."""
        out = torch.empty_like(srgb)
        back = None if self.to_srgb is None else np.linalg.inv(self.to_srgb)
        for rows in _row_blocks(srgb):
            light = self._mixed(_decoded(srgb[:, rows].double().numpy()), back)
            out[:, rows] = torch.from_numpy(self._curved(light, forward=False))
        return out

    def is_srgb(self) -> bool:
        """Whether the file's values already are sRGB."""
        steps = torch.linspace(0, 1, 9)
        colours = torch.cartesian_prod(steps, steps, steps) if len(self.curves) == 3 else steps[:, None].expand(-1, 3)
        values = colours.T[:, None].contiguous()
        return bool((self.into(values) - values).abs().max() < 1 / 255)

    def _mixed(self, light: Any, matrix: Any) -> Any:
        return light if matrix is None else np.tensordot(matrix, light, 1)

    def _curved(self, planes: Any, forward: bool) -> Any:
        curves = self.curves if len(self.curves) == 3 else self.curves * 3
        pairs = ((_GRID, curve) if forward else (curve, _GRID) for curve in curves)
        return np.stack([np.interp(plane, *pair) for plane, pair in zip(planes, pairs, strict=True)])


def to_working(picture: Picture, icc: bytes | None) -> Picture:
    """Convert a decoded picture to sRGB. Its metadata keeps the profile for the output."""
    metadata = picture.metadata
    if icc is None and (transfer := hdr_transfer(metadata.color_chunks)) is not None:
        return _matched(picture, _hdr_profile(metadata.color_chunks)).with_note(_HDR_NOTE.format(_HDR_NAMES[transfer]))
    if icc is None:
        return picture.with_metadata(metadata.with_icc(None))
    if not _is_sound(icc):
        return picture.with_metadata(metadata.with_icc(None)).with_note("its colour profile is damaged and was ignored")
    kept = picture.with_metadata(metadata.with_icc(icc))
    if (space := icc[16:20]) not in {b"RGB ", b"GRAY"} or (space == b"GRAY") is not picture.gray:
        if space == b"RGB " and picture.gray:
            return kept  # common for grey pictures, whose values mean the same as equal channels of RGB
        return picture.with_metadata(metadata.with_icc(None)).with_note(
            "its colour profile describes another colour space and was ignored"
        )
    profile = parse(icc)
    return kept if profile is None or profile.is_srgb() else _matched(kept, profile)


def from_working(picture: Picture, hdr: bool = True) -> Picture:
    """Convert a picture from sRGB to its own colours, ready for the file.

    Args:
        picture: from `to_working`, enlarged.
        hdr: whether the file can mark its colours as HDR. Otherwise they stay sRGB.
    """
    profile = parse(picture.metadata.icc) if picture.metadata.icc else None
    if hdr_transfer(picture.metadata.color_chunks) is not None:
        profile = _hdr_profile(picture.metadata.color_chunks) if hdr else None
    elif profile is not None and (profile.is_srgb() or (picture.gray and len(profile.curves) == 3)):
        profile = None
    if profile is None:
        return picture
    values = profile.out_of(picture.rgb)
    if picture.beyond is not None:
        values += picture.beyond
    return picture.with_pixels(values.clamp_(0, 1), picture.alpha)


def _matched(picture: Picture, profile: Profile) -> Picture:
    """Convert a picture from a profile's values to sRGB, and keep what sRGB cannot hold in `beyond`."""
    within = picture.with_pixels(profile.into(picture.rgb), picture.alpha)
    beyond = picture.rgb - profile.out_of(within.rgb)
    return replace(within, beyond=beyond) if beyond.abs().max() > _INVISIBLE else within


def _hdr_profile(chunks: Chunks) -> Profile:
    """A profile up to diffuse white. Brighter light is clipped and therefore kept in `beyond`."""
    transfer = hdr_transfer(chunks)
    assert transfer is not None
    curve = hdr_light(transfer, _GRID).clip(0, 1) + 1e-12 * _GRID
    return Profile((curve,) * 3, np.linalg.inv(_SRGB) @ to_d50(hdr_primaries(chunks)))


def cmyk_to_srgb(image: Image.Image, icc: bytes | None) -> Image.Image:
    """Convert a CMYK image to RGB: by its profile if valid, otherwise by Pillow's simple rule."""
    if icc is not None and icc[16:20] == b"CMYK":
        try:
            source, target = ImageCms.ImageCmsProfile(io.BytesIO(icc)), ImageCms.createProfile("sRGB")
            intent, flags = ImageCms.Intent.RELATIVE_COLORIMETRIC, ImageCms.Flags.BLACKPOINTCOMPENSATION
            converted = ImageCms.profileToProfile(image, source, target, intent, "RGB", flags=flags)
            assert converted is not None
            return converted
        except (ImageCms.PyCMSError, ValueError, OSError):
            pass
    return image.convert("RGB")


def lab_to_srgb(image: Image.Image) -> Image.Image:
    """Convert a CIE Lab image to RGB."""
    converted = ImageCms.profileToProfile(
        image, ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), ImageCms.Intent.RELATIVE_COLORIMETRIC, "RGB"
    )
    assert converted is not None
    return converted


def parse(icc: bytes) -> Profile | None:
    """Parse a profile of curves and primaries. None for a table-based or damaged profile."""
    try:
        tags = _tags(icc)
        if icc[16:20] == b"GRAY":
            return Profile((_curve(tags[b"kTRC"]),), None)
        if b"A2B0" in tags or icc[20:24] != b"XYZ ":
            return None
        curves = tuple(_curve(tags[name]) for name in (b"rTRC", b"gTRC", b"bTRC"))
        primaries = np.array([_xyz(tags[name]) for name in (b"rXYZ", b"gXYZ", b"bXYZ")]).T
        matrix = np.linalg.inv(_SRGB) @ primaries
        return Profile(curves, matrix) if abs(np.linalg.det(matrix)) > 1e-3 else None
    except (KeyError, ValueError, struct.error, IndexError, OverflowError):
        return None


def _is_sound(icc: bytes) -> bool:
    """Whether Little CMS accepts a profile."""
    try:
        ImageCms.ImageCmsProfile(io.BytesIO(icc))
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return False
    return len(icc) >= 128


def _tags(icc: bytes) -> dict[bytes, bytes]:
    (count,) = struct.unpack_from(">I", icc, 128)
    entries = (struct.unpack_from(">4sII", icc, 132 + 12 * i) for i in range(min(count, 100)))
    return {name: icc[start : start + length] for name, start, length in entries}


def _xyz(tag: bytes) -> tuple[float, ...]:
    return tuple(value / 65536 for value in struct.unpack_from(">3i", tag, 8))


def _curve(tag: bytes) -> Curve:
    """Value → light on the grid, from a table, a power, or one of the five parametric forms of ICC.1."""
    if tag[:4] == b"curv":
        (count,) = struct.unpack_from(">I", tag, 8)
        values = np.frombuffer(tag, ">u2", count, 12)
        if count == 0:
            return _GRID.copy()
        light = _GRID ** (int(values[0]) / 256) if count == 1 else np.interp(_GRID, np.linspace(0, 1, count), values / 65535)
    elif tag[:4] == b"para":
        light = _parametric(struct.unpack_from(">H", tag, 8)[0], tag)
    else:
        raise ValueError("not a curve")
    # rising everywhere, so that it has an inverse
    return np.maximum.accumulate(np.nan_to_num(light).clip(0, 1)) + 1e-12 * _GRID


def _parametric(kind: int, tag: bytes) -> Curve:
    numbers = [value / 65536 for value in struct.unpack_from(f">{(1, 3, 4, 5, 7)[kind]}i", tag, 12)]
    g, a, b, c, d, e, f = (numbers + [1.0, 0.0, 0.0, 0.0, 0.0, 0.0][len(numbers) - 1 :])[:7]
    if kind in {1, 2}:
        d, offset = -b / a, (c if kind == 2 else 0.0)
        return np.where(d <= _GRID, (a * _GRID + b).clip(0) ** g + offset, offset)
    if kind == 0:
        return _GRID**g
    return np.where(d <= _GRID, (a * _GRID + b).clip(0) ** g + e, c * _GRID + f)


def _row_blocks(planes: Tensor) -> list[slice]:
    return [slice(top, top + _ROWS) for top in range(0, planes.shape[1], _ROWS)]


def _decoded(srgb: Any) -> Any:
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def _encoded(light: Any) -> Any:
    light = light.clip(0, 1)
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)
