"""PNG whose pixels are sound and whose other chunks are not, or stand behind the pixels."""

import io as memory
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rcodsr.errors import InputError
from rcodsr.images import io
from tests.images.files import eight_bit
from tests.pngs import chunks, png

XMP_KEY = b"XML:com.adobe.xmp"
COLOURS = np.random.default_rng(3).integers(0, 256, (10, 14, 3), dtype=np.uint8)


def parts() -> list[tuple[bytes, bytes]]:
    """The three chunks of a plain colour picture."""
    rows = b"".join(b"\0" + row.tobytes() for row in COLOURS)
    header = struct.pack(">IIBBBBB", 14, 10, 8, 2, 0, 0, 0)
    return [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]


def file_with(path: Path, *extra: tuple[bytes, bytes], behind: bool = False, wrong: bytes = b"") -> Path:
    """A picture with further chunks before or behind its pixels; those of the kind `wrong` get a false checksum."""
    found = parts()
    at = 2 if behind else 1
    data = bytearray(png(*found[:at], *extra, *found[at:]))
    if wrong:
        start = data.index(wrong)
        length = int.from_bytes(data[start - 4 : start])
        data[start + 4 + length] ^= 0x55
    path.write_bytes(data)
    return path


def compressed(text: bytes) -> bytes:
    return XMP_KEY + b"\0\1\0\0\0" + zlib.compress(text)


LONG = {
    "xmp": (b"iTXt", compressed(b"<x>" + b" " * 2_000_000 + b"</x>"), "its XMP (iTXt) is too long and was dropped"),
    "text": (b"zTXt", b"Comment\0\0" + zlib.compress(b"a" * 3_000_000), "its text (zTXt) is too long and was dropped"),
    "plain text": (b"tEXt", b"Comment\0" + b"a" * 1_500_000, "its text (tEXt) is too long and was dropped"),
    "private": (b"prVt", bytes(1_500_000), "its chunk (prVt) is too long and was dropped"),
    "profile": (b"iCCP", b"p\0\0" + zlib.compress(bytes(17 << 20)), "its colour profile (iCCP) is too long and was dropped"),
}


@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize("name", LONG)
def test_a_chunk_that_is_too_long_is_left_out_and_said(tmp_path: Path, name: str, behind: bool) -> None:
    kind, data, note = LONG[name]
    path = file_with(tmp_path / "long.png", (kind, data), behind=behind)
    assert io.read_header(path).size == (14, 10)
    picture = io.read(path)
    assert np.array_equal(eight_bit(picture), COLOURS)
    # what has no business behind the pixels is not looked at
    assert picture.notes == (() if behind and kind in {b"prVt", b"iCCP"} else (note,))
    assert io.is_whole(path)


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (b"tEXt", b"Software\0scanner"),
        (b"tIME", bytes(7)),
        (b"gAMA", struct.pack(">I", 100_000)),
        (b"iCCP", b"p\0\0" + zlib.compress(b"profile")),
        (b"eXIf", b"MM\0*\0\0\0\x08\0\0"),
        (b"prVt", b"private"),
    ],
)
def test_a_chunk_with_a_wrong_checksum_is_left_out_and_said(tmp_path: Path, kind: bytes, data: bytes) -> None:
    picture = io.read(file_with(tmp_path / "wrong.png", (kind, data), wrong=kind))
    assert np.array_equal(eight_bit(picture), COLOURS)
    (note,) = picture.notes
    assert f"({kind.decode()}) is damaged (wrong checksum) and was dropped" in note
    assert picture.metadata.icc is None


@pytest.mark.parametrize(
    ("kind", "data"), [(b"gAMA", b"\0"), (b"cHRM", bytes(8)), (b"pHYs", b""), (b"iCCP", b"p\0\7"), (b"zTXt", b"k\0\0broken")]
)
def test_a_chunk_that_makes_no_sense_is_left_out_and_said(tmp_path: Path, kind: bytes, data: bytes) -> None:
    picture = io.read(file_with(tmp_path / "nonsense.png", (kind, data)))
    assert np.array_equal(eight_bit(picture), COLOURS)
    assert "damaged" in picture.notes[0]


@pytest.mark.parametrize("kind", [b"IHDR", b"PLTE"])
def test_critical_chunks_stay_strict(tmp_path: Path, kind: bytes) -> None:
    path = file_with(tmp_path / "critical.png", (b"PLTE", b"rgb"), (b"tEXt", b"a\0b"), wrong=kind)
    with pytest.raises(InputError, match="damaged") as caught:
        io.read(path)
    assert "not a picture" not in str(caught.value)


def test_metadata_of_one_picture_stay_below_64_mebibytes(tmp_path: Path) -> None:
    bomb = [(b"zTXt", b"k%03d\0\0" % i + zlib.compress(bytes(990_000))) for i in range(100)]
    picture = io.read(file_with(tmp_path / "bomb.png", *bomb))
    assert np.array_equal(eight_bit(picture), COLOURS)
    assert 60 < len(picture.metadata.text) < 68
    assert picture.notes == ("its text (zTXt) is too long and was dropped",)


def test_a_profile_longer_than_pillow_unpacks_is_kept(tmp_path: Path, srgb: bytes) -> None:
    profile = srgb + bytes(np.random.default_rng(0).integers(0, 256, 2_000_000, np.uint8))
    profile = struct.pack(">I", len(profile)) + profile[4:]
    picture = io.read(file_with(tmp_path / "long.png", (b"iCCP", b"p\0\0" + zlib.compress(profile))))
    assert picture.metadata.icc == profile
    assert picture.notes == ()


def exif(turn: int) -> bytes:
    return b"MM\0*\0\0\0\x08\0\1\x01\x12\0\3\0\0\0\1" + struct.pack(">HH", turn, 0) + bytes(4)


IN_TEXT = b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n      32\n%s\n" % (b"Exif\0\0" + exif(6)).hex().encode())
IN_XMP = compressed(b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>')
TURNS = {"eXIf": (b"eXIf", exif(6)), "XMP": (b"iTXt", IN_XMP), "text": (b"zTXt", IN_TEXT)}


@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize("where", TURNS)
def test_header_and_pixels_agree_wherever_the_turn_stands(tmp_path: Path, where: str, behind: bool) -> None:
    path = file_with(tmp_path / "turned.png", TURNS[where], behind=behind)
    picture = io.read(path)
    assert io.read_header(path).size == picture.size == (10, 14)
    assert np.array_equal(eight_bit(picture), np.rot90(COLOURS, -1))
    assert picture.metadata.size == (10, 14)


def test_frames_behind_the_pixels_are_still_an_animation(tmp_path: Path) -> None:
    frames = [Image.fromarray(COLOURS), Image.fromarray(COLOURS[::-1].copy())]
    frames[0].save(tmp_path / "film.png", save_all=True, append_images=frames[1:])
    found = [*chunks((tmp_path / "film.png").read_bytes())]
    (tmp_path / "film.png").write_bytes(png(*found[:-1], (b"tEXt", b"a\0b"), found[-1]))
    with pytest.raises(InputError, match="an animation"):
        io.read(tmp_path / "film.png")


def test_a_file_cut_short_behind_its_pixels_is_refused(tmp_path: Path) -> None:
    path = file_with(tmp_path / "cut.png", (b"tEXt", b"Comment\0" + b"a" * 500), behind=True)
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(InputError, match="cut short"):
        io.read(path)


def test_a_pipe_is_read_like_a_file(tmp_path: Path) -> None:
    path = file_with(tmp_path / "long.png", (b"eXIf", exif(6)), behind=True)
    assert np.array_equal(eight_bit(io.read(io.Piped(path.read_bytes()))), np.rot90(COLOURS, -1))


def test_long_texts_of_generators_are_kept(tmp_path: Path) -> None:
    workflow = "".join(f'{{"node{i}": {i * 7919 % 1000}}}, ' for i in range(9000))
    assert len(workflow) > 150_000
    path = file_with(tmp_path / "made.png", (b"tEXt", b"workflow\0" + workflow.encode()))
    with Image.open(memory.BytesIO(io.encode(io.read(path), "PNG"))) as written:
        assert written.text["workflow"] == workflow  # type: ignore[attr-defined]
