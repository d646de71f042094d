"""Pair sets as they are published: their names, folders and sizes."""

from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image
from torch import Tensor

from rcodsr.data.dataset import PhotoPairs
from rcodsr.data.pairs import covered, find_pairs
from rcodsr.errors import InputError, UsageError
from rcodsr.images.matching import bare_name, is_low_resolution
from tests.data.conftest import cut_short

PIXELS = skimage.data.astronaut()


def save(path: Path, width: int, height: int) -> None:
    """A photo, or its low-resolution version: the same view at a size."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(PIXELS).resize((width, height), Image.Resampling.BICUBIC).save(path)


def drawn(pairs: dict[Path, Path], crop: int = 32) -> tuple[Tensor, Tensor]:
    sample = PhotoPairs(list(pairs), crop, {"full": 1}, 0, 8, lr=pairs)[3]
    assert isinstance(sample.lr, Tensor)
    return sample.hr.float(), sample.lr.float()


@pytest.mark.parametrize(
    ("photos", "lr", "high", "low"),
    [
        ("DIV2K_train_HR", "DIV2K_train_LR_bicubic/X4", "0001.png", "0001x4.png"),
        ("DIV2K_train_HR", "DIV2K_train_LR_bicubic", "0001.png", "X4/0001x4.png"),
        ("DIV2K_train_HR", "DIV2K_train_LR_mild", "0001.png", "0001x4m.png"),
        ("Canon/Train/4", "Canon/Train/4", "Canon_001_HR.png", "Canon_001_LR4.png"),
        ("RealSR", "RealSR", "Nikon/Test/4/Nikon_002_HR.png", "Nikon/Test/4/Nikon_002_LR4.png"),
        ("Train_x4/train_HR", "Train_x4/train_LR", "panasonic_146_x1.png", "panasonic_146_x4.png"),
        ("DRealSR", "DRealSR", "Train_x4/train_HR/a_x1.png", "Train_x4/train_LR/a_x4.png"),
        ("HR", "X4", "train/0001000/0000001.png", "train/0001000/0000001x4.png"),
        ("image_SRF_4", "image_SRF_4", "img_001_SRF_4_HR.png", "img_001_SRF_4_LR.png"),
        ("2024", "2023-05", "1999/a.jpg", "1999/a.jpg"),
    ],
)
def test_names_of_published_sets(tmp_path: Path, photos: str, lr: str, high: str, low: str) -> None:
    save(tmp_path / photos / high, 48, 32)
    save(tmp_path / lr / low, 12, 8)
    assert find_pairs(tmp_path / photos, tmp_path / lr) == {tmp_path / photos / high: tmp_path / lr / low}


def test_one_directory_without_tails_tells_nothing_apart(tmp_path: Path) -> None:
    save(tmp_path / "a.png", 48, 32)
    with pytest.raises(UsageError, match="contains the photos as well, and no names tell them apart; "):
        find_pairs(tmp_path, tmp_path)


def test_numbers_that_only_look_like_a_scale_stay() -> None:
    assert [bare_name(name) for name in ("box4", "max2/a_x4", "HR/a", "0001x4", "x4")] == ["box4", "max2/a", "a", "0001", "x4"]
    assert [is_low_resolution(Path(name)) for name in ("LR/a_HR.png", "a_LR4.png", "X4/a.png", "flex4.png")] == [
        False,
        True,
        True,
        False,
    ]


def test_what_a_pair_has_in_common() -> None:
    assert covered((164, 160), (41, 40)) == (164, 160)
    assert covered((162, 161), (40, 40)) == (160, 160)  # rounded down
    assert covered((162, 161), (41, 41)) == (160, 160)  # rounded up, as MATLAB does
    assert covered((162, 161), (162, 161)) == (160, 160)
    assert covered((164, 160), (40, 40)) is None
    assert covered((160, 160), (80, 80)) is None


def test_a_photo_that_is_no_multiple_of_four_is_cut_and_said(tmp_path: Path) -> None:
    save(tmp_path / "hr" / "0001.png", 65, 50)
    save(tmp_path / "lr" / "0001x4.png", 17, 12)
    lines: list[str] = []
    pairs = find_pairs(tmp_path / "hr", tmp_path / "lr", lines.append)
    assert lines == [f"1 of 1 photos are cropped to a multiple of 4 pixels, {tmp_path}/hr/0001.png first"]
    hr, lr = drawn(pairs, 48)
    assert (hr.shape, lr.shape) == ((3, 48, 48), (3, 12, 12))
    with pytest.raises(InputError, match="smaller than the 64-pixel crop"):
        drawn(pairs, 64)


def test_equal_sizes_are_shrunk_and_said(tmp_path: Path) -> None:
    """RealSR's pairs: what was photographed from afar is stored as large as what was photographed near."""
    for tail in ("HR", "LR4"):
        save(tmp_path / f"Canon_001_{tail}.png", 98, 64)
    lines: list[str] = []
    pairs = find_pairs(tmp_path, tmp_path, lines.append)
    assert lines[1] == "1 of 1 pairs have equal sizes: their low-resolution side is downscaled by 4"
    hr, lr = drawn(pairs)
    assert (hr.shape, lr.shape) == ((3, 32, 32), (3, 8, 8))
    assert (torch.nn.functional.avg_pool2d(hr, 4) - lr).abs().mean() < 6  # of 255: the same view
    assert (torch.nn.functional.avg_pool2d(hr, 4).flip(2) - lr).abs().mean() > 20


def test_transparency_of_both_halves_is_laid_on_white(tmp_path: Path) -> None:
    for name, side in (("hr/a.png", 64), ("lr/a.png", 16)):
        (tmp_path / name).parent.mkdir()
        noise = np.random.default_rng(side).integers(0, 256, (side, side, 4)).astype(np.uint8)
        noise[..., 3] = 0
        noise[0, 0, 3] = 255
        Image.fromarray(noise).save(tmp_path / name)
    hr, lr = drawn(find_pairs(tmp_path / "hr", tmp_path / "lr"), 64)
    assert [int((half != 255).any(0).sum()) for half in (hr, lr)] == [1, 1]


def test_a_damaged_half_is_named(tmp_path: Path) -> None:
    for tail in ("HR", "LR4"):
        save(tmp_path / f"a_{tail}.png", 64, 64)
    pairs = find_pairs(tmp_path, tmp_path)
    cut_short(tmp_path / "a_LR4.png")
    with pytest.raises(InputError, match=r"a_HR\.png: cut short|a_LR4\.png: cut short"):
        drawn(pairs)
