"""TIFF files whose first picture is not the picture."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from rcodsr.errors import InputError
from rcodsr.images import io
from tests.images.files import eight_bit
from tests.tiffs import Page, Tags, tiff_of

RNG = np.random.default_rng(5)
FULL, SMALL = RNG.integers(0, 256, (24, 36, 3), dtype=np.uint8), RNG.integers(0, 256, (6, 9, 3), dtype=np.uint8)
SENSOR = Page(RNG.integers(0, 4096, (48, 72), dtype=np.uint16), {262: (32803,)})
REDUCED: Tags = {254: (1,)}
DNG: Tags = {50706: (0x01040000,)}

RAW = {
    "DNG": Page(SMALL, REDUCED | DNG, (SENSOR,)),
    "DNG, linear": Page(SMALL, REDUCED | DNG, (Page(FULL, {262: (34892,)}),)),
    "DNG of previews": Page(SMALL, REDUCED | DNG),
    "NEF": Page(SMALL, REDUCED, (Page(FULL, REDUCED), SENSOR)),
    "ARW": Page(SMALL, {}, (SENSOR,)),
    "PEF": SENSOR,
}


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        io.read(path)
    with pytest.raises(InputError):
        io.read_header(path)
    return str(caught.value)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("suffix", [".dng", ".tif", ".jpg"])
@pytest.mark.parametrize("kind", RAW)
def test_camera_raw_is_refused_under_any_suffix(tmp_path: Path, kind: str, suffix: str, order: str) -> None:
    (tmp_path / f"photo{suffix}").write_bytes(tiff_of(RAW[kind], order=order))
    message = refusal(tmp_path / f"photo{suffix}")
    assert "a camera raw file" in message
    assert "develop it" in message


def test_raw_data_on_a_later_page_are_raw(tmp_path: Path) -> None:
    (tmp_path / "photo.tif").write_bytes(tiff_of(Page(FULL), Page(SMALL, REDUCED), SENSOR))
    assert "a camera raw file" in refusal(tmp_path / "photo.tif")


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"II*\0\x10\0\0\0CR\x02\0", ""),
        (b"FUJIFILMCCD-RAW 0201", "Fujifilm RAF"),
        (b"IIU\0\x18\0\0\0", "Panasonic RW2"),
        (b"IIRO\x08\0\0\0", "Olympus ORF"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1", "Canon CR3"),
    ],
)
def test_raw_files_of_other_layouts_are_named(tmp_path: Path, head: bytes, name: str) -> None:
    (tmp_path / "photo.jpg").write_bytes(head + bytes(500))
    message = refusal(tmp_path / "photo.jpg")
    assert "a camera raw file" in message
    assert name in message


@pytest.mark.parametrize(("order", "big"), [("<", False), (">", False), ("<", True)])  # Pillow reads no other BigTIFF
@pytest.mark.parametrize("layout", ["next page", "old tag", "below", "below, not marked", "in the middle"])
def test_the_full_picture_behind_a_preview_is_taken(tmp_path: Path, layout: str, order: str, big: bool) -> None:
    pages = {
        "next page": (Page(SMALL, REDUCED), Page(FULL)),
        "old tag": (Page(SMALL, {255: (2,)}), Page(FULL, {255: (1,)})),
        "below": (Page(SMALL, REDUCED, (Page(FULL),)),),
        "below, not marked": (Page(SMALL, {}, (Page(FULL),)),),
        "in the middle": (Page(SMALL, REDUCED), Page(FULL), Page(FULL[::2, ::2].copy(), REDUCED)),
    }[layout]
    (tmp_path / "pyramid.tif").write_bytes(tiff_of(*pages, order=order, big=big))
    picture = io.read(tmp_path / "pyramid.tif")
    assert np.array_equal(eight_bit(picture), FULL)
    assert io.read_header(tmp_path / "pyramid.tif").size == picture.size == (36, 24)


def test_16_bits_behind_a_preview_are_read_whole(tmp_path: Path) -> None:
    deep = RNG.integers(0, 65536, (24, 36, 3), dtype=np.uint16)
    (tmp_path / "pyramid.tif").write_bytes(tiff_of(Page(SMALL, REDUCED), Page(deep)))
    picture = io.read(tmp_path / "pyramid.tif")
    assert np.array_equal(np.rint(picture.rgb.permute(1, 2, 0).numpy() * 65535), deep)


def test_a_compressed_picture_behind_a_preview_is_read(tmp_path: Path) -> None:
    small, full = Image.fromarray(SMALL), Image.fromarray(FULL)
    small.save(tmp_path / "p.tif", save_all=True, append_images=[full], compression="tiff_lzw", tiffinfo={254: 1})
    data = bytearray((tmp_path / "p.tif").read_bytes())
    with Image.open(tmp_path / "p.tif") as image:
        image.seek(1)
        assert isinstance(image, TiffImageFile)
        assert image.tag_v2.get(254) == 1  # Pillow marks both; the second is mended here
        at = data.index(b"\xfe\0\4\0\1\0\0\0\1\0\0\0", image.tag_v2._offset)
    data[at + 8] = 0
    (tmp_path / "p.tif").write_bytes(data)
    assert np.array_equal(eight_bit(io.read(tmp_path / "p.tif")), FULL)


@pytest.mark.parametrize(
    "page",
    [
        Page(FULL, {}, (Page(SMALL, REDUCED),)),
        Page(FULL, {}, (Page(SMALL),)),
        Page(FULL, REDUCED),
        Page(FULL, {330: (7, 1 << 31)}),
    ],
    ids=["thumbnail below", "unmarked thumbnail below", "marked as reduced, and alone", "directories below that do not exist"],
)
def test_a_first_picture_that_is_the_picture_stays(tmp_path: Path, page: Page) -> None:
    (tmp_path / "plain.tif").write_bytes(tiff_of(page))
    assert np.array_equal(eight_bit(io.read(tmp_path / "plain.tif")), FULL)


def test_two_full_pictures_are_still_several_pages(tmp_path: Path) -> None:
    (tmp_path / "two.tif").write_bytes(tiff_of(Page(SMALL, REDUCED), Page(FULL), Page(FULL)))
    with pytest.raises(InputError, match="several pages"):
        io.read(tmp_path / "two.tif")


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_a_turned_tiff_has_one_size(tmp_path: Path, turn: int, depth: type) -> None:
    samples: np.ndarray = FULL.astype(depth) * (257 if depth is np.uint16 else 1)
    (tmp_path / "turned.tif").write_bytes(tiff_of(Page(samples, {274: (turn,)})))
    picture = io.read(tmp_path / "turned.tif")
    assert io.read_header(tmp_path / "turned.tif").size == picture.size == ((24, 36) if turn > 4 else (36, 24))
    if turn == 6:
        assert np.array_equal(eight_bit(picture), np.rot90(FULL, -1))


@pytest.mark.parametrize(
    ("samples", "tags", "kind"),
    [
        (np.zeros((4, 5, 3), np.float32), {339: (3, 3, 3)}, "a TIFF of 32-bit floating-point colour"),
        (np.zeros((4, 5, 3), np.float16), {339: (3, 3, 3)}, "a TIFF of 16-bit floating-point colour"),
        (np.zeros((4, 5, 3), np.uint32), {}, "a TIFF of 32-bit colour"),
        (np.zeros((4, 5), np.float64), {339: (3,)}, "a TIFF of 64-bit floating-point grey"),
    ],
)
def test_samples_that_are_not_read_are_named(tmp_path: Path, samples: np.ndarray, tags: Tags, kind: str) -> None:
    (tmp_path / "deep.tif").write_bytes(tiff_of(Page(samples, tags)))
    message = refusal(tmp_path / "deep.tif")
    assert kind in message
    assert "16-bit" in message
    assert "not a picture" not in message
    assert "whole copy" not in message
