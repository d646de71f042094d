import math
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import skimage.metrics
import torch
from safetensors.torch import save_file
from torch import Tensor

from rcodsr.bench.judges import JudgeFiles, Scorer, Scores, mean_scores
from rcodsr.bench.quality import Niqe, luma, psnr_y, ssim_y
from rcodsr.errors import WeightsError
from rcodsr.images.picture import Picture
from rcodsr.models.lpips import LpipsAlex, LpipsSqueeze


def to_tensor(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(pixels)).permute(2, 0, 1).float() / 255


def noisy(x: Tensor, sigma: float) -> Tensor:
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(4))
    return (x + sigma / 255 * noise).clamp(0, 1)


@pytest.fixture(scope="module")
def cat() -> Tensor:
    return to_tensor(skimage.data.chelsea()[40:168, 100:292])


@pytest.fixture(scope="module")
def lpips() -> LpipsSqueeze:
    """Random weights; those of the linear layers are positive, as in the published ones."""
    torch.manual_seed(0)
    network = LpipsSqueeze()
    for index in range(7):
        network.get_parameter(f"lin{index}.weight").abs_()
    return network


@pytest.fixture(scope="module")
def lpips_file(lpips: LpipsSqueeze, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lpips") / "squeeze.safetensors"
    save_file(lpips.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def niqe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Parameters of the right shapes; the window is the published one."""
    path = tmp_path_factory.mktemp("niqe") / "parameters.npz"
    axis = np.arange(7) - 3
    row = np.exp(-(axis**2) / (2 * (7 / 6) ** 2))
    window = np.outer(row, row) / row.sum() ** 2
    np.savez(path, mu_pris_param=np.zeros((1, 36)), cov_pris_param=np.eye(36), gaussian_window=window)
    return path


# --------------------------------------------------------------------------------------------------------- PSNR, SSIM


def test_luma_is_studio_swing() -> None:
    colours = torch.tensor([[0.0, 1, 1, 0, 0], [0, 1, 0, 1, 0], [0, 1, 0, 0, 1]])[:, None]
    assert luma(colours)[0].tolist() == pytest.approx([16, 235, 81.481, 144.553, 40.966])


@pytest.mark.parametrize("steps", [1, 10, 100])
def test_psnr_of_a_constant_offset(steps: int) -> None:
    a = torch.full((3, 20, 30), 0.25)
    b = a + steps / 255
    # an offset of d in all channels moves Y by (65.481 + 128.553 + 24.966) d = 219 d
    expected = 20 * math.log10(255 / (219 * steps / 255))
    assert psnr_y(a, b) == pytest.approx(expected, abs=5e-3)  # the limit of 80 dB takes 0.004 dB at most
    assert psnr_y(b, a) == pytest.approx(psnr_y(a, b))


def test_psnr_weighs_the_channels() -> None:
    a = torch.zeros(3, 4, 4)
    b = a.clone()
    b[2] = 0.5
    assert psnr_y(a, b) == pytest.approx(20 * math.log10(255 / (24.966 * 0.5)), abs=1e-4)


def test_psnr_of_equal_pictures_is_80(cat: Tensor) -> None:
    assert psnr_y(cat, cat) == pytest.approx(80)


def test_psnr_averages_over_the_picture() -> None:
    a = torch.zeros(3, 10, 10)
    b = a.clone()
    b[:, 3, 7] = 1  # one of 100 pixels is off by 219
    assert psnr_y(a, b) == pytest.approx(10 * math.log10(255**2 / (219**2 / 100)), abs=1e-3)


def test_ssim_of_equal_pictures_is_one(cat: Tensor) -> None:
    assert ssim_y(cat, cat) == pytest.approx(1, abs=1e-9)
    assert ssim_y(torch.zeros(3, 11, 11), torch.zeros(3, 11, 11)) == pytest.approx(1)


def test_ssim_falls_with_noise(cat: Tensor) -> None:
    scores = [ssim_y(cat, noisy(cat, sigma)) for sigma in (0, 5, 15, 40, 100)]
    assert scores == sorted(scores, reverse=True)
    assert scores[-1] < 0.4 < 0.9 < scores[1]


def blurred(x: Tensor) -> Tensor:
    return torch.nn.functional.avg_pool2d(x[None], 3, 1, 1, count_include_pad=False)[0]


@pytest.mark.parametrize("change", ["blur", "contrast", "brightness"])
def test_ssim_is_scikit_images(cat: Tensor, change: str) -> None:
    other = {"blur": blurred(cat), "contrast": cat * 0.7 + 0.1, "brightness": (cat + 0.1).clamp(0, 1)}[change]
    _, surface = skimage.metrics.structural_similarity(
        luma(cat).round().numpy(),
        luma(other).round().numpy(),
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=255,
        full=True,
    )
    inner = surface[5:-5, 5:-5]
    assert inner.min() > 0  # no negative structure anywhere, which ours counts as zero
    assert inner.mean() < 0.999
    assert ssim_y(cat, other) == pytest.approx(inner.mean(), abs=1e-6)


def test_contrary_structure_counts_as_none(cat: Tensor) -> None:
    assert ssim_y(cat, 1 - cat) >= 0
    assert ssim_y(cat, 1 - cat) < 0.2


# -------------------------------------------------------------------------------------------------------------- LPIPS


def test_lpips_of_equal_pictures_is_zero(cat: Tensor, lpips: LpipsSqueeze) -> None:
    x = cat[None]
    assert lpips(x, x).tolist() == [0]


def test_lpips_is_positive_symmetric_and_grows(cat: Tensor, lpips: LpipsSqueeze) -> None:
    x, near, far = (noisy(cat, sigma)[None] for sigma in (0, 10, 60))
    assert 0 < lpips(x, near).item() < lpips(x, far).item()
    assert lpips(x, far).item() == pytest.approx(lpips(far, x).item(), rel=1e-5)


def test_lpips_scores_each_picture_of_a_batch(cat: Tensor, lpips: LpipsSqueeze) -> None:
    a = torch.stack((cat, cat.flip(2)))
    b = torch.stack((noisy(cat, 20), cat.flip(2)))
    scores = lpips(a, b)
    assert scores.shape == (2,)
    assert scores[1] == 0
    assert scores[0].item() == pytest.approx(lpips(a[:1], b[:1]).item(), rel=1e-4)


@pytest.mark.parametrize("size", [(17, 17), (17, 31), (40, 17)])
def test_lpips_takes_pictures_from_17_pixels_on(lpips: LpipsSqueeze, size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.rand(2, 1, 3, *size, generator=generator)
    assert lpips(a, b).item() > 0


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_the_gradient_of_lpips_is_finite_on_a_constant_picture(lpips: LpipsSqueeze, level: float, cat: Tensor) -> None:
    for truth in (torch.full((1, 3, 128, 192), level), cat[None]):
        x = torch.full((1, 3, 128, 192), level, requires_grad=True)
        lpips(x, truth).sum().backward()
        assert x.grad is not None
        assert torch.isfinite(x.grad).all()


def test_the_gradient_of_lpips_is_finite_where_no_channel_answers(cat: Tensor) -> None:
    network = LpipsSqueeze()
    network.get_parameter("features.0.bias").fill_(-1e3)  # the first rectifier shuts everything off
    x = cat[None].clone().requires_grad_()
    network(x, torch.zeros_like(x)).sum().backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


def test_lpips_is_frozen(lpips: LpipsSqueeze) -> None:
    assert not any(parameter.requires_grad for parameter in lpips.parameters())
    assert not lpips.training


def test_lpips_reads_torchvisions_names(lpips: LpipsSqueeze) -> None:
    keys = set(lpips.state_dict())
    assert {
        "features.0.weight",
        "features.3.squeeze.weight",
        "features.12.expand3x3.bias",
        "lin0.weight",
        "lin6.weight",
    } <= keys
    assert {key.split(".")[1] for key in keys if key.startswith("features")} == {"0", "3", "4", "6", "7", "9", "10", "11", "12"}
    assert sum(value.numel() for key, value in lpips.state_dict().items() if key.startswith("features")) == 722_496


# --------------------------------------------------------------------------------------------------------------- NIQE


def test_niqe_prefers_a_photo_that_is_like_the_reference(niqe_file: Path) -> None:
    photo = to_tensor(skimage.data.astronaut()[:288, :288])
    niqe = Niqe(niqe_file)
    score = niqe(photo)
    assert score is not None
    assert math.isfinite(score)
    assert score > 0
    assert niqe(photo) == score
    assert niqe(noisy(photo, 60)) != pytest.approx(score, rel=0.02)


def test_niqe_ignores_what_does_not_fill_a_block(niqe_file: Path) -> None:
    photo = to_tensor(skimage.data.astronaut()[:250, :230])
    assert Niqe(niqe_file)(photo) == pytest.approx(Niqe(niqe_file)(photo[:, :192, :192]))


def broken_parameters(tmp_path: Path, kind: str) -> Path:
    path = tmp_path / "parameters.npz"
    if kind == "text":
        path.write_text("not parameters")
    elif kind == "other keys":
        np.savez(path, mean=np.zeros(36))
    elif kind == "empty":
        path.touch()
    elif kind == "cut off":
        np.savez(path, mu_pris_param=np.zeros(36), cov_pris_param=np.eye(36), gaussian_window=np.ones((7, 7)) / 49)
        path.write_bytes(path.read_bytes()[:2000])
    elif kind == "array":
        with path.open("wb") as handle:
            np.save(handle, np.zeros(36))
    return path


def complaint(parameters: Path) -> str:
    try:
        Scorer(JudgeFiles(niqe=parameters))
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "none"


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # numpy forgets to close a broken archive
@pytest.mark.parametrize(
    "kind",
    [
        "missing",
        "text",
        "other keys",
        "empty",
        "cut off",
        "array",
    ],
)
def test_unreadable_niqe_parameters_are_named(tmp_path: Path, kind: str) -> None:
    path = broken_parameters(tmp_path, kind)
    assert complaint(path).startswith(f"WeightsError: {path}: not NIQE's parameters")


# ------------------------------------------------------------------------------------------------------------- Scorer


def test_a_scorer_without_files_leaves_niqe_and_lpips_out(cat: Tensor) -> None:
    other = noisy(cat, 10)
    scores = Scorer()(Picture(other), Picture(cat))
    assert scores.niqe is None
    assert scores.lpips_squeeze is None
    assert 25 < scores.psnr < 35
    assert 0 < scores.ssim < 1


def test_a_scorer_scores_what_a_file_would_hold(cat: Tensor) -> None:
    other = noisy(cat, 10)
    rounded = (other * 255).round() / 255
    scorer = Scorer()
    assert scorer(Picture(other), Picture(cat)) == scorer(Picture(rounded), Picture(cat))
    assert scorer(Picture(cat + 0.4 / 255), Picture(cat)).psnr == pytest.approx(80)
    assert scorer(Picture(cat * 1.3), Picture(cat)) == scorer(Picture((cat * 1.3).clamp(0, 1)), Picture(cat))


def test_a_scorer_with_files_gives_all_four(niqe_file: Path, lpips_file: Path) -> None:
    photo = to_tensor(skimage.data.astronaut()[:192, :192])
    scores = Scorer(JudgeFiles(niqe=niqe_file, lpips_squeeze=lpips_file))(Picture(noisy(photo, 10)), Picture(photo))
    assert scores.niqe is not None
    assert scores.niqe > 0
    assert scores.lpips_squeeze is not None
    assert scores.lpips_squeeze > 0
    assert Scorer(JudgeFiles(lpips_squeeze=lpips_file))(Picture(photo), Picture(photo)).lpips_squeeze == 0


@pytest.mark.parametrize("exists", [True, False])
def test_unreadable_lpips_weights_are_named(tmp_path: Path, exists: bool) -> None:
    path = tmp_path / "lpips.safetensors"
    if exists:
        path.write_bytes(b"not weights")
    with pytest.raises(WeightsError, match=r"lpips\.safetensors: "):
        Scorer(JudgeFiles(lpips_squeeze=path))


def test_weights_of_another_network_are_named(tmp_path: Path) -> None:
    path = tmp_path / "lpips.safetensors"
    save_file({"features.0.weight": torch.zeros(64, 3, 3, 3)}, path)
    with pytest.raises(WeightsError, match=r"lpips\.safetensors: "):
        Scorer(JudgeFiles(lpips_squeeze=path))


def test_a_directory_without_judges_is_named(tmp_path: Path) -> None:
    for directory, cause in (
        (tmp_path, "contains none of lpips_alexnet.safetensors, "),
        (tmp_path / "no", "is not a directory; "),
    ):
        with pytest.raises(WeightsError) as caught:
            JudgeFiles.of_directory(directory)
        assert str(caught.value).startswith(f"{directory}: {cause}")
        assert "`rcodsr weights convert`" in str(caught.value)


def test_a_directory_may_hold_some_judges_and_other_files(tmp_path: Path, niqe_file: Path) -> None:
    (tmp_path / "niqe_pris_params.npz").write_bytes(niqe_file.read_bytes())
    (tmp_path / "realesrgan_x4plus.safetensors").touch()
    files = JudgeFiles.of_directory(tmp_path)
    assert files == JudgeFiles(niqe=tmp_path / "niqe_pris_params.npz")
    assert files.missing[0] == "lpips_alexnet.safetensors"
    assert Scorer(files).columns == {"psnr", "ssim", "niqe"}


def test_a_picture_too_small_for_a_judge_has_no_score_of_it(cat: Tensor, tmp_path: Path, lpips_file: Path) -> None:
    save_file(LpipsAlex().state_dict(), tmp_path / "alex.safetensors")
    scorer = Scorer(JudgeFiles(lpips=tmp_path / "alex.safetensors", lpips_squeeze=lpips_file))
    small = scorer(Picture(cat[:, :30]), Picture(cat[:, :30] * 0.5))
    assert small.lpips is None
    assert small.lpips_squeeze is not None
    large = scorer(Picture(cat[:, :31]), Picture(cat[:, :31] * 0.5))
    assert large.lpips is not None
    assert mean_scores([small, large]).lpips == large.lpips


def test_means_go_column_by_column() -> None:
    rows = [Scores(20, 0.5, 4.0, lpips_squeeze=0.2), Scores(30, 0.7, 6.0, lpips_squeeze=0.4)]
    mean = mean_scores(rows)
    assert (mean.psnr, mean.ssim, mean.niqe, mean.lpips_squeeze) == pytest.approx((25, 0.6, 5, 0.3))


def test_means_leave_missing_scores_out() -> None:
    mean = mean_scores([Scores(20, 0.5), Scores(30, 0.7, 6.0)])
    assert mean.niqe == 6
    assert mean.lpips is None


def test_niqe_of_a_flat_picture_is_no_accident(niqe_file: Path) -> None:
    flat = Picture(torch.full((3, 192, 192), 0.5))
    score = Scorer(JudgeFiles(niqe=niqe_file))(flat, flat).niqe
    assert score is None or score > 0


def test_niqe_is_left_out_where_a_picture_is_too_small_for_it(cat: Tensor, niqe_file: Path) -> None:
    small = Picture(cat[:, :64, :64])
    assert Scorer(JudgeFiles(niqe=niqe_file))(small, small).niqe is None
