import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from rcodsr.images.picture import from_pil
from rcodsr.images.text_regions import _joined, find_text


@pytest.mark.parametrize(("ink", "paper"), [("black", "white"), ("#eeeeee", "#203050")])
@pytest.mark.parametrize("size", [9, 14, 30])
def test_printed_text_is_found(ink: str, paper: str, size: int) -> None:
    image = Image.new("RGB", (240, 160), paper)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(size)
    draw.text((20, 30), "The quick brown fox", ink, font)
    box = draw.textbbox((20, 30), "The quick brown fox", font)
    found = find_text(from_pil(image).rgb)
    left, top, right, bottom = (int(side) for side in box)
    assert found[top:bottom, left : min(right, 240)].float().mean() > 0.95
    assert not found[bottom + 2 * size :].any()


def test_a_photo_without_text_is_left_alone(photo: Image.Image) -> None:
    face = photo.crop((150, 0, 350, 200))
    assert find_text(from_pil(face).rgb).float().mean() < 0.05
    for plain in (torch.zeros(3, 1, 1), torch.full((3, 5, 90), 0.5), torch.linspace(0, 1, 64).expand(3, 64, 64)):
        found = find_text(plain)
        assert found.shape == plain.shape[1:]
        assert not found.any()


def test_runs_that_touch_are_one_mark() -> None:
    """Against scipy's labels, 8-connected."""
    rng = np.random.default_rng(0)
    for density in (0.2, 0.4, 0.6):
        for _ in range(10):
            height, width = rng.integers(1, 30, 2)
            ink = np.pad(rng.random((height, width)) < density, ((0, 0), (1, 1)))
            steps = np.diff(ink.ravel().astype(np.int8))
            starts, ends = np.flatnonzero(steps == 1) + 1, np.flatnonzero(steps == -1) + 1
            label, count = _joined(starts, ends, width + 2)
            expected, many = ndimage.label(ink, np.ones((3, 3)))
            assert count == many
            assert len(set(zip(label.tolist(), expected.ravel()[starts].tolist(), strict=True))) == many
