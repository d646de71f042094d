"""List every text that rcodsr can show to users, for a review of its language.

    python dev/list_messages.py [--kind error|note|help|other]...

One line each: place, kind, text.

    error   arguments of an error class: subject, cause, remedy
    note    logged messages and notes
    help    texts of `--help`
    other   any other literal of three words or more: parts of composed messages
"""

import argparse
import ast
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "rcodsr"
KINDS = ("error", "note", "help", "other")
NOTES = {"note", "log", "with_note", "with_remark", "error_line", "last_words", "result_line", "progress", "say", "warn"}
HELP = {"Option", "Argument", "Typer", "command", "callback"}
HELP_WORDS = {"help", "epilog", "short_help"}


def text_of(node: ast.expr) -> str:
    """A literal's text, with placeholders as `{…}` and concatenated pieces joined; empty for other nodes."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        return "".join(map(text_of, node.values))
    if isinstance(node, ast.FormattedValue):
        return f"{{{ast.unparse(node.value)}}}"
    if isinstance(node, ast.BinOp):
        return f"{text_of(node.left)}{text_of(node.right)}"
    if isinstance(node, ast.IfExp):
        return " | ".join(text for text in (text_of(node.body), text_of(node.orelse)) if text)
    return ""


def name_of(call: ast.Call) -> str:
    """The last part of a call's dotted name."""
    return getattr(call.func, "attr", getattr(call.func, "id", ""))


def is_error(name: str) -> bool:
    """Whether a name is that of an error class."""
    return name.endswith(("Error", "BadParameter", "UsageError"))


class Texts:
    """The texts of one module, each literal once."""

    def __init__(self, tree: ast.Module) -> None:
        self._tree = tree
        self._seen = {id(node) for node in self._docstrings()}

    def __iter__(self) -> Iterator[tuple[int, str, str]]:
        """Yield line, kind and text, in order of lines."""
        calls = [node for node in ast.walk(self._tree) if isinstance(node, ast.Call)]
        found = [entry for call in calls for entry in self._of_call(call)]
        for node in ast.walk(self._tree):
            if isinstance(node, ast.Constant | ast.JoinedStr | ast.BinOp) and id(node) not in self._seen:
                text = text_of(node)
                self._mark(node)
                if len(text.split()) >= 3:
                    found.append((node.lineno, "other", text))
        return iter(sorted(found))

    def _of_call(self, call: ast.Call) -> Iterator[tuple[int, str, str]]:
        name = name_of(call)
        if is_error(name) or name in NOTES:
            values = [*call.args, *(word.value for word in call.keywords)]
            texts = [text_of(value) or f"{{{ast.unparse(value)}}}" for value in values]
            if any(text_of(value) for value in values):
                yield call.lineno, "error" if is_error(name) else "note", f"{name}: {' ‖ '.join(texts)}"
                self._mark(call)
        elif name in HELP:
            for word in call.keywords:
                if word.arg in HELP_WORDS and text_of(word.value):
                    yield word.value.lineno, "help", text_of(word.value)
                    self._mark(word.value)

    def _mark(self, node: ast.AST) -> None:
        self._seen |= {id(part) for part in ast.walk(node)}

    def _docstrings(self) -> Iterator[ast.AST]:
        """Strings that are statements: texts of modules, classes, functions and constants."""
        for node in ast.walk(self._tree):
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                yield node.value


def commands(path: Path, tree: ast.Module) -> Iterator[tuple[int, str, str]]:
    """Docstrings of Typer commands: decorated functions, or functions named like their module in `cli`."""
    for node in ast.walk(tree):
        decorators = [each for each in getattr(node, "decorator_list", []) if isinstance(each, ast.Call)]
        decorated = any(name_of(each) in {"command", "callback"} for each in decorators)
        if isinstance(node, ast.FunctionDef) and (decorated or (path.parent.name == "cli" and path.stem == node.name)):
            yield node.lineno, "help", " ".join((ast.get_docstring(node) or "").split())


def main() -> None:
    """Print the texts of all modules."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", action="append", choices=KINDS)
    kinds = parser.parse_args().kind or KINDS
    for path in sorted(SOURCE.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for line, kind, text in sorted([*Texts(tree), *commands(path, tree)]):
            if kind in kinds:
                print(f"{path.relative_to(SOURCE).as_posix()}:{line}  {kind}  {text.replace(chr(10), '⏎')}")


if __name__ == "__main__":
    main()
