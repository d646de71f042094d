"""Our engine on others' published files against what they mean by themselves (`originals`): order of keys, LoRA, M, guidance,
Eq. (3), enlargement and colour fix."""

import math

import numpy as np
import pytest
import torch

from rcodsr.engine.upscaler import Upscaler
from rcodsr.images.picture import Picture
from rcodsr.options import Level, UpscaleOptions
from tests.golden import files
from tests.golden.arithmetic import Array, bicubic, mirrored
from tests.golden.conftest import Published
from tests.golden.originals import PisaSr, S3Diff


def _input() -> Array:
    """A picture (3, 24, 40) as colourful as can be: our limits on colour and texture have nothing to do."""
    rng = np.random.default_rng(3)
    middle = rng.integers(0, 256, (24, 40)) / 255
    return rng.permuted(np.stack([np.zeros_like(middle), middle, np.ones_like(middle)]), axis=0)


def _picture(upscaler: Upscaler, lr: Array, options: UpscaleOptions | None = None) -> Array:
    picture = Picture(torch.from_numpy(lr).float())
    return upscaler.run(picture, options or UpscaleOptions()).picture.rgb.double().numpy()


def _forward(upscaler: Upscaler, x: Array, lr: Array) -> Array:
    """Not clamped."""
    model, (enlarged, small) = upscaler.model, (torch.from_numpy(a).float()[None] for a in (x, lr))
    with torch.no_grad():
        condition = model.condition(enlarged, torch.tensor([model.spec.grouping.k]), small)
        return model(enlarged, condition)[0].double().numpy()


def _distance(a: Array, b: Array) -> float:
    """The largest, relative to the largest value."""
    return float(abs(a - b).max() / abs(b).max())


def _psnr(a: Array, b: Array) -> float:
    return -10 * math.log10(float(((a - b) ** 2).mean()))


def test_as_many_layers_as_published() -> None:
    with torch.device("meta"):
        unet, vae = files.networks(blocks=2)
    assert {side: len(names) for side, names in files.sides(unet).items()} == {"encoder": 94, "decoder": 148, "others": 16}
    assert len(files.encoder_layers(vae)) == 31
    assert len(files.de_net()) == 80


@pytest.mark.parametrize("name", ["osediff", "s3diff", "pisa-sr"])
def test_one_forward(published: Published, name: str) -> None:
    lr, upscaler, original = _input(), published.ours(name), published.theirs(name)
    enlarged = bicubic(lr, 4)
    x = mirrored(enlarged, 64)
    made = original.forward(x, lr)
    assert _distance(_forward(upscaler, x, lr), made) < 1e-4
    wanted = original.dressed(made, enlarged)
    assert 0.05 < wanted.std() < 0.5
    assert _distance(_picture(upscaler, lr), wanted) < 1e-4


def test_the_guided_picture_of_s3diff(published: Published) -> None:
    lr = _input()
    wanted = S3Diff(published.base, published.states["s3diff"], published.estimator, guidance=1.07).picture(lr)
    ours = _picture(published.ours("s3diff", guidance=1.07), lr)
    assert _psnr(ours, wanted) > 50
    assert _distance(ours, wanted) < 1e-4
    assert _distance(ours, published.theirs("s3diff").picture(lr)) > 1e-3


def test_the_weighed_pair_of_pisa_sr(published: Published) -> None:
    lr = _input()
    wanted = PisaSr(published.base, published.states["pisa-sr"], (1.0, 0.3)).picture(lr)
    ours = _picture(published.ours("pisa-sr", realism=0.3), lr, UpscaleOptions(Level(0.3)))
    assert _distance(ours, wanted) < 1e-4
    assert _distance(wanted, published.theirs("pisa-sr").picture(lr)) > 1e-3
