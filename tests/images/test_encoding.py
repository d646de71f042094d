import io as memory
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rcodsr.errors import InputError
from rcodsr.images import io
from rcodsr.images.picture import Picture
from tests.images.files import EXIF_IFD, FORMATS, HISTORY, MAKE, PIXEL_X, SUFFIX, save


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


@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_a_file_that_was_cut_or_changed_is_not_whole(cat: Image.Image, tmp_path: Path, format: str) -> None:
    path = tmp_path / "cat"
    data = io.encode(io.from_image(cat), format)
    path.write_bytes(data)
    assert io.is_whole(path)
    path.write_bytes(data[:-200])
    assert not io.is_whole(path)
    if format == "PNG":  # whose pixels have checksums
        path.write_bytes(data[:-2000] + bytes([data[-2000] ^ 1]) + data[-1999:])
        assert not io.is_whole(path)
