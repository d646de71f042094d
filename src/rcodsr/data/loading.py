"""Loads batches of training pairs with data workers, and handles their failures."""

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
    """Counts photos that turn out to be unreadable during a run, and ends the run if there are too many.

    A few corrupt files among thousands must not cost a night's training, but a failing disk or an incomplete download must be
    noticed. The limit is 1 % of the samples drawn, and at least 3 different files, so that a single file drawn early, or often
    from a small folder, does not end the run. A resumed run starts counting at zero.

    Args:
        log: receives one line per file, the first time it is drawn.
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
            InputError: when too many photos are unreadable.
        """
        self.samples += len(batch.hr)
        self.corrupt += len(batch.corrupt)
        for error in batch.corrupt:
            if error.subject not in self.files:
                self.files.append(error.subject)
                self.log(f"{error}; replaced by another photo")
        if len(self.files) >= self.fewest_files and self.corrupt > self.most_share * self.samples:
            raise InputError(
                self.files[0],
                f"the first of {len(self.files)} unreadable photos, drawn {self.corrupt} times in {self.samples} samples",
                "check the disk, and replace or remove them; up to 1 % of the samples is tolerated",
            )


def load(pairs: PhotoPairs, indices: Sequence[list[int]], workers: int, corrupt: CorruptPhotos) -> Iterator[RawBatch]:
    """Yield batches of the given pairs, the same for any number of workers.

    Args:
        pairs: the dataset.
        indices: indices of the pairs of each batch.
        workers: prefetching processes; 0 loads in this one.
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
    """Convert torch's report of a killed data worker into a one-line error.

    Torch raises it from a signal handler, wherever the main process currently is: mostly while waiting for a batch, but
    possibly in the middle of a training step. Wrap the whole loop, not only the loader.

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
            f"{found[2]}, probably out of memory",
            "use fewer workers or free some memory; a saved run resumes from its last state",
        ) from error


class _ErrorsAsValues(Dataset[Sample | RcodsrError]):
    """Returns our errors as values: torch would rebuild a worker's exception as a RuntimeError with its whole traceback."""

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
        # terminals, `timeout` and schedulers signal the whole group; only the main process reacts
        signal.signal(number, signal.SIG_IGN)
