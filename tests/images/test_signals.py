"""Colours that are said without a profile: understood for the model, kept in the output."""

import io as memory
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from rcodsr.images import io
from rcodsr.images.signals import Signal, adobe_rgb, icc_of
from tests.pngs import chunks, png

RELATIVE = ImageCms.Intent.RELATIVE_COLORIMETRIC
P3 = (31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)
SRGB = (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)


def swatches(*colors: tuple[int, ...], extra: tuple[tuple[bytes, bytes], ...] = ()) -> io.Piped:
    """A row of colours, or of greys, in 8 bits, with further chunks."""
    channels = len(colors[0])
    header = struct.pack(">IIBBBBB", len(colors), 1, 8, 2 if channels == 3 else 0, 0, 0, 0)
    row = bytes(value for color in colors for value in color)
    return io.Piped(png((b"IHDR", header), *extra, (b"IDAT", zlib.compress(b"\0" + row)), (b"IEND", b"")))


def gama(value: int) -> tuple[bytes, bytes]:
    return b"gAMA", struct.pack(">I", value)


def chrm(*values: int) -> tuple[bytes, bytes]:
    return b"cHRM", struct.pack(">8I", *values)


def shown(source: io.Piped) -> list[list[float]]:
    """What the model sees, 0 to 255."""
    return (io.read(source).rgb[:, 0].T * 255).tolist()


def test_linear_light_is_shown_as_srgb() -> None:
    # 128/255 of the light is 0.7366 in sRGB
    assert shown(swatches((128, 0, 255), extra=(gama(100_000),)))[0] == pytest.approx([187.8, 0, 255], abs=0.3)


def test_grey_of_another_gamma_stays_grey() -> None:
    picture = io.read(swatches((128,), extra=(gama(55_556),)))  # power 1.8
    assert picture.gray
    # (128/255)^1.8 = 0.2891 of the light
    assert picture.rgb[:, 0, 0].mul(255).tolist() == pytest.approx([146.4] * 3, abs=0.5)


@pytest.mark.parametrize("extra", [(chrm(*P3),), ((b"cICP", bytes([12, 13, 0, 1])),), (gama(45_455), chrm(*P3))])
def test_display_p3_is_understood_and_written_as_it_was(extra: tuple[tuple[bytes, bytes], ...]) -> None:
    source = swatches((234, 51, 35), (117, 117, 117), (0, 255, 0), extra=extra)
    first, grey, green = shown(source)
    # sRGB's own red in P3
    assert first == pytest.approx([255, 0, 0], abs=2.5)
    assert grey == pytest.approx([117] * 3, abs=0.5)
    assert green == pytest.approx([0, 255, 0], abs=0.5)
    written = io.encode(io.read(source), "PNG")
    assert [chunk for chunk in chunks(written) if chunk[0] in {b"gAMA", b"cHRM", b"cICP", b"iCCP"}] == list(extra)
    # green lies beyond sRGB, and is back
    assert np.array_equal(pixels(written), pixels(source.data))


@pytest.mark.parametrize("format", ["JPEG", "WEBP", "TIFF", "AVIF"])
def test_other_formats_get_an_equivalent_profile(format: str) -> None:
    picture = io.read(swatches(*[(230, 60, 40)] * 16, extra=(gama(100_000), chrm(*P3))))
    wide = picture.with_pixels(picture.rgb.expand(3, 16, 16), None)
    with Image.open(memory.BytesIO(io.encode(wide, format))) as written:
        source = ImageCms.ImageCmsProfile(memory.BytesIO(written.info["icc_profile"]))
        back = ImageCms.profileToProfile(written.convert("RGB"), source, ImageCms.createProfile("sRGB"), RELATIVE)
        assert back is not None
        found = np.asarray(back).mean((0, 1))
    assert found == pytest.approx((picture.rgb[:, 0, 0] * 255).numpy(), abs=4)


@pytest.mark.parametrize(
    "extra", [((b"sRGB", b"\0"),), (gama(45_455), chrm(*SRGB)), ((b"sRGB", b"\1"), gama(45_455), chrm(*SRGB)), (gama(45_000),)]
)
def test_what_means_srgb_changes_no_pixel_and_is_written_again(extra: tuple[tuple[bytes, bytes], ...]) -> None:
    source = swatches((10, 128, 250), extra=extra)
    assert shown(source)[0] == pytest.approx([10, 128, 250], abs=1e-3)
    picture = io.read(source)
    assert picture.metadata.icc is None
    assert [chunk for chunk in chunks(io.encode(picture, "PNG")) if chunk[0] in {b"sRGB", b"gAMA", b"cHRM"}] == list(extra)


def test_a_profile_outdoes_gamma_and_cicp_outdoes_a_profile(srgb: bytes) -> None:
    profile = (b"iCCP", b"p\0\0" + zlib.compress(srgb))
    assert shown(swatches((128, 0, 0), extra=(profile, gama(100_000))))[0][0] == pytest.approx(128, abs=0.5)
    linear = (b"cICP", bytes([1, 8, 0, 1]))
    assert shown(swatches((128, 0, 0), extra=(profile, linear)))[0][0] == pytest.approx(187.8, abs=0.3)


@pytest.mark.parametrize("extra", [(gama(0),), (chrm(*[0] * 8),), ((b"cICP", bytes([200, 13, 0, 1])),)])
def test_colours_that_make_no_sense_are_left_out_and_said(extra: tuple[tuple[bytes, bytes], ...]) -> None:
    picture = io.read(swatches((10, 128, 250), extra=extra))
    assert (picture.rgb[:, 0, 0] * 255).tolist() == pytest.approx([10, 128, 250], abs=1e-3)
    assert picture.metadata.color_chunks == ()
    assert len(picture.notes) == (0 if extra == (gama(0),) else 1)


# ---- HDR


def pixels(data: bytes) -> np.ndarray:
    with Image.open(memory.BytesIO(data)) as image:
        return np.asarray(image).astype(int)


@pytest.mark.parametrize(("transfer", "white"), [(16, 148), (18, 191)])
def test_hdr_is_shown_by_its_diffuse_white_and_kept_in_png(transfer: int, white: int) -> None:
    signal, light = (b"cICP", bytes([9, transfer, 0, 1])), (b"cLLI", bytes(8))
    source = swatches((white,) * 3, (0, 0, 0), (white + 40,) * 3, (250, 20, 90), extra=(signal, light))
    picture = io.read(source)
    # 203 cd/m² are diffuse white: 58 % of PQ, 75 % of HLG
    assert picture.rgb[:, 0, 0].tolist() == pytest.approx([1] * 3, abs=0.01)
    assert picture.rgb[:, 0, 1].tolist() == [0, 0, 0]
    assert picture.rgb[:, 0, 2].tolist() == pytest.approx([1] * 3, abs=1e-3)
    assert len(picture.notes) == 1
    assert "HDR" in picture.notes[0]
    written = io.encode(picture, "PNG")
    assert {signal, light} <= set(chunks(written))
    # also what is brighter than white
    assert np.abs(pixels(written) - pixels(source.data)).max() <= 1


@pytest.mark.parametrize("format", ["JPEG", "WEBP", "TIFF", "AVIF", "BMP"])
def test_hdr_becomes_srgb_elsewhere_and_nothing_announces_it(format: str) -> None:
    picture = io.read(swatches(*[(148,) * 3] * 16, extra=((b"cICP", bytes([9, 16, 0, 1])),)))
    wide = picture.with_pixels(picture.rgb.expand(3, 16, 16), None, None)
    with Image.open(memory.BytesIO(io.encode(wide, format))) as written:
        assert np.asarray(written.convert("RGB")).min() >= 252
        assert "icc_profile" not in written.info


def test_a_stripped_picture_keeps_what_its_numbers_mean() -> None:
    picture = io.read(swatches((230, 60, 40), extra=(gama(100_000),)))
    stripped = picture.with_metadata(picture.metadata.stripped())
    assert gama(100_000) in chunks(io.encode(stripped, "PNG"))


# ---- AVIF


def avif(color: tuple[int, int, int], primaries: int, transfer: int) -> io.Piped:
    """One colour, its nclx changed in place."""
    buffer = memory.BytesIO()
    Image.new("RGB", (16, 16), color).save(buffer, "AVIF", quality=95, subsampling="4:4:4")
    data = bytearray(buffer.getvalue())
    at = data.index(b"colrnclx") + 8
    data[at : at + 4] = struct.pack(">HH", primaries, transfer)
    return io.Piped(bytes(data))


def test_nclx_of_avif_is_understood_and_becomes_a_profile() -> None:
    picture = io.read(avif((234, 51, 35), 12, 13))
    assert (picture.rgb[:, 8, 8] * 255).tolist() == pytest.approx([255, 0, 0], abs=6)
    again = io.read(io.Piped(io.encode(picture, "AVIF")))
    assert again.metadata.icc == picture.metadata.icc
    assert (again.rgb - picture.rgb).abs().max() < 0.03


def test_hdr_of_avif_goes_into_png() -> None:
    source = avif((150, 150, 150), 9, 16)
    picture = io.read(source)
    assert "HDR (PQ)" in picture.notes[0]
    written = io.encode(picture, "PNG")
    assert (b"cICP", bytes([9, 16, 0, 1])) in chunks(written)
    assert np.abs(pixels(written) - pixels(source.data)).max() <= 1


@pytest.mark.parametrize(("primaries", "transfer"), [(1, 13), (2, 2), (1, 1)])
def test_plain_avif_stays_plain(primaries: int, transfer: int) -> None:
    picture = io.read(avif((234, 51, 35), primaries, transfer))
    assert picture.metadata.icc is None
    assert picture.notes == ()


# ---- DCF


def test_adobe_rgb_of_dcf_is_understood_and_gets_a_profile(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010F] = "Camera"
    exif.get_ifd(0x8769).update({0xA001: 65535, 0xA005: {1: "R03", 2: b"0100"}})
    Image.new("RGB", (16, 16), (219, 0, 0)).save(tmp_path / "DSC_1.JPG", quality=98, exif=exif.tobytes(), subsampling=0)
    picture = io.read(tmp_path / "DSC_1.JPG")
    assert (picture.rgb[:, 8, 8] * 255).tolist() == pytest.approx([255, 0, 0], abs=3)
    assert picture.metadata.icc == icc_of(adobe_rgb(), gray=False)
    with Image.open(memory.BytesIO(io.encode(picture, "JPEG"))) as written:
        assert written.getexif().get_ifd(0xA005)[1].strip("\0") == "R03"
        assert written.info["icc_profile"] == picture.metadata.icc


def test_srgb_of_dcf_changes_nothing(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769).update({0xA001: 1, 0xA005: {1: "R98", 2: b"0100"}})
    Image.new("RGB", (16, 16), (219, 0, 0)).save(tmp_path / "a.jpg", exif=exif.tobytes())
    assert io.read(tmp_path / "a.jpg").metadata.icc is None


@pytest.mark.parametrize("gray", [False, True])
@pytest.mark.parametrize("gamma", [None, 1.0, 1.8, 563 / 256])
def test_our_profiles_mean_the_same_to_little_cms(gray: bool, gamma: float | None) -> None:
    icc = icc_of(Signal(adobe_rgb().primaries, gamma), gray)
    profile = ImageCms.ImageCmsProfile(memory.BytesIO(icc))
    values = np.arange(30, 256, 5, dtype=np.uint8)  # Little CMS is coarse in the shadows of grey
    image = Image.fromarray(values[None]) if gray else Image.fromarray(np.stack([values, values[::-1], values // 2], -1)[None])
    found = ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), RELATIVE, "RGB")
    from rcodsr.images.profiles import parse

    planes = torch.from_numpy(np.asarray(image.convert("RGB")).copy()).permute(2, 0, 1) / 255
    ours = parse(icc)
    assert ours is not None
    assert np.abs(ours.into(planes).permute(1, 2, 0).numpy() * 255 - np.asarray(found)).max() < 2.5
