"""What is written to standard error."""

import pytest

from rcodsr.cli.streams import error_line


def test_an_error_is_one_line_whatever_a_name_holds(capsys: pytest.CaptureFixture[str]) -> None:
    """Also for a reader who splits at Unicode's line ends; and nothing turns the direction of what follows."""
    error_line("a\nb\r\x1b[31m\x85\u2028\u2029\u202e\u2066gnp.png: cut short; get a whole copy of the file")
    written = capsys.readouterr().err
    assert len(written.splitlines()) == 1
    assert "a\\x0ab\\x0d\\x1b[31m\\x85\\u2028\\u2029\\u202e\\u2066gnp.png" in written
