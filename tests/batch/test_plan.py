import os
import re
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from rcodsr.batch.discovery import Selection
from rcodsr.batch.plan import Job, Naming, make_plan, plan, prepare_outputs
from rcodsr.errors import NoInputError, OutputError, UsageError
from rcodsr.images.io import Source
from tests.batch.conftest import Touch, names, target


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cat.png", "cat_x4.png"),
        ("cat.jpg", "cat_x4.jpg"),
        ("cat.jpeg", "cat_x4.jpeg"),
        ("cat.JPG", "cat_x4.JPG"),
        ("cat.tif", "cat_x4.tif"),
        ("cat.avif", "cat_x4.avif"),
        ("cat.gif", "cat_x4.png"),
        ("cat.ppm", "cat_x4.png"),
        ("cat.jfif", "cat_x4.jfif"),
        ("cat", "cat_x4.png"),
        ("cat.v2.final.webp", "cat.v2.final_x4.webp"),
        ("größe 1.png", "größe 1_x4.png"),
    ],
)
def test_a_file_goes_beside_itself_and_keeps_a_format_we_write(touch: Touch, tmp_path: Path, name: str, expected: str) -> None:
    assert target(touch(name)) == tmp_path / expected


@pytest.mark.parametrize(
    ("format", "expected"),
    [
        ("png", "cat_x4.png"),
        ("jpg", "cat_x4.jpg"),
        ("webp", "cat_x4.webp"),
        ("tiff", "cat_x4.tif"),
        ("bmp", "cat_x4.bmp"),
        ("avif", "cat_x4.avif"),
    ],
)
def test_format_decides_the_suffix(touch: Touch, tmp_path: Path, format: str, expected: str) -> None:
    assert target(touch("cat.jpeg"), format=format) == tmp_path / expected


@pytest.mark.parametrize(("scale", "expected"), [(2.0, "cat_x2.png"), (2.5, "cat_x2.5.png"), (1.0, "cat_x1.png")])
def test_the_name_says_the_scale(touch: Touch, tmp_path: Path, scale: float, expected: str) -> None:
    assert target(touch("cat.png"), scale=scale) == tmp_path / expected


def test_a_directory_goes_to_the_same_names_in_a_directory_beside_it(touch: Touch, tmp_path: Path) -> None:
    a, b = touch("photos", "a.png"), touch("photos", "b.gif")
    out = tmp_path / "photos_x4"
    assert plan([tmp_path / "photos"], None, "auto", 4.0) == [Job(a, out / "a.png"), Job(b, out / "b.png")]


def test_a_directorys_name_says_the_scale(touch: Touch, tmp_path: Path) -> None:
    touch("photos", "a.png")
    assert target_of_directory(tmp_path / "photos", None, 2.5) == tmp_path / "photos_x2.5" / "a.png"


def target_of_directory(directory: Path, output: str | None, scale: float = 4.0) -> Path | None:
    (job,) = plan([directory], output, "auto", scale)
    return job.target


def test_a_trailing_slash_on_the_input_changes_nothing(touch: Touch, tmp_path: Path) -> None:
    touch("photos", "a.png")
    assert target_of_directory(Path(f"{tmp_path}/photos/"), None) == tmp_path / "photos_x4" / "a.png"


def test_the_current_directory_goes_beside_itself(touch: Touch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch("photos", "a.png")
    monkeypatch.chdir(tmp_path / "photos")
    found = target_of_directory(Path(), None)
    assert found is not None
    assert found.resolve() == tmp_path / "photos_x4" / "a.png"


def test_the_parent_directory_goes_beside_itself(touch: Touch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch("photos", "a.png")
    (tmp_path / "photos" / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "photos" / "sub")
    found = target_of_directory(Path(".."), None)
    assert found is not None
    assert found.resolve() == tmp_path / "photos_x4" / "a.png"


def test_upper_case_suffixes_are_found_and_kept(touch: Touch, tmp_path: Path) -> None:
    for name in ("A.PNG", "b.JPeG", "C.TIFF"):
        touch("photos", name)
    assert names(plan([tmp_path / "photos"], None, "auto", 4.0)) == ["A.PNG", "C.TIFF", "b.JPeG"]


def test_other_files_and_subdirectories_of_a_directory_are_ignored(touch: Touch, tmp_path: Path) -> None:
    for name in ("notes.txt", "Thumbs.db", "clip.mp4", ".png", "noext", "a.png.part"):
        touch("photos", name)
    touch("photos", "sub", "deep.png")
    (tmp_path / "photos" / "folder.png").mkdir()
    picture = touch("photos", "a.png")
    assert [job.source for job in plan([tmp_path / "photos"], None, "auto", 4.0)] == [picture]


@pytest.mark.parametrize("files", [[], ["notes.txt"]])
def test_a_directory_without_pictures_is_no_input(touch: Touch, tmp_path: Path, files: list[str]) -> None:
    (tmp_path / "photos").mkdir()
    for name in files:
        touch("photos", name)
    with pytest.raises(NoInputError, match="photos: no pictures found") as caught:
        plan([tmp_path / "photos"], None, "auto", 4.0)
    assert caught.value.exit_code == 6


def test_an_empty_directory_beside_a_full_one_is_passed_over(touch: Touch, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    picture = touch("photos", "a.png")
    assert [job.source for job in plan([tmp_path / "empty", tmp_path / "photos"], None, "auto", 4.0)] == [picture]


def test_output_file_is_taken_literally(touch: Touch, tmp_path: Path) -> None:
    assert target(touch("cat.jpg"), str(tmp_path / "new" / "big.png")) == tmp_path / "new" / "big.png"


def test_output_files_suffix_may_be_upper_case(touch: Touch, tmp_path: Path) -> None:
    assert target(touch("cat.jpg"), str(tmp_path / "BIG.TIF")) == tmp_path / "BIG.TIF"


def test_output_file_may_agree_with_the_format(touch: Touch, tmp_path: Path) -> None:
    assert target(touch("cat.png"), str(tmp_path / "big.jpeg"), "jpg") == tmp_path / "big.jpeg"


@pytest.mark.parametrize("output", ["big", "big.gif", "big.txt", "big.jpg.part"])
def test_output_file_must_say_a_format_we_write(touch: Touch, output: str) -> None:
    with pytest.raises(UsageError, match=r"has no suffix of an output format"):
        plan([touch("cat.png")], output, "auto", 4.0)


def test_output_file_must_not_contradict_the_format(touch: Touch) -> None:
    with pytest.raises(UsageError, match=r"big\.png: its suffix contradicts --format jpg"):
        plan([touch("cat.png")], "big.png", "jpg", 4.0)


def test_output_into_an_existing_directory(touch: Touch, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert target(touch("cat.png"), str(tmp_path / "out")) == tmp_path / "out" / "cat_x4.png"


def test_output_with_a_trailing_slash_is_a_directory_to_be(touch: Touch, tmp_path: Path) -> None:
    assert target(touch("cat.png"), f"{tmp_path}/new/") == tmp_path / "new" / "cat_x4.png"
    assert not (tmp_path / "new").exists()


def test_several_inputs_make_the_output_a_directory(touch: Touch, tmp_path: Path) -> None:
    touch("photos", "c.png")
    inputs = [touch("a.png"), touch("b.jpg"), tmp_path / "photos"]
    out = tmp_path / "new"
    assert [job.target for job in plan(inputs, str(out), "auto", 4.0)] == [out / "a_x4.png", out / "b_x4.jpg", out / "c.png"]


def test_a_directory_goes_into_the_output_directory(touch: Touch, tmp_path: Path) -> None:
    touch("photos", "a.png")
    assert target_of_directory(tmp_path / "photos", str(tmp_path / "new")) == tmp_path / "new" / "a.png"


@pytest.mark.parametrize("several", [True, False])
def test_a_file_cannot_be_the_output_of_several_pictures(touch: Touch, tmp_path: Path, several: bool) -> None:
    inputs = [touch("a.png"), touch("b.png")] if several else [touch("photos", "a.png").parent]
    with pytest.raises(UsageError, match=r"old\.png: names a file, but the inputs need a directory"):
        plan(inputs, str(touch("old.png")), "auto", 4.0)


def test_dash_is_standard_output(touch: Touch) -> None:
    assert target(touch("cat.png"), "-") is None


def test_dash_is_standard_output_for_a_directory_of_one_picture(touch: Touch, tmp_path: Path) -> None:
    touch("photos", "a.png")
    assert target_of_directory(tmp_path / "photos", "-") is None


@pytest.mark.parametrize("as_directory", [True, False])
def test_standard_output_takes_one_picture_only(touch: Touch, tmp_path: Path, as_directory: bool) -> None:
    files = [touch("photos", "a.png"), touch("photos", "b.png")]
    with pytest.raises(UsageError, match="2 pictures cannot share one stream"):
        plan([tmp_path / "photos"] if as_directory else files, "-", "auto", 4.0)


def test_a_missing_file_is_still_a_job(tmp_path: Path) -> None:
    # reading it fails later, alone, and the other pictures go on
    assert target(tmp_path / "gone.png") == tmp_path / "gone_x4.png"


def test_two_pictures_that_would_share_an_output_keep_their_whole_names(touch: Touch, tmp_path: Path) -> None:
    for name in ("a.jpg", "a.png", "a.gif", "b.gif"):
        touch("photos", name)
    assert names(plan([tmp_path / "photos"], None, "png", 4.0)) == ["a.gif.png", "a.jpg.png", "a.png", "b.png"]
    assert names(plan([tmp_path / "photos"], None, "auto", 4.0)) == ["a.gif.png", "a.jpg", "a.png", "b.png"]
    files = [tmp_path / "photos" / "a.gif", tmp_path / "photos" / "a.png"]
    assert names(plan(files, None, "auto", 4.0)) == ["a.gif_x4.png", "a_x4.png"]


def test_outputs_that_differ_in_case_alone_clash(touch: Touch, tmp_path: Path) -> None:
    inputs = [touch("one", "a.png"), touch("two", "A.PNG")]
    with pytest.raises(UsageError, match="would be written for both"):
        plan(inputs, str(tmp_path / "out"), "auto", 4.0)


def test_pictures_that_would_share_an_output_are_left_out_and_the_others_done(touch: Touch, tmp_path: Path) -> None:
    inputs: list[Source] = [touch("one", "a.png"), touch("b.png"), touch("two", "a.png"), touch("three", "a.png")]
    made = make_plan(inputs, str(tmp_path / "out"), Naming(), Selection())
    assert names(made.jobs) == ["b_x4.png"]
    assert [job.source for job, _ in made.clashes] == [inputs[0], inputs[2], inputs[3]]
    assert f"for both {inputs[0]} and {inputs[2]}" in str(made.clashes[0][1])
    assert f"for both {inputs[0]} and {inputs[3]}" in str(made.clashes[2][1])
    shards = [make_plan(inputs, str(tmp_path / "out"), Naming(), Selection(), (i, 2)) for i in (1, 2)]
    assert sum(len(shard.clashes) for shard in shards) == 3


def test_same_names_of_two_directories_clash_in_one_output(touch: Touch, tmp_path: Path) -> None:
    touch("one", "a.png")
    touch("two", "a.png")
    inputs = [tmp_path / "one", tmp_path / "two"]
    with pytest.raises(UsageError, match="would be written for both"):
        plan(inputs, str(tmp_path / "out"), "auto", 4.0)
    assert len(plan(inputs, None, "auto", 4.0)) == 2


def test_a_picture_is_done_once_however_it_is_spelt(touch: Touch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = str(touch("photos", "a.png"))
    (tmp_path / "link.png").symlink_to(picture)
    (tmp_path / "album").symlink_to(tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    spellings = (
        str(picture),
        "photos/a.png",
        "photos/../photos/a.png",
        "link.png",
        "album/a.png",
        "photos",
        "album",
        "./photos/",
    )
    for first in spellings:
        (job,) = plan([Path(first), *map(Path, spellings)], None, "auto", 4.0)
        assert job.source == (Path(first) / "a.png" if Path(first).is_dir() else Path(first))


def test_names_that_differ_in_capitals_are_one_picture_where_they_are_one_file(touch: Touch, tmp_path: Path) -> None:
    picture = touch("a.png")
    with suppress(FileExistsError):  # where capitals do not count it is there already; elsewhere a hard link looks the same
        (tmp_path / "A.PNG").hardlink_to(picture)
    assert [job.source for job in plan([picture, tmp_path / "A.PNG"], None, "auto", 4.0)] == [picture]
    (tmp_path / "copy.png").hardlink_to(picture)  # another name that people gave
    assert len(plan([picture, tmp_path / "copy.png"], None, "auto", 4.0)) == 2


def test_hidden_files_of_a_directory_are_not_pictures(touch: Touch, tmp_path: Path) -> None:
    touch("photos", "a.png")
    touch("photos", "._a.png")
    assert names(plan([tmp_path / "photos"], None, "auto", 4.0)) == ["a.png"]


@pytest.mark.parametrize("name", ["out.png", "out.JPG"])
def test_a_new_picture_name_is_no_directory_for_several_inputs(touch: Touch, tmp_path: Path, name: str) -> None:
    files = [touch("a.png"), touch("b.png")]
    with pytest.raises(UsageError, match="names a file"):
        plan(files, str(tmp_path / name), "auto", 4.0)


def test_the_root_directory_needs_an_output(tmp_path: Path) -> None:
    with pytest.raises((UsageError, NoInputError)):
        plan([Path("/")], None, "auto", 4.0)


def test_a_name_too_long_for_the_system_is_left_to_the_reader(tmp_path: Path) -> None:
    assert len(plan([tmp_path / ("x" * 5000 + ".png")], None, "auto", 4.0)) == 1


def test_the_input_is_never_the_output(touch: Touch) -> None:
    picture = touch("cat.png")
    with pytest.raises(UsageError, match=r"cat\.png: would overwrite an input"):
        plan([picture], str(picture), "auto", 4.0)


def test_the_input_directory_is_never_the_output(touch: Touch, tmp_path: Path) -> None:
    touch("photos", "a.png")
    with pytest.raises(UsageError, match="would overwrite an input"):
        plan([tmp_path / "photos"], str(tmp_path / "photos"), "auto", 4.0)


def test_an_output_that_is_another_input_costs_its_own_picture_alone(touch: Touch) -> None:
    inputs: list[Source] = [touch("cat.png"), touch("cat_x4.png"), touch("dog.png")]
    made = make_plan(inputs, None, Naming(), Selection())
    assert names(made.jobs) == ["cat_x4_x4.png", "dog_x4.png"]
    ((job, error),) = made.clashes
    assert job.source == inputs[0]
    assert re.search(r"cat_x4\.png: would overwrite an input, as the output of .*cat\.png; choose", str(error))


def test_an_input_is_recognised_however_it_is_written(touch: Touch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = touch("photos", "cat.png")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="would overwrite an input"):
        plan([picture], "photos/../photos/cat.png", "auto", 4.0)


def test_a_symlink_to_the_input_is_refused_as_output(touch: Touch, tmp_path: Path) -> None:
    picture = touch("cat.png")
    (tmp_path / "link.png").symlink_to(picture)
    with pytest.raises(UsageError, match=r"link\.png: would overwrite an input"):
        plan([picture], str(tmp_path / "link.png"), "auto", 4.0)


def test_a_symlinked_directory_of_inputs_is_refused_as_output(touch: Touch, tmp_path: Path) -> None:
    touch("photos", "a.png")
    (tmp_path / "link").symlink_to(tmp_path / "photos")
    with pytest.raises(UsageError, match="would overwrite an input"):
        plan([tmp_path / "photos"], str(tmp_path / "link"), "auto", 4.0)


def test_planning_writes_nothing(touch: Touch, tmp_path: Path) -> None:
    touch("photos", "a.png")
    plan([tmp_path / "photos"], str(tmp_path / "deep" / "out"), "auto", 4.0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos"]


def test_preparing_creates_the_output_directories(touch: Touch, tmp_path: Path) -> None:
    jobs = [Job(touch("a.png"), tmp_path / "deep" / "out" / "a.png"), Job(touch("b.png"), None)]
    prepare_outputs(jobs)
    prepare_outputs(jobs)
    assert list((tmp_path / "deep" / "out").iterdir()) == []


@pytest.mark.parametrize("parts", [("old",), ("old", "deeper")])
def test_preparing_stops_where_a_file_is_in_the_way(touch: Touch, tmp_path: Path, parts: tuple[str, ...]) -> None:
    touch("old")
    with pytest.raises(OutputError, match="a file is in the way of a folder"):
        prepare_outputs([Job(touch("a.png"), tmp_path.joinpath(*parts, "a.png"))])


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root may write everywhere, as may Windows")
def test_preparing_stops_where_nothing_can_be_written(touch: Touch, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir(mode=0o500)
    with pytest.raises(OutputError, match="permission denied"):
        prepare_outputs([Job(touch("a.png"), tmp_path / "out" / "a.png")])
