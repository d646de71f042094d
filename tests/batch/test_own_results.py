"""Outputs among the inputs: told by their record, or by name, size and age where there is none."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from rcodsr.batch.ahead import Foresight
from rcodsr.batch.discovery import Selection
from rcodsr.batch.order import told_by_output
from rcodsr.batch.plan import Job, Naming, Plan, make_plan, prepare_outputs, require_fit
from rcodsr.batch.records import is_done, is_result, look
from rcodsr.batch.remote import named
from rcodsr.batch.results import WriteOptions, own_result
from rcodsr.errors import UsageError
from rcodsr.images import io
from rcodsr.images.formats import FORMATS
from rcodsr.options import RealismMap, UpscaleOptions, WeightsRequest
from tests.batch.conftest import names

Draw = Callable[..., Path]


@pytest.fixture
def draw(tmp_path: Path) -> Draw:
    """A picture file, with a record as rcodsr writes it or without."""

    def create(name: str, side: int, record: dict[str, object] | None = None) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = io.from_image(Image.new("RGB", (side, side), (90, 120, 60)))
        path.write_bytes(io.encode(picture, FORMATS[path.suffix.lower()], record=record))
        return path

    return create


RECORD: dict[str, object] = {"made_by": "rcodsr 9.9", "scale": 4.0}


def _plan(inputs: list[Path], output: str | None = None, strip: bool = False, **naming: object) -> Plan:
    return make_plan(list(inputs), output, Naming(**naming), Selection(recursive=True), strip=strip)  # type: ignore[arg-type]


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif", ".avif"])
def test_a_result_is_told_by_its_record(draw: Draw, suffix: str) -> None:
    assert is_result(draw(f"ours{suffix}", 8, RECORD))
    assert not is_result(draw(f"bare{suffix}", 8))
    assert not is_result(draw(f"theirs{suffix}", 8, {"made_by": "someone", "scale": 4}))


def test_the_output_of_another_input_is_set_aside(draw: Draw) -> None:
    inputs = [draw("a.png", 4), draw("a_x4.png", 16, RECORD), draw("a_x4_x4.png", 64, RECORD), draw("new.png", 4)]
    made = _plan(inputs)
    assert names(made.jobs) == ["a_x4.png", "new_x4.png"]
    assert (made.results, made.clashes, made.alone) == (inputs[1:3], [], False)


def test_results_do_not_change_the_names_of_outputs(draw: Draw) -> None:
    """The first run keeps a suffix in a name, because two inputs would meet; the second must find the same names."""
    photo = draw("a.png", 4)
    inputs = [photo, photo.with_suffix(".gif")]
    Image.new("RGB", (4, 4)).save(inputs[1])
    first = _plan(inputs)
    assert names(first.jobs) == ["a_x4.png", "a.gif_x4.png"]
    outputs = [draw(name, 16, RECORD) for name in names(first.jobs)]
    assert _plan([*inputs, *outputs]).jobs == first.jobs


def test_results_of_an_earlier_place_are_no_rivals(draw: Draw, tmp_path: Path) -> None:
    """Both would go to out/a.png, but one of them is a result."""
    photo, result = draw("album/a.png", 4), draw("old/a.png", 16, RECORD)
    made = _plan([tmp_path / "album", tmp_path / "old"], str(tmp_path / "out"))
    assert [job.source for job in made.jobs] == [photo]
    assert (made.results, made.clashes) == ([result], [])


@pytest.mark.parametrize(("name", "strip"), [("a.bmp", False), ("a.png", True)])
def test_without_a_record_name_size_and_age_tell(draw: Draw, tmp_path: Path, name: str, strip: bool) -> None:
    photo = draw(f"photos/{name}", 4)
    beside, mirrored = draw(f"photos/a_x4{photo.suffix}", 16), draw(f"photos_x4/{name}", 16)
    assert _plan([photo, beside], strip=strip).results == [beside]
    assert _plan([tmp_path], strip=strip).results == [beside, mirrored]
    assert _plan([photo, beside], strip=strip, scale=2.0).results == []
    os.utime(beside, (1, 1))
    assert _plan([photo, beside], strip=strip).results == []  # older than what it would have been made of
    draw(f"photos/a_x4{photo.suffix}", 15)
    assert _plan([photo, beside], strip=strip).results == []


def test_a_picture_of_the_same_name_that_is_no_result_is_kept(draw: Draw) -> None:
    inputs = [draw("a.png", 4), draw("a_x4.png", 16)]
    made = _plan(inputs)
    assert (names(made.jobs), made.results) == (["a_x4_x4.png"], [])
    assert [job.source for job, _ in made.clashes] == inputs[:1]


def test_only_a_picture_that_is_named_alone_is_enlarged_again(draw: Draw, tmp_path: Path) -> None:
    result = draw("photos/a.png", 8, RECORD)
    assert _plan([result]).alone
    assert _plan([result, tmp_path / "photos" / ".." / "photos" / "a.png"]).alone
    assert not _plan([tmp_path / "photos"]).alone
    assert not _plan([result, draw("b.png", 4)]).alone
    job = Job(result, tmp_path / "x.png")
    again = Foresight(WeightsRequest("rcod-tiny"), UpscaleOptions(), WriteOptions(again=True)).result(job)
    assert (again.status, again.output) == ("planned", str(tmp_path / "x.png"))
    passed = Foresight(WeightsRequest("rcod-tiny"), UpscaleOptions(), WriteOptions()).result(job)
    assert (passed.status, passed.output, passed.own) == ("skipped", None, True)
    assert "own" not in passed.to_dict()


def test_no_folder_is_created_for_results_alone(draw: Draw, tmp_path: Path) -> None:
    results, mixed = tmp_path / "x" / "results", tmp_path / "x" / "mixed"
    jobs = [Job(draw(f"{name}.png", 8, RECORD), results / f"{name}.png") for name in "ab"]
    jobs += [Job(jobs[0].source, mixed / "a.png"), Job(draw("photo.png", 4), mixed / "photo.png")]
    prepare_outputs(jobs)
    assert (results.exists(), mixed.exists()) == (False, True)
    prepare_outputs(jobs, again=True)
    assert results.exists()


def test_a_realism_map_need_not_fit_results(draw: Draw) -> None:
    options = UpscaleOptions(RealismMap(4, 4, (0.0,), bytes(16)))
    photo, result = draw("a.png", 4), draw("elsewhere.png", 24, RECORD)
    require_fit(_plan([photo, result]), options)
    with pytest.raises(UsageError, match="the realism map is 4×4"):
        require_fit(_plan([result]), options)


def test_a_result_that_is_passed_over_names_no_output(draw: Draw, tmp_path: Path) -> None:
    """Neither from a store, nor where a worker was lost: that would promise a file nobody makes."""
    job = Job(draw("a.png", 8, RECORD), tmp_path / "out" / "a.png")
    result = own_result(job.source)
    assert told_by_output(result, job, existed=False).status == "skipped"
    assert named(result, job, job).output is None


def test_a_finished_picture_costs_one_opening_of_each_file(draw: Draw, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target, opened = draw("a.png", 8), draw("a_x4.png", 32, RECORD), list[object]()
    real = Image.open

    def counted(path: Path, **more: Any) -> Image.Image:
        opened.append(path)
        return real(path, **more)

    monkeypatch.setattr(Image, "open", counted)
    assert look(source) == (io.Header("PNG", 8, 8), False)
    assert is_done(source, target, RECORD)
    assert opened == [source, target]
