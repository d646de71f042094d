"""What files hold beside usual pixels, kept in the output or said to be reduced."""

import io as memory
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from rcodsr.images import io
from rcodsr.images.boxes import survey
from rcodsr.images.metadata import Metadata
from rcodsr.images.picture import Picture
from tests.corpus import wide_profile
from tests.images.files import SUFFIX


def _path_block(number: int, name: bytes, data: bytes) -> bytes:
    named = bytes([len(name)]) + name + b"\0" * (len(name) % 2 == 0)
    return b"8BIM" + struct.pack(">H", number) + named + struct.pack(">I", len(data)) + data + b"\0" * (len(data) % 2)


PATHS = _path_block(2000, b"Path 1", bytes(range(52))) + _path_block(2999, b"", b"\x06Path 1")


@pytest.mark.parametrize("source", ["JPEG", "TIFF"])
@pytest.mark.parametrize("format", ["JPEG", "TIFF"])
def test_clipping_paths_are_kept_with_their_names(tmp_path: Path, source: str, format: str) -> None:
    resources = _path_block(0x0425, b"", b"digest") + PATHS
    path = tmp_path / f"in{SUFFIX[source]}"
    segment = b"Photoshop 3.0\0" + resources
    extra = {"extra": b"\xff\xed" + struct.pack(">H", len(segment) + 2) + segment}
    Image.new("RGB", (16, 8)).save(path, **(extra if source == "JPEG" else {"tiffinfo": {34377: resources}}))
    picture = io.read(path)
    assert picture.metadata.paths == PATHS
    written = io.encode(picture.with_metadata(picture.metadata), format)
    assert PATHS in written
    assert io.read(io.Piped(written)).metadata.paths == PATHS
    assert io.losses(picture.metadata, format) == ""
    assert io.losses(picture.metadata, "PNG") == "PNG cannot store its paths"


def test_iptc_and_paths_share_a_segment() -> None:
    picture = Picture(torch.rand(3, 8, 8), metadata=Metadata(iptc=b"\x1c\x02\x78\x00\x05a cat", paths=PATHS))
    found = io.read(io.Piped(io.encode(picture, "JPEG"))).metadata
    assert found.paths == PATHS
    assert found.iptc is not None
    assert found.iptc.startswith(b"\x1c\x02\x78\x00\x05a cat")


@pytest.mark.parametrize("extended", [False, True])
def test_lossless_webp_stays_lossless(tmp_path: Path, extended: bool) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    options: dict[str, Any] = {"xmp": b"<x/>"} if extended else {}
    Image.fromarray(pixels).save(tmp_path / "in.webp", lossless=True, **options)
    written = io.encode(io.read(tmp_path / "in.webp"), "WEBP", record={"n": 1})
    with Image.open(memory.BytesIO(written)) as image:
        assert np.array_equal(np.asarray(image), pixels)
    assert b"VP8L" in written


def test_lossy_webp_stays_lossy(tmp_path: Path) -> None:
    Image.new("RGB", (20, 30), (9, 99, 199)).save(tmp_path / "in.webp", quality=90)
    assert b"VP8L" not in io.encode(io.read(tmp_path / "in.webp"), "WEBP")


@pytest.mark.parametrize("maximum", [65535, 1023])
def test_16_bit_ppm_is_read_whole(maximum: int) -> None:
    values = np.random.default_rng(0).integers(0, maximum + 1, (5, 7, 3), dtype=np.uint16)
    header = b"P6\n# by hand\n7 5\n%d\n" % maximum
    picture = io.read(io.Piped(header + values.astype(">u2").tobytes()))
    assert picture.depth == 16
    assert np.abs(picture.rgb.permute(1, 2, 0).numpy() - values / maximum).max() < 1 / 65535
    assert io.read(io.Piped(io.encode(picture, "PNG"))).depth == 16


def test_colours_of_a_format_without_profiles_become_srgb() -> None:
    buffer = memory.BytesIO()
    Image.new("RGB", (8, 8), (200, 40, 40)).save(buffer, "PNG", icc_profile=wide_profile())
    picture = io.read(io.Piped(buffer.getvalue()))
    with Image.open(memory.BytesIO(io.encode(picture, "BMP"))) as written:
        assert np.asarray(written)[0, 0].tolist() == (picture.rgb[:, 0, 0] * 255).round().int().tolist()


def test_16_bits_that_are_read_as_8_are_said(tmp_path: Path) -> None:
    plain = b"P3 2 1 65535 65535 0 0 0 32768 65535\n"
    picture = io.read(io.Piped(plain))
    assert picture.depth == 8
    assert picture.notes == ("16-bit channels reduced to 8",)
    import tifffile

    planes = np.random.default_rng(0).integers(0, 65536, (3, 10, 12), dtype=np.uint16)
    path = tmp_path / "planes.tif"
    tifffile.imwrite(path, planes, photometric="rgb", planarconfig="separate", compression="zlib", predictor=False)
    assert io.read(tmp_path / "planes.tif").notes == ("16-bit channels reduced to 8",)


def test_more_than_8_bits_of_avif_are_said() -> None:
    buffer = memory.BytesIO()
    Image.new("RGB", (16, 16)).save(buffer, "AVIF")
    data = buffer.getvalue()
    at = data.index(b"pixi") + 9
    assert data[at : at + 3] == bytes([8, 8, 8])
    deep = data[:at] + bytes([10, 10, 10]) + data[at + 3 :]
    # the decoder knows that these are 8 bits, so only what describes them is looked at
    assert survey(memory.BytesIO(deep)).info["left_out"] == ("10-bit channels reduced to 8",)
    assert io.read(io.Piped(data)).notes == ()


def test_metadata_that_a_format_cannot_hold_are_said() -> None:
    metadata = Metadata(text={"parameters": "a cat"}, xmp=b"<x>" + b" " * 70_000, iptc=b"\x1c\x02\x78\x00\x05a cat")
    assert io.losses(metadata, "PNG") == ""
    assert io.losses(metadata, "JPEG") == "JPEG cannot store its text, XMP"
    assert io.losses(metadata, "WEBP") == "WEBP cannot store its text, IPTC"
    assert io.losses(Metadata(), "BMP") == ""
