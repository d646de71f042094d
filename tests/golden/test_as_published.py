"""`--as-published` against what the authors' scripts make of a picture, to the byte but for rounding."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import rcodsr
from rcodsr import variants
from rcodsr.checkpoints.identity import identify
from rcodsr.engine.as_published import AsPublished, starts
from rcodsr.engine.runtime import choose_runtime
from rcodsr.errors import UsageError
from rcodsr.images.picture import Picture
from rcodsr.models.one_step import OneStepSR
from rcodsr.options import Adaptive, Level, UpscaleOptions, WeightsRequest
from rcodsr.variants import OSEDIFF, PISA_SR, RCOD_O, S3DIFF, SCRIPTS
from tests.golden.arithmetic import Array
from tests.golden.conftest import Published
from tests.golden.originals import OseDiff, S3Diff


def _input(width: int, height: int) -> Array:
    return np.random.default_rng(3).integers(0, 256, (3, height, width)) / 255


def _original(published: Published, name: str) -> OseDiff:
    if name == "s3diff":
        return S3Diff(published.base, published.states[name], published.estimator, guidance=1.07)
    return published.theirs(name)


def _small(monkeypatch: pytest.MonkeyPatch, original: OseDiff, name: str, **changes: int) -> None:
    """Both with the script's sizes at a few latent positions, so that little pictures are large ones."""
    monkeypatch.setitem(SCRIPTS, name, replace(SCRIPTS[name], **changes))  # type: ignore[arg-type]
    names = {"latent_tile": "tile", "latent_overlap": "overlap", "least_side": "least"}
    for ours, theirs in names.items():
        if ours in changes:
            monkeypatch.setattr(original, theirs, changes[ours])


def _agree(ours: Array, theirs: Array) -> None:
    difference = abs(255 * (ours - theirs))
    assert difference.max() < 3.5  # a byte that is rounded the other way, where it is resized
    assert (difference > 0.5).mean() < 0.02
    assert -10 * math.log10(((ours - theirs) ** 2).mean() + 1e-12) > 60


@pytest.mark.parametrize(
    ("name", "size", "tiles"),
    [
        ("osediff", (27, 21), 1),  # small: enlarged to 30×24 first, and back from 120×96 at the end
        ("osediff", (25, 41), 2),  # 100×164 squeezed to 96×160
        ("s3diff", (27, 33), 6),  # padded to 128×192
    ],
)
def test_the_scripts_picture(
    published: Published, monkeypatch: pytest.MonkeyPatch, name: str, size: tuple[int, int], tiles: int
) -> None:
    lr, original = _input(*size), _original(published, name)
    tile = 16 if tiles == 1 else 12
    _small(monkeypatch, original, name, latent_tile=tile, latent_overlap=4, least_side=24 if name == "osediff" else 1)
    upscaler = published.ours(name, as_published=True)
    done = upscaler.run(Picture(torch.from_numpy(lr).float()), UpscaleOptions())
    assert (done.tiles, done.unet_passes) == (tiles, 2 if name == "s3diff" else 1)
    assert done.picture.size == (4 * size[0], 4 * size[1])
    assert "+as-published" in upscaler.weights_id
    _agree(done.picture.rgb.double().numpy(), original.published(lr))
    with pytest.raises(UsageError, match="as_published: contradicts tile"):
        upscaler.upscale("x.png", tile=64)


def test_the_sizes_of_the_scripts() -> None:
    script = SCRIPTS["s3diff"]
    assert (script.latent_tile, script.latent_overlap, script.encoder_tile, script.decoder_tile) == (96, 32, 1024, 224)
    assert script.guidance == 1.07
    assert [SCRIPTS[name].least_side for name in ("osediff", "s3diff", "pisa-sr")] == [128, 1, 128]
    assert starts(96, 96, 32) == [0]
    assert starts(97, 96, 32) == [0, 1]
    assert starts(200, 96, 32) == [0, 64, 104]
    assert starts(40, 24, 32) == [0, 12, 16]  # where the script would never end


def test_beyond_its_tile_the_autoencoder_works_in_parts(small_sd_model: OneStepSR) -> None:
    script, autoencoder = replace(SCRIPTS["s3diff"], encoder_tile=256, decoder_tile=64), small_sd_model.autoencoder
    way, x = AsPublished(small_sd_model, torch.device("cpu"), script), torch.rand(1, 3, 16, 384)
    sides: list[int] = []
    for half in ("encoder", "decoder"):
        autoencoder.get_submodule(half).register_forward_hook(lambda module, inputs, out: sides.append(out.shape[-1]))
    with torch.no_grad():
        z = way._encode(x)
        assert (z.shape, sides) == ((1, 4, 4, 96), [56, 56])
        assert way._decode(z).shape == (1, 3, 16, 384)
        assert sides[2:] == [224, 224]
        way._encode(x[..., :320])  # up to 64 pixels more than a tile it is taken whole
        assert sides[4:] == [80]


@pytest.mark.parametrize(
    ("options", "guidance", "named"),
    [
        (UpscaleOptions(Level(0.5)), None, "-r"),
        (UpscaleOptions(Adaptive()), None, "-a"),
        (UpscaleOptions(tile=128), None, "--tile"),
        (UpscaleOptions(protect="text"), None, "--protect"),
        (UpscaleOptions(), 1.07, "--guidance"),
    ],
)
def test_what_contradicts_it_is_refused(options: UpscaleOptions, guidance: float | None, named: str) -> None:
    for name in ("s3diff", "pisa-sr"):
        request = WeightsRequest(f"random:{name}", guidance=guidance, as_published=True)
        with pytest.raises(UsageError, match=f"--as-published: contradicts {named}; use only one of the two"):
            identify(request, options)


def test_our_own_weights_have_no_such_script() -> None:
    for name in ("rcod-small", "random:rcod-o", "random:rcod-s"):
        with pytest.raises(UsageError, match="--as-published: rcod-.*omit the option; it is for osediff, s3diff, pisa-sr"):
            identify(WeightsRequest(name, as_published=True), UpscaleOptions())
    with pytest.raises(UsageError, match="as_published: rcod-small"):
        rcodsr.load("rcod-small", as_published=True)


def test_it_enters_the_record() -> None:
    ids = {identify(WeightsRequest("random:osediff", as_published=way), UpscaleOptions()).id for way in (False, True)}
    assert len(ids) == 2


def test_precision_is_the_authors_unless_asked_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert choose_runtime("cpu", "auto", RCOD_O).dtype == torch.bfloat16
    for spec in (OSEDIFF, S3DIFF, PISA_SR):
        runtime = choose_runtime("cpu", "auto", spec)
        assert (runtime.dtype, "authors" in runtime.reason) == (torch.float32, True)
        assert choose_runtime("cpu", "bf16", spec).dtype == torch.bfloat16
    gpu = torch.device("cuda")
    from rcodsr.engine import runtime as module

    assert module._authors_dtype(gpu, "fp16")[0] == torch.float16
    assert module._authors_dtype(gpu, "fp32")[0] == torch.float32
    assert [variants.VARIANTS[name].script for name in ("rcod-o", "rcod-s", "rcod-small", "rcod-tiny")] == [None] * 4
