"""Pictures without colour in files that could hold some: recognised by their pixels, and left as they came."""

import io as memory
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from rcodsr.images import io
from rcodsr.images.deep import tiff
from rcodsr.images.picture import Picture
from rcodsr.images.png import encode_png
from tests.images.files import bitmap_with_alpha, eight_bit, save


@pytest.fixture
def grey(cat: Image.Image) -> Image.Image:
    """Equal channels in mode RGB."""
    return cat.convert("L").convert("RGB")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.png", {}),
        ("a.jpg", {"quality": 60}),
        ("a.webp", {"quality": 60}),
        ("a.webp", {"lossless": True}),
        ("a.avif", {}),
        ("a.tif", {"compression": "jpeg"}),
        ("a.bmp", {}),
        ("a.ppm", {}),
        ("a.gif", {}),
    ],
)
def test_equal_channels_are_neutral_in_every_format(
    cat: Image.Image, grey: Image.Image, tmp_path: Path, name: str, options: dict[str, Any]
) -> None:
    picture = io.read(save(grey, tmp_path / name, **options))
    assert (picture.neutral, picture.gray) == (True, False)
    assert torch.equal(picture.rgb[0], picture.rgb[1])
    assert torch.equal(picture.rgb[0], picture.rgb[2])
    assert not io.read(save(cat, tmp_path / f"colour_{name}", **options)).neutral


def test_palettes_and_depths(grey: Image.Image, tmp_path: Path) -> None:
    assert io.read(save(grey.quantize(16), tmp_path / "palette.png")).neutral
    deep = np.asarray(grey).astype(np.uint16) * 257
    (tmp_path / "deep.png").write_bytes(encode_png(deep))
    (tmp_path / "deep.tif").write_bytes(tiff(deep, Image.Exif(), {}))
    for name in ("deep.png", "deep.tif"):
        picture = io.read(tmp_path / name)
        assert (picture.neutral, picture.depth) == (True, 16)


def test_only_what_is_visible_counts(grey: Image.Image, tmp_path: Path) -> None:
    pixels = np.dstack([np.asarray(grey), np.full((64, 96), 255, np.uint8)])
    pixels[:10, :, :3], pixels[:10, :, 3] = np.random.default_rng(0).integers(0, 256, (10, 96, 3)), 0
    assert io.read(save(Image.fromarray(pixels), tmp_path / "hidden.png")).neutral
    pixels[9, 0, 3] = 1
    assert not io.read(save(Image.fromarray(pixels), tmp_path / "shown.png")).neutral


def test_rounding_is_forgiven_where_there_was_any(grey: Image.Image, tmp_path: Path) -> None:
    """One step off: the rounding of a JPEG, but the colour of a PNG."""
    pixels = np.asarray(grey).clip(0, 254).copy()
    pixels[20, 30, 2] += 1
    image = Image.fromarray(pixels)
    assert not io.read(save(image, tmp_path / "one.png")).neutral
    assert io.from_image(image).neutral  # a Pillow image that has forgotten its file
    picture = io.read(save(image, tmp_path / "one.jpg", quality=100, subsampling=0))
    assert picture.neutral
    assert torch.equal(picture.rgb[0], picture.rgb[2])
    pixels[20, 30, 2] += 1
    assert not io.from_image(Image.fromarray(pixels)).neutral


def _profile(gammas: tuple[float, float, float]) -> bytes:
    """SRGB's primaries with other curves, as a screen's profile has them."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = int.from_bytes(data[128:132], "big")
    entries = [132 + 12 * i for i in range(count)]
    for name, gamma in zip((b"rTRC", b"gTRC", b"bTRC"), gammas, strict=True):
        (at,) = (entry for entry in entries if bytes(data[entry : entry + 4]) == name)
        data[at + 4 : at + 12] = len(data).to_bytes(4, "big") + (16).to_bytes(4, "big")
        data += b"curv" + bytes(4) + (1).to_bytes(4, "big") + round(gamma * 256).to_bytes(2, "big") + bytes(2)
    data[:4] = len(data).to_bytes(4, "big")
    return bytes(data)


@pytest.mark.parametrize("gammas", [(1.8, 1.8, 1.8), (2.0, 2.2, 2.4)])
def test_a_profile_keeps_the_files_own_values_neutral(
    grey: Image.Image, tmp_path: Path, gammas: tuple[float, float, float]
) -> None:
    """Even where the screen it describes would show them in colour: what the network makes of them has equal values again."""
    picture = io.read(save(grey, tmp_path / "wide.png", icc_profile=_profile(gammas)))
    assert picture.neutral
    with Image.open(memory.BytesIO(io.encode(picture, "PNG"))) as written:
        pixels = np.asarray(written).astype(int)
    assert np.abs(pixels - np.asarray(grey)).max() == 0
    tinted = picture.with_pixels((picture.rgb + torch.tensor([0.02, 0.0, -0.01]).view(3, 1, 1)).clamp(0, 1), None)
    with Image.open(memory.BytesIO(io.encode(tinted, "PNG"))) as written:
        assert np.ptp(np.asarray(written).astype(int), axis=2).max() == 0


def test_neutral_pictures_leave_in_their_own_mode(grey: Image.Image, tmp_path: Path) -> None:
    picture = io.read(save(grey, tmp_path / "a.png"))
    made = picture.with_pixels(torch.rand(3, 12, 16), None)
    for format in ("PNG", "JPEG", "TIFF", "BMP", "AVIF"):
        with Image.open(memory.BytesIO(io.encode(made, format))) as written:
            pixels = np.asarray(written)
        assert written.mode == "RGB"
        assert np.ptp(pixels.astype(int), axis=2).max() == 0


def test_alpha_of_0_everywhere_is_none_in_abitmap_with_alpha(cat: Image.Image, tmp_path: Path) -> None:
    cat = cat.convert("RGBA")
    cat.putalpha(0)
    (tmp_path / "v4.bmp").write_bytes(bitmap_with_alpha(cat))
    with Image.open(tmp_path / "v4.bmp") as stored:
        assert stored.mode == "RGBA"
    picture = io.read(tmp_path / "v4.bmp")
    assert picture.alpha is None
    assert np.array_equal(eight_bit(picture), np.asarray(cat)[..., :3])
    assert picture.notes == ("its alpha channel is 0 everywhere and was ignored",)
    png = io.read(save(cat, tmp_path / "clear.png"))  # here it is meant
    assert png.alpha is not None
    cat.putpixel((3, 4), (1, 2, 3, 1))
    (tmp_path / "one.bmp").write_bytes(bitmap_with_alpha(cat))
    assert io.read(tmp_path / "one.bmp").alpha is not None


def test_laid_on_a_background() -> None:
    rgb, alpha = torch.tensor([1.0, 0.5, 0.0]).view(3, 1, 1), torch.tensor([[[0.25]]])
    assert Picture(rgb, alpha).laid_on((255, 255, 255)).rgb.flatten().tolist() == [1.0, 0.875, 0.75]
    grey = Picture(torch.full((3, 1, 1), 0.4), alpha, gray=True)
    assert grey.laid_on().gray
    coloured = grey.laid_on((255, 0, 0))
    assert (coloured.gray, coloured.neutral, coloured.alpha) == (False, False, None)
    torch.testing.assert_close(coloured.rgb.flatten(), torch.tensor([0.85, 0.1, 0.1]))
    opaque = Picture(rgb)
    assert opaque.laid_on() is opaque
