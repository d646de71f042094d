"""Frozen dataclasses ↔ plain dictionaries, for configuration files that anybody may have written. Standard library only.

What is read is checked value by value: type, range, alternatives. A file can describe nonsense, but nothing of absurd size.
"""

from __future__ import annotations

import dataclasses
import math
import re
import typing
from types import NoneType, UnionType
from typing import Any, ClassVar, Literal, Self

_LARGEST = 16384
"""Any whole number that `_RANGES` does not name: widths, most of all."""
_RANGES = {
    "alpha": (1e-3, 1e4),
    "blocks": (1, 32),
    "coefficient_timestep": (1, 999),
    "embedded_timestep": (0, 999),
    "estimator_blocks": (0, 32),
    "image_side": (1, 1024),
    "layers": (1, 64),
    "least_side": (1, 4096),
    "levels": (1, 4),
    "pool": (0, 64),
    "scale": (1, 8),
    "scaling": (1e-3, 1e3),
    "tile": (32, 4096),
    "tile_overlap": (0, 1024),
    "tokens": (1, 1024),
    "unet_rank": (1, 1024),
    "vae_rank": (0, 1024),
    "window": (16, 4096),
}
"""Fields whose size costs time or memory before any file of weights is compared with it."""
_LONGEST_LIST = 8
_LONGEST_TEXT = 1000
_NAME = re.compile(r"\w[\w.-]{0,99}")


class Spec:
    """Reading and writing of the nested spec dataclasses as plain dictionaries."""

    kind: ClassVar[str] = ""
    """Tells the alternatives of a field apart, where it has any."""

    def to_dict(self) -> dict[str, Any]:
        """The spec as JSON-ready dictionaries and lists."""
        values = {f.name: _plain(getattr(self, f.name)) for f in dataclasses.fields(self)}  # type: ignore[arg-type]
        return {"kind": self.kind, **values} if self.kind else values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Build the spec from a dictionary; lists become tuples, nested dictionaries nested specs.

        Raises:
            KeyError: on a key or a kind the spec does not have.
            ValueError: on a value of another type or beyond its range.
        """
        hints = typing.get_type_hints(cls)
        names = {f.name for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
        if not isinstance(values, dict):
            raise ValueError(f"{cls.__name__} is no table")
        if unknown := sorted(str(key) for key in values.keys() - names):
            raise KeyError(f"unknown {cls.__name__} keys: {', '.join(unknown[:5])}")
        return cls(**{name: _rich(name, value, hints[name]) for name, value in values.items()})


def _plain(value: Any) -> Any:
    if isinstance(value, Spec):
        return value.to_dict()
    return list(value) if isinstance(value, tuple) else value


def _rich(name: str, value: Any, hint: Any) -> Any:
    """A value as the annotation of its field says.

    Raises:
        ValueError: when it is none of that.
    """
    options = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, UnionType) else (hint,)
    if value is None and NoneType in options:
        return None
    specs = [option for option in options if isinstance(option, type) and issubclass(option, Spec)]
    if specs:
        return _nested(name, value, specs)
    (wanted,) = (option for option in options if option is not NoneType)
    origin, arguments = typing.get_origin(wanted), typing.get_args(wanted)
    if origin is tuple and isinstance(value, list | tuple) and 1 <= len(value) <= _LONGEST_LIST:
        if Ellipsis in arguments or len(arguments) == len(value):
            return tuple(_rich(name, item, arguments[0]) for item in value)
    elif (origin is Literal and isinstance(value, str) and value in arguments) or (
        origin is None and _is_sound(name, value, wanted)
    ):
        return value
    raise ValueError(f"{name} = {str(value)[:50]}: not what it may be")


def _nested(name: str, value: Any, alternatives: list[type[Spec]]) -> Spec:
    if not isinstance(value, dict):
        raise ValueError(f"{name} is no table")
    values = dict(value)
    kind = values.pop("kind", "")
    for alternative in alternatives:
        if alternative.kind == kind:
            return alternative.from_dict(values)
    raise KeyError(f"{name} has the unknown kind '{str(kind)[:50]}'")


def _is_sound(name: str, value: Any, wanted: type) -> bool:
    if wanted is bool or isinstance(value, bool):
        return wanted is bool and isinstance(value, bool)
    if wanted is str:
        limit = _LONGEST_TEXT
        return isinstance(value, str) and len(value) <= limit and (name != "name" or _NAME.fullmatch(value) is not None)
    if not isinstance(value, int if wanted is int else int | float) or not math.isfinite(value):
        return False
    least, most = _RANGES.get(name, (0, _LARGEST) if wanted is int else (-1e6, 1e6))
    return least <= value <= most
