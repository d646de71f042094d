import pytest

from rcodsr.errors import InputError, UsageError
from rcodsr.options import TargetSize, UpscaleOptions


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1600x1200", (1600, 1200)),
        ("1600x", (1600, 1200)),
        ("x1200", (1600, 1200)),
        ("short=300", (400, 300)),
        ("long=333", (333, 250)),
        ("1600x1198", (1600, 1198)),  # what rounding does to proportions is no stretching
    ],
)
def test_sizes_of_a_picture_of_400_by_300(text: str, expected: tuple[int, int]) -> None:
    target = TargetSize.parse(text)
    assert str(target) == text
    options = UpscaleOptions(size=target)
    assert options.output_size((400, 300)) == expected
    assert options.factor((400, 300)) == pytest.approx(expected[0] / 400)


def test_a_tall_picture_keeps_its_short_side_short() -> None:
    assert TargetSize.parse("short=1080").of((300, 401)) == (1080, 1444)


@pytest.mark.parametrize("text", ["", "x", "0x5", "12", "5X5", "short=", "short=0", "wide=4", "-3x4", "1e3x", "short=1x2"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(UsageError, match="is not a valid size; use WIDTHxHEIGHT, WIDTHx, xHEIGHT, short=N or long=N"):
        TargetSize.parse(text)


def test_nothing_is_stretched_or_enlarged_beyond_sense() -> None:
    with pytest.raises(InputError, match="1600x900 would stretch a picture of 400×300"):
        TargetSize.parse("1600x900").of((400, 300))
    with pytest.raises(InputError, match=r"would enlarge it 8\.1 times"):
        TargetSize.parse("long=3240").of((400, 300))
