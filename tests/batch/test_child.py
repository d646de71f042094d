"""What processes of `-j` say to their parent."""

from multiprocessing import Pipe
from pathlib import Path
from queue import SimpleQueue

import torch
from PIL import Image

from rcodsr.batch import child
from rcodsr.batch.order import Report
from rcodsr.batch.plan import Job
from rcodsr.batch.process_pool import _Pool, _Worker
from rcodsr.batch.results import Observer, WriteOptions
from rcodsr.messages import silent
from rcodsr.options import UpscaleOptions, WeightsRequest


class _Heard(Observer):
    def __init__(self) -> None:
        self.tiles: list[tuple[Job, int, int]] = []

    def tile(self, job: Job, done: int, total: int) -> None:
        self.tiles.append((job, done, total))


def test_tiles_of_a_worker_reach_whoever_watches(photo: Image.Image, tmp_path: Path) -> None:
    photo.crop((0, 0, 40, 20)).save(tmp_path / "a.png")
    job, request = Job(tmp_path / "a.png", tmp_path / "b.png"), WeightsRequest("rcod-tiny")
    options, output, heard = UpscaleOptions(tile=32, tile_overlap=4), WriteOptions(), _Heard()
    ours, theirs = Pipe()
    inbox: SimpleQueue[child.Chunk | None] = SimpleQueue()
    for message in (child.Chunk(), child.Chunk(((0, job),)), None):
        inbox.put(message)
    child._serve(theirs, inbox, request, options, output, 0, torch.get_num_threads())
    pool, worker = _Pool([job], request, options, output, 1, silent, heard), _Worker(None, ours)  # type: ignore[arg-type]
    worker.left.append(0)
    reports: list[Report] = []
    while ours.poll():
        reports += pool._heard(worker)
    assert [report.result.status for report in reports] == ["done"]
    assert heard.tiles == [(job, done, 2) for done in range(3)]
