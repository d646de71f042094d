"""What --help and completion show: every command, its panels, examples that parse, the width of the terminal."""

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from rcodsr.cli.app import app
from rcodsr.cli.help import EXAMPLES, PANELS
from tests.cli.conftest import RunHere
from tests.conftest import RunCli


def _commands(command: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from _commands(inner, f"{path} {name}".strip())


COMMANDS = dict(_commands(typer.main.get_command(app)))


def test_each_command_has_examples() -> None:
    assert EXAMPLES.keys() == COMMANDS.keys()
    assert all(2 <= len(examples) <= 3 for examples in EXAMPLES.values())


@pytest.mark.parametrize("path", COMMANDS)
@pytest.mark.parametrize("width", [40, 50, 80, 140])
def test_help_fits_the_terminal(run_here: RunHere, monkeypatch: pytest.MonkeyPatch, path: str, width: int) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    text = run_here(*path.split(), "--help").stdout
    head, _, examples = text.partition("\nExamples:\n")
    assert head.startswith(f"Usage: {'rcodsr ' + path}".rstrip())
    assert max(len(line) for line in head.splitlines()) <= width
    assert not any(line.endswith("...") for line in head.partition("Commands:")[2].splitlines())  # nothing is cut
    for command, meaning in EXAMPLES[path]:
        assert command in examples
        assert meaning in examples


def test_a_wide_terminal_is_used(run_here: RunHere, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    line = "|Spearman| against SSIM and LPIPS (Table S1(b))."  # the end of what `bench metric` says of itself
    assert line in run_here("bench", "--help").stdout


def test_upscale_has_panels_in_order(run_here: RunHere) -> None:
    text = run_here("upscale", "--help").stdout
    places = [text.index(f"\n{name}:\n") for name in (*PANELS, "Other options", "Examples")]
    assert places == sorted(places)
    assert text.index("\nRealism:\n") < text.index("--realism ") < text.index("\nWeights:\n")
    assert text.partition("\nOther options:\n")[2].partition("\nExamples")[0].split()[:2] == ["-h,", "--help"]


@pytest.mark.parametrize(("path", "example"), [(path, line) for path, lines in EXAMPLES.items() for line, _ in lines])
def test_examples_parse(path: str, example: str) -> None:
    words = shlex.split((example.partition("$(")[2].rstrip(")") or example).partition(" | ")[0])
    assert words.pop(0) == "rcodsr"
    name = max((known for known in COMMANDS if words[: len(known.split())] == known.split()), key=len)
    assert name.startswith(path)
    COMMANDS[name].make_context(name, words[len(name.split()) :])


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("upscale --weights ", {"rcod-small", "rcod-tiny", "osediff", "s3diff", "pisa-sr"}),
        ("upscale --realism ", {"fidelity", "neutral", "realism"}),
        ("upscale --device c", {"cpu", "cuda"}),
        ("upscale --color-fix ", {"wavelet", "adain", "none"}),
        ("upscale --format t", {"tiff"}),
        ("upscale --protect ", {"text"}),
        ("bench synth x --preset c", {"camera", "clean"}),
        ("train rcod-", {"rcod-o", "rcod-s", "rcod-small", "rcod-tiny"}),
        ("weights pull sd-", {"sd-turbo", "sd-turbo-text"}),
    ],
)
def test_completion_offers_values(typed: str, offered: set[str]) -> None:
    asked = {"_RCODSR_COMPLETE": "complete_bash", "COMP_WORDS": f"rcodsr {typed}", "COMP_CWORD": str(typed.count(" ") + 1)}
    code = "from rcodsr.cli.app import app; app(prog_name='rcodsr')"
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | asked, capture_output=True, text=True, timeout=60)
    assert set(done.stdout.split()) == offered


def test_help_loads_neither_torch_nor_rich(run_cli: RunCli) -> None:
    code = (
        "import sys; from rcodsr.cli.app import run; run(['upscale', '--help']);"
        "print([name for name in ('torch', 'rich', 'numpy', 'PIL') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]"
