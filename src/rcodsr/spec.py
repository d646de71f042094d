"""Frozen dataclasses ↔ tables of TOML or JSON, for untrusted files. Standard library only.

Bounds are annotations of the fields: `blocks: Annotated[int, Range(1, 32)]`. They are checked however a spec is created, from
a file or in Python, so that a file cannot describe anything of absurd size.
"""

from __future__ import annotations

import dataclasses
import math
import re
import typing
from collections.abc import Iterable, Iterator, Sized
from dataclasses import dataclass
from datetime import date, datetime
from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from rcodsr.errors import UsageError
from rcodsr.messages import nearest


@dataclass(frozen=True)
class Range:
    """Bounds of a number, both inclusive. For a whole number also its divisor."""

    least: float
    most: float = math.inf
    multiple: int = 1

    def holds(self, number: float) -> bool:
        """Whether a number is finite and within the bounds."""
        return self.least <= number <= self.most and number != math.inf and (self.multiple == 1 or number % self.multiple == 0)

    def in_words(self, whole: bool) -> str:
        """Text for errors, such as `a whole number from 1 to 32`."""
        what = f"a multiple of {self.multiple}" if self.multiple > 1 else "a whole number" if whole else "a number"
        return f"{what} from {self.least:g} {'upwards' if self.most == math.inf else f'to {self.most:g}'}"


@dataclass(frozen=True)
class Length:
    """Bounds on the number of entries in a list or characters in a text, both inclusive."""

    least: int
    most: int

    def holds(self, value: Sized) -> bool:
        """Whether the length of a list or text is within the bounds."""
        return self.least <= len(value) <= self.most

    def __str__(self) -> str:
        return f"{self.least}" if self.least == self.most else f"{self.least} to {self.most}"


class Note(Enum):
    """Further annotations of a field."""

    FREE = "may differ when a run is resumed, because it does not decide the result"
    WEIGHTS = "weights, which decide the result by their contents, not by their path"
    IDENTIFIER = "a name of letters, digits, dots and dashes"


Share = Annotated[float, Range(0, 1)]
NonNegative = Annotated[float, Range(0)]
Width = Annotated[int, Range(1, 16384)]
"""Number of a layer's channels."""

# bounds of fields without their own
_NUMBERS = {int: Range(0, 16384), float: Range(-1e6, 1e6)}
_ENTRIES, _CHARACTERS = Length(1, 8), Length(0, 1000)
_IDENTIFIER = re.compile(r"\w[\w.-]{0,99}")
_SHOWN = 50
"""Maximum characters of a value repeated in an error."""
_Bounds = TypeVar("_Bounds", Range, Length)


class Spec:
    """Base of the dataclasses for configuration files. They check their fields, and convert from and to tables."""

    kind: ClassVar[str] = ""
    """Distinguishes the alternative specs of a field."""
    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]

    def __post_init__(self) -> None:
        """Reject fields with a wrong type or out of bounds.

        Raises:
            UsageError: naming the field and its allowed values.
        """
        for name, hint in _hints(type(self)).items():
            _check(name, getattr(self, name), hint)

    def to_dict(self, without: Note | None = None) -> dict[str, Any]:
        """Convert to JSON-ready dictionaries and lists, without fields that carry the note `without`, at any depth."""
        hints = {name: hint for name, hint in _hints(type(self)).items() if without not in _notes(hint)}
        values = {name: _plain(getattr(self, name), without) for name in hints}
        return {"kind": self.kind, **values} if self.kind else values

    def noted(self, note: Note) -> dict[str, Any]:
        """Values of the fields that carry a note, by dotted name, at any depth."""
        found: dict[str, Any] = {}
        for name, hint in _hints(type(self)).items():
            value = getattr(self, name)
            if note in _notes(hint):
                found[name] = value
            elif isinstance(value, Spec):
                found |= {f"{name}.{inner}": each for inner, each in value.noted(note).items()}
        return found

    @classmethod
    def from_dict(cls, values: object, path: str = "") -> Self:
        """Build the spec from a table. Lists become tuples, nested tables specs, and texts paths where the field is a path.

        Args:
            values: contents of a TOML or JSON file.
            path: dotted path of the table in the file, with which errors begin.

        Raises:
            UsageError: naming the field by its dotted path, its allowed values, and the nearest name for a misspelt one.
        """
        if not isinstance(values, dict):
            raise UsageError(path or cls.__name__, f"{_shown(values)} is not a table")
        hints = _hints(cls)
        for key in values:
            if key not in hints:
                raise UsageError(_join(path, _shown(key).strip("'")), "unknown name", _nearest_field(cls, str(key), path))
        for field in dataclasses.fields(cls):
            if field.name not in values and field.default is field.default_factory is dataclasses.MISSING:
                raise UsageError(_join(path, field.name), "not given", f"set it to {_expected(hints[field.name])}")
        given = {name: _rich(value, hints[name], _join(path, name)) for name, value in values.items()}
        try:
            return cls(**given)
        except UsageError as error:
            raise UsageError(_join(path, error.subject), error.cause, error.remedy) from error

    @classmethod
    def takes_text(cls, path: str) -> bool:
        """Whether the field at a dotted path is a text or a path, so that `2024` or `true` is a name."""
        hints: list[Any] = [cls]
        for step in path.split("."):
            hints = [inner for hint in hints for option, _ in _options(hint) for inner in _within(option, step)]
        return any(option in (str, Path) for hint in hints for option, _ in _options(hint))


# ---- annotations


_read: dict[type[Spec], dict[str, Any]] = {}


def _hints(cls: type[Spec]) -> dict[str, Any]:
    """Annotation of each field, evaluated once per class."""
    if cls not in _read:
        hints = typing.get_type_hints(cls, include_extras=True)
        _read[cls] = {field.name: hints[field.name] for field in dataclasses.fields(cls)}
    return _read[cls]


def _notes(hint: Any) -> tuple[Any, ...]:
    return hint.__metadata__ if typing.get_origin(hint) is Annotated else ()


def _options(hint: Any) -> list[tuple[Any, tuple[Any, ...]]]:
    """Types that an annotation allows, each with its notes."""
    notes = _notes(hint)
    bare = typing.get_args(hint)[0] if notes else hint
    if typing.get_origin(bare) not in (typing.Union, UnionType):
        return [(bare, notes)]
    return [(option, (*inner, *notes)) for each in typing.get_args(bare) for option, inner in _options(each)]


def _noted(notes: tuple[Any, ...], default: _Bounds) -> _Bounds:
    """The bounds among a field's notes, or else the default."""
    return next((note for note in notes if isinstance(note, type(default))), default)


def _is_spec(option: Any) -> bool:
    return isinstance(option, type) and issubclass(option, Spec)


def _within(option: Any, step: str) -> tuple[Any, ...]:
    """Annotation of the value that `step` leads to inside a value of this type. Empty if there is none."""
    if _is_spec(option):
        return (_hints(option)[step],) if step in _hints(option) else ()
    arguments = typing.get_args(option)
    return {tuple: arguments[:1], dict: arguments[1:]}.get(typing.get_origin(option), ())


def _fields(cls: type[Spec]) -> Iterator[str]:
    """Dotted names of all fields, at any depth."""
    for name, hint in _hints(cls).items():
        yield name
        for option, _ in _options(hint):
            entries = typing.get_origin(option) is tuple
            inner = typing.get_args(option)[0] if entries else option
            if _is_spec(inner):
                yield from (f"{name}{'.0' if entries else ''}.{field}" for field in _fields(inner))


# ---- reading


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _rich(value: Any, hint: Any, path: str) -> Any:
    """Convert a file's value to the type of its annotation. A value that does not fit is kept for `_check` to refuse."""
    options = _options(hint)
    if isinstance(value, dict) and (specs := [option for option, _ in options if _is_spec(option)]):
        return _nested(value, specs, path)
    for option, _ in options:
        if typing.get_origin(option) is tuple and isinstance(value, list):
            inner = typing.get_args(option)[0]
            return tuple(_rich(item, inner, f"{path}.{i}") for i, item in enumerate(value))
        if option in (str, Path) and (text := _text(value)) is not None:
            return option(text)
    return value


def _nested(values: dict[str, Any], alternatives: list[type[Spec]], path: str) -> Spec:
    kind = values.get("kind", "")
    for alternative in alternatives:
        if alternative.kind == kind:
            return alternative.from_dict({key: value for key, value in values.items() if key != "kind"}, path)
    kinds = [alternative.kind for alternative in alternatives]
    raise UsageError(f"{path}.kind", f"{_shown(kind)} is not possible", choose(kind, kinds))


def _text(value: object) -> str | None:
    """The value as text, also if TOML read another type: `photos = 2024`, `photos = true`, `photos = 2024-05-01`."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | int) or (isinstance(value, date) and not isinstance(value, datetime)):
        return str(value)
    return None


def _plain(value: Any, without: Note | None) -> Any:
    if isinstance(value, Spec):
        return value.to_dict(without)
    if isinstance(value, tuple):
        return [_plain(item, without) for item in value]
    return str(value) if isinstance(value, Path) else value


# ---- checking


def _check(name: str, value: Any, hint: Any) -> None:
    if _fits(value, hint):
        return
    choices = [typing.get_args(option) for option, _ in _options(hint) if typing.get_origin(option) is Literal]
    remedy = choose(value, choices[0]) if choices else f"use {_expected(hint)}"
    raise UsageError(name, f"{_shown(value)} is not possible", remedy)


def _fits(value: Any, hint: Any) -> bool:
    """Whether an annotation allows a value."""
    return any(_fits_one(value, option, notes) for option, notes in _options(hint))


def _fits_one(value: Any, option: Any, notes: tuple[Any, ...]) -> bool:
    origin, arguments = typing.get_origin(option), typing.get_args(option)
    if origin is Literal:
        return any(type(value) is type(choice) and value == choice for choice in arguments)
    if origin is tuple:
        long_enough = isinstance(value, tuple) and _entries(arguments, notes).holds(value)
        return long_enough and all(_fits(item, arguments[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(_fits(k, arguments[0]) and _fits(v, arguments[1]) for k, v in value.items())
    if option in _NUMBERS:
        kinds = int if option is int else int | float
        return isinstance(value, kinds) and not isinstance(value, bool) and _noted(notes, _NUMBERS[option]).holds(value)
    if option is str:
        free = Note.IDENTIFIER not in notes or _IDENTIFIER.fullmatch(str(value)) is not None
        return isinstance(value, str) and free and _CHARACTERS.holds(value)
    return isinstance(value, option)


def _entries(arguments: tuple[Any, ...], notes: tuple[Any, ...]) -> Length:
    """Bounds on the number of entries in a tuple."""
    return _noted(notes, _ENTRIES) if arguments[-1] is Ellipsis else Length(len(arguments), len(arguments))


# ---- texts of errors


def _expected(hint: Any) -> str:
    """Description of the values that an annotation allows."""
    words = (_in_words(option, notes) for option, notes in _options(hint) if option is not NoneType)
    return " or ".join(dict.fromkeys(words))


def _in_words(option: Any, notes: tuple[Any, ...]) -> str:
    origin, arguments = typing.get_origin(option), typing.get_args(option)
    if origin is Literal:
        return ", ".join(map(str, arguments))
    if origin is tuple:
        return f"a list of {_entries(arguments, notes)} entries, each {_expected(arguments[0])}"
    if origin is dict:
        return f"a table whose values are each {_expected(arguments[1])}"
    if option in _NUMBERS:
        return _noted(notes, _NUMBERS[option]).in_words(whole=option is int)
    if option is str:
        return Note.IDENTIFIER.value if Note.IDENTIFIER in notes else f"a text of {_CHARACTERS} characters"
    if _is_spec(option):
        return f"a table of {', '.join(_hints(option))}"
    return "true or false" if option is bool else "a path, in quotes"


def choose(value: object, choices: Iterable[Any]) -> str:
    """Remedy for an unknown name: the nearest known one, and all of them."""
    known = [*map(str, choices)]
    near = nearest(value, known) if isinstance(value, str) else None
    listed = ", ".join(known)
    return f"did you mean {near}? It may be {listed}" if near else f"use {'one of ' if len(known) > 1 else ''}{listed}"


def _nearest_field(cls: type[Spec], name: str, path: str) -> str:
    """Suggest fields for a misspelt one: those of the same name at another depth, or the nearest spelling."""
    below: dict[str, list[str]] = {}
    for field in dict.fromkeys(_fields(cls)):
        for spelling in {field, field.rpartition(".")[2]}:
            below.setdefault(spelling, []).append(field)
    close = nearest(name, _hints(cls)) or nearest(name, below)
    near = below.get(name) or (below[close] if close else [])
    if near:
        return f"did you mean {' or '.join(_join(path, field) for field in near[:3])}?"
    return f"use one of {', '.join(_hints(cls))}"


def _shown(value: object) -> str:
    text = repr(value) if isinstance(value, str) else str([*value] if isinstance(value, tuple) else value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"
