"""Prove the package's import order: every import points to a lower layer, so there are no cycles.

{errors, messages} < config < spec < parts < variants < {diffusion, images} < {models, data} < checkpoints < engine
< {batch, bench, report} < training < cli

Imports that only a type checker sees count as well. A package may import its own modules, as long as these do not form a cycle.
"""

import ast
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "rcodsr"
LAYERS = (
    {"errors", "messages"},
    {"config"},
    {"spec"},
    {"parts"},
    {"variants"},
    {"diffusion", "images"},
    {"models", "data"},
    {"checkpoints"},
    {"engine"},
    {"batch", "bench", "report"},
    {"training"},
    {"cli"},
)
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}


def imports(path: Path) -> set[str]:
    """Modules of the package that a file imports, as dotted names below `rcodsr`."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("rcodsr."):
            module = node.module.removeprefix("rcodsr.")
            below = SOURCE / module.replace(".", "/")
            found |= {f"{module}.{alias.name}" if below.is_dir() else module for alias in node.names}
    return found


def main() -> int:
    problems = []
    graph: dict[str, set[str]] = {}
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        if len(parts) == 1 and parts[0] not in RANK:
            continue  # the public face and the entry point stand above all layers
        module = ".".join(parts)
        graph[module] = imports(path)
        for other in graph[module]:
            mine, theirs = parts[0], other.split(".")[0]
            if mine != theirs and RANK[theirs] >= RANK[mine]:
                problems.append(f"{module} imports {other}, which is not in a lower layer")
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        problems.append(f"cycle: {' → '.join(error.args[1])}")
    print("\n".join(problems) or f"import order holds for {len(graph)} modules")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
