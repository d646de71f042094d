"""Consistency with the input and departure from the evidence: values by hand, and real weights."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import rcodsr
from rcodsr.engine.evidence import CONSISTENT, consistency, departure, remark
from rcodsr.engine.upscaler import Upscaler
from rcodsr.errors import UsageError
from rcodsr.images.departures import encode_map, legend, painted
from rcodsr.images.picture import Picture
from rcodsr.images.resize import upsample
from rcodsr.options import Adaptive, Level, RealismMap, UpscaleOptions
from rcodsr.parts import GroupingSpec
from rcodsr.variants import VariantSpec

ASKED = UpscaleOptions(Level(1.0), invented=True)


def _part(photo_tensor: Tensor) -> Picture:
    return Picture(photo_tensor[:, 60:100, 200:248].contiguous())


def _map(upscaler: Upscaler, picture: Picture, options: UpscaleOptions) -> Tensor:
    found = upscaler.run(picture, replace(options, invented=True)).invented
    assert found is not None
    return found


def test_consistency_of_a_shift_is_its_psnr() -> None:
    """One grey against another: resizing keeps it, so the error is the shift, of 10 in 255 steps."""
    seen = torch.full((3, 8, 8), 100 / 255)
    assert consistency(torch.full((3, 32, 32), 110 / 255), seen) == round(20 * math.log10(255 / 10), 1) == 28.1
    assert consistency(torch.full((3, 32, 32), 100 / 255), seen) == 100.0


def test_consistency_ignores_what_shrinking_removes(photo_tensor: Tensor) -> None:
    """Texture of one pixel disappears when it is shrunk; a wrong brightness does not."""
    lr = photo_tensor[:, :32, :32]
    enlarged = upsample(lr[None], 4)[0]
    chequered = ((torch.arange(128)[:, None] + torch.arange(128)) % 2 * 2 - 1) * 0.02
    assert consistency((enlarged + chequered).clamp(0, 1), lr) > 40
    assert consistency((enlarged - 0.05).clamp(0, 1), lr) < 30


def test_a_departure_is_the_root_mean_square_of_its_window() -> None:
    """One pixel off by 80 steps in one channel: 80²/3 over 64 pixels, so 5.77 in 8×8 windows that contain it, otherwise 0."""
    evidence = torch.full((3, 24, 32), 0.5)
    result = evidence.clone()
    result[1, 12, 16] += 80 / 255
    found = departure(result, evidence)
    assert found.shape == (24, 32)
    assert int((found > 1e-3).sum()) == 64
    assert found.max().item() == pytest.approx(80 / math.sqrt(3 * 64), rel=1e-4)
    assert departure(result, evidence, torch.zeros(1, 24, 32)).max() == 0  # fully transparent


def test_a_picture_smaller_than_a_window_has_a_map() -> None:
    assert departure(torch.full((3, 1, 2), 0.5), torch.full((3, 1, 2), 0.25)) == pytest.approx(255 / 4)


def test_colours_of_a_map_are_eighths_of_steps() -> None:
    steps = np.array([[0, 0.125, 1, 31.8, 32, 200]], np.float32)
    assert np.asarray(painted(steps)).tolist() == [[0, 1, 8, 254, 255, 255]]
    brightness = np.asarray(legend(256).convert("L"))[5].astype(int)
    assert (np.diff(brightness) >= -1).all()  # it is readable in greyscale too
    assert brightness[-1] - brightness[0] > 200
    assert b"8x8 pixels" in encode_map(steps)


def test_nothing_is_invented_at_realism_0_or_on_flat_ground(default_upscaler: Upscaler, photo_tensor: Tensor) -> None:
    at_zero = default_upscaler.run(_part(photo_tensor), UpscaleOptions(Level(0.0), invented=True))
    assert at_zero.invented is not None
    assert (float(at_zero.invented.max()), at_zero.unet_passes) == (0.0, 1)  # it is its own evidence
    flat = Picture(torch.full((3, 40, 48), 0.3))
    assert _map(default_upscaler, flat, ASKED).max() == 0


def test_the_map_rises_with_realism_and_pixels_stay(default_upscaler: Upscaler, photo_tensor: Tensor) -> None:
    picture = _part(photo_tensor)
    means = [float(_map(default_upscaler, picture, UpscaleOptions(Level(level))).mean()) for level in (0, 0.25, 0.5, 0.75, 1)]
    assert means == sorted(means)
    assert means[-1] > means[1] > 0
    plain, mapped = default_upscaler.run(picture, replace(ASKED, invented=False)), default_upscaler.run(picture, ASKED)
    assert torch.equal(plain.picture.rgb, mapped.picture.rgb)
    assert (plain.invented, plain.unet_passes, mapped.unet_passes) == (None, 1, 2)
    assert plain.consistency == mapped.consistency > CONSISTENT
    assert mapped.invented is not None
    zero = default_upscaler.run(picture, UpscaleOptions(Level(0.0))).picture.rgb
    assert torch.equal(mapped.invented, departure(plain.picture.rgb, zero))


def test_tiles_give_the_same_map_within_a_step(default_upscaler: Upscaler, photo_tensor: Tensor) -> None:
    picture = Picture(photo_tensor[:, 40:136, 180:292].contiguous())
    whole = _map(default_upscaler, picture, replace(ASKED, tile=0))
    tiled = _map(default_upscaler, picture, replace(ASKED, tile=64))
    assert whole.max() > 2
    assert (whole - tiled).abs().max() <= 1


def test_where_a_map_asks_for_nothing_nothing_is_invented(default_upscaler: Upscaler, photo_tensor: Tensor) -> None:
    """The left half is at realism 0, more than a ramp's 32 pixels from the right one; other controls work too."""
    picture = Picture(photo_tensor[:, 60:100, 200:280].contiguous())
    halves = RealismMap(80, 40, (0.0, 1.0), bytes([0] * 40 + [1] * 40) * 40)
    found = _map(default_upscaler, picture, UpscaleOptions(halves))
    assert found[:, : 160 - 48].max() < 0.5 < found[:, 160 + 48 :].mean()
    assert _map(default_upscaler, picture, UpscaleOptions(Adaptive())).shape == (160, 320)


def test_transparency_hides_what_departs(default_upscaler: Upscaler, photo_tensor: Tensor) -> None:
    picture = _part(photo_tensor)
    alpha = torch.ones(1, 40, 48)
    alpha[:, :, :24] = 0
    found = _map(default_upscaler, replace(picture, alpha=alpha), ASKED)
    assert found[:, :64].max() < 0.05 < found[:, 128:].mean()


def test_python_has_the_picture_the_map_and_its_figures(default_upscaler: Upscaler, photo: Image.Image) -> None:
    part = photo.crop((200, 60, 248, 100))
    found = default_upscaler.invented(part, realism=1, scale=2)
    assert found.image.size == (96, 80)
    assert found.image.tobytes() == default_upscaler.upscale(part, realism=1, scale=2).tobytes()
    assert found.map.shape == (80, 96) and found.map.dtype == np.float32
    assert found.mean == pytest.approx(found.map.mean()) != 0
    assert found.consistency > CONSISTENT
    assert (found.picture.mode, found.picture.size) == ("P", (96, 80))


def test_weights_without_a_realism_0_refuse_it(small_spec: VariantSpec) -> None:
    fixed = replace(small_spec, grouping=GroupingSpec(n=1, k=999))
    with pytest.raises(UsageError, match="--invented: these weights have one fixed timestep, 999"):
        fixed.check(UpscaleOptions(invented=True))


def test_low_consistency_is_said(small_upscaler: Upscaler, photo_tensor: Tensor) -> None:
    """Random weights make a picture that has little to do with its input."""
    made = small_upscaler.run(_part(photo_tensor), UpscaleOptions())
    assert (made.consistency < CONSISTENT) == any("consistency" in note for note in made.picture.notes)
    assert remark(CONSISTENT) == ()
    assert "consistency 12.0 dB is low" in remark(12.0)[0]
    assert rcodsr.UpscaleOptions().invented is False
