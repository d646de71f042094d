from collections.abc import Callable
from pathlib import Path

import pytest

from rcodsr.batch.plan import Job, plan

Touch = Callable[..., Path]


@pytest.fixture
def touch(tmp_path: Path) -> Touch:
    """Create an empty file; planning looks at names only."""

    def create(*parts: str) -> Path:
        path = tmp_path.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        return path

    return create


def target(source: Path, output: str | None = None, format: str = "auto", scale: float = 4.0) -> Path | None:
    (job,) = plan([source], output, format, scale)
    assert job.source == source
    return job.target


def names(jobs: list[Job]) -> list[str]:
    return [job.target.name for job in jobs if job.target]
