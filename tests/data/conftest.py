from pathlib import Path

import pytest
import skimage.data
from PIL import Image

from rcodsr.data.photos import find_photos


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, pixels in (("astronaut", skimage.data.astronaut()[:200, 100:300]), ("chelsea", skimage.data.chelsea()[:160])):
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return find_photos(folder)


def cut_short(path: Path) -> None:
    """Leave a file's header whole and its pixels not."""
    contents = path.read_bytes()
    path.write_bytes(contents[: len(contents) // 2])
