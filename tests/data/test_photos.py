import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rcodsr.data.pairs import find_pairs
from rcodsr.data.photos import PhotoCache, check_sizes, find_photos, leave_out_small
from rcodsr.errors import InputError, NoInputError, UsageError
from tests.data.conftest import cut_short


def picture(path: Path, size: tuple[int, int] = (64, 64), color: str = "red") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path)
    return path


# --------------------------------------------------------------------------------------------------------- directories


def test_photos_are_found_at_any_depth_in_a_stable_order(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", "notes.txt", "sub/c.webp", "sub/deep/d.tiff", "e.gif"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert [str(path.relative_to(tmp_path)) for path in find_photos(tmp_path)] == [
        "a.JPG",
        "b.png",
        "e.gif",
        "sub/c.webp",
        "sub/deep/d.tiff",
    ]


def test_a_directory_named_like_a_photo_is_not_one(tmp_path: Path) -> None:
    (tmp_path / "album.png").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "album.png" / "a.png")
    assert find_photos(tmp_path) == [tmp_path / "album.png" / "a.png"]


@pytest.mark.parametrize("exists", [True, False])
def test_no_photos_are_an_error(tmp_path: Path, exists: bool) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(NoInputError, match="no photos found"):
        find_photos(tmp_path if exists else tmp_path / "gone")


# --------------------------------------------------------------------------------------------------------------- lists


def test_a_list_names_photos_relative_to_itself_in_its_order(tmp_path: Path) -> None:
    photos = [picture(tmp_path / "lists" / "sub" / "z.png"), picture(tmp_path / "b #1.png"), picture(tmp_path / "a.png")]
    listed = tmp_path / "lists" / "photos.txt"
    listed.write_text(f"# ours\n\nsub/z.png\r\n  ../b #1.png  \n#sub/gone.png\n{photos[2]}\n")
    found = find_photos(listed)
    assert [path.resolve() for path in found] == photos
    check_sizes(found, 64)


def test_a_list_may_hold_any_file_name(tmp_path: Path) -> None:
    names = [os.fsdecode(b"caf\xe9.png"), "b\x0cc.png", "\u4e2d\u2028.png"]
    for name in names:
        picture(tmp_path / name)
    (tmp_path / "photos.txt").write_bytes(b"\xef\xbb\xbf" + b"\n".join(map(os.fsencode, names)))
    assert [path.name for path in find_photos(tmp_path / "photos.txt")] == names


@pytest.mark.parametrize("missing", ["gone.png", "sub"])
def test_a_missing_file_of_a_list_is_named_with_its_line(tmp_path: Path, missing: str) -> None:
    picture(tmp_path / "sub" / "a.png")
    (tmp_path / "photos.txt").write_text(f"# ours\nsub/a.png\n{missing}\n")
    with pytest.raises(InputError) as caught:
        find_photos(tmp_path / "photos.txt")
    assert str(caught.value).startswith(f"{tmp_path}/photos.txt:3: no file {tmp_path}/{missing}; ")


@pytest.mark.parametrize("text", ["", "# nothing\n\n"])
def test_an_empty_list_is_no_input(tmp_path: Path, text: str) -> None:
    (tmp_path / "photos.txt").write_text(text)
    with pytest.raises(NoInputError, match=r"photos\.txt: no photos found"):
        find_photos(tmp_path / "photos.txt")


def test_a_missing_list_is_no_input(tmp_path: Path) -> None:
    with pytest.raises(NoInputError, match=r"gone\.txt: no photos found"):
        find_photos(tmp_path / "gone.txt")


# --------------------------------------------------------------------------------------------------------------- pairs


def test_pairs_have_the_same_path_up_to_the_suffix(tmp_path: Path) -> None:
    for stem in ("b", "sub/a"):
        picture(tmp_path / "hr" / f"{stem}.png", (64, 48))
        picture(tmp_path / "lr" / f"{stem}.jpg", (16, 12))
    pairs = find_pairs(tmp_path / "hr", tmp_path / "lr")
    assert [(a.relative_to(tmp_path).as_posix(), b.relative_to(tmp_path).as_posix()) for a, b in pairs.items()] == [
        ("hr/b.png", "lr/b.jpg"),
        ("hr/sub/a.png", "lr/sub/a.jpg"),
    ]


def test_a_pair_of_other_sizes_is_named(tmp_path: Path) -> None:
    picture(tmp_path / "hr" / "a.png", (68, 48))
    picture(tmp_path / "lr" / "a.png", (16, 12))
    with pytest.raises(InputError) as caught:
        find_pairs(tmp_path / "hr", tmp_path / "lr")
    assert str(caught.value).startswith(f"{tmp_path}/hr/a.png: 68×48 is not four times 16×12 of {tmp_path}/lr/a.png; ")


@pytest.mark.parametrize(("alone", "other"), [("hr", "lr"), ("lr", "hr")])
def test_a_picture_without_counterpart_is_named(tmp_path: Path, alone: str, other: str) -> None:
    picture(tmp_path / "hr" / "a.png")
    picture(tmp_path / "lr" / "a.png", (16, 16))
    picture(tmp_path / alone / "sub" / "b.png")
    with pytest.raises(InputError, match=rf"{alone}/sub/b\.png: has no counterpart in .*/{other}; "):
        find_pairs(tmp_path / "hr", tmp_path / "lr")


def test_two_pictures_of_one_name_are_no_pair(tmp_path: Path) -> None:
    picture(tmp_path / "hr" / "a.png")
    for name in ("a.png", "a.jpg"):
        picture(tmp_path / "lr" / name, (16, 16))
    with pytest.raises(InputError, match=r"lr/a\.png: has the same name as .*lr/a\.jpg"):
        find_pairs(tmp_path / "hr", tmp_path / "lr")


def test_pairs_need_two_directories_with_pictures(tmp_path: Path) -> None:
    picture(tmp_path / "hr" / "a.png")
    (tmp_path / "list.txt").write_text("hr/a.png\n")
    for photos, lr in (("hr", "gone"), ("list.txt", "hr"), ("hr", "hr/a.png")):
        with pytest.raises(UsageError, match="not a directory"):
            find_pairs(tmp_path / photos, tmp_path / lr)
    (tmp_path / "lr").mkdir()
    with pytest.raises(NoInputError, match="lr: no photos found"):
        find_pairs(tmp_path / "hr", tmp_path / "lr")


# -------------------------------------------------------------------------------------------------------------- headers


@pytest.mark.parametrize(
    ("make", "cause"),
    [
        (lambda path: path.write_text("not a picture"), "not a picture"),
        (lambda path: Image.new("RGB", (100, 63)).save(path), "smaller than the 64-pixel crop"),
    ],
    ids=["text", "small"],
)
def test_a_bad_photo_is_named(tmp_path: Path, make: Callable[[Path], object], cause: str) -> None:
    make(tmp_path / "bad.png")
    with pytest.raises(InputError, match=rf"bad\.png: {cause}"):
        check_sizes(find_photos(tmp_path), 64)


def test_small_photos_are_counted(tmp_path: Path) -> None:
    for name, size in (("a", (64, 64)), ("b", (63, 64)), ("c", (200, 10)), ("d", (1, 1))):
        picture(tmp_path / f"{name}.png", size)
    with pytest.raises(InputError) as caught:
        check_sizes(find_photos(tmp_path), 64)
    assert str(caught.value).startswith(f"{tmp_path}/b.png: smaller than the 64-pixel crop, and 2 more are; ")
    check_sizes(find_photos(tmp_path), 1)


def test_what_is_too_small_is_left_out_and_counted(tmp_path: Path) -> None:
    sides = {tmp_path / "a": 64, tmp_path / "b": 63, tmp_path / "c": 10, tmp_path / "d": 200}
    lines: list[str] = []
    assert [path.name for path in leave_out_small(sides, 64, lines.append)] == ["a", "d"]
    assert lines == [f"2 of 4 photos are smaller than the 64-pixel crop and left out, {tmp_path}/b first"]
    assert leave_out_small(sides, 10, lines.append) == list(sides)
    assert len(lines) == 1
    with pytest.raises(InputError, match=r"a: smaller than the 208-pixel crop, and 3 more are; "):
        leave_out_small(sides, 208, lines.append)


# ---------------------------------------------------------------------------------------------------------------- cache


def test_the_cache_forgets_what_was_used_longest_ago(tmp_path: Path) -> None:
    a, b, c = (picture(tmp_path / f"{name}.png", (10, 10)) for name in "abc")  # 300 bytes each
    cache = PhotoCache(700)
    first = cache.read(a)
    assert first.shape == (10, 10, 3)
    assert first.dtype == np.uint8
    cache.read(b)
    assert cache.read(a) is first
    cache.read(c)  # b is evicted
    assert cache.bytes == 600
    assert cache.read(a) is first
    for path in (a, b, c):
        picture(path, (10, 10), "blue")
    assert cache.read(b)[0, 0].tolist() == [0, 0, 255]  # read again, c is evicted
    assert cache.read(a) is first
    assert cache.read(c)[0, 0].tolist() == [0, 0, 255]


@pytest.mark.parametrize("max_bytes", [0, 299])
def test_a_photo_larger_than_the_cache_is_decoded_each_time(tmp_path: Path, max_bytes: int) -> None:
    path = picture(tmp_path / "a.png", (10, 10))
    cache = PhotoCache(max_bytes)
    assert np.array_equal(cache.read(path), cache.read(path))
    assert cache.bytes == 0


def test_a_large_photo_leaves_the_others_in_the_cache(tmp_path: Path) -> None:
    small, large = picture(tmp_path / "a.png", (10, 10)), picture(tmp_path / "b.png", (20, 20))
    cache = PhotoCache(1000)
    first = cache.read(small)
    cache.read(large)
    assert cache.read(small) is first


def test_the_cache_keeps_no_broken_photo(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.effect_noise((64, 64), 50).save(path)
    whole = path.read_bytes()
    cut_short(path)
    cache = PhotoCache(10**6)
    with pytest.raises(InputError, match=r"a\.png: cut short or damaged"):
        cache.read(path)
    path.write_bytes(whole)
    assert cache.read(path).shape == (64, 64, 3)


def test_hidden_pixels_are_not_learned(tmp_path: Path) -> None:
    """Pixels under transparency are noise here; training uses the photo composited on white."""
    pixels = np.random.default_rng(3).integers(0, 256, (32, 40, 4)).astype(np.uint8)
    pixels[..., 3] = 255
    pixels[:16, :, 3] = 0
    pixels[16, :, 3] = 51  # a fifth
    Image.fromarray(pixels).save(tmp_path / "cut.png")
    learned = PhotoCache(10**6).read(tmp_path / "cut.png")
    assert (learned[:16] == 255).all()
    assert np.abs(learned[16] - (0.2 * pixels[16, :, :3] + 204)).max() <= 0.5
    assert np.array_equal(learned[17:], pixels[17:, :, :3])


def test_a_cache_is_filled_until_a_photo_no_longer_fits_and_damaged_ones_wait_until_they_are_drawn(tmp_path: Path) -> None:
    paths = [picture(tmp_path / f"{i}.png") for i in range(6)]
    cut_short(paths[1])
    cache = PhotoCache(3 * 64 * 64 * 3)
    cache.fill(paths)
    assert cache.bytes == cache.max_bytes
    for path in paths:
        path.unlink()
    assert [cache.read(paths[i]).shape for i in (0, 2, 3)] == [(64, 64, 3)] * 3  # no file needed any more
    with pytest.raises(InputError):
        cache.read(paths[4])
