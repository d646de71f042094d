"""A picture keeps its identity: depth, colour profile, XMP, IPTC, text; whatever its size and mode."""

import io as memory
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from rcodsr.errors import InputError
from rcodsr.images import io
from rcodsr.images.metadata import Metadata
from rcodsr.images.picture import Picture
from rcodsr.images.profiles import parse
from tests.corpus import wide_profile
from tests.pngs import grey_header, png

XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6" dc:title="Cat"/></x:xmpmeta>'
IPTC = b"\x1c\x02\x78\x00\x05a cat"


def read_back(picture: Picture, format: str, tmp_path: Path) -> Picture:
    path = tmp_path / f"out.{format.lower()}"
    path.write_bytes(io.encode(picture, format))
    return io.read(path)


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("gray", [False, True])
def test_16_bits_are_written_and_read_whole(tmp_path: Path, format: str, alpha: bool, gray: bool) -> None:
    rgb = torch.rand(1, 9, 14).expand(3, -1, -1) if gray else torch.rand(3, 9, 14)
    picture = Picture(rgb, torch.rand(1, 9, 14) if alpha else None, gray, depth=16)
    found = read_back(picture, format, tmp_path)
    depth = 8 if format == "TIFF" and gray and alpha else 16
    assert (found.depth, found.gray, found.alpha is not None) == (depth, gray, alpha)
    assert (found.rgb - rgb).abs().max() <= 0.51 / (2**depth - 1)


@pytest.mark.parametrize("format", ["JPEG", "WEBP", "AVIF"])
def test_16_bits_become_8_where_the_format_has_no_more(tmp_path: Path, format: str) -> None:
    picture = Picture(torch.full((3, 16, 16), 0.3), depth=16)
    found = read_back(picture, format, tmp_path)
    assert found.depth == 8
    assert (found.rgb - 0.3).abs().max() < 0.02


@pytest.mark.parametrize("end", ["<", ">"])
def test_planes_of_16_bits_are_not_read_as_8(tmp_path: Path, end: str) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (3, 10, 12), dtype=np.uint16)
    planes = values.astype(f"{end}u2").tobytes()
    tags = {256: 12, 257: 10, 258: (16, 16, 16), 259: 1, 262: 2, 277: 3, 278: 10, 284: 2}
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    directory = ImageFileDirectory_v2(prefix=b"II" if end == "<" else b"MM")
    for tag, value in tags.items():
        directory[tag] = value
    directory.tagtype[273] = directory.tagtype[279] = 4
    directory[273], directory[279] = (0, 240, 480), (240, 240, 240)
    buffer = memory.BytesIO()
    directory.save(buffer)
    (tmp_path / "planes.tif").write_bytes(buffer.getvalue() + planes)
    found = io.read(tmp_path / "planes.tif")
    assert np.abs(found.rgb.numpy() - values / 65535).max() < 1 / 255


def test_a_16_bit_colour_can_stand_for_transparent(tmp_path: Path) -> None:
    from rcodsr.images.png import encode_png as png

    samples = np.array([[[1000, 2000, 3000], [1000, 2000, 3001]]], np.uint16)
    data = png(samples)
    at = data.index(b"IDAT") - 4
    body = b"tRNS" + struct.pack(">3H", 1000, 2000, 3000)
    import zlib

    chunk = struct.pack(">I", 6) + body + struct.pack(">I", zlib.crc32(body))
    (tmp_path / "t.png").write_bytes(data[:at] + chunk + data[at:])
    found = io.read(tmp_path / "t.png")
    assert found.alpha is not None
    assert found.alpha[0, 0].tolist() == [0, 1]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.booleans(),
    st.booleans(),
    st.sampled_from([8, 16]),
    st.sampled_from(["PNG", "TIFF"]),
)
def test_any_size_and_mode_survives_a_lossless_format(
    width: int, height: int, gray: bool, alpha: bool, depth: int, format: str
) -> None:
    rgb = torch.rand(1, height, width).expand(3, -1, -1) if gray else torch.rand(3, height, width)
    picture = Picture(rgb, torch.rand(1, height, width) if alpha else None, gray, depth=depth)
    found = io.read(io.Piped(io.encode(picture, format, record={"n": 1})))
    assert found.size == (width, height)
    assert (found.gray, found.alpha is not None) == (gray, alpha)
    assert (found.rgb - rgb).abs().max() <= 0.51 / (2**found.depth - 1)
    if picture.alpha is not None and found.alpha is not None:
        assert (found.alpha - picture.alpha).abs().max() <= 0.51 / (2**found.depth - 1)


# ---- colour profiles


def _reference(pixels: np.ndarray[Any, Any], icc: bytes) -> np.ndarray[Any, Any]:
    """Little CMS's answer, in 8 bits."""
    source, target = ImageCms.ImageCmsProfile(memory.BytesIO(icc)), ImageCms.createProfile("sRGB")
    done = ImageCms.profileToProfile(Image.fromarray(pixels), source, target, ImageCms.Intent.RELATIVE_COLORIMETRIC, "RGB")
    return np.asarray(done)


def test_a_profile_becomes_srgb_as_little_cms_computes_it(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "wide.png", icc_profile=wide_profile())
    found = io.read(tmp_path / "wide.png")
    expected = _reference(pixels, wide_profile())
    assert np.abs(found.rgb.permute(1, 2, 0).numpy() * 255 - expected).max() <= 2
    assert np.abs(expected.astype(int) - pixels).max() > 20  # it is a conversion


@pytest.mark.parametrize("depth", [8, 16])
def test_a_profile_comes_back_with_the_same_pixels_also_beyond_srgb(tmp_path: Path, depth: int) -> None:
    rgb = torch.rand(3, 12, 12)
    rgb[:, 0, 0] = torch.tensor([0.0, 1.0, 0.0])  # a green that sRGB cannot show
    written = Picture(rgb, depth=depth)
    (tmp_path / "in.png").write_bytes(io.encode(written, "PNG"))
    if depth == 8:
        with Image.open(tmp_path / "in.png") as image:
            image.save(tmp_path / "in.png", icc_profile=wide_profile())
    else:
        from rcodsr.images.picture import to_samples
        from rcodsr.images.png import encode_png as png

        (tmp_path / "in.png").write_bytes(png(to_samples(written, 16), icc_profile=wide_profile()))
    picture = io.read(tmp_path / "in.png")
    assert picture.beyond is not None
    (tmp_path / "out.png").write_bytes(io.encode(picture, "PNG"))
    with Image.open(tmp_path / "in.png") as before, Image.open(tmp_path / "out.png") as after:
        assert after.info["icc_profile"] == wide_profile()
        assert np.abs(np.asarray(before).astype(int) - np.asarray(after)).max() <= 1


def test_srgb_profiles_change_nothing(tmp_path: Path) -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    profile = parse(srgb)
    assert profile is not None
    assert profile.is_srgb()
    wide = parse(wide_profile())
    assert wide is not None
    assert not wide.is_srgb()


@pytest.mark.parametrize("icc", [b"nonsense" * 50, wide_profile()[:150]])
def test_a_damaged_profile_is_left_out_and_said(tmp_path: Path, icc: bytes) -> None:
    Image.new("RGB", (4, 4), (10, 20, 30)).save(tmp_path / "in.png", icc_profile=icc)
    picture = io.read(tmp_path / "in.png")
    assert picture.metadata.icc is None
    assert picture.notes == ("its colour profile is damaged and was ignored",)
    assert (picture.rgb[:, 0, 0] * 255).round().tolist() == [10, 20, 30]


def test_cmyk_is_not_inverted(tmp_path: Path) -> None:
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "red.jpg", quality=95)
    red = io.read(tmp_path / "red.jpg").rgb.mean((1, 2))
    assert red[0] > 0.9
    assert red[1:].max() < 0.1


def test_lab_becomes_rgb(tmp_path: Path) -> None:
    Image.new("LAB", (4, 4), (255, 128, 128)).save(tmp_path / "white.tif")
    assert io.read(tmp_path / "white.tif").rgb.min() > 0.95


@pytest.mark.parametrize(("bits", "value"), [(1, 1), (2, 2), (4, 5), (8, 200)])
def test_the_transparent_grey_of_a_png_counts_in_its_own_bits(tmp_path: Path, bits: int, value: int) -> None:
    row = bytes([value]) + bytes(7) if bits == 8 else bytes([value << (8 - bits)]) + bytes(bits - 1)  # eight pixels
    parts = [grey_header(8, 1, bits), (b"tRNS", struct.pack(">H", value))]
    parts += [(b"IDAT", zlib.compress(b"\0" + row)), (b"IEND", b"")]
    (tmp_path / "grey.png").write_bytes(png(*parts))
    found = io.read(tmp_path / "grey.png")
    assert found.alpha is not None
    assert found.alpha[0, 0].tolist() == [0, 1, 1, 1, 1, 1, 1, 1]
    assert found.rgb[0, 0, 0] == pytest.approx(value / (2**bits - 1))


# ---- what lies beside the pixels


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF"])
def test_xmp_is_kept_without_its_orientation(tmp_path: Path, format: str) -> None:
    options = {"xmp": XMP} if format in {"JPEG", "WEBP", "AVIF"} else {}
    Image.new("RGB", (16, 16)).save(tmp_path / "in.jpg", "JPEG", xmp=XMP, **{k: v for k, v in options.items() if k != "xmp"})
    found = read_back(io.read(tmp_path / "in.jpg"), format, tmp_path)
    assert found.metadata.xmp is not None
    assert b'dc:title="Cat"' in found.metadata.xmp
    assert b"Orientation" not in found.metadata.xmp


@pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF"])
def test_iptc_is_kept(tmp_path: Path, format: str) -> None:
    found = read_back(Picture(torch.rand(3, 16, 16), metadata=Metadata(iptc=IPTC)), format, tmp_path)
    assert found.metadata.iptc is not None
    assert found.metadata.iptc.rstrip(b"\0") == IPTC


def test_text_stays_in_png_and_a_comment_in_jpeg(tmp_path: Path) -> None:
    picture = Picture(torch.rand(3, 16, 16), metadata=Metadata(comment=b"by hand", text={"Title": "größe"}))
    assert read_back(picture, "PNG", tmp_path).metadata.text == {"Title": "größe"}
    assert read_back(picture, "JPEG", tmp_path).metadata.comment == b"by hand"


def test_resolution_survives_formats_without_a_place_for_it(tmp_path: Path) -> None:
    (tmp_path / "out.webp").write_bytes(io.encode(Picture(torch.rand(3, 8, 8), metadata=Metadata(dpi=(300, 300))), "WEBP"))
    with Image.open(tmp_path / "out.webp") as image:
        assert (image.getexif()[282], image.getexif()[296]) == (300, 2)


def test_the_header_of_a_png_is_read_without_its_pixels(tmp_path: Path) -> None:
    Image.new("RGB", (3000, 3000)).save(tmp_path / "cut.png")
    data = (tmp_path / "cut.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(data[: len(data) // 2])
    assert io.read_header(tmp_path / "cut.png").size == (3000, 3000)
    assert io.read_record(tmp_path / "cut.png") is None


FINDINGS = sorted((Path(__file__).parent / "findings").glob("*.bin"))


@pytest.mark.parametrize("path", FINDINGS, ids=lambda path: path.stem)
def test_findings_of_the_fuzz_are_read_or_refused(path: Path) -> None:
    try:
        assert torch.isfinite(io.read(path).rgb).all()
    except InputError as error:
        assert "\n" not in str(error)
