import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image

from rcodsr.bench import sets
from rcodsr.bench.quality import psnr_y
from rcodsr.data.degradation import degrade
from rcodsr.data.presets import PRESETS
from rcodsr.errors import InputError, NoInputError, OutputError, UsageError
from rcodsr.images import io

# ------------------------------------------------------------------------------------------------------------- matching


def folder_of(folder: Path, *names: str) -> Path:
    folder.mkdir()
    for name in names:
        (folder / name).touch()
    return folder


def test_results_are_matched_to_their_truth_by_name(tmp_path: Path) -> None:
    ours = folder_of(tmp_path / "ours", "b_LR4_x4.png", "a_x4.png", "Canon_001_LR4.jpg", "extra.png", "d.webp")
    truth = folder_of(tmp_path / "truth", "a.png", "b_HR.png", "Canon_001_HR.png", "d.png")
    found = [(left.name, right.name) for left, right in sets.pairs(ours, truth)]
    assert found == [
        ("Canon_001_LR4.jpg", "Canon_001_HR.png"),
        ("a_x4.png", "a.png"),
        ("b_LR4_x4.png", "b_HR.png"),
        ("d.webp", "d.png"),
    ]


def test_a_list_of_truths_chooses_a_part_of_the_set(tmp_path: Path) -> None:
    ours = folder_of(tmp_path / "ours", "a.png", "b.png", "c.png")
    folder_of(tmp_path / "truth", "a.png", "b.png", "c.png")
    (tmp_path / "every2nd.txt").write_text("truth/a.png\ntruth/c.png\n")
    found = sets.pairs(ours, tmp_path / "every2nd.txt")
    assert [(left.name, right.name) for left, right in found] == [("a.png", "a.png"), ("c.png", "c.png")]


def test_tails_count_at_the_end_only(tmp_path: Path) -> None:
    ours = folder_of(tmp_path / "ours", "a_HR_b.png", "c_x2.5.png")
    truth = folder_of(tmp_path / "truth", "a_HR_b_HR.png", "c.png")
    assert [right.name for _, right in sets.pairs(ours, truth)] == ["a_HR_b_HR.png", "c.png"]


def test_a_truth_without_result_is_an_error(tmp_path: Path) -> None:
    ours = folder_of(tmp_path / "ours", "a_x4.png")
    truth = folder_of(tmp_path / "truth", "a.png", "c.png", "b_HR.png")
    with pytest.raises(UsageError, match="2 pictures of .*truth have no counterpart, b first"):
        sets.pairs(ours, truth)


def test_folders_with_nothing_in_common_are_an_error(tmp_path: Path) -> None:
    ours, truth = folder_of(tmp_path / "ours", "a.png"), folder_of(tmp_path / "truth", "b.png")
    with pytest.raises(NoInputError, match="no file matches a file of"):
        sets.pairs(ours, truth)
    with pytest.raises(NoInputError, match="no photos found"):
        sets.pairs(folder_of(tmp_path / "empty"), truth)


def test_two_results_for_one_truth_are_refused(tmp_path: Path) -> None:
    for name in ("lr/cat.png", "lr/cat_x4.png", "hr/cat.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(path)
    with pytest.raises(UsageError, match="has the same name as"):
        sets.pairs(tmp_path / "lr", tmp_path / "hr")


# --------------------------------------------------------------------------------------------------------------- making


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two photos; every pixel of map.png encodes its position."""
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.fromarray(skimage.data.chelsea()[:67, :90]).save(folder / "cat.jpg")
    rows, columns = np.mgrid[:70, :100].astype(np.uint8)
    Image.fromarray(np.stack([rows, columns, np.zeros_like(rows)], -1)).save(folder / "map.png")
    return folder


def make(photos: Path, output: Path, preset: str = "camera", seed: int = 0, **options: Any) -> list[str]:
    """Names of the files of a set of 64-pixel crops."""
    written = sets.synthesize(photos, output, preset, seed, **({"crop": 64} | options))
    return [path.relative_to(output).as_posix() for path in written]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*.png"))}


@pytest.mark.parametrize("preset", ["full", "light", "camera"])
def test_a_set_can_be_made_again(photos: Path, tmp_path: Path, preset: str) -> None:
    one, two, other = (tmp_path / name for name in ("one", "two", "other"))
    assert make(photos, one, preset, 5) == ["hr/cat.png", "lr/cat.png", "hr/map.png", "lr/map.png"]
    make(photos, two, preset, 5)
    make(photos, other, preset, 6)
    assert contents(one) == contents(two)
    assert all(contents(one)[name] != contents(other)[name] for name in contents(one))


def test_crops_are_random_and_their_low_resolution_is_the_presets(photos: Path, tmp_path: Path) -> None:
    assert len(make(photos, tmp_path / "set", "full", 3, count=12)) == 24
    corners = set()
    for index in range(1, 12, 2):
        name = f"map-{index // 2 + 1}.png" if index > 1 else "map.png"
        hr, lr = (io.read(tmp_path / "set" / side / name).rgb for side in ("hr", "lr"))
        top, left = (int((hr[channel, 0, 0] * 255).round()) for channel in (0, 1))
        rows, columns = np.mgrid[top : top + 64, left : left + 64]
        assert torch.equal((hr[:2] * 255).round().long(), torch.from_numpy(np.stack([rows, columns])).long())
        assert torch.equal(lr, degrade(hr, PRESETS["full"], (3, index)))
        corners.add((top, left))
    assert len(corners) > 3


def test_photos_are_taken_in_turn(photos: Path, tmp_path: Path) -> None:
    assert make(photos, tmp_path / "one", count=1) == ["hr/cat.png", "lr/cat.png"]
    assert make(photos, tmp_path / "five", count=5)[::2] == [
        "hr/cat.png",
        "hr/map.png",
        "hr/cat-2.png",
        "hr/map-2.png",
        "hr/cat-3.png",
    ]
    five = contents(tmp_path / "five")
    assert five["hr/cat.png"] == contents(tmp_path / "one")["hr/cat.png"]
    assert all(five[f"lr/{a}.png"] != five[f"lr/{b}.png"] for a, b in itertools.combinations(("cat", "cat-2", "cat-3"), 2))


def test_a_photo_as_large_as_the_crop_is_taken_whole(photos: Path, tmp_path: Path) -> None:
    (photos / "cat.jpg").unlink()
    with Image.open(photos / "map.png") as image:
        image.crop((3, 5, 67, 69)).save(photos / "map.png")
    make(photos, tmp_path / "set")
    assert torch.equal(io.read(tmp_path / "set" / "hr" / "map.png").rgb, io.read(photos / "map.png").rgb)


def test_every_photo_of_a_set_has_its_own_randomness(photos: Path, tmp_path: Path) -> None:
    (photos / "map2.png").write_bytes((photos / "map.png").read_bytes())
    make(photos, tmp_path / "set", "full", crop=0)
    one, two = (io.read(tmp_path / "set" / "lr" / name).rgb for name in ("map.png", "map2.png"))
    assert not torch.equal(one, two)


def test_whole_photos_are_cut_to_whole_pixels(photos: Path, tmp_path: Path) -> None:
    make(photos, tmp_path / "set", crop=0)
    original = io.read(photos / "cat.jpg")
    high, low = (io.read(tmp_path / "set" / folder / "cat.png") for folder in ("hr", "lr"))
    assert high.size == (88, 64)
    assert low.size == (22, 16)
    assert torch.equal(high.rgb, original.rgb[:, :64, :88])
    assert torch.equal(low.rgb, degrade(high.rgb, PRESETS["camera"], (0, 0)))
    small = torch.nn.functional.interpolate(high.rgb[None], scale_factor=0.25, mode="area")[0]
    assert psnr_y(low.rgb, small) > 20  # the pair shows the same content
    assert [(a.name, b.name) for a, b in sets.pairs(tmp_path / "set" / "lr", tmp_path / "set" / "hr")] == [
        ("cat.png", "cat.png"),
        ("map.png", "map.png"),
    ]


def test_a_list_of_photos_makes_a_set(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "photos.txt").write_text("photos/map.png\n")
    assert make(tmp_path / "photos.txt", tmp_path / "set") == ["hr/map.png", "lr/map.png"]


# ------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("name", "options"), [("sub/cat.png", {}), ("map-2.png", {"count": 6}), ("cat_HR.png", {})], ids=["sub", "number", "tail"]
)
def test_crops_of_the_same_name_do_not_overwrite_each_other(
    photos: Path, tmp_path: Path, name: str, options: dict[str, Any]
) -> None:
    (photos / name).parent.mkdir(exist_ok=True)
    Image.new("RGB", (64, 64)).save(photos / name)
    with pytest.raises(UsageError, match="has the same name as"):
        make(photos, tmp_path / "set", **options)
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "heavy"}, "--preset: 'heavy' is unknown; use one of full, light, camera, sensor, clean, independent"),
        ({"crop": 62}, "--crop: 62 is not a multiple of 4; use 64"),
    ],
)
def test_arguments_that_make_no_sense(photos: Path, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        make(photos, tmp_path / "set", **options)
    assert str(caught.value) == message
    assert not (tmp_path / "set").exists()


def test_bad_photos_are_named_before_anything_is_written(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cat\.jpg: smaller than the 68-pixel crop; "):
        make(photos, tmp_path / "set", crop=68)
    (photos / "broken.png").write_text("hello")
    with pytest.raises(InputError, match=r"broken\.png: not a picture"):
        make(photos, tmp_path / "set", crop=0)
    (photos / "broken.png").unlink()
    Image.new("RGB", (3, 50)).save(photos / "thin.png")
    with pytest.raises(InputError, match=r"thin\.png: smaller than the 4-pixel crop"):
        make(photos, tmp_path / "set", crop=0)
    assert not (tmp_path / "set").exists()
    with pytest.raises(NoInputError):
        make(tmp_path / "set", tmp_path / "set")


def test_a_set_is_never_mixed_with_something_else(photos: Path, tmp_path: Path) -> None:
    make(photos, tmp_path / "set")
    before = contents(tmp_path / "set")
    with pytest.raises(UsageError, match=r"set: is not empty; choose a new directory with -o, or use --overwrite"):
        make(photos, tmp_path / "set", seed=1)
    assert contents(tmp_path / "set") == before
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").touch()
    with pytest.raises(UsageError, match="is not empty"):
        make(photos, tmp_path / "other")


def test_overwrite_replaces_a_set(photos: Path, tmp_path: Path) -> None:
    make(photos, tmp_path / "set")
    make(photos, tmp_path / "set", seed=1, overwrite=True)
    make(photos, tmp_path / "new", seed=1)
    assert contents(tmp_path / "set") == contents(tmp_path / "new")


def test_overwrite_leaves_no_pair_of_an_older_set(photos: Path, tmp_path: Path) -> None:
    make(photos, tmp_path / "set", count=3)
    before = contents(tmp_path / "set")
    with pytest.raises(UsageError, match=r"set/hr/cat-2\.png: is not part of this set"):
        make(photos, tmp_path / "set", overwrite=True)
    assert contents(tmp_path / "set") == before


def test_photos_are_never_written_over(photos: Path, tmp_path: Path) -> None:
    make(photos, tmp_path / "set")
    before = contents(tmp_path / "set")
    with pytest.raises(UsageError, match=r"set/hr/cat\.png: is an input photo of the set"):
        make(tmp_path / "set" / "hr", tmp_path / "set", overwrite=True)
    assert contents(tmp_path / "set") == before


def test_an_output_that_is_a_file_is_an_error(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "set").touch()
    with pytest.raises(OutputError):
        make(photos, tmp_path / "set")
