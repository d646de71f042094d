import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rcodsr.errors import OutputError, RcodsrError, UsageError
from rcodsr.images import io
from rcodsr.images.png import encode_png
from tests.images.files import save


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
    with pytest.raises(OutputError, match="a file is in the way of a folder"):
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


def test_a_writable_file_is_told_before_it_is_written(tmp_path: Path) -> None:
    (tmp_path / "old.csv").write_text("kept")
    (tmp_path / "link.csv").symlink_to("old.csv")
    io.require_writable(tmp_path / "new.csv")
    io.require_writable(tmp_path / "old.csv", [tmp_path / "in.png"])
    io.require_writable(tmp_path / "a" / "b" / "new.csv", makes_directory=True)
    cases: list[tuple[str, dict[str, Any], type[RcodsrError], str]] = [
        ("old.csv", {"inputs": [tmp_path / "link.csv"]}, UsageError, "would overwrite an input"),
        ("old.csv", {"overwrite": False}, UsageError, "already exists"),
        (".", {}, OutputError, "it is a directory"),
        ("gone/new.csv", {}, OutputError, "its folder does not exist"),
        ("old.csv/new.csv", {"makes_directory": True}, OutputError, "its folder does not exist"),
    ]
    for name, options, kind, words in cases:
        with pytest.raises(kind, match=words):
            io.require_writable(tmp_path / name, **options)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.csv", "old.csv"]
    assert (tmp_path / "old.csv").read_text() == "kept"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_told_before_anything_is_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OutputError, match="permission denied"):
            io.require_writable(tmp_path / "new.csv")
    finally:
        tmp_path.chmod(0o700)
