"""The checkpoints of a run side by side, from what its validations left behind."""

import json
from pathlib import Path

import pytest
from PIL import Image

from rcodsr.cli.compare import compare
from rcodsr.errors import InputError, UsageError
from rcodsr.report.checkpoints import MOST, chosen, side_by_side
from rcodsr.training.history import looks, table

_COLORS = ("#808080", "#ff0000", "#00ff00", "#0000ff", "#ffffff")


def _sheet(path: Path, step: int, side: int = 32) -> None:
    """Two photos: bicubic, three levels, ground truth; the levels darker with each step."""
    path.parent.mkdir(exist_ok=True)
    made = Image.new("RGB", (5 * side, 2 * side))
    for i, color in enumerate(_COLORS):
        shade = Image.new("RGB", (side, 2 * side), color)
        made.paste(shade.point(lambda v: v // step) if 0 < i < 4 else shade, (i * side, 0))
    made.save(path)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Three validations, the first of which was done twice; the second has a checkpoint, the third no LPIPS."""
    lines = []
    for step, psnr in ((1, 9.0), (1, 27.123), (2, 26.5), (3, 26.0)):
        scores = {f"psnr_{level}": psnr - i for i, level in enumerate(("fidelity", "neutral", "realism"))}
        if step < 3:
            scores |= {f"lpips_{level}": 0.25 for level in ("fidelity", "neutral", "realism")}
        lines.append({"step": step, **scores, "knob_spread": 4.0, "knob_monotone": 1.0})
        _sheet(tmp_path / "validation" / f"{step:08}.png", step)
    (tmp_path / "validation.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "checkpoints" / "00000002").mkdir(parents=True)
    return tmp_path


def test_a_row_has_every_score_at_every_level(run: Path) -> None:
    columns, rows = table(looks(run))
    assert columns == ["step", "PSNR↑", "LPIPS↓", "knob", "monotone", "checkpoint"]
    assert rows == [
        ["1", "27.12 / 26.12 / 25.12", "0.2500 / 0.2500 / 0.2500", "4.00", "1.00", ""],
        ["2", "26.50 / 25.50 / 24.50", "0.2500 / 0.2500 / 0.2500", "4.00", "1.00", "00000002"],
        ["3", "26.00 / 25.00 / 24.00", "- / - / -", "4.00", "1.00", ""],
    ]


def test_the_table_is_printed(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compare(run)
    out = capsys.readouterr().out.splitlines()
    assert out[0].split("\t")[:2] == ["step", "PSNR↑"]
    assert [line.split("\t")[0] for line in out[1:]] == ["1", "2", "3"]


def test_a_sheet_shows_each_checkpoint_beside_the_others(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "validation" / "00000003.png").unlink()
    compare(run, run / "made" / "sheet.png")
    said = capsys.readouterr()
    assert said.out == f"{run / 'made' / 'sheet.png'}\n"
    assert "pictures of 2 of 3 validations" in said.err
    with Image.open(run / "made" / "sheet.png") as sheet:
        assert sheet.size == (6 + 4 * 230, 26 + 3 * (20 + 448 + 6))
        middles = [[sheet.getpixel((118 + 230 * i, 270 + 474 * band)) for i in range(4)] for band in range(3)]
    grey, white = (128, 128, 128), (255, 255, 255)
    assert middles == [
        [grey, (255, 0, 0), (127, 0, 0), white],
        [grey, (0, 255, 0), (0, 127, 0), white],
        [grey, (0, 0, 255), (0, 0, 127), white],
    ]


def test_a_page_has_the_table_and_asks_no_server(run: Path) -> None:
    compare(run, run / "page.html")
    page = (run / "page.html").read_text(encoding="utf-8")
    assert page.count("<tr>") == 4
    assert page.count('src="data:image/webp;base64,') == 1
    assert "http" not in page.replace("http-equiv", "")
    for path in (run / "validation").iterdir():
        path.unlink()
    compare(run, run / "page.html", overwrite=True)
    assert "<img" not in (run / "page.html").read_text(encoding="utf-8")


def test_pictures_of_other_photos_are_left_out(run: Path) -> None:
    _sheet(run / "validation" / "00000001.png", 1, side=16)
    compare(run, run / "sheet.png")
    with Image.open(run / "sheet.png") as sheet:
        assert sheet.width == 6 + 4 * 230


def test_of_many_checkpoints_the_ends_and_what_lies_between_are_shown() -> None:
    assert chosen(3) == [0, 1, 2]
    assert chosen(60) == [0, 8, 17, 25, 34, 42, 51, 59]
    assert len(chosen(MOST + 1)) == MOST
    plain = Image.new("RGB", (160, 64))
    assert side_by_side(range(MOST), [plain] * MOST).width == 6 + (MOST + 2) * 230


def test_what_is_no_run_is_refused(run: Path, tmp_path: Path) -> None:
    (tmp_path / "album").mkdir()
    with pytest.raises(InputError, match="album: a directory; pass one picture file, or a training run"):
        compare(tmp_path / "album")
    with pytest.raises(UsageError, match="--gt: belongs to a picture"):
        compare(run, gt=tmp_path / "gt.png")
    with pytest.raises(UsageError, match="no suffix of an output format"):
        compare(run, run / "sheet.jpg")
    (run / "validation.jsonl").write_text("{}\n")
    with pytest.raises(InputError, match=r"validation\.jsonl: not the record of a run's validations"):
        compare(run)
    (run / "validation.jsonl").write_text("")
    with pytest.raises(InputError, match="contains no validation yet"):
        compare(run)
