"""The one reader of configuration files, on specs of its own."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import pytest

from rcodsr.errors import UsageError
from rcodsr.spec import Length, Note, Range, Share, Spec, choose


@dataclass(frozen=True)
class Round(Spec):
    kind: ClassVar[str] = "round"
    radius: Annotated[float, Range(0.5, 2)] = 1.0


@dataclass(frozen=True)
class Square(Spec):
    kind: ClassVar[str] = "square"
    sides: tuple[Annotated[int, Range(1, 4)], Annotated[int, Range(1, 4)]] = (1, 1)
    color: Literal["red", "green"] = "red"


@dataclass(frozen=True)
class Drawing(Spec):
    name: Annotated[str, Note.IDENTIFIER]
    shape: Round | Square = field(default_factory=Round)
    layers: Annotated[tuple[Square, ...], Length(0, 2)] = ()
    width: Annotated[int, Range(8, 64, multiple=8)] = 8
    paper: Annotated[Path | None, Note.FREE] = None
    ink: Annotated[Share, Note.FREE, Note.WEIGHTS] = 0.5
    mix: dict[str, Share] = field(default_factory=dict)
    count: int = 0
    title: str | None = None


def _refused(values: dict[str, object], path: str = "") -> str:
    with pytest.raises(UsageError) as caught:
        Drawing.from_dict({"name": "a", **values}, path)
    return str(caught.value)


def test_tables_become_specs_and_lists_tuples() -> None:
    values = {
        "name": "a.b-1",
        "shape": {"kind": "square", "sides": [2, 3]},
        "layers": [{"kind": "square"}, {"kind": "square", "color": "green"}],
        "width": 64,
        "ink": 1,
        "mix": {"x": 0.5},
    }
    drawing = Drawing.from_dict(values)
    assert drawing == Drawing("a.b-1", Square((2, 3)), (Square(), Square(color="green")), 64, None, 1, {"x": 0.5})
    assert Drawing.from_dict(drawing.to_dict()) == drawing
    assert drawing.to_dict()["shape"] == {"kind": "square", "sides": [2, 3], "color": "red"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"width": 65}, "width: 65 is not possible; use a multiple of 8 from 8 to 64"),
        ({"width": 20}, "width: 20 is not possible; use a multiple of 8 from 8 to 64"),
        ({"width": 8.0}, "width: 8.0 is not possible"),
        ({"width": True}, "width: True is not possible"),
        ({"width": "8"}, "width: '8' is not possible"),
        ({"width": None}, "width: None is not possible"),
        ({"ink": 1.01}, "ink: 1.01 is not possible; use a number from 0 to 1"),
        ({"ink": float("nan")}, "ink: nan is not possible"),
        ({"count": 16385}, "count: 16385 is not possible; use a whole number from 0 to 16384"),
        ({"count": 10**400}, "count: 1000"),
        ({"shape": {"kind": "round", "radius": 0.4}}, "shape.radius: 0.4 is not possible; use a number from 0.5 to 2"),
        ({"shape": {"kind": "round", "radius": float("inf")}}, "shape.radius: inf is not possible"),
        ({"shape": {"kind": "rond"}}, "shape.kind: 'rond' is not possible; did you mean round? It may be round, square"),
        ({"shape": {"kind": []}}, "shape.kind: [] is not possible; use one of round, square"),
        ({"shape": 5}, "shape: 5 is not possible; use a table of radius or a table of sides, color"),
        (
            {"shape": {"kind": "square", "sides": [1]}},
            "shape.sides: [1] is not possible; use a list of 2 entries, each a whole",
        ),
        ({"shape": {"kind": "square", "sides": [1, 5]}}, "shape.sides: [1, 5] is not possible"),
        ({"shape": {"kind": "square", "color": "gren"}}, "shape.color: 'gren' is not possible; did you mean green?"),
        ({"layers": [{"kind": "square", "colour": 1}]}, "layers.0.colour: unknown name; did you mean layers.0.color?"),
        ({"layers": [{"kind": "square"}] * 3}, "layers: "),
        ({"mix": {"x": 2}}, "mix: {'x': 2} is not possible; use a table whose values are each a number from 0 to 1"),
        ({"name": "../evil"}, "name: '../evil' is not possible; use a name of letters, digits, dots and dashes"),
        ({"title": "x" * 1001}, "title: 'xxx"),
        ({"paper": 1.5}, "paper: 1.5 is not possible; use a path, in quotes"),
        ({"raduis": 1}, "raduis: unknown name; did you mean shape.radius?"),
        ({"nmae": 1}, "nmae: unknown name; did you mean name?"),
        ({"color": 1}, "color: unknown name; did you mean shape.color or layers.0.color?"),
        ({"quux": 1}, "quux: unknown name; use one of name, shape, layers, width, "),
        ({"radius": 1}, "radius: unknown name; did you mean shape.radius?"),
    ],
)
def test_errors_name_the_field_its_bounds_and_the_nearest_name(values: dict[str, object], message: str) -> None:
    told = _refused(values)
    assert told.startswith(message), told
    assert len(told) < 300
    assert _refused(values, "file.part").startswith(f"file.part.{message.partition(';')[0]}")


def test_what_is_missing_and_what_is_no_table_are_named() -> None:
    with pytest.raises(UsageError, match=r"^deep\.name: not given; set it to a name of letters"):
        Drawing.from_dict({}, "deep")
    with pytest.raises(UsageError, match=r"^Drawing: \[\] is not a table"):
        Drawing.from_dict([])


@pytest.mark.parametrize(("width", "sound"), [(7, False), (8, True), (16, True), (12, False), (64, True), (72, False)])
def test_bounds_hold_in_python_too(width: int, sound: bool) -> None:
    if sound:
        assert replace(Drawing("a"), width=width).width == width
        return
    with pytest.raises(UsageError, match=f"^width: {width} is not possible"):
        replace(Drawing("a"), width=width)


def test_paths_and_texts_are_text_whatever_they_look_like() -> None:
    from datetime import date, datetime

    for value, text in ((2024, "2024"), (True, "true"), (date(2024, 5, 1), "2024-05-01"), ("x", "x")):
        drawing = Drawing.from_dict({"name": "a", "paper": value, "title": value})
        assert (drawing.paper, drawing.title) == (Path(text), text)
    assert _refused({"paper": datetime(2024, 5, 1)}).startswith("paper: 2024-05-01 00:00:00 is not possible")


def test_fields_are_found_by_their_dotted_path() -> None:
    assert all(Drawing.takes_text(path) for path in ("name", "paper", "title"))
    assert not any(
        Drawing.takes_text(path) for path in ("width", "shape.radius", "layers.0.color", "mix.x", "name.x", "nothing")
    )


def test_notes_select_fields_however_deep() -> None:
    @dataclass(frozen=True)
    class Folder(Spec):
        drawing: Drawing = field(default_factory=lambda: Drawing("a"))
        pages: int = 1

    folder = Folder()
    assert folder.noted(Note.WEIGHTS) == {"drawing.ink": 0.5}
    assert folder.to_dict(without=Note.FREE)["drawing"].keys() == Drawing("a").to_dict().keys() - {"paper", "ink"}


def test_the_nearest_of_several_names() -> None:
    assert choose("ful", ["light", "full"]) == "did you mean full? It may be light, full"
    assert choose("x", ["light", "full"]) == "use one of light, full"
    assert choose(3, [4]) == "use 4"
