"""Content that the input determines is preserved by the embedded weights: flat areas, greys, outlines."""

from typing import Unpack

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from rcodsr.engine.arguments import UpscaleArguments, read_arguments
from rcodsr.engine.upscaler import Upscaler
from rcodsr.images import io
from rcodsr.images.picture import Picture, to_samples
from rcodsr.images.resize import resize, upsample
from rcodsr.options import Level, UpscaleOptions

LEVELS = (0.0, 0.5, 1.0)


def _eight_bit(picture: Picture) -> np.ndarray:
    """Samples as they would be written, shape (h, w, channels), int."""
    return to_samples(picture, 8).astype(int)


def _made(upscaler: Upscaler, pixels: np.ndarray, realism: float = 0.5, **asked: Unpack[UpscaleArguments]) -> np.ndarray:
    picture = io.from_image(Image.fromarray(pixels.astype(np.uint8)))
    return _eight_bit(upscaler.run(picture, read_arguments(realism, asked)).picture)


@pytest.mark.parametrize("color", [(255, 255, 255), (0, 0, 0), (255, 0, 0), (128, 128, 128), (61, 140, 201), (250, 249, 247)])
def test_a_sheet_of_one_colour_keeps_it(default_upscaler: Upscaler, color: tuple[int, int, int]) -> None:
    sheet = np.broadcast_to(np.array(color), (48, 64, 3))
    for level in LEVELS:
        assert (_made(default_upscaler, sheet, level) == color).all()
    tiled = _made(default_upscaler, sheet, realism=1.0, tile=32, color_fix="none", scale=3.0)
    assert tiled.shape == (144, 192, 3)
    assert (tiled == color).all()


@pytest.mark.parametrize("ground", [255, 0])
def test_a_product_on_clipped_ground_has_a_clean_border(default_upscaler: Upscaler, photo_tensor: Tensor, ground: int) -> None:
    pixels = np.full((88, 96, 3), ground)
    thing = resize(photo_tensor[None], 48, 48)[0].mul(255).round().permute(1, 2, 0).numpy()
    pixels[20:68, 24:72] = thing
    for level, tile in ((0.0, None), (0.5, None), (1.0, None), (1.0, 48)):
        made = _made(default_upscaler, pixels, level, tile=tile)
        around = np.ones((352, 384), bool)
        around[4 * 16 : 4 * 72, 4 * 20 : 4 * 76] = False
        assert (made[around] == ground).all()
        assert made[80:272, 96:288].std() > 20  # the thing itself is there


@pytest.mark.parametrize("realism", [0.0, 1.0])
@pytest.mark.parametrize("plateau", [8, 20, 60])
def test_a_gradient_gets_no_bands(default_upscaler: Upscaler, plateau: int, realism: float) -> None:
    """No step between neighbours is larger than in the enlarged input, neither at the border of a plateau nor of a tile."""
    y, x = np.mgrid[:96, :128].astype(float)
    pixels = np.stack([np.floor((x + 0.6 * y + i) / plateau) + base for i, base in enumerate((40, 120, 200))], 2)
    enlarged = upsample(torch.from_numpy(pixels / 255).float().permute(2, 0, 1)[None], 4)[0]
    reference = enlarged.mul(255).round().permute(1, 2, 0).numpy()
    made = _made(default_upscaler, pixels, realism=realism, tile=64)
    for axis in (0, 1):
        assert np.abs(np.diff(made, axis=axis)).max() <= np.abs(np.diff(reference, axis=axis)).max() == 1


def test_flat_ground_does_not_calm_what_lies_beside_it(default_upscaler: Upscaler, photo_tensor: Tensor) -> None:
    """Where nothing is flat, nothing is copied from the enlarged input."""
    lr = resize(photo_tensor[None], 64, 64)[0]
    options = UpscaleOptions(Level(1.0))
    alone = default_upscaler.run(Picture(lr), options).picture.rgb
    framed = torch.ones(3, 64, 128)
    framed[:, :, :64] = lr
    beside = default_upscaler.run(Picture(framed), options).picture.rgb[:, :, :256]
    inner = (slice(None), slice(None), slice(0, 128))
    detail = [rgb[inner].diff(dim=2).abs().mean().item() for rgb in (alone, beside)]
    assert detail[1] == pytest.approx(detail[0], rel=0.02)


@pytest.mark.parametrize("realism", LEVELS)
def test_a_mixed_page_is_coloured_where_its_input_is(default_upscaler: Upscaler, realism: float) -> None:
    """Black text, one red stamp: no coloured fringes along the text, a white margin, and the stamp stays red."""
    page = Image.new("RGB", (120, 96), "white")
    draw = ImageDraw.Draw(page)
    for row in range(4):
        draw.text((10, 8 + 14 * row), "Grey and nothing else", fill="black")
    draw.ellipse((84, 60, 112, 88), outline=(200, 20, 30), width=3)
    pixels = np.asarray(page).astype(int)
    made = _made(default_upscaler, pixels, realism=realism)
    spread = np.ptp(made, axis=2)
    coloured = np.zeros((96, 120), bool)
    coloured[57:92, 81:116] = True
    coloured = coloured.repeat(4, 0).repeat(4, 1)
    assert spread[~coloured].max() == 0
    assert spread[coloured].max() > 150
    assert (made[:, :24] == 255).all()
    assert (made[-12:] == 255).all()


@pytest.mark.parametrize("realism", LEVELS)
def test_a_neutral_picture_stays_neutral(default_upscaler: Upscaler, photo: Image.Image, realism: float) -> None:
    """From Python, too: as colour, with alpha and hidden colours, and the same picture as its grey twin."""
    grey = photo.convert("L").resize((56, 48))
    plain = np.asarray(default_upscaler.upscale(grey, realism=realism)).astype(int)
    pixels = np.asarray(default_upscaler.upscale(grey.convert("RGB"), realism=realism)).astype(int)
    assert pixels.shape == (192, 224, 3)
    assert np.ptp(pixels, axis=2).max() == 0
    assert np.abs(pixels[..., 0] - plain).max() == 0
    clear = np.dstack([np.asarray(grey.convert("RGB")), np.full((48, 56), 255, np.uint8)])
    clear[:12, :, :3], clear[:12, :, 3] = np.random.default_rng(2).integers(0, 256, (12, 56, 3)), 0
    made = np.asarray(default_upscaler.upscale(Image.fromarray(clear), realism=realism)).astype(int)
    assert np.ptp(made[..., :3], axis=2).max() == 0


def _disc(side: int, radius: float) -> Tensor:
    """Coverage of a disc, antialiased, shape (1, side, side)."""
    axis = (torch.arange(8 * side) + 0.5) / 8 - side / 2
    inside = (axis.square() + axis[:, None].square() < radius**2).float()
    return torch.nn.functional.avg_pool2d(inside[None], 8).mul(255).round() / 255


@pytest.mark.parametrize("realism", LEVELS)
def test_an_outline_in_alpha_is_as_sharp_as_a_painted_one(default_upscaler: Upscaler, realism: float) -> None:
    disc = _disc(56, 17.3)
    options = UpscaleOptions(Level(realism))
    cut = default_upscaler.run(Picture(torch.full((3, 56, 56), 0.2), disc), options).picture
    painted = default_upscaler.run(Picture((1 - disc).repeat(3, 1, 1)), options).picture.rgb[:1]
    assert cut.alpha is not None
    soft_cut, soft_painted = (((edge > 0.1) & (edge < 0.9)).sum().item() for edge in (cut.alpha, painted))
    assert soft_cut <= 1.2 * soft_painted
    assert cut.alpha[0, 112, 112] == 1
    assert cut.alpha[0, :30].max() == 0
    enlarged = upsample(disc[None], 4)[0]
    assert (cut.alpha - enlarged).mean().abs() < 0.002  # of the same size


def test_a_shadow_in_alpha_stays_smooth(default_upscaler: Upscaler) -> None:
    fading = torch.linspace(1, 0, 64).mul(255).round().div(255).expand(1, 48, 64)
    cut = default_upscaler.run(Picture(torch.zeros(3, 48, 64), fading), UpscaleOptions(Level(1.0))).picture
    assert cut.alpha is not None
    assert (cut.alpha - upsample(fading[None], 4)[0]).abs().max() < 1.5 / 255


@pytest.mark.parametrize("realism", LEVELS)
def test_a_faint_rest_of_the_old_ground_does_not_fringe_a_cut_out(default_upscaler: Upscaler, realism: float) -> None:
    """A red disc with alpha 2 of a green background around it; compared with enlarging premultiplied colours on white."""
    disc = _disc(48, 15.0)
    red, green = (torch.tensor(color).view(3, 1, 1) / 255 for color in ((180, 30, 30), (40, 220, 60)))
    rgb, alpha = green.lerp(red, (disc > 0).float()), torch.maximum(disc, torch.tensor(2 / 255))
    made = default_upscaler.run(Picture(rgb.contiguous(), alpha), UpscaleOptions(Level(realism))).picture
    assert made.alpha is not None
    rim = ((made.alpha > 0.05) & (made.alpha < 0.95))[0]
    assert rim.any()
    greener = (made.rgb[1] - made.rgb[0])[rim] - (30 - 180) / 255
    assert (greener * made.alpha[0][rim]).max() * 255 < 10
    assert greener.mean() * 255 < 8
