"""Many threads, one engine: the pictures of a plain loop, errors where they belong, a queue with an end."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import rcodsr
from rcodsr.engine.upscaler import Upscaler
from rcodsr.errors import InputError, UsageError


@pytest.fixture
def pictures(photo: Image.Image) -> list[Image.Image]:
    """Two sizes in turn, each picture another part of the photo."""
    return [photo.crop((9 * n, 7 * n, 9 * n + 16 + 8 * (n % 2), 7 * n + 16)) for n in range(24)]


@pytest.mark.parametrize("together", [1, 4])
def test_threads_get_the_pictures_of_a_plain_loop(small_upscaler: Upscaler, pictures: list[Image.Image], together: int) -> None:
    levels = [(0.0, 0.5, 1.0)[number % 3] for number in range(len(pictures))]
    alone = [small_upscaler.upscale(picture, level) for picture, level in zip(pictures, levels, strict=True)]
    with rcodsr.SharedUpscaler(small_upscaler, together, waiting=3) as shared, ThreadPoolExecutor(12) as threads:
        found = list(threads.map(shared.upscale, pictures, levels))
    for one, other in zip(alone, found, strict=True):
        assert one.size == other.size
        difference = np.abs(np.asarray(one, int) - np.asarray(other, int)).max()
        assert difference <= (0 if together == 1 else 1)  # batches of a network round differently


def test_an_error_reaches_its_own_caller_only(small_upscaler: Upscaler, pictures: list[Image.Image], tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_text("no picture")
    with rcodsr.SharedUpscaler(small_upscaler) as shared:
        before, bad, wrong, after = (
            shared.submit(pictures[0]),
            shared.submit(tmp_path / "bad.png"),
            shared.submit(pictures[0], sharpness=3),  # type: ignore[call-arg]
            shared.submit(pictures[1]),
        )
        with pytest.raises(InputError, match=r"bad\.png: not a picture"):
            bad.result()
        with pytest.raises(UsageError, match="sharpness"):
            wrong.result()
        assert before.result().size == (64, 64)
    assert after.result().size == (96, 64)
    with pytest.raises(RuntimeError, match="closed"):
        shared.upscale(pictures[0])
