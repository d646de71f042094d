"""`rcodsr compare` as a person types it."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from rcodsr.checkpoints.format import save_model
from rcodsr.models.build import build_model
from rcodsr.models.lpips import LpipsAlex
from rcodsr.parts import GroupingSpec
from rcodsr.variants import VariantSpec
from tests.conftest import RunCli


@pytest.fixture
def desk(photo: Image.Image, tmp_path: Path) -> Path:
    photo.resize((24, 20)).save(tmp_path / "in.png")
    photo.resize((96, 80)).save(tmp_path / "gt.png")
    return tmp_path


def test_a_page_and_a_sheet(desk: Path, run_cli: RunCli) -> None:
    done = run_cli("compare", "in.png", "--realism", "1,0,neutral", "--gt", "gt.png", "-o", "new/page.html")
    assert (done.returncode, done.stdout) == (0, "new/page.html\n"), done.stderr
    page = (desk / "new/page.html").read_text(encoding="utf-8")
    for said in ("realism 0<", "realism 0.5<", "realism 1<", "ground truth", "Estimated M_L", " dB", "upscale in.png -r 0.5"):
        assert said in page, said
    assert page.count('src="data:image/webp;base64,') == 5
    done = run_cli("compare", "in.png", "--region", "4,2,16,12", "-o", "sheet.png")
    assert done.returncode == 0, done.stderr
    assert "--region 4,2,16,12" in done.stderr
    with Image.open(desk / "sheet.png") as sheet:
        assert sheet.width == 12 + 4 * 300


def test_judges_add_their_scores(desk: Path, run_cli: RunCli) -> None:
    (desk / "judges").mkdir()
    alex = LpipsAlex().state_dict()
    heads = {key: torch.full_like(value, 10) for key, value in alex.items() if key.startswith("lin")}
    save_file(alex | heads, desk / "judges/lpips_alexnet.safetensors")
    asked = ("compare", "in.png", "--realism", "0", "--gt", "gt.png", "--judges", "judges", "--device", "cpu")
    done = run_cli(*asked, "-o", "page.html", "-q")
    assert (done.returncode, done.stderr) == (0, "")
    page = (desk / "page.html").read_text(encoding="utf-8")
    assert "<th scope=col>PSNR<th scope=col>SSIM<th scope=col>LPIPS</thead>" in page
    (row,) = re.findall(r"<tr><th scope=row>realism 0<td>250<td>\S+ dB<td>0\.\d{3}<td>(\d+\.\d{3})\n", page)
    assert float(row) > 0
    plain, judged = desk / "plain.png", desk / "judged.png"
    assert run_cli(*asked[:6], "-o", plain.name).returncode == 0
    assert run_cli(*asked, "-o", judged.name).returncode == 0
    with Image.open(plain) as short, Image.open(judged) as tall:
        assert tall.height == short.height + 20  # one more line of scores
    done = run_cli("compare", "in.png", "-o", "p.html", "--judges", "judges")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "--judges: needs a ground truth; add --gt FILE" in done.stderr


def test_refusals_are_one_line_and_write_nothing(desk: Path, run_cli: RunCli, small_spec: VariantSpec) -> None:
    save_model(desk / "fixed", build_model(replace(small_spec, grouping=GroupingSpec(n=1, k=500))))
    (desk / "old.html").write_text("kept")
    (desk / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    cases = [
        (["in.png", "-o", "old.html"], 2, "already exists"),
        (["in.png", "-o", "page.pdf"], 2, ".html"),
        (["in.png", "-y", "-o", "in.png"], 2, "would overwrite an input"),
        (["in.png", "-o", "p.html", "--realism", "0,2"], 2, "not between 0 and 1"),
        (["in.png", "-o", "p.html", "--gt", "in.png"], 2, "96×80"),
        (["in.png", "-o", "p.html", "--region", "20,0,10,10"], 2, "not inside"),
        (["broken.png", "-o", "p.html"], 1, "broken.png"),
        (["none.png", "-o", "p.html"], 1, "no such file"),
        (["in.png", "-o", "p.html", "--weights", "fixed", "-q"], 2, "one fixed timestep, 500"),
    ]
    for arguments, code, said in cases:
        done = run_cli("compare", *arguments)
        lines = done.stderr.splitlines()
        assert (done.returncode, len(lines)) == (code, 1), done.stderr
        assert lines[0].startswith("rcodsr: ")
        assert said in lines[0]
    assert (desk / "old.html").read_text() == "kept"
    assert not (desk / "p.html").exists()
