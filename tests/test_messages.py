"""Parts of lines for people."""

import pytest

from rcodsr.messages import first_line, size_text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0.0 kB"), (520_000, "520 kB"), (3_400_000, "3.4 MB"), (866_100_000, "866 MB"), (1_730_000_000, "1.7 GB")],
)
def test_sizes_have_two_digits_or_more(count: int, text: str) -> None:
    assert size_text(count) == text


def test_an_error_becomes_one_short_line() -> None:
    assert first_line(ValueError("\n  damaged header \nat byte 12")) == "damaged header"
    assert first_line(KeyError()) == "KeyError"
    assert first_line(ValueError("x" * 500)) == "x" * 160
