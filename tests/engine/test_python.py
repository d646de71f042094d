"""The Python interface: inputs, outputs, errors, and the files that `save` writes."""

import io
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

import rcodsr
from rcodsr.engine.upscaler import Upscaler
from rcodsr.errors import OutputError, UsageError
from rcodsr.images.exchange import to_picture
from rcodsr.images.signals import adobe_rgb, icc_of
from rcodsr.options import Adaptive, UpscaleOptions

WIDE = icc_of(adobe_rgb(), gray=False)


@pytest.fixture(scope="module")
def engine() -> Upscaler:
    return rcodsr.load("rcod-tiny", device="cpu", dtype="fp32")


@pytest.fixture
def small(photo: Image.Image) -> Image.Image:
    return photo.resize((32, 24))


def test_the_package_shows_what_it_offers(engine: Upscaler) -> None:
    assert {"load", "save", "Upscaler", "SharedUpscaler", "UpscaleOptions", "errors"} <= set(dir(rcodsr))
    assert repr(engine).startswith("<Upscaler rcod-tiny@") and "cpu" in repr(engine) and "fp32" in repr(engine)


def test_a_picture_may_come_in_any_shape(engine: Upscaler, small: Image.Image, tmp_path: Path) -> None:
    small.save(tmp_path / "a.png")
    data, samples = (tmp_path / "a.png").read_bytes(), np.asarray(small)
    planes = torch.from_numpy(samples.copy()).permute(2, 0, 1)
    expected = engine.upscale(small).tobytes()
    for image in (str(tmp_path / "a.png"), data, bytearray(data), io.BytesIO(data), samples, planes, samples / 255):
        assert engine.upscale(image).tobytes() == expected, type(image)


def test_same_gives_back_what_came(engine: Upscaler, small: Image.Image) -> None:
    samples = np.asarray(small)
    bytes_ = engine.upscale(samples, returns="same")
    assert bytes_.dtype == np.uint8 and bytes_.shape == (96, 128, 3)
    assert (bytes_ == np.asarray(engine.upscale(small))).all()
    deep = engine.upscale(samples.astype(np.uint16) * 257, returns="same")
    assert deep.dtype == np.uint16 and len(np.unique(deep)) > 1000  # not 8 bits in 16
    assert np.abs(deep / 257 - bytes_.astype(float)).max() < 0.51
    floats = engine.upscale((samples / 255).astype(np.float64), returns="same")
    assert floats.dtype == np.float64 and floats.min() >= 0 and floats.max() <= 1
    assert np.abs(floats * 255 - bytes_).max() < 0.51
    tensor = engine.upscale(torch.from_numpy(samples / 255).permute(2, 0, 1).to(torch.float16), returns="same")
    assert tensor.dtype == torch.float16 and tensor.shape == (3, 96, 128)
    grey = engine.upscale(samples[..., 0], returns="same")
    assert grey.shape == (96, 128)
    clear = engine.upscale(np.dstack((samples, np.full((24, 32), 255, np.uint8))), returns="same")
    assert clear.shape == (96, 128, 4) and (clear[..., 3] == 255).all()
    assert engine.upscale(small, returns="same").size == (128, 96)


MISTAKES = {
    "array: of shape (1, 24, 32, 3) has a batch axis; pass its pictures one by one": np.zeros((1, 24, 32, 3), np.uint8),
    "array: of shape (3, 24, 32) is (c, h, w); pass (h, w) or (h, w, c)": np.zeros((3, 24, 32), np.uint8),
    "array: of shape (24, 32, 7) is not a picture": np.zeros((24, 32, 7), np.uint8),
    "array: of shape (0, 32, 3) is empty": np.zeros((0, 32, 3), np.uint8),
    "array: of int64 is not a picture; pass uint8, uint16, or floats in [0, 1]": np.zeros((24, 32, 3), np.int64),
    "array: holds values that are not in [0, 1]; scale": np.full((24, 32, 3), 200.0),
    "array: holds values that are not in [0, 1]; scale and": np.full((24, 32), np.nan),
    "tensor: of shape (24, 32, 3) is (h, w, c); pass (c, h, w)": torch.zeros(24, 32, 3),
    "tensor: of shape (24, 32) is not a picture": torch.zeros(24, 32),
    "tensor: of shape (1, 3, 24, 32) has a batch axis": torch.zeros(1, 3, 24, 32),
    "image: list is not a picture; pass a path, bytes": [1, 2],
}


@pytest.mark.parametrize("said", MISTAKES)
def test_what_is_no_picture_is_told_in_a_line(engine: Upscaler, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        engine.upscale(MISTAKES[said])  # type: ignore[call-overload]
    assert str(caught.value).startswith(said)


def test_arguments_are_told_in_pythons_words(engine: Upscaler, small: Image.Image) -> None:
    with pytest.raises(UsageError, match=r"^scale: 9 is not between 1 and 8; use for example scale 4"):
        engine.upscale(small, scale=9)
    with pytest.raises(UsageError, match="^returns: 'numpy' is not known; use pillow or same"):
        engine.upscale(small, returns="numpy")  # type: ignore[call-overload]
    with pytest.raises(UsageError, match="^adaptive_by: 'pixel' is not known"):
        engine.upscale(small, adaptive="pixel")  # type: ignore[call-overload]
    with pytest.raises(UsageError, match="^upscale: an argument has the wrong type"):
        engine.upscale(small, realism=[1])  # type: ignore[call-overload]
    with pytest.raises(UsageError, match="^size: 'big' is not a valid size"):
        engine.upscale(small, size="big")


def test_the_estimate_is_what_adaptive_chooses(engine: Upscaler, small: Image.Image) -> None:
    found = engine.estimate(small)
    assert engine.upscale(small, adaptive=True).tobytes() == engine.upscale(small, realism=found.realism).tobytes()
    assert 0 <= found.similarity <= 1 and found.level in {"fidelity", "neutral", "realism"}


def test_the_estimate_of_a_cut_out_is_what_adaptive_chooses(engine: Upscaler, small: Image.Image) -> None:
    """Hidden colours have no effect: here, noise below a transparent half."""
    pixels = np.dstack((np.asarray(small), np.full((24, 32), 255, np.uint8)))
    pixels[:, 16:, :3] = np.random.default_rng(0).integers(0, 256, (24, 16, 3))
    pixels[:, 16:, 3] = 0
    cut = Image.fromarray(pixels)
    run = engine.run(to_picture(cut), UpscaleOptions(Adaptive()))
    assert engine.estimate(cut).similarity == run.similarity
    assert engine.estimate(cut).similarity != engine.estimate(cut.convert("RGB")).similarity


def test_a_tensor_of_half_floats_is_a_picture(engine: Upscaler, small: Image.Image) -> None:
    planes = torch.from_numpy(np.asarray(small) / 255).permute(2, 0, 1)
    made = engine.upscale(planes.to(torch.bfloat16), returns="same")
    assert made.dtype == torch.bfloat16 and made.shape == (3, 96, 128)


def test_any_way_of_saving_shows_the_right_colours(engine: Upscaler, small: Image.Image, tmp_path: Path) -> None:
    """A wide-gamut input: Pillow's own save gets sRGB, `rcodsr.save` the input's profile; both look alike."""
    small.save(tmp_path / "wide.png", icc_profile=WIDE)
    made = engine.upscale(tmp_path / "wide.png")
    made.save(tmp_path / "plain.jpg", quality=100, subsampling=0)
    rcodsr.save(made, tmp_path / "kept.jpg", quality=100)
    with Image.open(tmp_path / "plain.jpg") as plain, Image.open(tmp_path / "kept.jpg") as kept:
        assert "icc_profile" not in plain.info
        assert kept.info["icc_profile"] == WIDE
        source = ImageCms.ImageCmsProfile(io.BytesIO(kept.info["icc_profile"]))
        seen = ImageCms.profileToProfile(kept, source, ImageCms.createProfile("sRGB"))
        assert seen is not None
        difference = np.abs(np.asarray(seen).astype(int) - np.asarray(plain).astype(int))
        assert difference.mean() < 2
        assert np.abs(np.asarray(kept).astype(int) - np.asarray(plain).astype(int)).mean() > 3  # other numbers


def test_save_keeps_what_the_command_line_keeps(engine: Upscaler, small: Image.Image, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010F] = "Camera"
    small.save(tmp_path / "a.jpg", exif=exif, dpi=(300, 300), quality=95)
    made = engine.upscale(tmp_path / "a.jpg")
    rcodsr.save(made, tmp_path / "b.jpg")
    with Image.open(tmp_path / "b.jpg") as saved:
        assert saved.getexif()[0x010F] == "Camera"
        assert saved.info["dpi"] == (300, 300)
    made.paste("white", (0, 0, 20, 20))  # what is painted on a result is saved
    rcodsr.save(made, tmp_path / "c.png")
    with Image.open(tmp_path / "c.png") as painted:
        assert painted.getpixel((5, 5)) == (255, 255, 255)
        assert painted.getexif()[0x010F] == "Camera"
    rcodsr.save(made.crop((0, 0, 30, 30)), tmp_path / "d.png")
    with Image.open(tmp_path / "d.png") as cropped:
        assert cropped.size == (30, 30)


def test_save_keeps_the_depth_of_a_file(engine: Upscaler, tmp_path: Path) -> None:
    ramp = np.arange(24 * 32, dtype=np.uint16).reshape(24, 32) * 80
    Image.fromarray(ramp).save(tmp_path / "deep.png")
    rcodsr.save(engine.upscale(tmp_path / "deep.png"), tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as out:
        assert out.mode == "I;16" and len(np.unique(np.asarray(out))) > 1000


def test_save_refuses_in_a_line(engine: Upscaler, small: Image.Image, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no suffix of an output format; end it in .avif"):
        rcodsr.save(small, tmp_path / "a.xyz")
    with pytest.raises(OutputError, match="cannot be written"):
        rcodsr.save(small, tmp_path / "nowhere" / "a.png")
    with pytest.raises(UsageError, match="^background: 'reddish' is not a valid colour"):
        rcodsr.save(small, tmp_path / "a.jpg", background="reddish")
    assert not list(tmp_path.iterdir())


def test_threads_may_share_a_lazily_opened_image(engine: Upscaler, small: Image.Image, tmp_path: Path) -> None:
    small.save(tmp_path / "a.png")
    expected = engine.upscale(small).tobytes()
    for _ in range(5):
        with Image.open(tmp_path / "a.png") as lazy, ThreadPoolExecutor(8) as pool:
            assert {made.tobytes() for made in pool.map(engine.upscale, [lazy] * 8)} == {expected}


FORKED = """
import os, sys, warnings
from PIL import Image
import rcodsr
warnings.simplefilter("ignore")
engine = rcodsr.load("rcod-tiny", device="cpu", dtype="fp32")
image = Image.effect_noise((40, 32), 90)
here = engine.upscale(image).tobytes()
child = os.fork()
if child == 0:
    os._exit(0 if engine.upscale(image).tobytes() == here else 3)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_works() -> None:
    done = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, timeout=120)
    assert done.stdout == "0\n", done.stderr


def test_type_checkers_see_every_argument(tmp_path: Path) -> None:
    """A sample program passes strictly; a misspelt argument does not. (The cache of `make check` makes it quick.)"""
    good = tmp_path / "good.py"
    good.write_text(
        "import numpy as np\nimport torch\nimport rcodsr\n\n"
        'engine = rcodsr.load("rcod-tiny", device="cpu", prompt=None)\n'
        'engine.upscale("a.png", realism=0.5, tile="off", size="short=200").save("b.png")\n'
        "array: np.ndarray[tuple[int, ...], np.dtype[np.uint8]] = np.zeros((4, 4, 3), np.uint8)\n"
        'mean = float(engine.upscale(array, adaptive=True, returns="same").mean())\n'
        'tensor: torch.Tensor = engine.upscale(torch.zeros(3, 4, 4), returns="same", protect="text")\n'
        'rcodsr.save(engine.upscale(array), "c.jpg", quality=90)\n'
        'level: str = engine.estimate("a.png").level\n'
    )
    bad = tmp_path / "bad.py"
    bad.write_text('import rcodsr\n\nrcodsr.load().upscale("a.png", realsim=1)\nrcodsr.load(wieghts="x")\n')
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", "pyproject.toml", str(good), str(bad)],
        capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=600,
    )  # fmt: skip
    assert "good.py" not in checked.stdout, checked.stdout
    assert checked.stdout.count("bad.py") >= 2, checked.stdout
