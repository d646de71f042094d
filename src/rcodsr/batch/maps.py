"""Output paths for maps of invented detail: beside the jobs of a plan, under the names of their outputs."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

from rcodsr.batch.discovery import is_directory
from rcodsr.batch.places import RealPaths, RemotePath, place
from rcodsr.batch.plan import Job, Plan
from rcodsr.errors import UsageError

_OPTION = "--invented"


def with_maps(plan: Plan, asked: str) -> Plan:
    """The same plan, with a map path for each job.

    Args:
        plan: from `make_plan`.
        asked: value of `--invented`: a PNG file for one picture, a directory for several, or - for standard output.

    Raises:
        UsageError: when several maps would share one path, or one would replace an input or an output.
    """
    if asked == "-":
        _require_free_stream(plan)
        return plan
    if not asked:
        raise UsageError(f"{_OPTION} ''", "an empty name", "check the shell variable it came from")
    where = place(asked)
    if isinstance(where, RemotePath):
        raise UsageError(_OPTION, f"{asked} is in a store, and maps need a local path", "use a local file or folder")
    names_directory = asked.endswith(("/", os.sep)) or is_directory(where)
    if names_directory or not plan.alone:
        if not names_directory and (where.is_file() or where.suffix.lower() == ".png"):
            cause = f"{asked} names a file, but the inputs need a directory"
            raise UsageError(_OPTION, cause, f"use {_OPTION} DIRECTORY")
        jobs = _under(where, plan.jobs)
    elif where.suffix.lower() != ".png":
        raise UsageError(_OPTION, f"{asked} is not the name of a PNG file", "end it in .png, or in / for a directory")
    else:
        jobs = [replace(job, map=where) for job in plan.jobs]
    _require_apart(plan, jobs)
    return replace(plan, jobs=jobs)


def _require_free_stream(plan: Plan) -> None:
    count = len(plan.sources)
    if count != 1:
        raise UsageError(
            f"{_OPTION} -", f"{count} maps cannot share one stream", f"pass one picture or use {_OPTION} DIRECTORY"
        )
    if any(job.target is None for job in plan.jobs):
        cause = "standard output cannot carry both the picture and its map"
        raise UsageError(f"{_OPTION} -", cause, "write one of the two to a file")


def _under(directory: Path, jobs: list[Job]) -> list[Job]:
    """Name maps after their outputs, with suffix .png. On a clash, converted outputs keep their old suffix in the name."""
    claims = Counter(str(_named(directory, job)).casefold() for job in jobs)
    meeting = {job for job in jobs if claims[str(_named(directory, job)).casefold()] > 1}
    return [replace(job, map=_named(directory, job, whole=job in meeting)) for job in jobs]


def _named(directory: Path, job: Job, whole: bool = False) -> Path:
    output = job.target or Path(job.source.stem + ".png")
    kept = output.suffix if whole and output.suffix.lower() != ".png" else ""
    return directory / job.below / f"{output.stem}{kept}.png"


def _require_apart(plan: Plan, jobs: list[Job]) -> None:
    """Check that no map would replace an input, an output or another map."""
    real = RealPaths()

    def places(paths: list[Path]) -> set[str]:
        return {real.of(path).casefold() for path in paths}

    inputs = places([source for source in plan.sources if isinstance(source, Path)])
    results = places([job.target for job in jobs if job.target is not None])
    seen: set[str] = set()
    elsewhere = f"choose another path for {_OPTION}"
    for job in jobs:
        if job.map is None:
            continue
        mine = real.of(job.map).casefold()
        if mine in inputs:
            raise UsageError(
                job.map, "would overwrite an input", f"choose another path for {_OPTION}; inputs are never written"
            )
        if mine in results:
            raise UsageError(job.map, "is the path of an output", elsewhere)
        if mine in seen:
            raise UsageError(
                job.map, "would be written for two pictures", "process them separately, or distinguish them with --name"
            )
        seen.add(mine)
