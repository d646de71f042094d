"""What is written to standard error."""

from dataclasses import replace

import pytest

from rcodsr.batch.results import Result
from rcodsr.cli.results import _tell_how_long
from rcodsr.cli.streams import error_line
from rcodsr.options import DEFAULT_WEIGHTS


def test_an_error_is_one_line_whatever_a_name_holds(capsys: pytest.CaptureFixture[str]) -> None:
    """Also for a reader who splits at Unicode's line ends; and nothing turns the direction of what follows."""
    error_line("a\nb\r\x1b[31m\x85\u2028\u2029\u202e\u2066gnp.png: cut short; get a whole copy of the file")
    written = capsys.readouterr().err
    assert len(written.splitlines()) == 1
    assert "a\\x0ab\\x0d\\x1b[31m\\x85\\u2028\\u2029\\u202e\\u2066gnp.png" in written


def test_a_long_run_on_a_cpu_says_so_once_with_the_fast_weights_beside_it(capsys: pytest.CaptureFixture[str]) -> None:
    first = Result("a.png", "a_x4.png", "done", device="cpu", seconds=30.0, weights=f"{DEFAULT_WEIGHTS}@0123456789ab")
    _tell_how_long(first, 40)
    said = capsys.readouterr().err
    assert "about 20 min left" in said
    assert "rcod-tiny (softer) takes about 4 min" in said
    _tell_how_long(first, 3)
    _tell_how_long(replace(first, device="cuda:0"), 40)
    _tell_how_long(replace(first, weights="rcod-tiny@0123456789ab"), 40)
    assert capsys.readouterr().err == ""
