import io as memory
import warnings
from pathlib import Path

import pytest
import torch
from PIL import Image, TiffImagePlugin

from rcodsr.images import io
from tests.images.files import EXIF_IFD, EXPOSURE, FORMATS, MAKE, ORIENTATION, PIXEL_X, PIXEL_Y, SUFFIX, save

BROKEN_EXIF = [(".jpg", 5), (".png", 20), (".png", 90), (".webp", 95)]
"""Suffix, and bytes missing at the end of the EXIF data."""


def with_broken_exif(image: Image.Image, path: Path, missing: int) -> Path:
    exif = Image.Exif()
    exif[0x010E], exif[ORIENTATION], exif[MAKE] = "a description that is cut off", 1, "Maker"
    exif.get_ifd(EXIF_IFD)[PIXEL_X] = 96
    return save(image, path, exif=exif.tobytes()[:-missing])


@pytest.mark.parametrize(("suffix", "missing"), BROKEN_EXIF)
def test_broken_exif_does_not_cost_the_picture(cat: Image.Image, tmp_path: Path, suffix: str, missing: int) -> None:
    path = with_broken_exif(cat, tmp_path / f"cat{suffix}", missing)
    assert io.read_header(path).width == 96
    picture = io.read(path)
    assert picture.size == (96, 64)
    io.encode(picture, "JPEG")


@pytest.mark.parametrize(("suffix", "missing"), BROKEN_EXIF)
def test_broken_exif_gives_no_warning(cat: Image.Image, tmp_path: Path, suffix: str, missing: int) -> None:
    path = with_broken_exif(cat, tmp_path / f"cat{suffix}", missing)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        io.read_header(path)
        io.read(path)
    assert [str(warning.message) for warning in heard] == []


@pytest.mark.parametrize("format", FORMATS)
def test_metadata_is_carried(cat: Image.Image, tmp_path: Path, srgb: bytes, format: str) -> None:
    exif = Image.Exif()
    exif[MAKE] = "Camera"
    exif.get_ifd(EXIF_IFD)[EXPOSURE] = TiffImagePlugin.IFDRational(1, 250)
    path = save(cat, tmp_path / f"in{SUFFIX[format]}", format=format, exif=exif.tobytes(), icc_profile=srgb, dpi=(300, 300))
    output = tmp_path / f"out{SUFFIX[format]}"
    output.write_bytes(io.encode(io.read(path), format))
    with Image.open(output) as written:
        assert written.format == format
        assert written.info["icc_profile"] == srgb
        assert written.getexif()[MAKE] == "Camera"
        assert float(written.getexif().get_ifd(EXIF_IFD)[EXPOSURE]) == pytest.approx(1 / 250)
        if format not in {"WEBP", "AVIF"}:  # they have no field for it
            assert written.info["dpi"] == pytest.approx((300, 300), abs=0.1)


def test_exif_says_the_new_size(cat: Image.Image, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[MAKE] = "Camera"
    exif.get_ifd(EXIF_IFD).update({PIXEL_X: 96, PIXEL_Y: 64})
    picture = io.read(save(cat, tmp_path / "cat.jpg", exif=exif))
    enlarged = picture.with_pixels(torch.zeros(3, 256, 384), None)
    with Image.open(memory.BytesIO(io.encode(enlarged, "JPEG"))) as written:
        details = written.getexif().get_ifd(EXIF_IFD)
        assert (details[PIXEL_X], details[PIXEL_Y]) == (384, 256)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF"])
def test_tags_of_a_tiffs_own_layout_are_not_carried(cat: Image.Image, tmp_path: Path, format: str) -> None:
    exif = Image.Exif()
    exif[MAKE] = "Camera"
    picture = io.read(save(cat, tmp_path / "cat.tif", exif=exif))
    assert picture.metadata.exif is not None
    assert dict(picture.metadata.exif) == {MAKE: "Camera"}
    enlarged = picture.with_pixels(torch.zeros(3, 256, 384), None)
    with Image.open(memory.BytesIO(io.encode(enlarged, format))) as written:
        assert written.size == (384, 256)
        assert written.getexif()[MAKE] == "Camera"


def test_a_cmyk_profile_is_not_put_on_rgb_pixels(cat: Image.Image, tmp_path: Path, srgb: bytes) -> None:
    path = save(cat.convert("CMYK"), tmp_path / "cat.tif", icc_profile=srgb)
    assert io.read(path).metadata.icc is None
