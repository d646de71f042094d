import io
from dataclasses import replace

import torch
from PIL import Image
from torch import Tensor

from rcodsr.bench.quality import psnr_y, ssim_y
from rcodsr.engine.upscaler import Upscaler
from rcodsr.images.picture import Picture, to_pil
from rcodsr.images.resize import upsample
from rcodsr.report.comparison import compare, differing_spots
from rcodsr.report.sheet import contact_sheet


def test_spots_are_where_pictures_differ_most() -> None:
    flat = torch.full((3, 60, 80), 0.5)
    other = flat.clone()
    other[:, 10:20, 50:60] += 0.4
    other[:, 40:50, 5:15] += 0.2
    assert differing_spots([flat, other], side=10, count=3) == ((50, 10, 10, 10), (5, 40, 10, 10))
    assert differing_spots([flat, flat], side=10, count=3) == ()


def _score(a: Tensor, b: Tensor) -> dict[str, float]:
    return {"PSNR": psnr_y(a, b), "SSIM": ssim_y(a, b)}


def test_levels_are_ordered_scored_and_shown(small_upscaler: Upscaler) -> None:
    lr = torch.rand(3, 16, 12)
    truth = Picture(upsample(lr[None], 4)[0])
    heard: list[tuple[str, int, int]] = []
    made = compare(small_upscaler, Picture(lr), "in.png", [1.0, 0.0, 1.0], truth, _score, lambda *told: heard.append(told))
    assert heard == [(f"realism {level}", done, 1) for level in (0, 1) for done in (0, 1)]
    assert [(panel.label, panel.realism, panel.timestep) for panel in made.levels] == [
        ("realism 0", 0.0, 250),
        ("realism 1", 1.0, 750),
    ]
    assert made.before.scores["PSNR"] == 80  # the truth here is the bicubic picture
    assert all(panel.scores["PSNR"] < 80 for panel in made.levels)
    assert made.estimated is None  # these weights have no estimator
    with Image.open(io.BytesIO(contact_sheet(made)), formats=["PNG"]) as sheet:
        assert sheet.mode == "RGB"
        assert sheet.width == 12 + 4 * 300  # bicubic, two levels, truth


def test_levels_carry_the_map_of_what_they_invent(default_upscaler: Upscaler, photo_tensor: Tensor) -> None:
    """Against realism 0, though that is not among the levels; on the sheet the maps have a row of their own."""
    picture = Picture(photo_tensor[:, 60:84, 200:224].contiguous())
    (level,) = compare(default_upscaler, picture, "in.png", [1.0]).levels
    both = compare(default_upscaler, picture, "in.png", [0.0, 1.0])
    assert level.invented is not None
    assert both.levels[0].invented is not None
    assert (level.invented.mode, level.invented.size) == ("P", (96, 96))
    assert both.levels[0].invented.getextrema() == (0, 0)
    assert level.invented.tobytes() == default_upscaler.invented(to_pil(picture), realism=1).picture.tobytes()
    assert level.evidence.startswith("mean ")
    assert both.levels[0].evidence.startswith("mean 0.00 steps, consistency ")
    bare = replace(both, levels=tuple(replace(panel, invented=None) for panel in both.levels))
    with Image.open(io.BytesIO(contact_sheet(both))) as sheet, Image.open(io.BytesIO(contact_sheet(bare))) as short:
        assert sheet.height == short.height + 20 + 288 + 12


def test_transparency_is_laid_on_white_and_grey_stays_grey(small_upscaler: Upscaler) -> None:
    picture = Picture(torch.zeros(1, 8, 8).expand(3, -1, -1), torch.zeros(1, 8, 8), gray=True)
    made = compare(small_upscaler, picture, "in.png", [0.5])
    assert made.before.image.mode == "L"
    assert made.before.image.getextrema() == (255, 255)
