"""Tables as files."""

import os
import threading
from pathlib import Path

import pytest

from rcodsr.cli.tables import aligned, csv_text, hanging, json_text, markdown_text, show_row, write_text
from rcodsr.errors import OutputError


def test_each_kind_of_file() -> None:
    assert csv_text(["name", "psnr"], [{"name": 'a,"b"', "psnr": 1.5}, {"name": "c"}]) == 'name,psnr\n"a,""b""",1.5\nc,\n'
    assert markdown_text(["name", "psnr"], [["a|b", "1.5"]]) == "| name | psnr |\n| --- | ---: |\n| a\\|b | 1.5 |\n"
    assert json_text({"rows": [1]}) == '{\n "rows": [\n  1\n ]\n}\n'


def test_a_name_cannot_end_its_cell_or_row(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    show_row(["a\tb\nc", "1"], 8)
    assert capfdbinary.readouterr().out == b"a\\tb\\nc\t1\n"


def test_names_keep_their_bytes(tmp_path: Path) -> None:
    write_text(tmp_path / "rows.csv", os.fsdecode(b"\xff,\xc3\xa9\n"))
    assert (tmp_path / "rows.csv").read_bytes() == b"\xff,\xc3\xa9\n"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_a_pipe_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    pipe, received = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: received.append(pipe.read_text()))
    reader.start()
    write_text(pipe, "rows\n")
    reader.join()
    assert received == ["rows\n"]
    assert pipe.is_fifo()


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"gone/rows\.csv: cannot be written"):
        write_text(tmp_path / "gone" / "rows.csv", "rows\n")


def test_a_row_fits_the_terminal() -> None:
    cells = ["a/long/way/to/the/picture/of/a/cat.png", "0.1234", "500", "0.5", "neutral"]
    row = aligned(cells, 40, 80)
    assert len(row) == 80
    assert row.startswith("…way/to/the/picture/of/a/cat.png      0.1234         500")
    assert aligned(["cat.png", "1"], 40, 80) == "cat.png" + " " * 33 + " " * 11 + "1"
    assert aligned(cells, 40, 50).splitlines()[0] == cells[0]


def test_a_text_hangs_beside_its_name() -> None:
    assert hanging("tiny", "here: five times as fast", 8, 24) == "tiny    here: five times\n        as fast"
