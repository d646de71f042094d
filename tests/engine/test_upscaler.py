import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import pytest
import torch
from PIL import Image
from torch import Tensor

import rcodsr
import rcodsr.engine.tiled
from rcodsr.checkpoints.format import load_model
from rcodsr.checkpoints.resolve import ResolvedWeights
from rcodsr.engine.runtime import choose_runtime
from rcodsr.engine.upscaler import Upscaler
from rcodsr.errors import ModelOutputError, RcodsrError, TileMemoryError, UsageError
from rcodsr.images.picture import Picture
from rcodsr.images.resize import resize
from rcodsr.models.modulation import Modulation
from rcodsr.models.one_step import OneStepSR
from rcodsr.options import Level, UpscaleOptions


def _psnr(a: Tensor, b: Tensor) -> float:
    return -10 * math.log10(max(1e-12, (a - b).square().mean().item()))


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (7, 3), (5, 17), (16, 16), (33, 64), (1, 100)])
def test_every_size_comes_out_exactly_four_times(small_upscaler: Upscaler, size: tuple[int, int]) -> None:
    width, height = size
    done = small_upscaler.run(Picture(torch.rand(3, height, width)), UpscaleOptions())
    assert done.picture.size == (4 * width, 4 * height)
    assert done.picture.rgb.min() >= 0
    assert done.picture.rgb.max() <= 1


@pytest.mark.parametrize(("scale", "size"), [(1.0, (13, 9)), (2.0, (26, 18)), (3.5, (46, 32)), (8.0, (104, 72))])
def test_other_scales_resize_once_at_the_end(small_upscaler: Upscaler, scale: float, size: tuple[int, int]) -> None:
    assert small_upscaler.run(Picture(torch.rand(3, 9, 13)), UpscaleOptions(scale=scale)).picture.size == size


def test_grey_stays_grey_and_alpha_is_enlarged_beside_the_colour(small_upscaler: Upscaler) -> None:
    grey = Picture(torch.rand(1, 8, 8).expand(3, -1, -1), gray=True)
    assert small_upscaler.run(grey, UpscaleOptions()).picture.gray
    alpha = (torch.arange(8) < 4).float().expand(1, 8, 8)
    done = small_upscaler.run(Picture(torch.rand(3, 8, 8), alpha), UpscaleOptions()).picture
    assert done.alpha is not None
    assert done.alpha.shape == (1, 32, 32)
    assert done.alpha[..., :12].min() > 0.9
    assert done.alpha[..., 20:].max() < 0.1


def test_no_dark_fringe_around_transparency(default_upscaler: Upscaler) -> None:
    """A light square on transparent black, composited on white afterwards."""
    rgb, alpha = torch.zeros(3, 24, 24), torch.zeros(1, 24, 24)
    rgb[:, 8:16, 8:16], alpha[:, 8:16, 8:16] = 0.98, 1.0
    done = default_upscaler.run(Picture(rgb, alpha), UpscaleOptions(Level(1))).picture
    assert done.alpha is not None
    assert (done.rgb * done.alpha + (1 - done.alpha)).min() > 0.9


def test_the_effective_timestep_is_reported(small_upscaler: Upscaler) -> None:
    done = small_upscaler.run(Picture(torch.rand(3, 8, 8)), UpscaleOptions(Level(0.3)))
    assert (done.timestep, done.level, done.tiles, done.unet_passes) == (400, "neutral", 1, 1)


def test_tiled_equals_untiled_on_a_photo(default_upscaler: Upscaler, photo_tensor: Tensor) -> None:
    picture = Picture(resize(photo_tensor[None], 192, 192)[0])
    whole = default_upscaler.run(picture, UpscaleOptions(Level(1), tile=0))
    tiled = default_upscaler.run(picture, UpscaleOptions(Level(1), tile=96))
    assert (whole.tiles, tiled.tiles) == (1, 9)
    assert _psnr(whole.picture.rgb, tiled.picture.rgb) >= 45


@pytest.mark.parametrize("realism", [0.0, 1.0])
@pytest.mark.parametrize("axis", [1, 2])
def test_no_seam_on_a_plain_gradient(default_upscaler: Upscaler, realism: float, axis: int) -> None:
    """Gradient energy across tile borders at most 1.02 × that elsewhere.

    The gradient runs along the borders, so that without tiles all positions across them would be alike. A faint ripple keeps it
    from counting as a flat area, which bypasses the network.
    """
    ripple = 0.02 * torch.arange(192).mul(1.3).sin()
    ramp = (torch.linspace(0.1, 0.9, 192) + ripple).expand(3, 192, 192)
    picture = Picture(ramp if axis == 1 else ramp.transpose(1, 2))
    done = default_upscaler.run(picture, UpscaleOptions(Level(realism), tile=96, color_fix="none"))
    assert done.tiles == 9
    energy = done.picture.rgb.diff(dim=axis).square().mean((0, 3 - axis))
    borders = torch.zeros(767, dtype=torch.bool)
    for cut in (288, 480):  # 384-pixel tiles start every 192 pixels and blend over the 96 around the middle of their overlap
        borders[cut - 48 : cut + 48] = True
    inside = slice(64, -63)  # the picture's own edges are no seams
    assert energy[inside][borders[inside]].mean() <= 1.02 * energy[inside][~borders[inside]].mean()


def test_realism_orders_sharpness_and_keeps_the_colour(default_upscaler: Upscaler, photo_tensor: Tensor) -> None:
    lr = resize(photo_tensor[None, :, 64:320, 128:384], 64, 64)
    reference = resize(lr, 256, 256)[0]
    details = []
    for realism in (0.0, 0.5, 1.0):
        rgb = default_upscaler.run(Picture(lr[0]), UpscaleOptions(Level(realism))).picture.rgb
        assert (rgb.mean((1, 2)) - reference.mean((1, 2))).abs().max() < 2 / 255
        details.append((rgb[:, :, 1:] - rgb[:, :, :-1]).abs().mean().item())
    bicubic = (reference[:, :, 1:] - reference[:, :, :-1]).abs().mean().item()
    assert bicubic < details[0] < details[1] < details[2]


def test_threads_share_one_engine_without_mixing(small_upscaler: Upscaler) -> None:
    pictures = [Picture(torch.rand(3, 12, 12)) for _ in range(8)]
    levels = [i / 7 for i in range(8)]

    def job(i: int) -> Tensor:
        return small_upscaler.run(pictures[i], UpscaleOptions(Level(levels[i]))).picture.rgb

    alone = [job(i) for i in range(8)]
    with ThreadPoolExecutor(4) as pool:
        for a, b in zip(alone, pool.map(job, range(8)), strict=True):
            assert torch.equal(a, b)


class _FailsUntil(torch.nn.Module):
    """A real network behind an allocator that fails until tiles are small enough."""

    def __init__(self, net: torch.nn.Module, largest: int) -> None:
        super().__init__()
        self.net, self.largest, self.seen = net, largest, [0]

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32

    def forward(self, z: Tensor, t: Tensor, tokens: Tensor) -> Tensor:
        self.seen.append(max(z.shape[-2:]))
        if max(z.shape[-2:]) > self.largest:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.net(z, t, tokens)


def test_out_of_memory_halves_the_tile_and_gives_the_same_picture(small_upscaler: Upscaler) -> None:
    picture = Picture(torch.rand(3, 200, 200))
    direct = small_upscaler.run(picture, UpscaleOptions(tile=100)).picture.rgb
    small_upscaler.model.unet = _FailsUntil(small_upscaler.model.unet, 120)  # type: ignore[assignment]
    done = small_upscaler.run(picture, UpscaleOptions(tile=200))
    assert done.tiles > 1
    torch.testing.assert_close(done.picture.rgb, direct, atol=1e-5, rtol=0)


def test_out_of_memory_at_the_smallest_tile_is_an_error_with_its_own_code(small_upscaler: Upscaler) -> None:
    small_upscaler.model.unet = _FailsUntil(small_upscaler.model.unet, 0)  # type: ignore[assignment]
    with pytest.raises(TileMemoryError, match="smallest tile") as caught:
        small_upscaler.run(Picture(torch.rand(3, 200, 200)), UpscaleOptions())
    assert caught.value.exit_code == 5


class _FaultAt(torch.nn.Module):
    """A real network whose n-th call fails, once, and only in its own dtype."""

    def __init__(self, net: torch.nn.Module, call: int, fault: str) -> None:
        super().__init__()
        self.net, self.call, self.fault, self.calls = net, call, fault, 0

    @property
    def dtype(self) -> torch.dtype:
        return self.net.dtype  # type: ignore[return-value]

    def forward(self, z: Tensor, t: Tensor, tokens: Tensor) -> Tensor:
        self.calls += 1
        out: Tensor = self.net(z, t, tokens)
        if self.calls != self.call:
            return out
        if self.fault == "memory":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return out * float("nan")


@pytest.fixture
def sd_upscaler(adapter_checkpoint: Path, bases: dict[str, ResolvedWeights]) -> Callable[[str], Upscaler]:
    """A small model of the paper's kind, in a given dtype."""

    def build(dtype: Literal["fp32", "bf16"]) -> Upscaler:
        runtime = choose_runtime("cpu", dtype)

        def place(number: torch.dtype) -> OneStepSR:
            return runtime.place(load_model(adapter_checkpoint, bases), number)

        return Upscaler(place(runtime.dtype), runtime, "small-sd@0", lambda: place(torch.float32))

    return build  # type: ignore[return-value]


@pytest.mark.parametrize("call", [1, 3])
def test_out_of_memory_at_a_tile_gives_the_picture_of_half_the_tile(
    sd_upscaler: Callable[[str], Upscaler], call: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rcodsr.engine.tiled, "SMALLEST_TILE", 32)  # 64 needs larger pictures, which take minutes
    picture = Picture(torch.rand(3, 90, 70))
    direct = sd_upscaler("fp32").run(picture, UpscaleOptions(tile=32, tile_overlap=8))
    faulty = sd_upscaler("fp32")
    faulty.model.unet = _FaultAt(faulty.model.unet, call, "memory")  # type: ignore[assignment]
    done = faulty.run(picture, UpscaleOptions(tile=64, tile_overlap=8))
    assert done.tiles == direct.tiles > 4
    assert torch.equal(done.picture.rgb, direct.picture.rgb)


@pytest.mark.parametrize("call", [1, 3])
def test_nan_at_a_tile_gives_the_picture_of_float32(sd_upscaler: Callable[[str], Upscaler], call: int) -> None:
    picture, options = Picture(torch.rand(3, 50, 40)), UpscaleOptions(tile=32, tile_overlap=8)
    direct = sd_upscaler("fp32").run(picture, options)
    faulty = sd_upscaler("bf16")
    faulty.model.unet = _FaultAt(faulty.model.unet, call, "nan")  # type: ignore[assignment]
    done = faulty.run(picture, options)
    assert (done.dtype, direct.tiles) == ("fp32", 4)
    assert torch.equal(done.picture.rgb, direct.picture.rgb)
    small = Picture(torch.rand(3, 8, 8))
    assert faulty.run(small, options).dtype == "bf16"  # the next picture starts in the requested dtype again


def test_half_precision_is_close_to_float32(sd_upscaler: Callable[[str], Upscaler], photo_tensor: Tensor) -> None:
    picture = Picture(resize(photo_tensor[None], 16, 16)[0])  # not more: some CPUs take seconds for little bf16
    exact, half = (sd_upscaler(dtype).run(picture, UpscaleOptions(Level(1))) for dtype in ("fp32", "bf16"))
    assert (exact.dtype, half.dtype) == ("fp32", "bf16")
    assert 30 < _psnr(exact.picture.rgb, half.picture.rgb) < 90


def test_a_blank_picture_is_an_error(small_upscaler: Upscaler) -> None:
    small_upscaler.model.decode = lambda z: torch.full((1, 3, 4 * z.shape[2], 4 * z.shape[3]), 0.0)  # type: ignore[method-assign]
    with pytest.raises(ModelOutputError, match="blank"):
        small_upscaler.run(Picture(torch.rand(3, 8, 8)), UpscaleOptions())
    flat = small_upscaler.run(Picture(torch.zeros(3, 8, 8)), UpscaleOptions(color_fix="none"))
    assert flat.picture.rgb.max() == 0  # a black input may stay black


@pytest.mark.parametrize(("deviation", "blank"), [(0.0045, False), (0.0055, True)])
def test_a_flat_answer_is_blank_where_the_input_is_lively(small_upscaler: Upscaler, deviation: float, blank: bool) -> None:
    """The bound is a standard deviation of 0.005, of pixels in [0, 1]: a little more than one of 255 steps."""
    halves = torch.full((3, 16, 16), 0.5 - deviation)
    halves[:, 8:] = 0.5 + deviation
    small_upscaler.model.decode = lambda z: torch.full((1, 3, 4 * z.shape[2], 4 * z.shape[3]), 0.5)  # type: ignore[method-assign]
    if blank:
        with pytest.raises(ModelOutputError, match="blank"):
            small_upscaler.run(Picture(halves), UpscaleOptions())
    else:
        assert small_upscaler.run(Picture(halves), UpscaleOptions()).picture.size == (64, 64)


def test_small_pictures_are_padded_to_what_the_prior_knows(sd_upscaler: Callable[[str], Upscaler]) -> None:
    upscaler = sd_upscaler("fp32")
    seen: list[torch.Size] = []
    encode = upscaler.model.encode
    upscaler.model.encode = lambda x: (seen.append(x.shape), encode(x))[1]  # type: ignore[func-returns-value,method-assign]
    assert upscaler.run(Picture(torch.rand(3, 5, 3)), UpscaleOptions()).picture.size == (12, 20)
    assert seen == [torch.Size((1, 3, 32, 32))]


def test_a_model_that_returns_nan_is_an_error(small_upscaler: Upscaler) -> None:
    with torch.no_grad():
        small_upscaler.model.unet.get_parameter("conv_out.bias").fill_(float("nan"))
    with pytest.raises(ModelOutputError):
        small_upscaler.run(Picture(torch.rand(3, 8, 8)), UpscaleOptions())


def test_python_interface(photo: Image.Image, tmp_path: Path) -> None:
    small = photo.resize((32, 24))
    small.save(tmp_path / "photo.png")
    upscaler = rcodsr.load("rcod-tiny", device="cpu")
    from_image = upscaler.upscale(small, realism=0.5)
    from_path = upscaler.upscale(tmp_path / "photo.png", realism="neutral")
    assert from_image.size == (128, 96)
    assert from_image.tobytes() == from_path.tobytes()
    assert upscaler.upscale(small, scale=2).size == (64, 48)
    assert upscaler.upscale(small.convert("RGBA")).mode == "RGBA"
    turned = photo.resize((32, 24))
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Camera"
    turned.save(tmp_path / "turned.jpg", exif=exif, dpi=(300, 300))
    with Image.open(tmp_path / "turned.jpg") as opened:
        upright = upscaler.upscale(opened)
    assert upright.size == (96, 128)
    assert upright.info["dpi"] == (300, 300)
    assert b"Camera" in upright.info["exif"]
    with pytest.raises(UsageError, match="adian"):
        upscaler.upscale(small, color_fix="adian")  # type: ignore[call-overload]
    with pytest.raises(UsageError, match="did you mean"):
        upscaler.upscale(small, realism=50)
    with pytest.raises(UsageError, match="^realsim: is not an argument of upscale; did you mean realism?"):
        upscaler.upscale(small, realsim=1)  # type: ignore[call-overload]
    with pytest.raises(UsageError, match="^sharpness: is not an argument of upscale; use realism, adaptive,"):
        upscaler.upscale(small, sharpness=1)  # type: ignore[call-overload]
    with pytest.raises(UsageError, match="^adaptive: contradicts realism; use only one of the two"):
        upscaler.upscale(small, realism=0, adaptive=True)
    with pytest.raises(UsageError, match="^tile: 'of' is not a valid tile size; use auto, off"):
        upscaler.upscale(small, tile="of")  # type: ignore[call-overload]
    assert upscaler.upscale(small, tile="off", size="short=30").size == (40, 30)


@pytest.mark.parametrize(
    "options", [{"scale": 0.5}, {"scale": 9}, {"tile": 8}, {"tile": 64, "tile_overlap": 64}, {"tile_overlap": -1}]
)
def test_options_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(RcodsrError):
        UpscaleOptions(**options)  # type: ignore[arg-type]


def test_the_pictures_degradation_is_measured_once_at_its_own_size(
    small_s_model: OneStepSR, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tiles share the measurement; other tiles change the picture only near their seams."""
    measured: list[Tensor] = []
    measure = small_s_model.modulator.measure

    def noted(lr: Tensor) -> Modulation:
        measured.append(lr)
        return measure(lr)

    monkeypatch.setattr(small_s_model.modulator, "measure", noted)
    upscaler = Upscaler(small_s_model, choose_runtime("cpu", "fp32"), "small-s@0")
    rgb = torch.rand(3, 40, 72)
    done = upscaler.run(Picture(rgb), UpscaleOptions(tile=32, tile_overlap=8, color_fix="none"))
    assert done.tiles > 1
    assert len(measured) == 1
    assert torch.equal(measured[0], rgb[None])
    assert done.picture.size == (288, 160)
    assert torch.isfinite(done.picture.rgb).all()
