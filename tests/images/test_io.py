import io as memory
import os
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image, ImageCms, ImageSequence, PngImagePlugin, TiffImagePlugin

from rcodsr.errors import InputError, OutputError
from rcodsr.images import io
from rcodsr.images.picture import Picture
from rcodsr.images.png import encode_png

ORIENTATION, MAKE, HISTORY = 0x0112, 0x010F, 0x9213
EXIF_IFD, EXPOSURE, PIXEL_X, PIXEL_Y = 0x8769, 0x829A, 0xA002, 0xA003

FORMATS = ["PNG", "JPEG", "WEBP", "TIFF", "AVIF"]
SUFFIX = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp", "TIFF": ".tif", "AVIF": ".avif", "BMP": ".bmp"}


@pytest.fixture
def cat() -> Image.Image:
    return Image.fromarray(skimage.data.chelsea()[60:124, 120:216])  # 96×64


@pytest.fixture(scope="module")
def srgb() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def save(image: Image.Image, path: Path, **options: Any) -> Path:
    image.save(path, **options)
    return path


def eight_bit(picture: Picture) -> np.ndarray:
    """Height × width × 3."""
    return picture.rgb.mul(255).round().byte().permute(1, 2, 0).numpy()


def refusal(path: Path, **limits: Any) -> str:
    """The message of the refusal, which names the file and says something after it."""
    with pytest.raises(InputError) as caught:
        io.read(path, **limits)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert caught.value.remedy
    assert caught.value.exit_code == 1
    return message


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def hollow_png(path: Path, width: int, height: int) -> Path:
    """A PNG of a few hundred bytes that promises width × height pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(bytes(1000))) + png_chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return path


# ------------------------------------------------------------------------------------------------------------- modes


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


@pytest.mark.parametrize("nonsense", [np.nan, np.inf])
def test_float_pixels_that_are_no_numbers_are_refused(tmp_path: Path, nonsense: float) -> None:
    path = save(Image.fromarray(np.array([[0.5, nonsense]], np.float32)), tmp_path / "float.tif")
    assert "not numbers" in refusal(path)


def test_a_wrong_suffix_does_not_matter(cat: Image.Image, tmp_path: Path) -> None:
    path = save(cat, tmp_path / "cat.jpg", format="PNG")
    assert np.array_equal(eight_bit(io.read(path)), np.asarray(cat))


# -------------------------------------------------------------------------------------------------------- orientation


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


# ----------------------------------------------------------------------------------------------------------- metadata


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


# ----------------------------------------------------------------------------------------------------------- encoding


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("gray", [True, False])
def test_every_format_is_written_and_read_back(cat: Image.Image, tmp_path: Path, format: str, gray: bool) -> None:
    picture = io.read(save(cat.convert("L") if gray else cat, tmp_path / "in.png"))
    path = tmp_path / f"out{SUFFIX[format]}"
    path.write_bytes(io.encode(picture, format, quality=95))
    assert io.read_header(path) == io.Header(format, 96, 64)
    error = (io.read(path).rgb - picture.rgb).square().mean().sqrt() * 255
    assert error <= (0 if format in {"PNG", "TIFF"} else 6)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "BMP", "TIFF"])
def test_grey_stays_mode_l(cat: Image.Image, tmp_path: Path, format: str) -> None:
    picture = io.read(save(cat.convert("L"), tmp_path / "cat.png"))
    with Image.open(memory.BytesIO(io.encode(picture, format))) as written:
        assert written.mode == "L"


@pytest.mark.parametrize(
    ("mode", "format", "expected"), [("LA", "PNG", "LA"), ("RGBA", "PNG", "RGBA"), ("RGBA", "WEBP", "RGBA")]
)
def test_alpha_is_kept(cat: Image.Image, tmp_path: Path, mode: str, format: str, expected: str) -> None:
    image = cat.convert(mode)
    alpha = np.tile(np.linspace(0, 255, 96).astype(np.uint8), (64, 1))
    image.putalpha(Image.fromarray(alpha))
    picture = io.read(save(image, tmp_path / "cat.png"))
    assert io.has_room_for_alpha(format)
    with Image.open(memory.BytesIO(io.encode(picture, format))) as written:
        assert written.mode == expected
        assert np.array_equal(np.asarray(written.getchannel("A")), alpha)


@pytest.mark.parametrize("format", ["JPEG", "BMP"])
@pytest.mark.parametrize("gray", [True, False])
def test_alpha_is_laid_on_white_where_the_format_has_none(format: str, gray: bool) -> None:
    alpha = torch.ones(1, 16, 48)
    alpha[..., :16], alpha[..., 16:32] = 0, 0.5
    picture = Picture(torch.full((3, 16, 48), 0.2), alpha, gray)
    assert not io.has_room_for_alpha(format)
    with Image.open(memory.BytesIO(io.encode(picture, format))) as written:
        assert written.mode == ("L" if gray else "RGB")
        levels = np.asarray(written.convert("L")).astype(int)
    for column, level in ((8, 255), (24, 153), (40, 51)):
        assert abs(levels[8, column] - level) <= 2


def test_quality_matters(cat: Image.Image, tmp_path: Path) -> None:
    picture = io.read(save(cat, tmp_path / "cat.png"))
    for format in ("JPEG", "WEBP", "AVIF"):
        assert len(io.encode(picture, format, quality=30)) < 0.7 * len(io.encode(picture, format, quality=95))


@pytest.mark.parametrize(("format", "side"), [("WEBP", 16_384), ("JPEG", 65_501), ("AVIF", 65_536)])
def test_a_side_beyond_the_format_is_refused(format: str, side: int) -> None:
    with pytest.raises(InputError, match=rf"1×{side}: {format} holds at most"):
        io.encode(Picture(torch.zeros(3, side, 1)), format)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("with_exif", [True, False])
def test_the_record_comes_back(cat: Image.Image, tmp_path: Path, format: str, with_exif: bool) -> None:
    exif = Image.Exif()
    if with_exif:
        exif[MAKE] = "Camera"
        exif.get_ifd(EXIF_IFD)[PIXEL_X] = 96
    picture = io.read(save(cat, tmp_path / "in.png", exif=exif))
    record = {"model": "rcod-tiny@1", "realism": 0.5, "tiles": 4, "source": "größe\n;: 日本"}
    path = tmp_path / f"out{SUFFIX[format]}"
    path.write_bytes(io.encode(picture, format, record=record))
    assert io.read_record(path) == record


def test_the_record_of_an_input_is_not_carried(cat: Image.Image, tmp_path: Path) -> None:
    picture = io.read(save(cat, tmp_path / "in.png"))
    first, second = tmp_path / "first.png", tmp_path / "second.png"
    first.write_bytes(io.encode(picture, "PNG", record={"run": 1}))
    second.write_bytes(io.encode(io.read(first), "PNG"))
    assert io.read_record(second) is None


def test_encoding_leaves_the_picture_alone(cat: Image.Image, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[MAKE] = "Camera"
    picture = io.read(save(cat, tmp_path / "in.jpg", exif=exif))
    io.encode(picture, "PNG", record={"run": 1})
    path = tmp_path / "out.png"
    path.write_bytes(io.encode(picture, "PNG"))
    assert io.read_record(path) is None


def test_there_is_no_record_in_foreign_files(cat: Image.Image, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[HISTORY] = "made by hand"
    assert io.read_record(save(cat, tmp_path / "plain.png")) is None
    assert io.read_record(save(cat, tmp_path / "other.png", exif=exif)) is None
    assert io.read_record(tmp_path / "missing.png") is None
    (tmp_path / "text.png").write_text("hello")
    assert io.read_record(tmp_path / "text.png") is None


def test_exif_too_long_for_jpeg_does_not_cost_the_picture(cat: Image.Image, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010E] = "x" * 70_000
    picture = io.read(save(cat, tmp_path / "in.png", exif=exif))
    path = tmp_path / "out.jpg"
    path.write_bytes(io.encode(picture, "JPEG", record={"run": 1}))
    assert io.read_record(path) == {"run": 1}
    assert io.read(path).size == (96, 64)


# ----------------------------------------------------------------------------------------------------------- refusals


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "gone.png")
    assert "no such file" in refusal(tmp_path / "gone" / "deeper.png")


def test_a_path_through_a_file_is_refused(cat: Image.Image, tmp_path: Path) -> None:
    refusal(save(cat, tmp_path / "cat.png") / "inner.png")


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        (b"", "the file is empty"),
        (b"Dear reader, this is a letter.\n" * 5, "looks like text"),
        (b"<!DOCTYPE html>\n<HTML><body>404</body></HTML>", "looks like a web page"),
        (b"<html><body>404</body></html>", "looks like a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "git lfs pull"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\nshowpage\n%%EOF\n", "not a picture"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100), "HEIC needs pillow-heif"),
        (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n" + bytes(100), "not a picture"),
        (bytes(range(256)) * 4, "not a picture"),
    ],
    ids=["empty", "text", "html", "html without doctype", "git-lfs", "eps", "heic", "pdf", "noise"],
)
def test_what_is_not_a_picture_is_refused(tmp_path: Path, content: bytes, hint: str) -> None:
    path = tmp_path / "cat.png"
    path.write_bytes(content)
    assert hint in refusal(path)
    with pytest.raises(InputError, match=r"cat\.png: "):
        io.read_header(path)


@pytest.mark.parametrize("suffix", [".eps", ".ico", ".tga"])
def test_formats_outside_the_list_are_not_decoded_under_another_name(cat: Image.Image, tmp_path: Path, suffix: str) -> None:
    foreign = save(cat, tmp_path / f"cat{suffix}")
    assert "not a picture" in refusal(foreign.rename(tmp_path / "cat.png"))


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif", ".bmp", ".gif", ".ppm", ".avif"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_cut_off_file_is_refused(cat: Image.Image, tmp_path: Path, suffix: str, share: float) -> None:
    path = save(cat, tmp_path / f"cat{suffix}")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    refusal(path)


def test_a_photo_cut_off_in_its_pixels_is_called_damaged(tmp_path: Path) -> None:
    photo = Image.fromarray(skimage.data.chelsea())
    for suffix in (".jpg", ".png"):
        path = save(photo, tmp_path / f"cat{suffix}")
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        assert "cut short or damaged" in refusal(path)
        assert io.read_header(path).width == 451  # the header alone is whole


def test_a_damaged_png_is_refused(cat: Image.Image, tmp_path: Path) -> None:
    path = save(cat, tmp_path / "cat.png")
    data = bytearray(path.read_bytes())
    start = data.index(b"IDAT") + 40
    data[start : start + 200] = bytes(200)
    path.write_bytes(data)
    refusal(path)


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp", ".tif", ".avif"])
def test_animations_and_pages_are_refused(cat: Image.Image, tmp_path: Path, suffix: str) -> None:
    frames = [cat, cat.rotate(180), cat.transpose(Image.Transpose.FLIP_TOP_BOTTOM)]
    path = save(frames[0], tmp_path / f"cat{suffix}", save_all=True, append_images=frames[1:])
    with Image.open(path) as image:
        assert len(list(ImageSequence.Iterator(image))) == 3
    assert "an animation or several pages" in refusal(path)


def test_a_cut_off_animation_is_refused(tmp_path: Path) -> None:
    squares = np.arange(256, dtype=np.uint8).reshape(16, 16)
    frame = Image.fromarray(np.stack([squares, squares.T, squares], -1))
    path = save(frame, tmp_path / "cat.gif", save_all=True, append_images=[frame.rotate(90)])
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.6)])
    refusal(path)


def test_a_tiff_whose_next_page_is_nonsense_is_refused(cat: Image.Image, tmp_path: Path) -> None:
    path = save(cat, tmp_path / "cat.tif")
    data = bytearray(path.read_bytes())
    (directory,) = struct.unpack_from("<I", data, 4)
    (entries,) = struct.unpack_from("<H", data, directory)
    struct.pack_into("<I", data, directory + 2 + 12 * entries, 9)  # the next directory: inside the header
    path.write_bytes(data)
    refusal(path)


def test_900_megapixels_are_refused_from_the_header(tmp_path: Path) -> None:
    path = hollow_png(tmp_path / "bomb.png", 30_000, 30_000)
    assert path.stat().st_size < 1000
    assert "900 megapixels" in refusal(path)
    with pytest.raises(InputError, match=r"bomb\.png: 900 megapixels"):
        io.read_header(path)


def test_a_large_picture_within_pillows_limit_gives_no_warning(tmp_path: Path) -> None:
    path = hollow_png(tmp_path / "large.png", 10_000, 10_000)  # Pillow warns from 89 megapixels on
    assert io.read_header(path).width == 10_000


def test_the_limit_counts_pixels_of_the_output(cat: Image.Image, tmp_path: Path) -> None:
    path = save(cat, tmp_path / "cat.png")
    assert io.read(path, max_pixels=96 * 64 * 16, scale=4).size == (96, 64)
    message = refusal(path, max_pixels=96 * 64 * 16 - 1, scale=4)
    assert "384×256" in message
    assert "--max-pixels" in message
    assert io.read(path, max_pixels=96 * 64, scale=1).size == (96, 64)


def test_the_limit_is_judged_before_decoding(tmp_path: Path) -> None:
    # the pixels of this file cannot be decoded, so any look at them would give another message
    path = hollow_png(tmp_path / "large.png", 9000, 9000)
    assert "36000×36000" in refusal(path, scale=4)


def test_a_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cat.png").mkdir()
    assert "not a regular file" in refusal(tmp_path / "cat.png")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_fifo_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")  # opening it would wait for a writer for ever
    assert "not a regular file" in refusal(tmp_path / "pipe.png")
    assert io.read_record(tmp_path / "pipe.png") is None


def test_a_symlink_to_a_picture_is_read_and_a_dangling_one_refused(cat: Image.Image, tmp_path: Path) -> None:
    (tmp_path / "link.png").symlink_to(save(cat, tmp_path / "cat.png"))
    assert io.read(tmp_path / "link.png").size == (96, 64)
    (tmp_path / "cat.png").unlink()
    assert "no such file" in refusal(tmp_path / "link.png")


# ------------------------------------------------------------------------------------------------------------ writing


def test_a_written_file_holds_the_bytes_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "out.png"
    io.write_atomic(path, b"first")
    io.write_atomic(path, b"second")
    assert path.read_bytes() == b"second"
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_folder_is_an_output_error(tmp_path: Path) -> None:
    path = tmp_path / "gone" / "out.png"
    with pytest.raises(OutputError, match=r"out\.png: cannot be written") as caught:
        io.write_atomic(path, b"data")
    assert caught.value.exit_code == 7
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_place_of_the_folder_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(b"old")
    with pytest.raises(OutputError, match="a file stands where a folder is needed"):
        io.write_atomic(tmp_path / "old" / "out.png", b"data")
    assert (tmp_path / "old").read_bytes() == b"old"


def test_a_failed_write_leaves_what_was_there_and_no_temporary_file(tmp_path: Path) -> None:
    # the data is written, then the rename onto a folder fails
    path = tmp_path / "out.png"
    path.mkdir()
    (path / "old").write_bytes(b"old")
    with pytest.raises(OutputError, match=r"out\.png: cannot be written"):
        io.write_atomic(path, b"data")
    assert list(tmp_path.iterdir()) == [path]
    assert (path / "old").read_bytes() == b"old"


def test_a_write_cut_off_midway_leaves_the_old_file_untouched(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource", reason="needs file size limits")
    path = tmp_path / "out.png"
    io.write_atomic(path, b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
    try:
        with pytest.raises(OutputError, match=r"out\.png: cannot be written"):
            io.write_atomic(path, bytes(20_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_name_no_file_system_takes_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        io.write_atomic(tmp_path / ("x" * 300), b"data")
    assert list(tmp_path.iterdir()) == []


def test_a_name_of_255_bytes_works(cat: Image.Image, tmp_path: Path) -> None:
    path = tmp_path / ("ö" * 125 + "x.png")
    assert len(os.fsencode(path.name)) == 255
    io.write_atomic(path, io.encode(io.read(save(cat, tmp_path / "in.png")), "PNG"))
    assert io.read(path).size == (96, 64)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["in.png", path.name]


def test_a_png_of_several_strips_is_what_was_given(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (700, 600, 4), dtype=np.uint8)
    (tmp_path / "large.png").write_bytes(encode_png(pixels))
    with Image.open(tmp_path / "large.png") as image:
        assert np.array_equal(np.asarray(image), pixels)
