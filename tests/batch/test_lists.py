"""Lists of paths: what a line is, and what a bad one costs."""

import codecs
from collections.abc import Iterable
from pathlib import Path

import pytest

from rcodsr.batch.discovery import Selection, expand_lists
from rcodsr.batch.plan import Job, Naming
from rcodsr.batch.results import Result
from rcodsr.batch.stream import LinePlanner
from rcodsr.errors import InputError, NoInputError, UsageError
from rcodsr.images.lists import read_lines, stream_lines
from rcodsr.options import UpscaleOptions
from tests.batch.conftest import Touch

_UTF16_LE = codecs.BOM_UTF16_LE + "ä.png\r\n#no\r\nb.png\r\n".encode("utf-16-le")


def _streamed(*blocks: bytes) -> list[str]:
    left = iter(blocks)
    return list(stream_lines("@-", lambda: next(left, b"")))


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"\xef\xbb\xbfa.png\n\n# no\r\nb.png", [(1, "a.png"), (4, "b.png")]),
        (_UTF16_LE, [(1, "ä.png"), (3, "b.png")]),
        (codecs.BOM_UTF16_BE + "a.png\n".encode("utf-16-be"), [(1, "a.png")]),
        (b"#a\0b\nc\0", [(1, "#a"), (2, "b\nc")]),
        (b"./#a.png\n", [(1, "./#a.png")]),
    ],
    ids=["utf-8 with mark", "powershell", "big-endian", "find -print0", "a name with #"],
)
def test_what_a_list_holds(data: bytes, lines: list[tuple[int, str]]) -> None:
    assert read_lines("@list", data) == lines
    assert _streamed(data) == [line for _, line in lines]
    assert _streamed(*(data[i : i + 3] for i in range(0, len(data), 3)))[:1] == [lines[0][1]] or b"\0" in data


@pytest.mark.parametrize(
    "data", [b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"a.png\0b.png", b"\0\0\0 ftypavif\0", b"\xff\xfea"]
)
def test_what_is_no_list_is_refused_whole(data: bytes) -> None:
    with pytest.raises(InputError, match="^@x: "):
        read_lines("@x", data)


def test_a_stream_gives_each_line_as_soon_as_it_ends_and_then_says_what_is_wrong() -> None:
    lines = stream_lines("@-", iter([b"a.png\nb", b".png\n", b"c.png\0d"]).__next__)
    assert [next(lines), next(lines)] == ["a.png", "b.png"]
    cut = stream_lines("@-", iter([b"a.png\0b.p", b"ng\0c.pn", b""]).__next__)
    assert [next(cut), next(cut)] == ["a.png", "b.png"]
    with pytest.raises(InputError, match="NUL"):
        next(cut)


def test_a_name_with_an_at_sign_that_exists_is_that_file(touch: Touch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    touch("@home.jpg")
    (tmp_path / "home.jpg").write_text("elsewhere.png")
    assert expand_lists(["@home.jpg"]).sources == [Path("@home.jpg")]
    (tmp_path / "@home.jpg").unlink()
    assert expand_lists(["@home.jpg"]).sources == [Path("elsewhere.png")]


def test_a_bad_list_and_a_web_address_cost_themselves_only(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("a.png\nhttps://example.org/a.png?b=1\n")
    found = expand_lists(["@nowhere", f"@{tmp_path}/list.txt", "b.png"])
    assert found.sources == [Path("a.png"), Path("b.png")]
    assert [name for name, _ in found.refused] == ["@nowhere", "https://example.org/a.png?b=1"]
    assert "curl -L 'https://example.org/a.png?b=1' | rcodsr upscale -" in found.refused[1][1].remedy
    with pytest.raises(InputError, match="web address"):
        expand_lists(["HTTPS://example.org/a.png"])
    (tmp_path / "list.txt").write_text("# nothing\n")
    with pytest.raises(NoInputError):
        expand_lists([f"@{tmp_path}/list.txt"])


def _planner(output: str | None = None) -> LinePlanner:
    return LinePlanner(output, Naming(), Selection(), UpscaleOptions())


def _statuses(items: Iterable[Job | Result]) -> list[str]:
    return [item.status if isinstance(item, Result) else "job" for item in items]


def test_a_line_that_clashes_with_an_earlier_one_fails_alone(touch: Touch, tmp_path: Path) -> None:
    planner = _planner(str(tmp_path / "out"))
    first, second = touch("x", "a.png"), touch("y", "a.png")
    (job,) = planner.plan(str(first))
    assert isinstance(job, Job)
    assert job.target == tmp_path / "out" / "a_x4.png"
    (clash,) = planner.plan(str(second))
    assert isinstance(clash, Result)
    assert clash.error is not None
    assert "would be written for both" in clash.error
    assert _statuses(planner.plan(str(first))) == ["job"]  # again, as a watched folder says it
    assert _statuses(planner.plan(str(tmp_path / "x" / ".." / "out" / "a_x4.png"))) == ["skipped"]


def test_a_line_never_overwrites_the_picture_of_another(touch: Touch) -> None:
    planner = _planner()
    kept, other = touch("a_x4.png"), touch("a.png")
    assert _statuses(planner.plan(str(kept))) == ["job"]
    (clash,) = planner.plan(str(other))
    assert isinstance(clash, Result)
    assert "would overwrite an input" in str(clash.error)


@pytest.mark.parametrize("output", ["-", "one.png"])
def test_lines_need_a_directory(output: str) -> None:
    with pytest.raises(UsageError, match="directory|DIRECTORY"):
        _planner(output)
