import io as memory
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

from rcodsr.images import io
from tests.images.files import MAKE, ORIENTATION, SUFFIX, eight_bit, save


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "CMYK"])
def test_opaque_modes_are_read_as_pillow_converts_them(cat: Image.Image, tmp_path: Path, mode: str) -> None:
    image = cat.convert(mode)
    picture = io.read(save(image, tmp_path / ("cat.tif" if mode == "CMYK" else "cat.png")))
    assert np.array_equal(eight_bit(picture), np.asarray(image.convert("RGB")))
    assert picture.gray == (mode in {"1", "L"})
    assert picture.alpha is None
    assert picture.rgb.shape == (3, 64, 96)
    assert picture.rgb.dtype == torch.float32
    assert picture.size == (96, 64)


def test_a_palette_is_read_as_its_colours(cat: Image.Image, tmp_path: Path) -> None:
    image = cat.quantize(32)
    picture = io.read(save(image, tmp_path / "cat.png"))
    assert np.array_equal(eight_bit(picture), np.asarray(image.convert("RGB")))
    assert not picture.gray
    assert picture.alpha is None


@pytest.mark.parametrize(("mode", "gray"), [("LA", True), ("RGBA", False)])
def test_alpha_is_read_beside_the_colours(cat: Image.Image, tmp_path: Path, mode: str, gray: bool) -> None:
    image = cat.convert(mode)
    alpha = np.tile(np.linspace(0, 255, 96).astype(np.uint8), (64, 1))
    image.putalpha(Image.fromarray(alpha))
    picture = io.read(save(image, tmp_path / "cat.png"))
    assert picture.gray is gray
    assert picture.alpha is not None
    assert picture.alpha.shape == (1, 64, 96)
    assert np.array_equal(picture.alpha[0].mul(255).round().byte().numpy(), alpha)
    assert np.array_equal(eight_bit(picture), np.asarray(image.convert("RGBA"))[..., :3])


def test_a_palettes_transparent_entry_becomes_alpha(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1, 2], [2, 1, 0]], np.uint8))
    image = image.convert("P")
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    picture = io.read(save(image, tmp_path / "p.png", transparency=1))
    assert picture.alpha is not None
    assert picture.alpha[0].tolist() == [[1, 0, 1], [1, 0, 1]]
    assert eight_bit(picture)[0].tolist() == [[255, 0, 0], [0, 255, 0], [0, 0, 255]]
    assert not picture.gray


def test_a_single_frame_gif_keeps_its_transparency(tmp_path: Path) -> None:
    image = Image.new("P", (4, 2), 0)
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((0, 0), 1)
    picture = io.read(save(image, tmp_path / "p.gif", transparency=1))
    assert picture.alpha is not None
    assert picture.alpha[0, 0].tolist() == [0, 1, 1, 1]


@pytest.mark.parametrize("suffix", [".png", ".tif", ".pgm"])
def test_16_bit_grey_is_scaled_by_its_range_and_not_clipped(tmp_path: Path, suffix: str) -> None:
    values = np.array([[0, 255, 1000], [32768, 65000, 65535]], np.uint16)
    picture = io.read(save(Image.fromarray(values), tmp_path / f"deep{suffix}"))
    assert picture.gray
    assert np.allclose(picture.rgb[1].numpy(), values / 65535, atol=1e-7)


@pytest.mark.parametrize(
    ("values", "white"),
    [([0.25, 1.0], 1.0), ([0.0, 51.0], 255.0), ([0.0, 40_000.0], 65_535.0)],
)
def test_float_pixels_are_scaled_by_the_usual_range_that_holds_them(tmp_path: Path, values: list[float], white: float) -> None:
    picture = io.read(save(Image.fromarray(np.array([values], np.float32)), tmp_path / "float.tif"))
    assert np.allclose(picture.rgb[0, 0].numpy(), np.array(values) / white, atol=1e-6)
    assert picture.notes == (f"32-bit pixels: {white:g} becomes white",)


def test_float_pixels_of_any_range_use_their_own(tmp_path: Path) -> None:
    picture = io.read(save(Image.fromarray(np.array([[-5, 0, 15]], np.float32)), tmp_path / "float.tif"))
    assert picture.rgb[0, 0].tolist() == [0, 0.25, 1]
    assert "-5 becomes black and 15 white" in picture.notes[0]


def test_a_wrong_suffix_does_not_matter(cat: Image.Image, tmp_path: Path) -> None:
    path = save(cat, tmp_path / "cat.jpg", format="PNG")
    assert np.array_equal(eight_bit(io.read(path)), np.asarray(cat))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_orientation_is_applied_and_reset(cat: Image.Image, tmp_path: Path, orientation: int, format: str) -> None:
    exif = Image.Exif()
    exif[ORIENTATION], exif[MAKE] = orientation, "Camera"
    path = save(cat, tmp_path / f"cat{SUFFIX[format]}", format=format, exif=exif)
    with Image.open(path) as image:
        stored = np.asarray(image.convert("RGB"))
    upright = {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.transpose(1, 0, 2),
        6: np.rot90(stored, -1),
        7: np.rot90(stored.transpose(1, 0, 2), 2),
        8: np.rot90(stored, 1),
    }[orientation]

    picture = io.read(path)
    assert np.array_equal(eight_bit(picture), upright)
    header = io.read_header(path)
    assert (header.width, header.height) == picture.size == (upright.shape[1], upright.shape[0])
    assert header.format == format

    with Image.open(memory.BytesIO(io.encode(picture, "PNG"))) as written:
        assert written.getexif().get(ORIENTATION, 1) == 1
        assert written.getexif()[MAKE] == "Camera"
        assert np.array_equal(np.asarray(written), upright)


def test_a_png_is_turned_by_its_xmp_too(cat: Image.Image, tmp_path: Path) -> None:
    """The XMP that is kept loses its orientation, so the pixels must not."""
    info = PngImagePlugin.PngInfo()
    info.add_itxt(
        "XML:com.adobe.xmp", '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    )
    path = save(cat, tmp_path / "cat.png", pnginfo=info)
    assert io.read_header(path).size == (cat.height, cat.width)
    assert np.array_equal(eight_bit(io.read(path)), np.rot90(np.asarray(cat), -1))


def test_alpha_and_deep_grey_turn_with_the_picture(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    values = (np.arange(6, dtype=np.uint16) * 10_000).reshape(2, 3)
    deep = io.read(save(Image.fromarray(values), tmp_path / "deep.png", exif=exif))
    assert np.allclose(deep.rgb[0].numpy(), np.rot90(values, -1) / 65535)
    pixels = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
    clear = io.read(save(Image.fromarray(pixels), tmp_path / "clear.png", exif=exif))
    assert clear.alpha is not None
    assert np.array_equal(clear.alpha[0].mul(255).round().byte().numpy(), np.rot90(pixels[..., 3], -1))
