"""XMP and EXIF that speak of pixels, or of what else was in the file."""

import io as memory
import struct
from pathlib import Path

import pytest
import torch
from PIL import Image

from rcodsr.images import io
from rcodsr.images.xmp import resized, without_container
from tests.images.files import EXIF_IFD, MAKE, SUFFIX

RDF = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF><rdf:Description rdf:about="" %s>%s</rdf:Description></rdf:RDF></x:xmpmeta>'
)
SPACES = {
    b"tiff": b"http://ns.adobe.com/tiff/1.0/",
    b"exif": b"http://ns.adobe.com/exif/1.0/",
    b"GPano": b"http://ns.google.com/photos/1.0/panorama/",
    b"mwg-rs": b"http://www.metadataworkinggroup.com/schemas/regions/",
    b"stDim": b"http://ns.adobe.com/xap/1.0/sType/Dimensions#",
    b"hdrgm": b"http://ns.adobe.com/hdr-gain-map/1.0/",
    b"Container": b"http://ns.google.com/photos/1.0/container/",
    b"Item": b"http://ns.google.com/photos/1.0/container/item/",
    b"GCamera": b"http://ns.google.com/photos/1.0/camera/",
    b"xmpNote": b"http://ns.adobe.com/xmp/note/",
    b"GImage": b"http://ns.google.com/photos/1.0/image/",
    b"dc": b"http://purl.org/dc/elements/1.1/",
}


def packet(
    properties: dict[bytes, bytes], elements: bool = False, prefixes: dict[bytes, bytes] | None = None, inside: bytes = b""
) -> bytes:
    """XMP of properties as attributes or as elements, the prefixes renamed."""
    renamed = prefixes or {}
    spaces = b" ".join(b'xmlns:%s="%s"' % (renamed.get(prefix, prefix), space) for prefix, space in SPACES.items())
    named = [
        (renamed.get(key.split(b":")[0], key.split(b":")[0]) + b":" + key.split(b":")[1], value)
        for key, value in properties.items()
    ]
    if elements:
        return RDF % (spaces, b"".join(b"<%s>%s</%s>" % (name, value, name) for name, value in named) + inside)
    return RDF % (spaces + b" " + b" ".join(b'%s="%s"' % item for item in named), inside)


PANORAMA = {
    b"GPano:FullPanoWidthPixels": (b"200", b"800"),
    b"GPano:FullPanoHeightPixels": (b"100", b"400"),
    b"GPano:CroppedAreaImageWidthPixels": (b"120", b"480"),
    b"GPano:CroppedAreaImageHeightPixels": (b"60", b"240"),
    b"GPano:CroppedAreaLeftPixels": (b"40", b"160"),
    b"GPano:CroppedAreaTopPixels": (b"20", b"80"),
    b"GPano:PoseHeadingDegrees": (b"350.5", b"350.5"),
    b"GPano:ProjectionType": (b"equirectangular", b"equirectangular"),
    b"tiff:ImageWidth": (b"120", b"480"),
    b"tiff:ImageLength": (b"60", b"240"),
    b"exif:PixelXDimension": (b"120", b"480"),
    b"exif:PixelYDimension": (b"60", b"240"),
    b"exif:FocalLength": (b"50", b"50"),
}


@pytest.mark.parametrize("elements", [False, True])
@pytest.mark.parametrize("prefixes", [{}, {b"GPano": b"pano", b"tiff": b"t", b"exif": b"e"}])
def test_numbers_about_pixels_grow_with_the_picture(elements: bool, prefixes: dict[bytes, bytes]) -> None:
    before = packet({name: old for name, (old, _) in PANORAMA.items()}, elements, prefixes)
    after = packet({name: new for name, (_, new) in PANORAMA.items()}, elements, prefixes)
    assert resized(before, (120, 60), (480, 240)) == after


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b'<mwg-rs:AppliedToDimensions stDim:w="120" stDim:h="60" stDim:unit="pixel"/>', (b'w="180"', b'h="90"')),
        (
            b'<mwg-rs:AppliedToDimensions rdf:parseType="Resource"><stDim:w>120</stDim:w><stDim:h>60</stDim:h>'
            b"<stDim:unit>pixel</stDim:unit></mwg-rs:AppliedToDimensions>",
            (b"<stDim:w>180</stDim:w>", b"<stDim:h>90</stDim:h>"),
        ),
    ],
)
def test_the_size_of_face_regions_grows_and_that_of_a_page_does_not(before: bytes, after: tuple[bytes, ...]) -> None:
    page = b'<xmpTPg:MaxPageSize stDim:w="8" stDim:h="11" stDim:unit="inch"/>'
    found = resized(packet({}, inside=before + page), (120, 60), (180, 90))
    assert all(part in found for part in after)
    assert page in found


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF"])
def test_a_written_file_speaks_of_its_own_pixels(tmp_path: Path, format: str) -> None:
    xmp = packet({name: old for name, (old, _) in PANORAMA.items()})
    Image.new("RGB", (120, 60)).save(tmp_path / "in.jpg", xmp=xmp)
    picture = io.read(tmp_path / "in.jpg").with_pixels(torch.zeros(3, 240, 480), None)
    path = tmp_path / f"out{SUFFIX[format]}"
    path.write_bytes(io.encode(picture, format))
    assert io.read(path).metadata.xmp == packet({name: new for name, (_, new) in PANORAMA.items()})


GAIN_MAP = (
    b'<Container:Directory><rdf:Seq><rdf:li rdf:parseType="Resource"><Container:Item Item:Semantic="Primary"/></rdf:li>'
    b'<rdf:li rdf:parseType="Resource"><Container:Item Item:Semantic="GainMap" Item:Length="435"/></rdf:li></rdf:Seq>'
    b"</Container:Directory>"
)


@pytest.mark.parametrize("elements", [False, True])
def test_what_is_gone_is_not_announced_and_said(tmp_path: Path, elements: bool) -> None:
    properties = {
        b"hdrgm:Version": b"1.0",
        b"hdrgm:GainMapMax": b"<rdf:Seq><rdf:li>3.1</rdf:li></rdf:Seq>" if elements else b"3.1",
        b"GCamera:MotionPhoto": b"1",
        b"GCamera:MicroVideoOffset": b"1234567",
        b"GCamera:BurstID": b"abc",
        b"xmpNote:HasExtendedXMP": b"0123456789ABCDEF",
        b"GImage:Mime": b"image/jpeg",
        b"dc:source": b"kept",
    }
    Image.new("RGB", (16, 16)).save(tmp_path / "in.jpg", xmp=packet(properties, elements, inside=GAIN_MAP))
    picture = io.read(tmp_path / "in.jpg")
    xmp = picture.metadata.xmp
    assert xmp is not None
    gone = (b"hdrgm", b"Container", b"GainMap", b"Item", b"MotionPhoto", b"MicroVideo", b"HasExtendedXMP", b"GImage")
    assert [word for word in gone if word in xmp] == []
    assert b"kept" in xmp
    assert b"BurstID" in xmp
    assert picture.notes == (
        "its gain map (HDR) was dropped",
        "its motion video was dropped",
        "the extended part of its XMP was dropped",
    )


def test_a_gain_map_of_iso_21496_is_said_without_xmp(tmp_path: Path) -> None:
    body = b"urn:iso:std:iso:ts:21496:-1\0" + bytes(4)
    extra = b"\xff\xe2" + struct.pack(">H", len(body) + 2) + body
    Image.new("RGB", (16, 16)).save(tmp_path / "in.jpg", extra=extra)
    assert io.read(tmp_path / "in.jpg").notes == ("its gain map (HDR) was dropped",)


def test_plain_xmp_stays_byte_for_byte() -> None:
    xmp = packet({b"dc:title": b"Cat", b"tiff:Make": b"Camera"}, inside=b"<dc:subject><rdf:Bag/></dc:subject>")
    assert without_container(xmp) == (xmp, ())
    assert resized(xmp, (10, 10), (40, 40)) == xmp


@pytest.mark.parametrize(
    "hostile",
    [
        b"<hdrgm:a>" * 60_000,
        b" " * 500_000,
        b' hdrgm:a="' * 50_000,
        b"<GPano:TopPixels " * 30_000,
        b"<mwg-rs:AppliedToDimensions>" * 20_000,
    ],
)
def test_nonsense_takes_no_time_and_stays(hostile: bytes) -> None:
    xmp = packet({}, inside=hostile)
    without_container(resized(xmp, (1, 1), (4, 4)))


# ---- EXIF


def _exif(interop: object) -> Image.Exif:
    exif = Image.Exif()
    exif[MAKE] = "Camera"
    exif.get_ifd(EXIF_IFD).update({0xA001: 1, 0xA005: interop, 0x9214: (10, 5, 4)})
    return exif


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF"])
def test_the_directory_below_exif_is_written(tmp_path: Path, format: str) -> None:
    exif = _exif({1: "R98", 2: b"0100", 0x1001: 16, 0x1002: 8})
    Image.new("RGB", (16, 8)).save(tmp_path / "in.jpg", exif=exif.tobytes())
    picture = io.read(tmp_path / "in.jpg").with_pixels(torch.zeros(3, 32, 64), None)
    with Image.open(memory.BytesIO(io.encode(picture, format))) as written:
        details = written.getexif().get_ifd(EXIF_IFD)
        inner = written.getexif().get_ifd(0xA005)
    assert inner[1].strip("\0") == "R98"
    assert (inner[0x1001], inner[0x1002]) == (64, 32)
    assert details[0x9214] == (40, 20, 16)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF"])
def test_a_directory_that_is_not_there_is_not_pointed_to(tmp_path: Path, format: str) -> None:
    exif = _exif(0x7FFFFFF0).tobytes()
    Image.new("RGB", (16, 8)).save(tmp_path / "in.jpg", exif=exif)
    with Image.open(memory.BytesIO(io.encode(io.read(tmp_path / "in.jpg"), format))) as written:
        details = written.getexif().get_ifd(EXIF_IFD)
        assert details[0xA001] == 1
        assert 0xA005 not in details


def test_places_in_a_picture_that_was_turned_are_left_out(tmp_path: Path) -> None:
    exif = _exif({1: "R98"})
    exif[0x0112] = 6
    Image.new("RGB", (16, 8)).save(tmp_path / "in.jpg", exif=exif.tobytes())
    picture = io.read(tmp_path / "in.jpg")
    assert picture.metadata.exif is not None
    assert 0x9214 not in picture.metadata.exif.get_ifd(EXIF_IFD)
