"""Our engine on others' published files against what they mean by themselves (`originals`): order of keys, LoRA, M, guidance,
Eq. (3), enlargement and colour fix."""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import constants

import rcodsr
from rcodsr.checkpoints import published as reader
from rcodsr.checkpoints.published import read_published
from rcodsr.engine.upscaler import Upscaler
from rcodsr.images.picture import Picture
from rcodsr.options import Level, UpscaleOptions
from rcodsr.parts import KlSpec, LoraSpec, ModulationSpec, SdUNetSpec, TextSpec
from rcodsr.variants import OSEDIFF, PISA_SR, S3DIFF
from tests.golden import originals
from tests.golden.arithmetic import Array, bicubic, mirrored
from tests.golden.originals import Base, OseDiff, PisaSr, S3Diff, State


class Published:
    """The three checkpoints over one base, as their authors mean them and as we read them."""

    def __init__(self, folder: Path) -> None:
        torch.manual_seed(0)
        self.folder, self.base = folder, Base(folder / "base")
        self.states: dict[str, State] = {
            "osediff": originals.osediff(self.base),
            "s3diff": originals.s3diff(self.base),
            "pisa-sr": originals.pisa_sr(self.base),
        }
        self.estimator = originals.de_net()
        torch.save(self.estimator, folder / "de_net.pth")
        for name, state in self.states.items():
            torch.save(state, folder / f"{name}.pkl")
            read_published([folder / f"{name}.pkl"]).write(folder / name)

    def ours(self, name: str, **asked: object) -> Upscaler:
        directory, base = str(self.folder / name), str(self.base.directory)
        return rcodsr.load(directory, "cpu", "fp32", base_model=base, items=["none"], **asked)  # type: ignore[arg-type]

    def theirs(self, name: str) -> OseDiff:
        if name == "s3diff":
            return S3Diff(self.base, self.states[name], self.estimator)
        return {"osediff": OseDiff, "pisa-sr": PisaSr}[name](self.base, self.states[name])


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Published]:
    """Our specs at the tiny size of `originals`."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("golden")
        patch.setattr(constants, "HF_HOME", str(folder / "home"))
        heads = (1, 2, 3, 3)
        small = {
            "autoencoder": KlSpec(widths=originals.WIDTHS, norm_groups=4),
            "unet": SdUNetSpec(channels=originals.WIDTHS, heads=heads, norm_groups=4),
            "least_side": 64,
        }
        for name, spec in (("OSEDIFF", OSEDIFF), ("S3DIFF", S3DIFF), ("PISA_SR", PISA_SR)):
            assert isinstance(spec.prompt, TextSpec)
            spec = replace(spec, prompt=replace(spec.prompt, tokens=originals.TOKENS, context=originals.CONTEXT), **small)
            if spec.modulation is not None:
                widths = (originals.NARROW, originals.WIDE)
                modulation = ModulationSpec(originals.FREQUENCIES, originals.EMBEDDING, widths, (6, 2), originals.HIDDEN)
                lora = LoraSpec(originals.RANKS["unet"], originals.RANKS["vae"], placement="s3diff")
                spec = replace(spec, lora=lora, modulation=modulation)
            patch.setattr(reader, name, spec)
        yield Published(folder)


def _input() -> Array:
    """A picture (3, 24, 40) of strong colours: our limits on colour and texture have nothing to do."""
    return np.random.default_rng(3).integers(0, 256, (3, 24, 40)) / 255


def _picture(upscaler: Upscaler, lr: Array, options: UpscaleOptions | None = None) -> Array:
    picture = Picture(torch.from_numpy(lr).float())
    return upscaler.run(picture, options or UpscaleOptions()).picture.rgb.double().numpy()


def _forward(upscaler: Upscaler, x: Array, lr: Array) -> Array:
    """Not clamped."""
    model, (enlarged, small) = upscaler.model, (torch.from_numpy(a).float()[None] for a in (x, lr))
    with torch.no_grad():
        condition = model.condition(enlarged, torch.tensor([model.spec.grouping.k]), small)
        return model(enlarged, condition)[0].double().numpy()  # type: ignore[no-any-return]


def _distance(a: Array, b: Array) -> float:
    """The largest, relative to the largest value."""
    return float(abs(a - b).max() / abs(b).max())


def _psnr(a: Array, b: Array) -> float:
    return -10 * math.log10(float(((a - b) ** 2).mean()))


def test_as_many_layers_as_published(published: Published) -> None:
    unet, vae = published.base.unet, published.base.vae
    assert {side: len(names) for side, names in originals.sides(unet).items()} == {"encoder": 94, "decoder": 148, "others": 16}
    assert len(originals.encoder_layers(vae)) == 31
    assert len(originals.de_net()) == 80


@pytest.mark.parametrize("name", ["osediff", "s3diff", "pisa-sr"])
def test_one_forward(published: Published, name: str) -> None:
    lr, upscaler, original = _input(), published.ours(name), published.theirs(name)
    x = mirrored(bicubic(lr, 4), 64)
    assert _distance(_forward(upscaler, x, lr), original.forward(x, lr)) < 1e-4
    wanted = original.picture(lr)
    assert 0.05 < wanted.std() < 0.5
    assert _distance(_picture(upscaler, lr), wanted) < 1e-4


def test_the_guided_picture_of_s3diff(published: Published) -> None:
    lr = _input()
    wanted = S3Diff(published.base, published.states["s3diff"], published.estimator, guidance=1.07)
    ours = _picture(published.ours("s3diff", guidance=1.07), lr)
    assert _psnr(ours, wanted.picture(lr)) > 50
    assert _distance(ours, wanted.picture(lr)) < 1e-4
    assert _distance(ours, published.theirs("s3diff").picture(lr)) > 1e-4


def test_the_weighed_pair_of_pisa_sr(published: Published) -> None:
    lr = _input()
    wanted = PisaSr(published.base, published.states["pisa-sr"], (1.0, 0.3)).picture(lr)
    ours = _picture(published.ours("pisa-sr", realism=0.3), lr, UpscaleOptions(Level(0.3)))
    assert _distance(ours, wanted) < 1e-4
    assert _distance(wanted, published.theirs("pisa-sr").picture(lr)) > 1e-3
