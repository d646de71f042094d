"""The command line on pictures that must not change in kind: black and white in colour files, white sheets, transparency."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from tests.cli.conftest import load, one_error_line
from tests.conftest import RunCli
from tests.images.files import HISTORY, bitmap_with_alpha


def test_black_and_white_comes_out_black_and_white_in_its_own_mode(run_cli: RunCli, photo: Image.Image, tmp_path: Path) -> None:
    grey = photo.convert("L").resize((36, 28)).convert("RGB")
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.jpg", "b.png", "c.webp", "d.avif", "e.tif", "f.bmp"):
        grey.save(folder / name)
    grey.quantize(32).save(folder / "g.png")
    cut = grey.convert("RGBA")
    cut.paste((10, 200, 30, 0), (0, 0, 12, 28))
    cut.save(folder / "h.png")
    sheet = Image.new("RGB", (40, 32), "white")
    sheet.save(folder / "i.png")
    sheet.save(folder / "j.jpg")
    done = run_cli("upscale", "in", "-r", "1", "-q")
    assert done.returncode == 0, done.stderr
    made = {path.name: load(path) for path in (tmp_path / "in_x4").iterdir()}
    assert len(made) == 10
    for name, image in made.items():
        assert image.mode == ("RGBA" if name == "h.png" else "RGB"), name
        pixels = np.asarray(image).astype(int)
        assert np.ptp(pixels[..., :3], axis=2).max() <= (name == "c.webp"), name  # WebP's own rounding
        assert (name in {"i.png", "j.jpg"}) == bool((pixels == 255).all()), name


def test_a_bitmap_with_unset_alpha_is_opaque_and_said(run_cli: RunCli, photo: Image.Image, tmp_path: Path) -> None:
    image = photo.convert("RGBA").resize((24, 20))
    image.putalpha(0)
    (tmp_path / "v4.bmp").write_bytes(bitmap_with_alpha(image))
    done = run_cli("upscale", "v4.bmp", "-o", "x.bmp")
    assert done.returncode == 0, done.stderr
    assert "its alpha channel is 0 everywhere and was ignored" in done.stderr
    made, wanted = (
        np.asarray(i.convert("RGB")).astype(float) for i in (load(tmp_path / "x.bmp"), image.convert("RGB").resize((96, 80)))
    )
    assert np.abs(made.mean((0, 1)) - wanted.mean((0, 1))).max() < 2


def test_what_becomes_one_flat_colour_says_so_on_its_line(run_cli: RunCli, tmp_path: Path) -> None:
    """A white logo on nothing, laid on white."""
    logo = np.full((24, 24, 4), 255, np.uint8)
    logo[:8, :, 3] = 0
    Image.fromarray(logo).save(tmp_path / "logo.png")
    lost = "only one flat colour is left: choose another --background or -f png"
    done = run_cli("upscale", "logo.png", "-o", "a.jpg")
    assert f"transparency flattened onto white: JPEG has none; {lost}" in done.stderr
    seen = run_cli("upscale", "logo.png", "-o", "b.jpg", "--background", "navy")
    assert "transparency flattened onto #000080" in seen.stderr
    assert lost not in seen.stderr
    assert lost not in run_cli("upscale", "logo.png", "-o", "c.png").stderr


def test_records_compare_the_revision_of_the_pixels_and_not_the_version(run_cli: RunCli, picture: Path) -> None:
    assert run_cli("upscale", "photo.png").returncode == 0
    output = picture.with_name("photo_x4.png")

    def say(**values: object) -> None:
        image = load(output)
        exif = image.getexif()
        exif[HISTORY] = json.dumps(json.loads(exif[HISTORY]) | values)
        image.save(output, exif=exif)

    say(made_by="rcodsr 0.0.1")
    for more in ([], ["-n"]):
        again = run_cli("upscale", "photo.png", "--json", *more)
        assert json.loads(again.stdout.splitlines()[0])["status"] == "skipped"
    say(pixels=1)
    for more in ([], ["-n"]):
        one_error_line(run_cli("upscale", "photo.png", *more), 1, "was made differently")
