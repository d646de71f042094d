"""Local realism: a map of levels, blended in the latent; text kept at realism 0."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

from rcodsr.engine.runtime import choose_runtime
from rcodsr.engine.upscaler import Upscaler
from rcodsr.errors import UsageError
from rcodsr.images.maps import map_of, quantise
from rcodsr.images.picture import Picture, from_pil
from rcodsr.images.resize import resize
from rcodsr.models.build import build_model
from rcodsr.options import Level, RealismMap, UpscaleOptions
from rcodsr.parts import GroupingSpec
from rcodsr.variants import VariantSpec


def _psnr(a: Tensor, b: Tensor) -> float:
    return -10 * math.log10(max(1e-12, (a - b).square().mean().item()))


def _halves(height: int, width: int) -> RealismMap:
    """Left half 0, right half 1."""
    return quantise(np.repeat((np.arange(width) >= width // 2)[None], height, 0).astype(float))


def test_each_half_is_the_plain_picture_of_its_level(default_upscaler: Upscaler, photo_tensor: Tensor) -> None:
    picture = Picture(resize(photo_tensor[None, :, :256], 48, 96)[0])
    plain = [default_upscaler.run(picture, UpscaleOptions(Level(level))).picture.rgb for level in (0, 1)]
    made = default_upscaler.run(picture, UpscaleOptions(_halves(48, 96)))
    rgb = made.picture.rgb
    assert (made.unet_passes, made.tiles, made.realism, made.timestep) == (2, 1, 0.5, 500)
    assert "U-Net passes: 2" in made.picture.notes
    away = 32
    assert _psnr(rgb[:, :, : 192 - away], plain[0][:, :, : 192 - away]) >= 45
    assert _psnr(rgb[:, :, 192 + away :], plain[1][:, :, 192 + away :]) >= 45
    # no seam: across the border nothing is steeper than in the steeper of the two, and nothing leaves their range
    near = slice(192 - away, 192 + away)
    steps = [part.diff(dim=2)[:, :, near].square().mean() for part in (rgb, *plain)]
    assert steps[0] <= 1.05 * max(steps[1:])
    low, high = (bound + sign * 2 / 255 for bound, sign in ((torch.minimum(*plain), -1), (torch.maximum(*plain), 1)))
    assert ((rgb >= low) & (rgb <= high))[:, :, near].float().mean() > 0.99


class _Counts(nn.Module):
    """A real network that remembers how often it was asked."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.timesteps = net, list[int]()

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32

    def forward(self, z: Tensor, t: Tensor, tokens: Tensor) -> Tensor:
        self.timesteps.append(int(t))
        return self.net(z, t, tokens)


def test_a_tile_costs_a_pass_for_each_of_its_levels(small_upscaler: Upscaler) -> None:
    small_upscaler.model.unet = counts = _Counts(small_upscaler.model.unet)  # type: ignore[assignment]
    picture = Picture(torch.rand(3, 32, 160))
    done = small_upscaler.run(picture, UpscaleOptions(_halves(32, 160), tile=32, tile_overlap=8))
    assert done.tiles == 7
    assert sorted(set(counts.timesteps)) == [250, 750]
    assert done.tiles < len(counts.timesteps) <= done.tiles + 2  # the tiles at the border take two
    assert done.unet_passes == 2
    assert f"U-Net passes: {len(counts.timesteps)} over 7 tiles" in done.picture.notes
    counts.timesteps.clear()
    done = small_upscaler.run(picture, UpscaleOptions(quantise(np.full((32, 160), 0.75)), tile=32, tile_overlap=8))
    assert (done.unet_passes, counts.timesteps, done.timestep) == (1, [625] * 7, 625)


def test_tiles_agree_on_a_map_and_odd_sizes_stay_exact(small_upscaler: Upscaler) -> None:
    picture = Picture(torch.rand(3, 67, 131))
    options = UpscaleOptions(quantise(torch.rand(67, 131).numpy()), color_fix="none")
    whole, tiled = (small_upscaler.run(picture, replace(options, tile=tile, tile_overlap=24)) for tile in (0, 64))
    assert whole.picture.size == (4 * 131, 4 * 67)
    assert (whole.unet_passes, whole.tiles, tiled.tiles) == (5, 1, 6)
    assert _psnr(whole.picture.rgb, tiled.picture.rgb) >= 45


def test_a_map_fits_the_input_or_the_output(small_upscaler: Upscaler) -> None:
    picture, small = Picture(torch.rand(3, 16, 24)), _halves(16, 24)
    first = small_upscaler.run(picture, UpscaleOptions(small, scale=2)).picture.rgb
    second = small_upscaler.run(picture, UpscaleOptions(_halves(32, 48), scale=2)).picture.rgb
    assert torch.equal(first, second)
    with pytest.raises(UsageError, match=r"map is 12×8, and the picture is 24×16; use a map of 24×16 pixels, or .* 48×32"):
        small_upscaler.run(picture, UpscaleOptions(_halves(8, 12), scale=2))


def test_masks_become_few_levels() -> None:
    grey = Image.fromarray(np.array([[0, 127, 128, 200]], np.uint8))
    found = map_of(grey)
    assert found.levels == (0.0, 0.5, 0.78)  # 127 and 128 are one level, the trained one
    assert list(found.indices) == [0, 1, 1, 2]
    ramp = map_of(Image.linear_gradient("L"))
    assert ramp.levels == (0.0, 0.25, 0.5, 0.75, 1.0)
    assert sum(ramp.parts) == pytest.approx(1)
    assert map_of(grey.convert("RGB")).digest == found.digest != ramp.digest
    deep = Image.fromarray(np.array([[0, 32768, 65535]], np.uint16))
    assert map_of(deep).levels == (0.0, 0.5, 1.0)
    for bad, said in ((Image.new("RGB", (2, 2), "red"), "colours"), (Image.new("LA", (2, 2), (9, 9)), "transparent")):
        with pytest.raises(UsageError, match=said):
            map_of(bad)
    with pytest.raises(UsageError, match="is not an array"):
        quantise(np.array([[2.0]]))


def test_what_contradicts_a_map_is_refused(small_upscaler: Upscaler, small_spec: VariantSpec) -> None:
    image, mask = Image.new("RGB", (8, 8)), Image.new("L", (8, 8))
    assert small_upscaler.upscale(image, realism_map=mask).size == (32, 32)
    assert small_upscaler.upscale(image, realism_map=np.zeros((8, 8)), protect="text").size == (32, 32)
    with pytest.raises(UsageError, match="^realism_map: contradicts realism; use only"):
        small_upscaler.upscale(image, realism=1, realism_map=mask)
    with pytest.raises(UsageError, match="^realism_map: contradicts adaptive"):
        small_upscaler.upscale(image, adaptive="image", realism_map=mask)
    with pytest.raises(UsageError, match="'faces' is not known; use text"):
        small_upscaler.upscale(image, protect="faces")  # type: ignore[call-overload]
    fixed = Upscaler(build_model(replace(small_spec, grouping=GroupingSpec(n=1, k=500))), choose_runtime("cpu", "fp32"), "x")
    for options, name in (({"realism_map": mask}, "realism_map"), ({"protect": "text"}, "protect")):
        with pytest.raises(UsageError, match=f"^{name}: these weights have one fixed timestep, 500"):
            fixed.upscale(image, **options)


def test_text_is_held_at_fidelity(default_upscaler: Upscaler, photo: Image.Image) -> None:
    image = photo.crop((0, 300, 192, 428))
    draw = ImageDraw.Draw(image)
    draw.rectangle((10, 20, 150, 50), "white")
    draw.text((20, 25), "Main entrance", "black", ImageFont.load_default(18))
    picture = from_pil(image)
    plain = [default_upscaler.run(picture, UpscaleOptions(Level(level))).picture.rgb for level in (0, 1)]
    made = default_upscaler.run(picture, UpscaleOptions(Level(1), protect="text"))
    text, rest = np.s_[:, 4 * 28 : 4 * 42, 4 * 24 : 4 * 140], np.s_[:, 4 * 90 :, :]
    assert _psnr(made.picture.rgb[text], plain[0][text]) >= 45
    assert _psnr(made.picture.rgb[rest], plain[1][rest]) >= 45
    assert (made.realism, made.timestep, made.unet_passes) == (1.0, 750, 2)
    assert any("kept at realism 0" in note for note in made.picture.notes)
