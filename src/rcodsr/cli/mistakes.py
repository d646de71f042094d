"""Usage errors found by Typer, as lines in our format: what was typed, what is wrong, what to type instead."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rcodsr.errors import UsageError
from rcodsr.spec import choose

_PATHLIKE = ("/", "\\", "@", "*")


def no_such_command(name: str, group: str, commands: Iterable[str]) -> UsageError:
    """An unknown word in place of a command.

    Args:
        name: as typed.
        group: the words before it, after the program's own name.
        commands: valid commands there.
    """
    if not group and (name == "-" or Path(name).suffix or any(sign in name for sign in _PATHLIKE) or _exists(name)):
        return UsageError(name, "not a command", f"to enlarge it: rcodsr upscale {name}")
    if name in {"help", "version"}:
        return UsageError(name, "no such command", f"use rcodsr {f'{group} --{name}'.strip()}")
    return UsageError(name, "no such command", f"{choose(name, commands)}; see {_help(group)}")


def one_dash_too_few(arguments: Iterable[str], options: Iterable[str], path: str) -> UsageError | None:
    """`-realism`, which a parser reads as `-r ealism`. None if there is no such slip."""
    known, before = set(options), ""
    for argument in arguments:
        name = argument.partition("=")[0]
        if len(name) > 3 and f"-{name}" in known and not before.startswith("-"):
            return UsageError(name, "no such option", f"did you mean -{name}? See {_help(path)}")
        before = argument
    return None


def usage_error(error: Any) -> UsageError:
    """Convert an exception of Typer, or of the library that parses its values.

    Args:
        error: an object with `format_message`, recognised by its class names because Typer carries a copy of Click.
    """
    kind, context = type(error).__name__, getattr(error, "ctx", None)
    path = "" if context is None else context.command_path.partition(" ")[2]
    parameter = getattr(error, "param", None)
    if kind == "NoSuchOption":
        return _no_such_option(error, path)
    if kind == "MissingParameter" and parameter is not None:
        named = _named(parameter)
        what = parameter.help.rstrip(".")
        what = what[0].lower() + what[1:] if what[:2].istitle() or what[:2] == "A " else what
        return UsageError(path, f"{named} missing", f"add {what}; see {_help(path)}")
    if kind == "BadParameter" and parameter is not None:
        return _bad_value(error, parameter, path)
    cause = error.format_message().rstrip(".")
    if extra := re.fullmatch(r"Got unexpected extra arguments?(?:\(s\))? \((.*)\)", cause):
        return UsageError(path or "rcodsr", f"takes no further arguments, but got {extra[1]}", f"remove it; see {_help(path)}")
    if kind == "BadOptionUsage":
        needs = "requires" in cause
        cause, remedy = ("needs a value", "add one") if needs else ("takes no value", "remove the value")
        return UsageError(error.option_name, cause, f"{remedy}; see {_help(path)}")
    return UsageError(path or "rcodsr", f"{cause[:1].lower()}{cause[1:]}", f"see {_help(path)}")


def _no_such_option(error: Any, path: str) -> UsageError:
    name, context = error.option_name, error.ctx
    near = ", ".join(sorted(error.possibilities or ()))
    if near:
        return UsageError(name, "no such option", f"did you mean {near}? See {_help(path)}")
    inner = getattr(context.command, "commands", {})
    having = [word for word, command in inner.items() if any(name in option.opts for option in command.params)]
    if having:
        return UsageError(
            name, "belongs to a command", f"write it after the command: rcodsr {f'{path} {having[0]}'.strip()} … {name}"
        )
    return UsageError(name, "no such option", f"see {_help(path)}")


def _bad_value(error: Any, parameter: Any, path: str) -> UsageError:
    """A value that is not a number, is out of range, or is not one of the allowed words."""
    found: list[dict[str, Any]] = getattr(error.__cause__, "errors", list)()  # pydantic's
    kind, value = (found[0]["type"], found[0]["input"]) if found else ("", "")
    source = error.ctx.get_parameter_source(parameter.name)
    from_environment = source is not None and source.name == "ENVIRONMENT"
    named = f"{parameter.envvar}={value}" if from_environment else _named(parameter)
    whole = kind.startswith("int") or isinstance(value, int)
    least, most = parameter.min, parameter.max
    if "parsing" in kind or kind.startswith(("int", "float", "less", "greater", "finite")):
        cause = f"'{value}' is not a {'whole ' * whole}number" if "parsing" in kind else f"{value} is out of range"
        bounds = f"from {least} to {most}" if most is not None else f"from {least} upwards" if least is not None else ""
        default = parameter.show_default if isinstance(parameter.show_default, str) else parameter.default
        example = f"such as {default}" if default is not None and not bounds else bounds
        remedy = f"use a {'whole ' * whole}number {example}".rstrip()
    else:
        words = [getattr(choice, "value", choice) for choice in getattr(parameter.type_descriptor, "choices", None) or ()]
        cause, remedy = f"'{value}' is not known", choose(str(value), words) if words else ""
    return UsageError(named, cause, f"{remedy}; see {_help(path)}" if remedy else f"see {_help(path)}")


def _named(parameter: Any) -> str:
    return str(parameter.opts[-1] if parameter.param_type_name == "option" else str(parameter.name).upper())


def _help(path: str) -> str:
    return f"`rcodsr {path} --help`" if path else "`rcodsr --help`"


def _exists(name: str) -> bool:
    try:
        return Path(name).exists()
    except (OSError, ValueError):
        return False
