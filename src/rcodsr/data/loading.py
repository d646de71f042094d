"""Batches of training pairs from data workers, and what can go wrong on the way."""

import re
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch.utils.data import DataLoader, Dataset

from rcodsr.data.dataset import PhotoPairs, RawBatch, Sample, collate
from rcodsr.errors import InputError, RcodsrError, WorkerError
from rcodsr.messages import Log


class CorruptPhotos:
    """Counts photos that turn out to be unreadable during a run, and ends the run when they are no exception.

    A few damaged files among thousands must not cost a night's training; a failing disk or a half-finished download must be
    noticed. The limit is 1 % of the samples drawn, but at least 3 different files, so that one file drawn early, or often from
    a small folder, is not mistaken for a pattern. A resumed run counts from the start.

    Args:
        log: receives one line per file, the first time it is met.
    """

    most_share = 0.01
    fewest_files = 3

    def __init__(self, log: Log) -> None:
        self.log = log
        self.samples = 0
        self.corrupt = 0
        self.files: list[str] = []

    def count(self, batch: RawBatch) -> None:
        """Add a batch.

        Raises:
            InputError: when there are too many.
        """
        self.samples += len(batch.hr)
        self.corrupt += len(batch.corrupt)
        for error in batch.corrupt:
            if error.subject not in self.files:
                self.files.append(error.subject)
                self.log(f"{error}; another photo took its place")
        if len(self.files) >= self.fewest_files and self.corrupt > self.most_share * self.samples:
            raise InputError(
                self.files[0],
                f"the first of {len(self.files)} unreadable photos, met {self.corrupt} times in {self.samples} samples",
                "check the disk, and replace or remove them: up to 1 % of the samples are replaced by others",
            )


def load(pairs: PhotoPairs, indices: Sequence[list[int]], workers: int, corrupt: CorruptPhotos) -> Iterator[RawBatch]:
    """Batches of the given pairs, the same for any number of workers.

    Args:
        pairs: the dataset.
        indices: pairs of each batch.
        workers: processes that read ahead; 0 reads in this one.
        corrupt: counts unreadable photos over the whole run.

    Raises:
        InputError: when too many photos are unreadable.
        WorkerError: when a worker is killed.
    """
    loader: DataLoader[Sample | RcodsrError] = DataLoader(
        _ErrorsAsValues(pairs),
        batch_sampler=indices,
        num_workers=workers,
        collate_fn=_collate,
        worker_init_fn=_begin_worker,
    )
    with naming_killed_workers():
        for batch in loader:
            if isinstance(batch, RcodsrError):
                raise batch
            corrupt.count(batch)
            yield batch


@contextmanager
def naming_killed_workers() -> Iterator[None]:
    """Turn torch's report of a killed data worker into one clear line.

    Torch raises it from a signal handler, wherever the main process happens to be: mostly while it waits for a batch, but as
    well in the middle of a training step. So this goes around the whole loop, not around the loader alone.

    Raises:
        WorkerError: instead of torch's RuntimeError.
    """
    try:
        yield
    except RuntimeError as error:
        # "DataLoader worker (pid 12) is killed by signal: Killed. " or "DataLoader worker (pid(s) 12, 13) exited unexpectedly"
        found = re.match(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (?:is )?([^.\n]*)", str(error))
        if not found:
            raise
        raise WorkerError(
            f"data worker {found[1]}",
            f"{found[2]}, most likely because memory ran out",
            "use fewer workers or free some memory; a saved run goes on where it was saved",
        ) from error


class _ErrorsAsValues(Dataset[Sample | RcodsrError]):
    """Our errors on their way from a worker: torch would rebuild one from its traceback, as a RuntimeError of many lines."""

    def __init__(self, pairs: PhotoPairs) -> None:
        self.pairs = pairs

    def __getitem__(self, index: int) -> Sample | RcodsrError:
        try:
            return self.pairs[index]
        except RcodsrError as error:
            return error


def _collate(items: list[Sample | RcodsrError]) -> RawBatch | RcodsrError:
    samples = [item for item in items if isinstance(item, Sample)]
    return collate(samples) if len(samples) == len(items) else next(item for item in items if isinstance(item, RcodsrError))


def _begin_worker(_: int) -> None:
    torch.set_num_threads(1)
    for number in (signal.SIGINT, signal.SIGTERM):
        # terminals, `timeout` and schedulers signal the whole group; the main process decides
        signal.signal(number, signal.SIG_IGN)
