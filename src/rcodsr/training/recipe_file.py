"""Recipe files: TOML, overridden by `key=value` arguments. The paper's ablations are settings here, not code."""

import json
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

from rcodsr.checkpoints.config import read_config
from rcodsr.checkpoints.manifest import project_file, recipe_names
from rcodsr.checkpoints.named import find_weights
from rcodsr.data.photos import find_photos
from rcodsr.errors import UsageError
from rcodsr.parts import ClipSpec
from rcodsr.spec import Note, choose
from rcodsr.training.recipe import Recipe
from rcodsr.variants import VARIANTS, VariantSpec

_NO_PHOTOS = "no photos given"


def find_recipe(name: str) -> Path:
    """Find a recipe file: a path, or the name of one that comes with the package, such as `rcod-o` or `ablations/tiny`.

    Raises:
        UsageError: when neither exists.
    """
    packaged = project_file("recipes")
    for path in (Path(name), packaged / f"{name}.toml", packaged.parent / name):  # recipes/rcod-o.toml, as written in the docs
        if path.is_file():
            return path
    raise UsageError(name, "no such recipe", f"{choose(name.removesuffix('.toml'), recipe_names())}, or a TOML file")


def read_recipe(path: Path, overrides: list[str]) -> Recipe:
    """Read a recipe and apply `key=value` overrides (`photos=DIR`, `optim.ema=0.99`, `phases.0.steps=100`).

    The table `for` lists overrides by variant, in command-line form; they apply if `generator` is of that variant.

    Raises:
        UsageError: when the file or an override is not valid; names the field at fault.
        WeightsError: when such a table needs weights that are not available.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(path, f"cannot be read ({error.strerror})", "pass a recipe file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(path, f"not a TOML file ({error})", "correct it, or pass a recipe") from error
    if isinstance(values.get("variant"), str):
        values["variant"] = {"name": values["variant"]}
    overrides = [*_of_variant(values, overrides), *overrides]
    for override in overrides:
        _override(values, override)
        if isinstance(values.get("variant"), str):  # overrides may change parts of it
            values["variant"] = {"name": values["variant"]}
    if "photos" not in values:
        raise UsageError(path, _NO_PHOTOS, "add photos=DIRECTORY")
    try:
        if "variant" in values:
            values["variant"] = _variant(values["variant"])
        return Recipe.from_dict(values)
    except UsageError as error:
        keys = [override.partition("=")[0] for override in overrides]
        if any(f"{error.subject}.".startswith(f"{key}.") for key in keys):
            raise  # the command line is at fault, not the file
        raise UsageError(f"{path}: {error.subject}", error.cause, error.remedy) from error


def recipe_to_show(path: Path, overrides: list[str]) -> Recipe:
    """Same as `read_recipe`, with required but missing values replaced by placeholders such as PHOTOS.

    Raises:
        UsageError: as in `read_recipe`, except for missing values.
    """
    missing: dict[str, str] = {}
    while True:
        try:
            return read_recipe(path, [*missing.values(), *overrides])
        except UsageError as error:
            name = "photos" if error.cause == _NO_PHOTOS else error.subject.rpartition(": ")[2]
            if name in missing or not error.cause.startswith(("not given", _NO_PHOTOS)):
                raise
            missing[name] = f"{name}={name.rpartition('.')[2].upper()}"


def require_files(recipe: Recipe) -> None:
    """Check that the recipe's photos and weight files exist, before torch is loaded.

    Raises:
        UsageError: names the field and the missing file.
        NoInputError: when there are no photos.
    """
    if not recipe.photos.exists():
        find_photos(recipe.photos)
    for name, weights in recipe.noted(Note.WEIGHTS).items():
        if isinstance(weights, Path) and not weights.exists():
            raise UsageError(name, f"{weights}: no such file", "check the path")


def _of_variant(values: dict[str, Any], overrides: list[str]) -> list[str]:
    """Overrides from the recipe's `for` table for the variant of the weights that it extends."""
    tables = values.pop("for", {})
    if not isinstance(tables, dict):
        raise UsageError("for", "not a table", 'write [for] and, below, rcod-o = ["phases.0.crop=512"]')
    given = [override.partition("=")[2] for override in overrides if override.startswith("generator=")]
    weights = given[-1] if given else values.get("generator")
    if not tables or weights is None:
        return []
    name = read_config(find_weights(weights).directory).spec.name
    return [str(override) for override in tables.get(name, [])]


def _variant(chosen: Any) -> VariantSpec:
    """A named variant, or a table of a name and its nested differences."""
    changes = dict(chosen) if isinstance(chosen, dict) else {"name": chosen}
    name = changes.pop("name", "rcod-tiny")
    if name not in VARIANTS:
        raise UsageError("variant.name", f"unknown variant '{name}'", choose(name, VARIANTS))
    spec = VariantSpec.from_dict(_changed(VARIANTS[name].to_dict(), changes), "variant")
    # among vision towers, only CLIP's is shared
    return spec if isinstance(spec.prompt, ClipSpec) else replace(spec, vision=None)


def _changed(values: Any, changes: Any) -> Any:
    """Recursively update a table with another; values of a different type are replaced as a whole."""
    if not (isinstance(values, dict) and isinstance(changes, dict)):
        return changes
    if "kind" in changes and changes["kind"] != values.get("kind"):
        return changes
    return values | {key: _changed(values.get(key), value) for key, value in changes.items()}


def _override(values: dict[str, Any], text: str) -> None:
    key, equals, value = text.partition("=")
    *path, last = key.split(".")
    target: Any = values
    try:
        for step in path:
            target = target[int(step)] if isinstance(target, list) else target.setdefault(step, {})
        if not equals:
            raise KeyError(key)
        target[int(last) if isinstance(target, list) else last] = _parse(key, value)
    except (KeyError, IndexError, ValueError, TypeError, AttributeError):
        raise UsageError(text, "not an override of this recipe", "write key=value, for example phases.0.steps=100") from None


def _parse(key: str, value: str) -> Any:
    """Parse a command-line value as TOML; names, paths and anything that is not TOML are taken literally."""
    try:
        parsed = tomllib.loads(f"v = {value}")["v"]
    except tomllib.TOMLDecodeError:
        return value
    return value if Recipe.takes_text(key) and not isinstance(parsed, str) else parsed


def print_recipe(recipe: Recipe) -> str:
    """Format every value of a recipe, defaults included, as readable JSON."""
    return json.dumps(recipe.to_dict(), indent=2)
