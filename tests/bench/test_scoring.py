"""The columns of the paper's Table S2, the use of pyiqa, and the curve."""

import importlib.util
import io

import pytest
from PIL import Image

from rcodsr.bench.paper_metrics import METRICS, PaperMetrics
from rcodsr.bench.scoring import COLUMNS
from rcodsr.errors import UsageError
from rcodsr.report.charts import Point, tradeoff_chart


def test_columns_are_those_of_table_s2() -> None:
    heading = "PSNR↑ SSIM↑ LPIPS↓ DISTS↓ NIQE↓ MUSIQ↑ MANIQA↑ CLIPIQA↑ FID↓"
    assert list(COLUMNS.values())[:9] == heading.split()
    assert {*METRICS, "psnr", "ssim"} == set(list(COLUMNS)[:9])


@pytest.mark.skipif(importlib.util.find_spec("pyiqa") is not None, reason="pyiqa is installed")
def test_without_pyiqa_the_remedy_is_named() -> None:
    with pytest.raises(UsageError, match=r"--paper: needs pyiqa, which is not installed; pip install pyiqa"):
        PaperMetrics("cpu")


def test_pyiqa_knows_every_name() -> None:
    pyiqa = pytest.importorskip("pyiqa")
    assert set(METRICS.values()) <= set(pyiqa.list_models())


def test_the_curve_shows_points_where_they_belong() -> None:
    """Axes from 19.5 to 30.5 and from 10.25 up to 4.75, over 616 pixels from 92 on."""
    points = [Point("realism 1", 20, 5, 1.0), Point("realism 0", 30, 10, 0.0), Point("other", 30, 5)]
    with Image.open(io.BytesIO(tradeoff_chart(points, "PSNR", "NIQE", low_is_real=True))) as image:
        bar, border = image.getpixel((120, 120)), image.getpixel((680, 120))
        assert image.getpixel((680, 680)) == bar == (74, 127, 181)
        assert image.getpixel((400, 400)) == bar  # the curve between its ends
        assert border == (192, 57, 43)
