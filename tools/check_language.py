"""Find wording that readers stumble over, in the docstrings and messages of `src` and in the documents.

The rules are a list of patterns, each with its remedy. A docstring is also the text under a field or a constant. A message is
any other string of three words or more. Text in backticks and URLs are not prose.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "rcodsr"


class Rule(NamedTuple):
    """A pattern that prose must not match, and what to write instead."""

    pattern: re.Pattern[str]
    remedy: str


EVERYWHERE = [
    Rule(re.compile(r"(?<!there )(?<!There )\b(?:is|are|be) no (?!longer\b|more\b|less\b|\w*er than\b)"), "'is not a …'"),
    Rule(re.compile(r"\b[Aa]s of (?!\d)"), "'same as' or 'see'"),
    Rule(re.compile(r"\b(?:hires?|hired|staff|dismiss(?:es|ed)?|buries|buried|whoever|whosoever)\b"), "the field's word"),
    Rule(re.compile(r"\b(?:is|are|was|were|be) told\b|\btold (?:apart|by)\b"), "'passed', 'reported' or 'recognised'"),
    Rule(re.compile(r"\b(?:is|are) said\b"), "'is reported' or 'is named'"),
    Rule(re.compile(r"\bsomething else than\b"), "'other than'"),
    Rule(
        re.compile(r"(?<![-_])(?<!vibrant )\bcolor(?:s|ed|ful)?\b(?![-_=:])"), "'colour' in prose"
    ),  # S3Diff's prompt has "vibrant colors"
    Rule(re.compile(r"\bgray(?:s|scale|ness)?\b|\bgreyness\b"), "'grey' or 'greyscale'"),
    Rule(re.compile(r"\b[Rr]egulariz"), "'regulariser' in prose"),
]
"""Rules for docstrings, messages and documents."""

DOCSTRINGS = [
    Rule(re.compile(r"\A(?:Of|As|For|What|None|Nothing|Each|All)\b"), "name the subject or begin with a verb"),
    Rule(re.compile(r";[^;.\n]*;"), "two sentences"),
]
"""Rules for docstrings alone."""

_QUOTED = re.compile(r"``.*?``|`[^`]*`|https?://\S+|\"[^\"]*\"", re.DOTALL)


def prose(text: str) -> str:
    """The text without what is quoted: code, addresses."""
    return _QUOTED.sub("…", text)


def docstrings(tree: ast.Module) -> Iterator[ast.Constant]:
    """Docstrings of modules, classes and functions, and the texts under fields and constants."""
    for node in ast.walk(tree):
        body = getattr(node, "body", ())
        for statement in body if isinstance(body, list) else ():
            value = statement.value if isinstance(statement, ast.Expr) else None
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                yield value


def problems(path: Path) -> Iterator[tuple[int, str]]:
    """Line and complaint of everything in a file that breaks a rule."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        blocks = re.sub(r"^```.*?^```|^---\n.*?^---\n", lambda m: "\n" * m[0].count("\n"), text, flags=re.DOTALL | re.MULTILINE)
        yield from _broken(blocks, 1, EVERYWHERE)
        return
    tree = ast.parse(text)
    documented = {id(node): node for node in docstrings(tree)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
            continue
        if id(node) in documented:
            yield from _broken(node.value, node.lineno, [*EVERYWHERE, *DOCSTRINGS])
        elif node.value.count(" ") >= 2:
            yield from _broken(node.value, node.lineno, EVERYWHERE)


def _broken(text: str, line: int, rules: list[Rule]) -> Iterator[tuple[int, str]]:
    plain = prose(text)
    for rule in rules:
        for found in rule.pattern.finditer(plain):
            yield line + plain.count("\n", 0, found.start()), f"'{' '.join(found[0].split())}': {rule.remedy}"


def main() -> int:
    """Check the files named, or all of them."""
    documents = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")]
    paths = [Path(name) for name in sys.argv[1:]] or [*sorted(SOURCE.rglob("*.py")), *sorted(documents)]
    found = [f"{path}:{line}: {complaint}" for path in paths for line, complaint in problems(path)]
    print("\n".join(found) or f"{len(paths)} files read: no complaint")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
