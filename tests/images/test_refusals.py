import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
from PIL import Image, ImageSequence

from rcodsr.errors import InputError
from rcodsr.images import io
from tests.images.files import save
from tests.pngs import hollow_png


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


def hollow(path: Path, width: int, height: int) -> Path:
    path.write_bytes(hollow_png(width, height))
    return path


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
    path = hollow(tmp_path / "bomb.png", 30_000, 30_000)
    assert path.stat().st_size < 1000
    assert "900 megapixels" in refusal(path)
    with pytest.raises(InputError, match=r"bomb\.png: 900 megapixels"):
        io.read_header(path)


def test_a_large_picture_within_pillows_limit_gives_no_warning(tmp_path: Path) -> None:
    path = hollow(tmp_path / "large.png", 10_000, 10_000)  # Pillow warns from 89 megapixels on
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
    path = hollow(tmp_path / "large.png", 9000, 9000)
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


@pytest.mark.parametrize("nonsense", [np.nan, np.inf])
def test_float_pixels_that_are_no_numbers_are_refused(tmp_path: Path, nonsense: float) -> None:
    path = save(Image.fromarray(np.array([[0.5, nonsense]], np.float32)), tmp_path / "float.tif")
    assert "NaN or infinite" in refusal(path)
