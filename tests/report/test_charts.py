"""Charts: readable ticks, and nothing outside the picture."""

import io

import numpy as np
import pytest
from PIL import Image

from rcodsr.report.charts import similarity_chart, ticks


@pytest.mark.parametrize(
    ("low", "high", "most", "whole", "texts"),
    [
        (0.072, 0.263, 7, False, ["0.10", "0.15", "0.20", "0.25"]),
        (0.0, 1.1, 6, True, ["0", "1"]),
        (0.0, 14.9, 6, True, ["0", "5", "10"]),
        (21.3, 26.8, 7, False, ["22", "23", "24", "25", "26"]),
        (-0.02, 0.02, 7, False, ["-0.02", "-0.01", "0.00", "0.01", "0.02"]),
        (3.0, 950.0, 7, False, ["200", "400", "600", "800"]),
    ],
)
def test_ticks_are_round_and_few(low: float, high: float, most: int, whole: bool, texts: list[str]) -> None:
    found = ticks(low, high, most, whole)
    assert [text for _, text in found] == texts
    assert [value for value, _ in found] == pytest.approx([float(text) for text in texts])


@pytest.mark.parametrize("values", [[0.1], [0.1, 0.1], [0.08, 0.1, 0.19, 0.25]])
def test_a_histogram_names_its_groups(values: list[float]) -> None:
    with Image.open(io.BytesIO(similarity_chart(values, None, [0.115, 0.155], ["750", "500", "250"]))) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    red = (np.abs(pixels - [0xC0, 0x39, 0x2B]).sum(2) < 40).sum(0)
    assert (red > 500).sum() >= 4  # two borders, three pixels wide at least in part
    assert ((red > 0) & (red < 40)).sum() > 30  # names above the bars
    assert (pixels[:4] == 255).all()
    assert (pixels[-4:] == 255).all()
