"""Arguments → jobs: folders inside folders, globs, shards, names."""

import os
from pathlib import Path

import pytest

from rcodsr.batch.discovery import Selection, expand_lists
from rcodsr.batch.plan import Job, Naming, make_plan, plan
from rcodsr.batch.shards import parse_shard
from rcodsr.errors import UsageError
from tests.batch.conftest import Touch, names, target


@pytest.fixture
def tree(touch: Touch, tmp_path: Path) -> Path:
    for parts in (("a.png",), ("sub", "a.png"), ("sub", "deep", "b.gif"), (".hidden", "c.png"), ("sub", "notes.txt")):
        touch("photos", *parts)
    return tmp_path / "photos"


def relative(jobs: list[Job], top: Path) -> list[str]:
    return [str(job.target.relative_to(top)) for job in jobs if job.target]


def test_a_tree_is_mirrored(tree: Path) -> None:
    found = make_plan([tree], None, Naming(), Selection(recursive=True))
    assert relative(found.jobs, tree.with_name("photos_x4")) == ["a.png", "sub/a.png", "sub/deep/b.png"]
    assert found.ignored == [tree / "sub" / "notes.txt"]


def test_outputs_inside_the_tree_are_not_inputs_of_the_next_run(tree: Path, touch: Touch) -> None:
    touch("photos", "out", "a.png")
    jobs = plan([tree], str(tree / "out"), selection=Selection(recursive=True))
    assert relative(jobs, tree / "out") == ["a.png", "sub/a.png", "sub/deep/b.png"]


def test_links_in_a_circle_are_followed_once(tree: Path) -> None:
    (tree / "sub" / "up").symlink_to(tree, target_is_directory=True)
    assert len(plan([tree], None, selection=Selection(recursive=True))) == 3


@pytest.mark.parametrize(
    ("include", "exclude", "expected"),
    [
        (("*.gif",), (), ["sub/deep/b.png"]),
        ((), ("sub/*",), ["a.png"]),
        (("a.*", "b.*"), ("sub/deep/*",), ["a.png", "sub/a.png"]),
        (("*.GIF",), (), ["sub/deep/b.png"]),
        ((), ("SUB/*", "*.TXT"), ["a.png"]),
    ],
)
def test_globs_choose(tree: Path, include: tuple[str, ...], exclude: tuple[str, ...], expected: list[str]) -> None:
    jobs = plan([tree], None, selection=Selection(True, include, exclude))
    assert relative(jobs, tree.with_name("photos_x4")) == expected


def test_rare_names_of_jpeg_are_pictures_too(touch: Touch, tmp_path: Path) -> None:
    for name in ("a.pjpeg", "b.MPO", "c.pjp", "d.txt"):
        touch("photos", name)
    assert names(plan([tmp_path / "photos"], None)) == ["a.png", "b.png", "c.png"]


def test_globs_meet_cameras_that_write_in_capitals(touch: Touch, tmp_path: Path) -> None:
    for name in ("DSC1.JPG", "dsc2.jpg", "IMG_3.PNG"):
        touch("photos", name)
    assert names(plan([tmp_path / "photos"], None, selection=Selection(include=("*.jpg",)))) == ["DSC1.JPG", "dsc2.jpg"]
    assert names(plan([tmp_path / "photos"], None, selection=Selection(exclude=("dsc*",)))) == ["IMG_3.PNG"]
    assert plan([tmp_path / "photos" / "DSC1.JPG"], None, selection=Selection(include=("*.jpg",)))


SYSTEM = ("@eaDir", "#recycle", "$RECYCLE.BIN", "__MACOSX", "System Volume Information", ".Trash-1000", "Thumbs")


def test_folders_of_the_system_are_passed_over_and_counted(tree: Path, touch: Touch) -> None:
    for name in SYSTEM:
        touch("photos", "sub", name, "a.png", "SYNOPHOTO_THUMB_M.jpg")
    touch("photos", "Thumbs.png")
    found = make_plan([tree], None, Naming(), Selection(recursive=True))
    assert relative(found.jobs, tree.with_name("photos_x4")) == ["Thumbs.png", "a.png", "sub/a.png", "sub/deep/b.png"]
    assert sorted(path.name for path in found.system_folders) == sorted(SYSTEM)
    assert make_plan([tree], None, Naming(), Selection()).system_folders == []  # no folder inside is looked at
    (job,) = plan([tree / "sub" / "@eaDir"], None, selection=Selection(recursive=True))  # named, it is searched
    assert isinstance(job.source, Path)
    assert job.source.name == "SYNOPHOTO_THUMB_M.jpg"


def test_shards_share_out_every_picture_once_and_new_ones_move_none(touch: Touch, tmp_path: Path) -> None:
    def shards() -> list[set[str]]:
        whole = [make_plan([tmp_path / "photos"], None, Naming(), Selection(), (i, 3)).jobs for i in (1, 2, 3)]
        return [set(names(jobs)) for jobs in whole]

    for i in range(60):
        touch("photos", f"{i}.png")
    before = shards()
    assert sum(map(len, before)) == len(set.union(*before)) == 60
    assert all(len(shard) > 8 for shard in before)
    touch("photos", "000.png")
    assert all(old <= new for old, new in zip(before, shards(), strict=True))


@pytest.mark.parametrize("text", ["0/3", "4/3", "x", "1", "1/0", "-1/3", "²/3", "slurm"])
def test_nonsense_is_no_shard(text: str) -> None:
    with pytest.raises(UsageError, match="--shard"):
        parse_shard(text, {})


def test_slurm_tells_the_shard() -> None:
    task = {"SLURM_ARRAY_TASK_ID": "12", "SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_TASK_MIN": "10"}
    assert parse_shard("slurm", task) == (3, 4)
    assert parse_shard("2/5", {}) == (2, 5)


@pytest.mark.parametrize(
    ("template", "expected"),
    [("{stem}{ext}", "cat.png"), ("{stem}_{scale}x_r{realism}{ext}", "cat_4x_r0.5.png"), ("big {stem}", "big cat.png")],
)
def test_a_template_names_outputs(touch: Touch, tmp_path: Path, template: str, expected: str) -> None:
    (job,) = make_plan([touch("cat.png")], f"{tmp_path}/out/", Naming(template=template), Selection()).jobs
    assert job.target == tmp_path / "out" / expected


@pytest.mark.parametrize("template", ["{stem", "{date}{ext}", "../{stem}", "a/{stem}", "{0}", ".{stem}", "{stem.__class__}"])
def test_a_bad_template_is_refused(template: str) -> None:
    with pytest.raises(UsageError, match="--name"):
        Naming(template=template)


def test_a_name_too_long_for_its_ending_is_cut(touch: Touch) -> None:
    found = target(touch("ö" * 125 + "x.png"))
    assert found is not None
    assert len(os.fsencode(found.name)) <= 255
    assert found.name.endswith("ö_x4.png")


def test_lists_keep_odd_names(tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_bytes("a\u2028b.png\r\nc.png\n\n".encode())
    assert [str(path) for path in expand_lists([f"@{tmp_path}/lines.txt"]).sources] == ["a\u2028b.png", "c.png"]
    (tmp_path / "zeros.txt").write_bytes(b"a\nb.png\0\xff.png\0")
    assert [os.fsencode(path) for path in expand_lists([f"@{tmp_path}/zeros.txt"]).sources] == [b"a\nb.png", b"\xff.png"]  # type: ignore[arg-type]
