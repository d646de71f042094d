"""Prove that no file can execute code: one module reads pickles, nothing is evaluated, no repository is trusted.

That module is `checkpoints/pickles.py`, restricted by `weights_only=True`. Pictures are only opened with a list of formats.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "rcodsr"
DOOR = "checkpoints/pickles.py"
UNPICKLERS = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "jsonpickle"}
FORBIDDEN_CALLS = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "os.system",
    "os.popen",
    "yaml.load",
    "yaml.unsafe_load",
    "torch.hub.load",
}
FORBIDDEN_ARGUMENTS = {"trust_remote_code", "allow_pickle", "custom_pipeline"}


def name_of(node: ast.expr) -> str:
    """A call's dotted name, such as `torch.load`; empty if it has none."""
    if isinstance(node, ast.Attribute):
        owner = name_of(node.value)
        return f"{owner}.{node.attr}" if owner else ""
    return node.id if isinstance(node, ast.Name) else ""


def problems(path: Path, where: str) -> Iterator[tuple[int, str]]:
    """Line and reason of everything in a file that might run code from a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import | ast.ImportFrom) and where != DOOR:
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            yield from ((node.lineno, f"imports {name}") for name in names if name.split(".")[0] in UNPICKLERS)
        if isinstance(node, ast.Call):
            yield from ((node.lineno, reason) for reason in _of_call(node, where))


def _of_call(call: ast.Call, where: str) -> Iterator[str]:
    name, given = name_of(call.func), {word.arg: word.value for word in call.keywords if word.arg is not None}
    if name in FORBIDDEN_CALLS:
        yield f"calls {name}"
    yield from (f"passes {word}" for word in FORBIDDEN_ARGUMENTS & given.keys())
    if "shell" in given and not _is(given["shell"], False):
        yield "runs a shell"
    if "weights_only" in given and not _is(given["weights_only"], True):
        yield "passes weights_only with a value other than True"
    if name == "torch.load" and (where != DOOR or "weights_only" not in given):
        yield f"calls torch.load outside {DOOR}, or without weights_only=True"
    if name.endswith("Image.open") and "formats" not in given:
        yield "opens a picture without a list of formats"
    if name.endswith("Model.from_pretrained") and not _is(given.get("use_safetensors"), True):
        yield "loads a model without use_safetensors=True"


def _is(node: ast.expr | None, value: bool) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def main(source: Path = SOURCE) -> int:
    found = []
    files = sorted(source.rglob("*.py"))
    for path in files:
        where = path.relative_to(source).as_posix()
        found += [f"{where}:{line}: {reason}" for line, reason in problems(path, where)]
    print("\n".join(found) or f"no module of {len(files)} executes foreign code")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:2])))
