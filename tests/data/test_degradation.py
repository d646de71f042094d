import io
import itertools
import pickle
from collections import Counter

import numpy as np
import pytest
import skimage.data
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from rcodsr.data.degradation import (
    Degradation,
    Filter,
    Jpeg,
    Mosaic,
    Noise,
    Resize,
    Sharpen,
    Step,
    apply,
    degrade,
    degrade_batch,
    sample_degradation,
)
from rcodsr.data.jpeg import _CHROMA, _LUMA, _table, jpeg
from rcodsr.data.presets import PRESETS, DegradationSpec
from rcodsr.images.resize import upsample
from tests.data.conftest import psnr, to_tensor
from tests.data.drawn_on_the_way import drawn_on_the_way

# --------------------------------------------------------------------------------------------------------------- JPEG


@pytest.mark.parametrize("quality", [10, 30, 60, 90, 100])
@pytest.mark.parametrize("size", [(192, 256), (203, 301), (5, 3)])
def test_jpeg_is_what_pillow_writes(quality: int, size: tuple[int, int]) -> None:
    pixels = np.ascontiguousarray(skimage.data.chelsea()[40 : 40 + size[0], 60 : 60 + size[1]])
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, subsampling="4:2:0")
    with Image.open(buffer) as image:
        real = to_tensor(np.asarray(image))
    x = to_tensor(pixels)
    ours = jpeg(x[None], quality)[0]
    assert ours.shape == x.shape
    assert psnr(ours, real) >= (43.5 if min(size) > 16 and quality >= 30 else 38)
    if quality <= 90 and size != (5, 3):
        assert psnr(ours, real) > psnr(real, x) + 5  # much nearer to the real thing than that is to the photo
        assert psnr(ours, x) == pytest.approx(psnr(real, x), abs=0.3)


@pytest.mark.parametrize("quality", [1, 10, 49, 50, 75, 95, 100])
def test_the_quantisation_tables_are_those_pillow_writes(quality: int) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16)).save(buffer, "JPEG", quality=quality)
    with Image.open(buffer) as image:
        for ours, theirs in zip((_LUMA, _CHROMA), (0, 1), strict=True):
            assert _table(ours, quality).flatten().tolist() == image.quantization[theirs]  # type: ignore[attr-defined]


def test_jpeg_gives_8_bit_values_in_range(face: Tensor) -> None:
    result = jpeg(face[None], 20)
    assert torch.allclose(result * 255, (result * 255).round(), atol=1e-4)
    assert result.min() >= 0
    assert result.max() <= 1


def test_jpeg_keeps_a_constant_grey() -> None:
    grey = torch.full((1, 3, 24, 40), 128 / 255)
    assert torch.allclose(jpeg(grey, 50), grey, atol=1e-6)


def test_jpeg_treats_the_pictures_of_a_batch_alone(face: Tensor) -> None:
    pair = torch.stack((face, face.flip(2)))
    assert torch.equal(jpeg(pair, 40)[1], jpeg(pair[1:], 40)[0])


def test_jpeg_loses_more_at_lower_quality(face: Tensor) -> None:
    losses = [psnr(jpeg(face[None], quality)[0], face) for quality in (5, 20, 50, 80, 95)]
    assert losses == sorted(losses)
    assert losses[-1] > losses[0] + 8


# -------------------------------------------------------------------------------------------------------- degradation


@pytest.mark.parametrize("preset", PRESETS)
def test_the_seed_decides_the_sample(face: Tensor, preset: str) -> None:
    torch.manual_seed(1)
    first = degrade(face, PRESETS[preset], 7)
    torch.manual_seed(2)
    np.random.default_rng(5).random(3)
    assert torch.equal(degrade(face, PRESETS[preset], 7), first)
    assert not torch.equal(degrade(face, PRESETS[preset], 8), first)
    assert torch.equal(degrade(face, PRESETS[preset], (7, 1)), degrade(face, PRESETS[preset], (7, 1)))
    assert not torch.equal(degrade(face, PRESETS[preset], (7, 1)), degrade(face, PRESETS[preset], (1, 7)))


@pytest.mark.parametrize("preset", PRESETS)
def test_degrading_leaves_the_photo_and_torchs_generator_alone(face: Tensor, preset: str) -> None:
    before, state = face.clone(), torch.get_rng_state()
    for seed in range(4):
        degrade(face, PRESETS[preset], seed)
    assert torch.equal(face, before)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(("height", "width", "scale"), [(64, 96, 4), (100, 52, 4), (64, 66, 2), (60, 48, 3)])
def test_the_result_has_the_exact_size_and_8_bit_values(face: Tensor, preset: str, height: int, width: int, scale: int) -> None:
    for seed in range(8):
        low = degrade(face[:, :height, :width], PRESETS[preset], seed, scale)
        assert low.shape == (3, height // scale, width // scale)
        assert low.dtype == torch.float32
        assert torch.equal(low, (low * 255).round() / 255)
        assert low.min() >= 0
        assert low.max() <= 1


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("side", [4, 8, 20])
def test_tiny_pictures_can_be_degraded(face: Tensor, preset: str, side: int) -> None:
    for seed in range(12):
        assert degrade(face[:, :side, :side], PRESETS[preset], seed).shape == (3, side // 4, side // 4)


@pytest.mark.parametrize("preset", PRESETS)
def test_the_picture_stays_recognisable(face: Tensor, preset: str) -> None:
    for seed in range(12):
        low = degrade(face, PRESETS[preset], seed)
        reference = F.interpolate(face[None], scale_factor=0.25, mode="area")[0]
        assert np.corrcoef(low.flatten().numpy(), reference.flatten().numpy())[0, 1] > 0.75
        assert (low.mean((1, 2)) - reference.mean((1, 2))).abs().max() < 0.1


def test_full_loses_more_than_light_and_camera(face: Tensor) -> None:
    def mean_psnr(preset: str) -> float:
        results = [upsample(degrade(face, PRESETS[preset], seed)[None], 4)[0] for seed in range(12)]
        return float(np.mean([psnr(result, face) for result in results]))

    full = mean_psnr("full")
    assert full < mean_psnr("light") - 0.5
    assert full < mean_psnr("camera") - 1


# ---------------------------------------------------------------------------------------------- drawing, then carrying out


@pytest.mark.parametrize("preset", ["full", "light", "camera", "clean"])
@pytest.mark.parametrize(("height", "width", "scale"), [(96, 128, 4), (64, 66, 2), (8, 8, 4)])
def test_drawing_first_gives_the_bits_of_drawing_on_the_way(
    face: Tensor, preset: str, height: int, width: int, scale: int
) -> None:
    # the degradation that the embedded weights were trained on must equal today's
    for seed in range(30):
        photo = face[:, :height, :width]
        assert torch.equal(
            degrade(photo, PRESETS[preset], (seed, 1), scale), drawn_on_the_way(photo, PRESETS[preset], (seed, 1), scale)
        )


@pytest.mark.parametrize(
    ("preset", "means"),
    [
        ("full", [0.5881, 0.5879, 0.5909, 0.5902]),
        ("light", [0.5883, 0.5892, 0.5888, 0.5886]),
        ("camera", [0.5875, 0.5879, 0.5875, 0.5874]),
    ],
)
def test_the_means_are_those_of_the_day_they_were_written_down(face: Tensor, preset: str, means: list[float]) -> None:
    # kernels, tables and the order of the draws in one number; a mean hardly depends on the kind of CPU
    assert [degrade(face, PRESETS[preset], seed).mean().item() for seed in range(4)] == pytest.approx(means, abs=3e-4)


def drawn(preset: str, seeds: range = range(200)) -> list[Degradation]:
    return [sample_degradation(PRESETS[preset], seed, 128, 192) for seed in seeds]


@pytest.mark.parametrize("preset", ["full", "light"])
def test_the_second_order_steps_come_in_the_papers_order(preset: str) -> None:
    letters = {Filter: "f", Resize: "r", Noise: "n", Jpeg: "j"}
    orders = {"".join(letters[type(step)] for step in degradation.steps) for degradation in drawn(preset)}
    assert orders == {f"frnj{blur}rn{end}" for blur in ("", "f") for end in ("rj", "jr", "rfj", "jrf")}


def test_the_camera_shrinks_once() -> None:
    for degradation in drawn("camera"):
        kinds = [type(step) for step in degradation.steps]
        assert kinds[:2] == [Filter, Resize]
        assert kinds[2:] in ([], [Noise], [Jpeg], [Noise, Jpeg])
        assert degradation.steps[1] == Resize(32, 48, degradation.steps[1].mode)  # type: ignore[union-attr]


def test_the_sensor_measures_noise_and_all_then_sharpens_then_compresses() -> None:
    letters = {Filter: "f", Resize: "r", Noise: "n", Mosaic: "m", Sharpen: "s", Jpeg: "j"}
    many = drawn("sensor")
    orders = {"".join(letters[type(step)] for step in degradation.steps) for degradation in many}
    assert orders <= {"fr" + "".join(kept) for kept in itertools.product(*(("", letter) for letter in "nmsj"))}
    steps = [step for degradation in many for step in degradation.steps]
    mosaics = [step for step in steps if isinstance(step, Mosaic)]
    assert len(mosaics) / len(many) == pytest.approx(0.8, abs=0.1)
    assert {(step.row, step.column) for step in mosaics} == {(0, 0), (0, 1), (1, 0), (1, 1)}
    sharpened = [step for step in steps if isinstance(step, Sharpen)]
    assert len(sharpened) / len(many) == pytest.approx(0.6, abs=0.12)
    assert all(0.5 <= step.sigma <= 1.2 and 0.2 <= step.amount <= 1 for step in sharpened)


def test_independent_faults_come_alone_and_together_up_to_strong_ones() -> None:
    many = drawn("independent", range(600))
    kinds: tuple[type[Step], ...] = (Filter, Noise, Jpeg)
    found = Counter(tuple(any(isinstance(step, kind) for step in one.steps) for kind in kinds) for one in many)
    assert found.keys() == set(itertools.product((False, True), repeat=3))
    assert min(found.values()) > 40
    steps = [step for one in many for step in one.steps]
    gaussian = [255 * step.strength for step in steps if isinstance(step, Noise) and step.kind == "gaussian"]
    qualities = [step.quality for step in steps if isinstance(step, Jpeg)]
    assert min(gaussian) < 5
    assert 35 < max(gaussian) <= 40
    assert (min(qualities) < 20, max(qualities) > 93) == (True, True)


@pytest.mark.parametrize("preset", ["full", "light"])
def test_drawn_values_lie_in_the_presets_ranges(preset: str) -> None:
    spec = PRESETS[preset]
    assert spec.second is not None
    grays = []
    for degradation in drawn(preset):
        first, *_, last = (step for step in degradation.steps if isinstance(step, Resize))
        assert (last.height, last.width) == (32, 48)
        low, high = spec.first.resize_range
        assert int(128 * low) <= first.height <= 128 * high
        assert first.width / 192 == pytest.approx(first.height / 128, abs=1 / 128)
        noises = [step for step in degradation.steps if isinstance(step, Noise)]
        for stage, noise in zip((spec.first, spec.second), noises, strict=True):
            lowest, highest = stage.poisson_scale
            if noise.kind == "gaussian":
                lowest, highest = (sigma / 255 for sigma in stage.gaussian_sigma)
            assert lowest <= noise.strength <= highest
            grays.append(noise.gray)
        for stage, jpeg_step in zip(
            (spec.first, spec.second), (s for s in degradation.steps if isinstance(s, Jpeg)), strict=True
        ):
            assert stage.jpeg_quality[0] <= jpeg_step.quality <= stage.jpeg_quality[1]
    assert sum(grays) / len(grays) == pytest.approx(0.4, abs=0.08)


def test_a_degradation_survives_the_way_from_a_data_worker(face: Tensor) -> None:
    degradation = sample_degradation(PRESETS["full"], 3, 192, 192)
    assert torch.equal(apply(face, pickle.loads(pickle.dumps(degradation))), apply(face, degradation))


def test_steps_by_hand() -> None:
    ramp = torch.arange(16.0).view(1, 4, 4).expand(3, 4, 4) / 16
    box = Filter(np.full((3, 3), 1 / 9, dtype=np.float32))
    blurred = apply(ramp, Degradation((box,), 0))
    assert blurred[0, 1, 1].item() == pytest.approx(round(255 * 5 / 16) / 255)  # the mean around it is the ramp itself
    shrunk = apply(ramp, Degradation((Resize(1, 1, "area"),), 0))
    assert shrunk.flatten().tolist() == pytest.approx([round(255 * 7.5 / 16) / 255] * 3)
    flat = torch.full((3, 200, 200), 0.5)
    noisy = apply(flat, Degradation((Noise("gaussian", 0.05, gray=False),), 7))
    assert noisy.std().item() == pytest.approx(0.05, rel=0.02)
    assert not torch.equal(noisy[0], noisy[1])
    gray = apply(flat, Degradation((Noise("gaussian", 0.05, gray=True),), 7))
    assert torch.equal(gray[0], gray[1])
    # one distinct value counts as two photons per unit of light: Poisson(1) has variance 1, half of it is the light
    photons = apply(flat, Degradation((Noise("poisson", 0.2, gray=False),), 7))
    assert photons.std().item() == pytest.approx(0.2 / 2, rel=0.03)


def test_a_batch_of_any_presets_is_what_each_photo_gives_alone(face: Tensor) -> None:
    photos = torch.stack([face[:, :96, 8 * i : 8 * i + 96] for i in range(6)])
    specs = [PRESETS[name] for name in ("full", "camera", "light", "sensor", "light", "sensor")]
    plans = [sample_degradation(spec, (5, i), 96, 96) for i, spec in enumerate(specs)]
    together = degrade_batch(photos, plans)
    assert together.shape == (6, 3, 24, 24)
    for i, spec in enumerate(specs):
        assert torch.equal(together[i], degrade(photos[i], spec, (5, i)))
    backwards = degrade_batch(photos.flip(0), plans[::-1])
    assert torch.equal(backwards.flip(0), together)


def test_as_many_degradations_as_photos(face: Tensor) -> None:
    with pytest.raises(ValueError, match="zip"):
        degrade_batch(face[None], [])


def test_half_precision_training_does_not_reach_the_degradation(face: Tensor) -> None:
    photo = face.clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = degrade(photo, PRESETS["full"], 2)
    assert torch.equal(low, degrade(face, PRESETS["full"], 2))
    assert not low.requires_grad


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_on_a_gpu_batches_do_not_matter_and_all_but_the_noise_is_the_cpus(face: Tensor) -> None:
    photos = torch.stack([face, face.flip(2)]).cuda()
    plans = [sample_degradation(PRESETS["full"], seed, 192, 192) for seed in (1, 2)]
    together = degrade_batch(photos, plans)
    assert torch.equal(together, degrade_batch(photos, plans))
    assert torch.equal(together[1], apply(photos[1], plans[1]))
    for plan in plans:
        silent = Degradation(tuple(step for step in plan.steps if not isinstance(step, Noise)), 0)
        assert psnr(apply(photos[0], silent).cpu(), apply(face, silent)) > 45


def test_presets_hold_the_published_values() -> None:
    full, light = PRESETS["full"], PRESETS["light"]

    def ranges(spec: DegradationSpec) -> list[object]:
        assert spec.second is not None
        return [
            (stage.resize_range, stage.gaussian_sigma, stage.poisson_scale, stage.jpeg_quality, stage.blur_sigma)
            for stage in (spec.first, spec.second)
        ]

    assert ranges(full) == [
        ((0.15, 1.5), (1, 30), (0.05, 3.0), (30, 95), (0.2, 3.0)),
        ((0.3, 1.2), (1, 25), (0.05, 2.5), (30, 95), (0.2, 1.5)),
    ]
    assert ranges(light) == [
        ((0.3, 1.5), (1, 15), (0.05, 2.0), (60, 95), (0.2, 1.5)),
        ((0.6, 1.2), (1, 12), (0.05, 1.0), (60, 100), (0.2, 1.0)),
    ]
