"""Generate docs/command-line.md from the `--help` texts of the commands.

    python tools/command_reference.py [--check]

With --check nothing is written; the exit code is 1 if the page is outdated.
"""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer.main

from rcodsr.cli.app import app

PAGE = Path(__file__).parents[1] / "docs" / "command-line.md"
INTRODUCTION = """\
# Command line

<!-- Written by tools/command_reference.py from the commands themselves. Do not edit. -->

`rcodsr COMMAND --help` prints the same. What the options mean: [realism](realism.md), [pictures and metadata](pictures.md).
"""


class Markdown:
    """A help formatter that collects what a command writes as Markdown."""

    width = 1000

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._inside = ""

    @contextmanager
    def section(self, name: str) -> Iterator[None]:
        """A heading in bold, or a block of code for examples."""
        self._inside = name
        self.lines += ["", "```sh"] if name == "Examples" else ["", f"**{name}**", ""]
        yield
        self.lines += ["```"] if name == "Examples" else []

    def write_dl(self, rows: list[tuple[str, str]]) -> None:
        """Options or commands with their descriptions, as a list."""
        self.lines += [f"- `{name}`: {_prose(meaning)}" for name, meaning in rows if "--help" not in name]

    def write(self, text: str) -> None:
        """One line of the examples."""
        self.lines.append(text.strip())


def _prose(meaning: str) -> str:
    """Convert a description to Markdown: defaults and bounds in brackets, options as code, other Markdown signs escaped."""
    meaning = re.sub(r"  \[(.*)\]$", r" (\1)", meaning)
    escaped = re.sub(r"([*_<>|])", r"\\\1", meaning)
    return re.sub(r"(?<![\w`-])(--[a-z][a-z-]*|-[a-zA-Z]\b)", r"`\1`", escaped)  # options


def _sections(command: Any, path: str, parent: Any = None) -> Iterator[str]:
    context = command.make_context(path.rpartition(" ")[2], [], parent=parent, resilient_parsing=True)
    page = Markdown()
    command.format_options(context, page)
    command.format_epilog(context, page)
    page.lines = [line for at, line in enumerate(page.lines) if not _is_empty_panel(page.lines, at)]
    usage = " ".join([path, *command.collect_usage_pieces(context)])
    said = [" ".join(part.split()) for part in str(command.help or "").split("\n\n")]
    text = "\n".join(["", *(f"{_prose(part)}\n" for part in said if part), "```sh", usage, "```", *page.lines])
    yield re.sub(r"\n{3,}", "\n\n", f"\n## {path}\n{text}\n")
    for name, child in getattr(command, "commands", {}).items():
        yield from _sections(child, f"{path} {name}", context)


def _is_empty_panel(lines: list[str], at: int) -> bool:
    """Whether a line is the heading of a panel with only --help, which is omitted."""
    rest = [line for line in lines[at + 1 :] if line]
    return lines[at].startswith("**") and (not rest or not rest[0].startswith("- "))


def page() -> str:
    """Generate the page."""
    return INTRODUCTION + "".join(_sections(typer.main.get_command(app), "rcodsr"))


def main() -> int:
    """Write the page, or report that it is outdated."""
    text = page()
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(text, encoding="utf-8")
    elif not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != text:
        print(f"{PAGE.name} is not current; run python tools/command_reference.py")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
