"""Recipes as files: TOML, overridden by `key=value` arguments. The paper's ablations are values here, not code."""

import json
import tomllib
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rcodsr.checkpoints.manifest import project_file
from rcodsr.errors import UsageError
from rcodsr.parts import TextSpec, TinyUNetSpec
from rcodsr.training.recipe import Phase, Recipe
from rcodsr.variants import VARIANTS, VariantSpec

_GROUPING = ("n", "k", "metric", "metric_encoder", "metric_min", "metric_max")
_WEIGHTS = ("perceptual_weights", "estimator_weights", "restorer", "discriminator_start")
_PATHS = ("photos", "lr", "output", "prior", "validation", *_WEIGHTS)


def find_recipe(name: str) -> Path:
    """A recipe file: a path, or the name of one that comes with the package, as `rcod-o` or `ablations/tiny`.

    Raises:
        UsageError: when there is neither.
    """
    packaged = project_file("recipes")
    for path in (Path(name), packaged / f"{name}.toml"):
        if path.is_file():
            return path
    known = ", ".join(sorted(str(path.relative_to(packaged).with_suffix("")) for path in packaged.rglob("*.toml")))
    raise UsageError(name, "no such recipe", f"give a TOML file, or one of {known}")


def read_recipe(path: Path, overrides: list[str]) -> Recipe:
    """Read a recipe and apply `key=value` overrides (`photos=DIR`, `phases.0.steps=100`).

    Raises:
        UsageError: when the file or an override is not valid.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(path, f"cannot be read ({error.strerror})", "give a recipe file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(path, f"not a TOML file ({error})") from error
    for override in overrides:
        _override(values, override)
    if "photos" not in values:
        raise UsageError(path, "no photos given", "add photos=DIRECTORY")
    try:
        return _build(values)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(path, f"not a valid recipe ({error})") from error


def _build(values: dict[str, Any]) -> Recipe:
    values = dict(values)
    values["variant"] = _variant(values)
    values["phases"] = tuple(_phase(phase) for phase in values.get("phases", ()))
    if "degradation" in values:
        values["mix"] = {values.pop("degradation"): 1.0}
    for name in ("betas", "bounds"):
        if name in values:
            values[name] = tuple(values[name])
    for name in _PATHS:
        if name in values:
            values[name] = Path(values[name])
    return Recipe(**values)


def _phase(values: dict[str, Any]) -> Phase:
    values = dict(values)
    for name in ("learning_rate", "zoom"):
        if name in values:
            values[name] = tuple(values[name])
    return Phase(**values)


def _variant(values: dict[str, Any]) -> VariantSpec:
    """The named variant with the recipe's ablations, which are taken out of `values`.

    `ldg=false` fixes the timestep: one group, whose interval is `timestep`.
    """
    spec = VARIANTS[values.pop("variant", "rcod-tiny")]
    grouping = replace(spec.grouping, **{name: values.pop(name) for name in _GROUPING if name in values})
    kind, timestep = values.pop("grouping", "groups"), values.pop("timestep", 500)
    if kind not in {"groups", "continuous"}:
        raise UsageError("grouping", f"'{kind}' is not known", "use groups or continuous")
    grouping = replace(grouping, continuous=kind == "continuous")
    if not values.pop("ldg", True):
        values.setdefault("das_width", grouping.k)
        grouping = replace(grouping, n=1, k=timestep)
    if isinstance(spec.unet, TinyUNetSpec):
        blocks, grain = values.pop("blocks", spec.unet.blocks), values.pop("grain", spec.unet.grain)
        spec = replace(spec, unet=replace(spec.unet, blocks=tuple(blocks), grain=grain))
    prompt = values.pop("prompt", "visual")
    if prompt not in {"visual", "text"}:
        raise UsageError("prompt", f"'{prompt}' is not known", "use visual or text")
    return replace(
        spec,
        grouping=grouping,
        prompt=spec.prompt if prompt == "visual" else TextSpec(context=spec.prompt.context),
        vision=spec.vision if prompt == "visual" else None,
        limit_overshoot=values.pop("limit_overshoot", spec.limit_overshoot),
        embedded_timestep=values.pop("t_embed", None),
        coefficient_timestep=values.pop("t_coeff", None),
    )


def _override(values: dict[str, Any], text: str) -> None:
    key, equals, value = text.partition("=")
    *path, last = key.split(".")
    target: Any = values
    try:
        for step in path:
            target = target[int(step)] if isinstance(target, list) else target.setdefault(step, {})
        if not equals:
            raise KeyError(key)
        target[int(last) if isinstance(target, list) else last] = _parse(value)
    except (KeyError, IndexError, ValueError, TypeError, AttributeError):
        raise UsageError(text, "not an override of this recipe", "write key=value, for example phases.0.steps=100") from None


def _parse(value: str) -> Any:
    try:
        return tomllib.loads(f"v = {value}")["v"]
    except tomllib.TOMLDecodeError:
        return value


def print_recipe(recipe: Recipe) -> str:
    """Every value of a recipe, defaults included, as JSON for people to read."""
    return json.dumps(asdict(recipe) | {"variant": recipe.variant.to_dict()}, default=str, indent=2)
