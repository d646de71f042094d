"""The manual runs as written, in this process: commands in `bash` blocks, and the Python of the examples.

Blocks of `sh` are only shown. The page of the command line is what the commands say of themselves.
"""

import re
import runpy
import shlex
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.cli.conftest import RunHere

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(r"^```(bash|python)\n(.*?)^```", re.DOTALL | re.MULTILINE)
_WORDS = "left\ttop\twidth\theight\tconf\ttext\n0\t0\t8\t6\t96.5\tSTOP\n12\t10\t4\t4\t-1\t\n"
"""What Tesseract writes, in short."""


def _blocks(page: str) -> list[tuple[str, str]]:
    """Language and text of the blocks of a page, in order."""
    return _BLOCK.findall((ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8"))


def _commands(text: str) -> list[list[str]]:
    """The words of each line after `rcodsr`, comments left out."""
    lines = [shlex.split(line, comments=True) for line in text.splitlines() if line and not line.startswith("#")]
    assert all(line[0] == "rcodsr" and not {"|", ">", "<", ";"} & set(line) for line in lines), "use sh for what a shell does"
    return [line[1:] for line in lines]


def _run_all(run_here: RunHere, texts: list[str]) -> None:
    for arguments in (words for text in texts for words in _commands(text)):
        done = run_here(*arguments)
        assert done.returncode == 0, f"{shlex.join(arguments)}\n{done.stderr}"


@pytest.mark.parametrize(
    "page", [path.stem for path in sorted((ROOT / "docs").glob("*.md")) if "```bash" in path.read_text("utf-8")]
)
@pytest.mark.usefixtures("desk")
def test_commands_of_the_manual_run(run_here: RunHere, page: str) -> None:
    _run_all(run_here, [text for language, text in _blocks(page) if language == "bash"])


def _python(heading: str) -> dict[str, Any]:
    """The names that the Python of a section of the examples defines."""
    section = (ROOT / "docs" / "examples.md").read_text("utf-8").split(f"## {heading}\n")[1].split("\n## ")[0]
    (code,) = [text for language, text in _BLOCK.findall(section) if language == "python"]
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(code, heading, "exec"), names)
    return names


def test_the_report_of_a_night_is_read(desk: Path, run_here: RunHere, capsys: pytest.CaptureFixture[str]) -> None:
    (desk / "dir" / "broken.png").write_bytes(b"not a picture")
    run_here("upscale", "dir/", "-o", "enlarged", "--report", "report.jsonl")
    _python("A folder overnight")
    told = capsys.readouterr().out
    assert "'done': 2" in told
    assert "broken.png" in told


@contextmanager
def _served(handler: Any) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_the_web_server_answers_and_refuses(desk: Path) -> None:
    names = _python("A web server")
    names["Enlarge"].log_message = lambda *_: None
    with names["shared"], _served(names["Enlarge"]) as address:
        with urllib.request.urlopen(address, (desk / "in.png").read_bytes()) as answer:
            assert Image.open(BytesIO(answer.read())).size == (96, 80)
        with pytest.raises(urllib.error.HTTPError) as refused, urllib.request.urlopen(address, b"junk"):
            pass
        assert refused.value.code == 400
        refused.value.close()


def test_a_mask_from_ocr_keeps_words_at_realism_0(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(desk)
    (desk / "words.tsv").write_text(_WORDS)
    _python("A mask from OCR")
    with Image.open(desk / "mask.png") as mask, Image.open(desk / "in_readable.png") as picture:
        assert (mask.getpixel((4, 3)), mask.getpixel((14, 12))) == (0, 255)
        assert picture.size == (96, 80)


def test_the_page_of_the_command_line_is_current() -> None:
    page = runpy.run_path(str(ROOT / "tools" / "command_reference.py"))["page"]()
    assert (ROOT / "docs" / "command-line.md").read_text("utf-8") == page, "run python tools/command_reference.py"
