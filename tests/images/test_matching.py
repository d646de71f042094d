"""Counterparts by name."""

from pathlib import Path

import pytest

from rcodsr.errors import InputError, UsageError
from rcodsr.images.io import Piped
from rcodsr.images.matching import match


def paths(*names: str) -> list[Path]:
    return [Path(name) for name in names]


def test_the_same_stem_comes_before_the_same_stem_without_tails() -> None:
    pictures, others = paths("lr/a_x4.webp", "lr/b_LR4.png", "lr/c.png"), paths("hr/a_HR.png", "hr/a_x4.png", "hr/b_HR.png")
    assert match(pictures, others) == {pictures[0]: others[1], pictures[1]: others[2]}


def test_a_piped_picture_is_matched_by_its_name() -> None:
    picture = Piped(b"", "a_LR4")
    assert match([picture], paths("hr/a.png")) == {picture: Path("hr/a.png")}


def test_two_counterparts_are_refused() -> None:
    with pytest.raises(UsageError, match=r"hr/a_x4\.png: has the same name as hr/a_HR\.png; "):
        match(paths("lr/a.png"), paths("hr/a_HR.png", "hr/a_x4.png"))
    assert match(paths("lr/b.png"), paths("hr/a_HR.png", "hr/a_x4.png", "hr/b.png")) == {Path("lr/b.png"): Path("hr/b.png")}


def test_a_counterpart_may_be_shared_unless_pairs_are_wanted() -> None:
    pictures, others = paths("one/a.png", "two/a.png"), paths("hr/a.png")
    assert match(pictures, others) == {pictures[0]: others[0], pictures[1]: others[0]}
    with pytest.raises(InputError, match=r"two/a\.png: has the same name as one/a\.png; "):
        match(pictures, others, one_to_one=True, fault=InputError)


def test_names_below_two_directories_include_the_folders_between() -> None:
    pictures, others = paths("lr/1/a_LR4.png", "lr/2/a.png"), paths("hr/1/a_HR.png", "hr/3/a.png")
    assert match(pictures, others, below=(Path("lr"), Path("hr"))) == {pictures[0]: others[0]}
