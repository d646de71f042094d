"""Restore the plan's order of results from several workers, as a single process would report them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rcodsr.batch.remote import near
from rcodsr.batch.results import Result
from rcodsr.errors import RcodsrError
from rcodsr.images import io

if TYPE_CHECKING:
    from rcodsr.batch.plan import Job

_LONGEST, _ROUNDS = 64, 4


@dataclass(frozen=True)
class Report:
    """A worker's report on one job."""

    index: int
    """Position of the job in the plan."""
    result: Result
    lasting: RcodsrError | None = None
    """A fault that every further job would meet too."""


def in_order(reports: Iterable[Report]) -> Iterator[Result]:
    """Sort results into the plan's order.

    Raises:
        RcodsrError: a lasting fault, after its own result and those that arrived before it.
    """
    waiting: dict[int, Report] = {}
    due = 0
    for report in reports:
        waiting[report.index] = report
        if report.lasting is not None:
            yield from (waiting[index].result for index in sorted(waiting, key=lambda index: (index == report.index, index)))
            raise report.lasting
        while due in waiting:
            yield waiting.pop(due).result
            due += 1


def chunk_length(left: int, workers: int) -> int:
    """How many of the remaining jobs a worker gets at once: many at first, single ones at the end."""
    return max(1, min(_LONGEST, left // (_ROUNDS * workers)))


def told_by_output(result: Result, job: Job, existed: bool) -> Result:
    """Correct the result of a job whose worker died before reporting it: the next worker skipped it, but this batch did it."""
    if result.status != "skipped" or result.own or existed or job.target is None:
        return result
    with near(job) as local:
        assert local.target is not None
        record, header = io.read_record(local.target) or {}, io.read_header(local.target)
    result.status, (result.width, result.height) = "done", header.size
    for key in ("timestep", "similarity", "consistency", "dtype", "weights"):
        setattr(result, key, record.get(key))
    result.notes = ["finished by a worker that was lost"]
    return result
