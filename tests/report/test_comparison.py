import io

import torch
from PIL import Image
from torch import Tensor

from rcodsr.bench.quality import psnr_y, ssim_y
from rcodsr.engine.upscaler import Upscaler
from rcodsr.images.picture import Picture
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
    made = compare(small_upscaler, Picture(lr), "in.png", [1.0, 0.0, 1.0], truth, _score)
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


def test_transparency_is_laid_on_white_and_grey_stays_grey(small_upscaler: Upscaler) -> None:
    picture = Picture(torch.zeros(1, 8, 8).expand(3, -1, -1), torch.zeros(1, 8, 8), gray=True)
    made = compare(small_upscaler, picture, "in.png", [0.5])
    assert made.before.image.mode == "L"
    assert made.before.image.getextrema() == (255, 255)
