"""A release is refused where its version, its citation and the changelog disagree; workflows pin what they run."""

import re
import runpy
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
problems = runpy.run_path(str(ROOT / "tools" / "check_release.py"))["problems"]


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    for name in ("CHANGELOG.md", "CITATION.cff", "src/rcodsr/version.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    changelog = tmp_path / "CHANGELOG.md"
    released = re.sub(
        r"^## Unreleased\n.*?(?=^## )", "## Unreleased\n\n", changelog.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE
    )
    changelog.write_text(released, encoding="utf-8")
    return tmp_path


def _version() -> str:
    match = re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text("utf-8"), re.MULTILINE)
    assert match
    return match[1]


def test_a_tag_that_agrees_has_no_problems(sources: Path) -> None:
    assert problems(f"v{_version()}", sources) == []


def test_another_tag_is_refused(sources: Path) -> None:
    assert len(problems("v99.0.0", sources)) == 3


def test_entries_under_unreleased_are_refused(sources: Path) -> None:
    changelog = sources / "CHANGELOG.md"
    changelog.write_text(changelog.read_text("utf-8").replace("## Unreleased\n", "## Unreleased\n\n- A change.\n"), "utf-8")
    assert problems(f"v{_version()}", sources) == ["CHANGELOG.md has entries under Unreleased, or no such section"]


def test_the_readme_and_the_citation_name_one_paper() -> None:
    named = [re.findall(r"10\.\d{4,}/[\w.]+", (ROOT / name).read_text("utf-8")) for name in ("README.md", "CITATION.cff")]
    assert named[0] == named[1] != []


def test_nobody_is_sent_to_a_package_that_is_not_published() -> None:
    """The name is free on PyPI: anyone may register it."""
    folders = ("docs", "integrations", "recipes", "src", "tools")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in {".md", ".py", ".toml"}]
    sent = re.compile(r"pip install .?rcodsr|pypi\.org/project/rcodsr")
    assert [path.name for path in (ROOT / "README.md", *files) if sent.search(path.read_text("utf-8"))] == []


def test_actions_are_pinned_by_commit() -> None:
    used = [
        line.strip()
        for path in (ROOT / ".github" / "workflows").glob("*.yml")
        for line in path.read_text("utf-8").splitlines()
        if "uses:" in line
    ]
    assert used
    assert [line for line in used if not re.search(r"@[0-9a-f]{40} # v[\d.]+$", line)] == []
