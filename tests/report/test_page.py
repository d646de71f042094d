"""The page in a real browser: sliders move the right pixels, zoom and pan are linked, and there are no errors."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rcodsr.engine.estimation import Estimated
from rcodsr.images.departures import painted
from rcodsr.report.comparison import Comparison, Panel
from rcodsr.report.page import html_page
from tests.report.browser import CHROMIUM, REASON, Browser, Pixel

SIDE = 64
BEFORE, LEVELS, TRUTH = (200, 0, 0), ((0, 200, 0), (0, 0, 200), (200, 200, 0)), (0, 200, 200)


def _picture(color: Pixel) -> Image.Image:
    """One colour, half as bright in the lower right quarter."""
    pixels = np.full((SIDE, SIDE, 3), color, np.uint8)
    pixels[SIDE // 2 :, SIDE // 2 :] //= 2
    return Image.fromarray(pixels)


def _comparison() -> Comparison:
    levels = tuple(
        Panel(
            f"realism {i / 2:g}", _picture(color), i / 2, 250 * (i + 1), {}, painted(np.full((SIDE, SIDE), 40 * i)), f"map {i}"
        )
        for i, color in enumerate(LEVELS)
    )
    before, real = Panel("input, bicubic", _picture(BEFORE)), Panel("ground truth", _picture(TRUTH))
    name = "a <b> & 'c'.png"
    return Comparison(name, "tiny@0", before, levels, real, Estimated(0.123, 500, 0.5, "neutral"), ((32, 32, 32, 32),))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "page.html"
    path.write_bytes(html_page(_comparison()))
    return path


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip(REASON)
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


def _at(browser: Browser, x: float, y: float, window: str = "#stage") -> Pixel:
    """Colour at a position of an element, in fractions of its sides."""
    left, top, width, height = browser.js(
        f"(r => [r.left, r.top, r.width, r.height])(document.querySelector('{window}').getBoundingClientRect())"
    )
    pixel = browser.screenshot().getpixel((left + x * width, top + y * height))
    assert isinstance(pixel, tuple)
    return pixel  # type: ignore[return-value]


def _place(browser: Browser, x: float, y: float) -> tuple[float, float]:
    left, top, width, height = browser.js("(r => [r.left, r.top, r.width, r.height])(stage.getBoundingClientRect())")
    return left + x * width, top + y * height


def test_sliders_and_zoom_show_the_right_pixels(browser: Browser, page: Path) -> None:
    browser.open(page, 1440, 900)
    # it starts at the estimated level, half beside half
    assert (_at(browser, 0.2, 0.2), _at(browser, 0.8, 0.2)) == (BEFORE, LEVELS[1])
    assert browser.js("document.getElementById('estimate').textContent") == "▲ estimated for this picture"
    # the realism slider, by keyboard
    browser.js("slider.focus()")
    browser.key("ArrowRight")
    assert (_at(browser, 0.2, 0.2), _at(browser, 0.8, 0.2)) == (BEFORE, LEVELS[2])
    assert browser.js("slider.getAttribute('aria-valuetext')") == "realism 1, timestep 750"
    name = "'a <b> & '\"'\"'c'\"'\"'.png'"
    assert browser.js("document.getElementById('command').textContent") == f"rcodsr upscale {name} -r 1"
    # the border, by mouse and by keyboard
    browser.drag(_place(browser, 0.5, 0.5), _place(browser, 0.75, 0.5))
    browser.drag(_place(browser, 0.1, 0.5), _place(browser, 0.25, 0.5))  # beside it, while the whole picture is shown
    assert (_at(browser, 0.15, 0.2), _at(browser, 0.35, 0.2)) == (BEFORE, LEVELS[2])
    assert browser.js("divider.getAttribute('aria-valuenow')") == "25"
    browser.js("divider.focus()")
    browser.key("End")
    assert _at(browser, 0.9, 0.2) == BEFORE
    # another picture on the left
    browser.js("document.getElementById('left').value = 4; document.getElementById('left').dispatchEvent(new Event('change'))")
    assert _at(browser, 0.2, 0.2) == TRUTH
    # side by side: a spot is shown in every window, and arrow keys move all of them
    browser.js("document.getElementById('side').click(); document.querySelector('#spots button').click()")
    windows = [f"figure:nth-child({i + 1}) .window" for i in range(5)]
    dark = [tuple(channel // 2 for channel in color) for color in (BEFORE, *LEVELS, TRUTH)]
    assert [_at(browser, 0.5, 0.5, window) for window in windows] == dark
    browser.js("stage.focus()")
    for _ in range(12):
        browser.key("ArrowLeft")
    assert [_at(browser, 0.5, 0.5, window) for window in windows] == [BEFORE, *LEVELS, TRUTH]
    assert browser.complaints() == []


def test_the_map_is_a_layer_of_the_level(browser: Browser, page: Path) -> None:
    """At realism 0.5 the map has the last colour of the scale; the input on the left has no map and is unchanged."""
    browser.open(page, 1440, 900)
    assert browser.js("getComputedStyle(document.getElementById('legend')).display") == "none"
    browser.js("document.getElementById('map').click()")
    assert (_at(browser, 0.2, 0.2), _at(browser, 0.8, 0.2)) == (BEFORE, (252, 255, 164))
    assert "in steps of 1/255: map 1." in browser.js("document.getElementById('legend').innerText")
    assert browser.js("document.querySelector('#legend img').naturalWidth") == 420
    browser.js("slider.focus()")
    browser.key("Home")
    assert _at(browser, 0.8, 0.2) == (0, 0, 4)
    browser.js("document.getElementById('map').click()")
    assert _at(browser, 0.8, 0.2) == LEVELS[0]
    assert browser.complaints() == []


def test_a_phone_and_fingers(browser: Browser, page: Path) -> None:
    browser.open(page, 390, 844, dark=True, touch=True)
    assert browser.js("document.documentElement.scrollWidth") <= 390
    assert browser.js("Math.min(...[...document.querySelectorAll('button, select')].map(b => b.offsetHeight))") >= 40
    pixel = browser.screenshot().getpixel((2, 2))
    assert isinstance(pixel, tuple)
    assert max(pixel) < 40
    browser.touch([_place(browser, 0.5, 0.5)], [_place(browser, 0.7, 0.5)])
    assert (_at(browser, 0.6, 0.2), _at(browser, 0.8, 0.2)) == (BEFORE, LEVELS[1])
    before = browser.js("view.zoom")
    apart, wider = ([_place(browser, x, 0.5) for x in fingers] for fingers in ((0.4, 0.6), (0.2, 0.8)))
    browser.touch(apart, wider)
    assert before == 1
    assert browser.js("view.zoom") == pytest.approx(3, rel=0.05)
    assert browser.complaints() == []


def test_names_are_escaped_and_nothing_is_fetched(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert "<b>" not in text
    assert "{{" not in text
    assert "default-src 'none'" in text
    assert "http" not in text.replace("http-equiv", "")


def test_a_page_of_noisy_pictures_stays_below_5_megabytes() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (512, 512, 3), np.uint8)
    panel = Panel("realism 0", Image.fromarray(noise), 0.0, 250)
    made = Comparison("noise.png", "tiny@0", panel, (panel,) * 4, None, None, ())
    assert len(html_page(made)) < 5_000_000
