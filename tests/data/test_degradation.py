import io
import math
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from rcodsr.data.dataset import PhotoPairs, batches, check_sizes, find_photos
from rcodsr.data.degradation import PRESETS, _filter, degrade
from rcodsr.data.jpeg import _CHROMA, _LUMA, _table, jpeg
from rcodsr.data.kernels import SIDES, gaussian_kernel, random_kernel, sinc_kernel
from rcodsr.errors import InputError, NoInputError
from rcodsr.images.resize import upsample

MIX = {"full": 0.4, "light": 0.3, "camera": 0.3}


def to_tensor(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(pixels)).permute(2, 0, 1).float() / 255


def psnr(a: Tensor, b: Tensor) -> float:
    return -10 * math.log10((a - b).square().mean().item())


@pytest.fixture(scope="module")
def face() -> Tensor:
    return to_tensor(skimage.data.astronaut()[:192, 128:320])


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("photos")
    for name, pixels in (("astronaut", skimage.data.astronaut()[:200, 100:300]), ("chelsea", skimage.data.chelsea()[:160])):
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return find_photos(folder)


# ------------------------------------------------------------------------------------------------------------ kernels


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("sinc_probability", [0.0, 0.5])
def test_random_kernels_sum_to_one_and_are_point_symmetric(seed: int, sinc_probability: float) -> None:
    rng = np.random.default_rng(seed)
    kernel = random_kernel(rng, (0.2, 3.0), sinc_probability, (0.5, 4.0), (1.0, 2.0))
    assert kernel.shape == (kernel.shape[0],) * 2
    assert kernel.shape[0] in SIDES
    assert kernel.dtype == torch.float32
    assert kernel.sum().item() == pytest.approx(1, abs=1e-5)
    assert torch.allclose(kernel, kernel.rot90(2), atol=1e-7)
    assert kernel.max() == kernel[kernel.shape[0] // 2, kernel.shape[0] // 2]


def test_random_kernels_follow_their_generator() -> None:
    def draw(seed: int) -> list[Tensor]:
        rng = np.random.default_rng(seed)
        return [random_kernel(rng, (0.2, 3.0), 0.3, (0.5, 4.0), (1.0, 2.0)) for _ in range(20)]

    assert all(torch.equal(a, b) for a, b in zip(draw(1), draw(1), strict=True))
    assert len({kernel.shape for kernel in draw(1)}) > 3
    assert not all(a.shape == b.shape and torch.equal(a, b) for a, b in zip(draw(1), draw(2), strict=True))


def test_a_gaussian_has_the_standard_deviations_it_was_asked_for() -> None:
    kernel = gaussian_kernel(41, (1.5, 4.0), 0.0).double()
    axis = torch.arange(41, dtype=torch.float64) - 20
    assert math.sqrt((kernel.sum(0) * axis**2).sum()) == pytest.approx(1.5, rel=1e-3)  # the first axis is horizontal
    assert math.sqrt((kernel.sum(1) * axis**2).sum()) == pytest.approx(4.0, rel=1e-3)


@pytest.mark.parametrize("angle", [0.0, 0.4, 1.2, -2.5])
def test_a_gaussians_covariance_follows_from_sigmas_and_angle(angle: float) -> None:
    kernel = gaussian_kernel(41, (1.5, 4.0), angle).double().numpy()
    y, x = np.mgrid[:41, :41] - 20.0
    moments = [[(kernel * a * b).sum() for b in (x, y)] for a in (x, y)]
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    assert np.allclose(moments, turn @ np.diag([1.5**2, 4.0**2]) @ turn.T, atol=0.02)


def test_a_gaussian_turns_with_its_angle() -> None:
    upright = gaussian_kernel(15, (1.0, 3.0), 0.3)
    assert torch.allclose(gaussian_kernel(15, (1.0, 3.0), 0.3 + math.pi / 2), upright.rot90(-1), atol=1e-7)
    assert torch.allclose(gaussian_kernel(15, (1.0, 3.0), 0.3 + math.pi), upright, atol=1e-7)
    assert not torch.allclose(upright, upright.T, atol=1e-3)


def test_a_small_sigma_hardly_blurs_and_a_large_beta_is_flat() -> None:
    assert gaussian_kernel(7, (0.2, 0.2), 0.0)[3, 3] > 0.999
    for plateau in (False, True):
        flat = gaussian_kernel(21, (5.0, 5.0), 0.0, beta=8.0, plateau=plateau)
        assert flat[10, 13] / flat[10, 10] > 0.99
        assert flat[10, 20] / flat[10, 10] < 0.01


@pytest.mark.parametrize("cutoff", [math.pi / 3, math.pi / 2])
def test_a_sinc_passes_what_lies_below_its_cutoff_and_stops_the_rest(cutoff: float) -> None:
    kernel = sinc_kernel(21, cutoff).double()
    n = torch.arange(21, dtype=torch.float64) - 10

    def response(frequency: float) -> float:
        return (kernel.sum(0) * torch.cos(frequency * n)).sum().item()

    assert response(0) == pytest.approx(1, abs=1e-6)
    for share in (0.3, 0.5):
        assert response(share * cutoff) == pytest.approx(1, abs=0.1)
    for frequency in (1.5 * cutoff, 1.8 * cutoff, math.pi):
        assert response(frequency) == pytest.approx(0, abs=0.1)


@pytest.mark.parametrize("side", SIDES)
def test_a_sinc_is_symmetric_in_every_way(side: int) -> None:
    kernel = sinc_kernel(side, 1.9)
    assert kernel.sum().item() == pytest.approx(1, abs=1e-5)
    for other in (kernel.T, kernel.flip(0), kernel.flip(1), kernel.rot90()):
        assert torch.allclose(kernel, other, atol=1e-7)
    assert kernel.min() < 0  # it rings


def test_a_sincs_centre_follows_from_its_neighbourhood() -> None:
    # the analytic limit at r = 0 must join the curve of the other taps: w J1(w r) / (2 pi r) is even and smooth in r,
    # so with a low cutoff the parabola through r = 1 and r = 2 meets the centre
    kernel = sinc_kernel(21, 0.4).double()
    one, two, centre = (kernel[10, 10 + r].item() for r in (1, 2, 0))
    assert centre == pytest.approx((4 * one - two) / 3, rel=1e-3)


def test_the_widest_sinc_is_close_to_the_identity(face: Tensor) -> None:
    kernel = sinc_kernel(21, math.pi)
    assert kernel[10, 10] > 0.75
    widest, narrow = (_filter(face[None], sinc_kernel(21, cutoff))[0] for cutoff in (math.pi, math.pi / 3))
    assert psnr(widest, face) > 35
    assert psnr(widest, face) > psnr(narrow, face) + 6


@pytest.mark.parametrize("side", [7, 13, 21])
@pytest.mark.parametrize("shape", [(40, 33), (21, 64), (12, 9), (3, 5), (1, 1)])
def test_the_fft_filter_is_the_convolution_layer(side: int, shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(side)
    x = torch.rand(2, 3, *shape, generator=generator)
    kernel = torch.rand(side, side, generator=generator)  # without symmetry, so that a flip would show
    kernel /= kernel.sum()
    pad = side // 2
    padded = F.pad(x, (pad,) * 4, mode="reflect" if min(shape) > pad else "replicate")
    expected = F.conv2d(padded, kernel.expand(3, 1, side, side), groups=3)
    result = _filter(x, kernel)
    assert result.shape == x.shape
    assert torch.allclose(result, expected, atol=1e-5)


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


# ------------------------------------------------------------------------------------------------------------ dataset


def pairs_of(photos: list[Path], seed: int = 3, length: int = 6) -> PhotoPairs:
    return PhotoPairs(photos, 64, MIX, seed, length)


def test_a_pair_depends_on_seed_and_index_alone(photos: list[Path]) -> None:
    forwards, backwards = pairs_of(photos), pairs_of(photos, length=100)
    first = [forwards[index] for index in range(6)]
    second = [backwards[index] for index in reversed(range(6))][::-1]
    for (hr, lr), (other_hr, other_lr) in zip(first, second, strict=True):
        assert torch.equal(hr, other_hr)
        assert torch.equal(lr, other_lr)
    for a in range(6):
        for b in range(a):
            assert not torch.equal(first[a][1], first[b][1])
    assert not torch.equal(pairs_of(photos, seed=4)[0][1], first[0][1])


def test_the_loader_gives_the_same_pairs_with_and_without_workers(photos: list[Path]) -> None:
    def load(workers: int) -> list[list[Tensor]]:
        loader: DataLoader[tuple[Tensor, Tensor]] = DataLoader(pairs_of(photos), batch_size=2, num_workers=workers)
        return [[part.clone() for part in batch] for batch in loader]

    alone, shared = load(0), load(2)
    assert len(alone) == len(shared) == 3
    for (hr, lr), (other_hr, other_lr) in zip(alone, shared, strict=True):
        assert hr.shape == (2, 3, 64, 64)
        assert lr.shape == (2, 3, 16, 16)
        assert torch.equal(hr, other_hr)
        assert torch.equal(lr, other_lr)


def test_the_low_resolution_side_is_the_degraded_crop(photos: list[Path]) -> None:
    pairs = PhotoPairs(photos, 64, {"camera": 2.0}, 5, 4)
    for index in range(4):
        hr, lr = pairs[index]
        assert torch.equal(lr, degrade(hr, PRESETS["camera"], (5, index, 1)))


def test_without_zoom_a_crop_is_cut_from_the_photo_up_to_flips(tmp_path: Path) -> None:
    # every pixel names its place
    rows, columns = np.mgrid[:100, :120].astype(np.uint8)
    Image.fromarray(np.stack([rows, columns, np.zeros_like(rows)], -1)).save(tmp_path / "map.png")
    pairs = PhotoPairs(find_photos(tmp_path), 64, {"camera": 1}, 0, 40, zoom_probability=0)
    turned = set()
    for index in range(40):
        row, column, _ = (pairs[index][0] * 255).round().int()
        transposed = bool(row[0, 0] == row[1, 0])
        if transposed:
            row, column = row.T, column.T
        assert (row.diff(dim=0) == 1).all()
        step = int(column[0, 1] - column[0, 0])
        assert abs(step) == 1
        assert (column.diff(dim=1) == step).all()
        turned.add((transposed, step))
    assert len(turned) == 4


def test_zoom_shrinks_the_photo_but_never_below_the_crop(photos: list[Path]) -> None:
    plain = PhotoPairs(photos, 160, {"camera": 1}, 0, 12, zoom_probability=0)
    zoomed = PhotoPairs(photos, 160, {"camera": 1}, 0, 12, zoom_probability=1)
    assert all(zoomed[index][0].shape == (3, 160, 160) for index in range(12))
    assert not torch.equal(plain[0][0], zoomed[0][0])


def test_the_mix_decides_the_presets(photos: list[Path]) -> None:
    mixed = PhotoPairs(photos, 64, {"camera": 1, "full": 3}, 0, 40)
    cameras = sum(
        torch.equal(lr, degrade(hr, PRESETS["camera"], (0, i, 1)))
        for i, (hr, lr) in enumerate(map(mixed.__getitem__, range(40)))
    )
    assert 4 <= cameras <= 17  # a quarter of 40


@pytest.mark.parametrize(
    ("make", "cause"),
    [
        (lambda path: path.write_text("not a picture"), "not a picture"),
        (lambda path: Image.new("RGB", (100, 63)).save(path), "smaller than the 64-pixel crop"),
    ],
    ids=["text", "small"],
)
def test_a_bad_photo_is_named(tmp_path: Path, make: Callable[[Path], object], cause: str) -> None:
    make(tmp_path / "bad.png")
    with pytest.raises(InputError, match=rf"bad\.png: {cause}"):
        check_sizes(find_photos(tmp_path), 64)


def test_errors_survive_the_way_from_a_data_worker() -> None:
    error = pickle.loads(pickle.dumps(InputError("a.png", "cut short", "get a whole copy")))
    assert (type(error), str(error)) == (InputError, "a.png: cut short; get a whole copy")


@pytest.mark.parametrize("mode", ["L", "RGBA", "P"])
def test_other_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    Image.fromarray(skimage.data.astronaut()[:80, :80]).convert(mode).save(tmp_path / "a.png")
    hr, lr = pairs_of(find_photos(tmp_path))[0]
    assert hr.shape == (3, 64, 64)
    assert lr.shape == (3, 16, 16)


def test_photos_are_found_at_any_depth_in_a_stable_order(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", "notes.txt", "sub/c.webp", "sub/deep/d.tiff", "e.gif"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert [str(path.relative_to(tmp_path)) for path in find_photos(tmp_path)] == [
        "a.JPG",
        "b.png",
        "e.gif",
        "sub/c.webp",
        "sub/deep/d.tiff",
    ]


def test_a_directory_named_like_a_photo_is_not_one(tmp_path: Path) -> None:
    (tmp_path / "album.png").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "album.png" / "a.png")
    assert find_photos(tmp_path) == [tmp_path / "album.png" / "a.png"]


@pytest.mark.parametrize("exists", [True, False])
def test_no_photos_are_an_error(tmp_path: Path, exists: bool) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(NoInputError, match="no photos found"):
        find_photos(tmp_path if exists else tmp_path / "gone")


def test_batches_go_on_where_a_run_stopped_and_wrap_around(photos: list[Path]) -> None:
    pairs = pairs_of(photos, length=10)
    assert list(batches(pairs, 4, 0, 3)) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 0, 1]]
    assert list(batches(pairs, 4, 1, 2)) == list(batches(pairs, 4, 0, 3))[1:]
