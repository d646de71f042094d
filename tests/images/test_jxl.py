"""JPEG XL: what its header says, and pictures through the plugin where it is installed."""

import io as memory
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from rcodsr.errors import InputError, UsageError
from rcodsr.images import io, jxl
from rcodsr.images.metadata import Metadata
from rcodsr.images.opening import opened
from rcodsr.images.picture import Picture
from rcodsr.options import parse_format
from tests.images.files import MAKE, ORIENTATION

needs_plugin = pytest.mark.skipif(find_spec("pillow_jxl") is None, reason="needs pillow-jxl-plugin")
needs_none = pytest.mark.skipif(find_spec("pillow_jxl") is not None, reason="pillow-jxl-plugin is installed")


def _stream(*fields: tuple[int, int]) -> bytes:
    """A codestream's start: numbers and how many bits each has, the lowest bit first."""
    number, at = 0, 0
    for value, bits in fields:
        number |= value << at
        at += bits
    return b"\xff\x0a" + number.to_bytes(at // 8 + 1, "little")


EIGHTS = ((1, 1), (1, 5), (0, 3), (2, 5))
"""24 × 16."""
WIDE = ((0, 1), (1, 2), (1079, 13), (5, 3))
"""1080 high, 16:9."""


@pytest.mark.parametrize(
    ("fields", "width", "height", "animated"),
    [
        ((*EIGHTS, (1, 1)), 24, 16, False),
        ((*EIGHTS, (0, 1), (0, 1), (1, 7)), 24, 16, False),
        ((*WIDE, (0, 1), (1, 1), (5, 3), (0, 1), (0, 1), (1, 1)), 1920, 1080, True),
        ((*WIDE, (0, 1), (1, 1), (0, 3), (1, 1), *EIGHTS, (0, 1), (0, 1)), 1920, 1080, False),
        ((*WIDE, (0, 1), (1, 1), (0, 3), (0, 1), (1, 1), (1, 1), (1, 2), (1, 3), (1, 1)), 1920, 1080, True),  # has a preview
    ],
)
def test_the_header_tells_size_and_animation(
    fields: tuple[tuple[int, int], ...], width: int, height: int, animated: bool
) -> None:
    assert jxl.facts(_stream(*fields)) == jxl.Facts(width, height, animated)


def _box(kind: bytes, contents: bytes) -> bytes:
    return (len(contents) + 8).to_bytes(4) + kind + contents


def test_boxes_hold_the_stream_in_parts_and_xmp() -> None:
    stream = _stream(*WIDE, (1, 1))
    parts = _box(b"jxlp", bytes(4) + stream[:3]) + _box(b"xml ", b"<x/>") + _box(b"jxlp", b"\x80\0\0\1" + stream[3:])
    assert jxl.facts(jxl.MARKS[1] + parts) == jxl.Facts(1920, 1080, False, b"<x/>")
    assert jxl.facts(jxl.MARKS[1] + _box(b"jbrd", b"")) is None
    assert jxl.facts(b"\0\0\0\1") is None


@needs_none
def test_without_the_plugin_the_remedy_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jxl"
    path.write_bytes(_stream(*WIDE, (1, 1)))
    with pytest.raises(InputError, match=r"JPEG XL needs pillow-jxl-plugin; pip install pillow-jxl-plugin"):
        io.read(path)
    with pytest.raises(UsageError, match=r"--format: jxl needs pillow-jxl-plugin; pip install pillow-jxl-plugin"):
        parse_format("jxl")


@needs_plugin
def test_animations_and_bombs_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    path = tmp_path / "a.jxl"
    path.write_bytes(_stream(*WIDE, (0, 1), (1, 1), (0, 3), (0, 1), (0, 1), (1, 1)))
    with pytest.raises(InputError, match="an animation"):
        io.read(path)
    path.write_bytes(_stream((0, 1), (3, 2), (29_999, 30), (1, 3), (1, 1)))
    with pytest.raises(InputError, match="900 megapixels are over the limit"):
        io.read(path)
    path.write_bytes(_stream(*WIDE, (1, 1)))
    with pytest.raises(InputError, match="not a readable picture"):
        io.read(path)


@needs_plugin
@pytest.mark.parametrize("planes", [1, 3])
@pytest.mark.parametrize("transparent", [False, True])
def test_a_picture_comes_back_with_what_it_holds(tmp_path: Path, planes: int, transparent: bool) -> None:
    rgb = torch.linspace(0.1, 0.9, planes * 48 * 32).reshape(planes, 32, 48).expand(3, -1, -1)
    alpha = torch.linspace(0, 1, 48).expand(1, 32, -1) if transparent else None
    picture = Picture(rgb, alpha, gray=planes == 1, metadata=Metadata(xmp=b"<x:xmpmeta/>"))
    written = io.encode(picture, "JXL", quality=100, record={"n": 1})
    back = io.read(io.Piped(written))
    assert back.gray == picture.gray
    assert (back.rgb - rgb).abs().max() < 0.02
    assert (back.alpha is None) == (alpha is None)
    assert back.metadata.xmp == b"<x:xmpmeta/>"
    path = tmp_path / "a.jxl"
    path.write_bytes(written)
    assert io.read_record(path) == {"n": 1}
    assert (io.read_header(path).format, io.read_header(path).size, io.is_whole(path)) == ("JXL", (48, 32), True)


@needs_plugin
def test_orientation_of_exif_does_not_turn_what_the_decoder_has_turned(tmp_path: Path) -> None:
    import pillow_jxl  # noqa: F401

    exif = Image.Exif()
    exif[ORIENTATION], exif[MAKE] = 6, "Acme"
    options: dict[str, Any] = {"exif": exif.tobytes(), "effort": 1}
    buffer = memory.BytesIO()
    Image.new("RGB", (24, 8)).save(buffer, "JXL", **options)
    picture = io.read(io.Piped(buffer.getvalue()))
    assert picture.size == (24, 8)
    with opened(io.Piped(buffer.getvalue())) as image:
        assert image.getexif()[MAKE] == "Acme"
