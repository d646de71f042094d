"""Lists of texts: whose they are, and what is wrong with a list."""

from pathlib import Path

import pytest

from rcodsr.errors import InputError, UsageError
from rcodsr.images.captions import read_captions
from rcodsr.images.opening import Piped


def _listed(folder: Path, *lines: str) -> Path:
    file = folder / "tags.jsonl"
    file.write_text("\n".join(lines), encoding="utf-8")
    return file


def test_a_text_is_found_by_path_or_by_name(tmp_path: Path) -> None:
    captions = read_captions(
        _listed(
            tmp_path,
            '{"picture": "a.png", "text": "any a"}',
            "",
            '{"picture": "sub/a.png", "text": "the a in sub"}',
            '{"picture": "stdin", "text": "über", "score": 0.9}',
        )
    )
    assert captions.of(tmp_path / "elsewhere" / "a.png") == "any a"
    assert captions.of(tmp_path / "sub" / "a.png") == "the a in sub"
    assert captions.of(Piped(b"")) == "über"
    assert captions.of(tmp_path / "a.jpg") is None
    assert captions.of_all([tmp_path / "a.png"]) == ["any a"]


def test_a_picture_without_a_text_is_named(tmp_path: Path) -> None:
    captions = read_captions(_listed(tmp_path, '{"picture": "a.png", "text": ""}'))
    with pytest.raises(UsageError, match=r"tags\.jsonl: has no text for b\.png, nor for 1 more; add a line for each picture"):
        captions.of_all([Path("a.png"), Path("b.png"), Path("c.png")])


@pytest.mark.parametrize(
    "line", ["a cat", "[1]", '{"picture": "a.png"}', '{"picture": 3, "text": ""}', '{"picture": "", "text": ""}']
)
def test_a_line_that_is_no_entry_is_named(tmp_path: Path, line: str) -> None:
    with pytest.raises(InputError, match=r"tags\.jsonl:2: not a valid entry of a list of texts; write one \{"):
        read_captions(_listed(tmp_path, '{"picture": "a.png", "text": "a"}', line))


def test_a_list_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_captions(tmp_path / "missing.jsonl")
    (tmp_path / "latin.jsonl").write_bytes(b'{"picture": "\xe4"}')
    with pytest.raises(InputError, match="is not text in UTF-8"):
        read_captions(tmp_path / "latin.jsonl")
