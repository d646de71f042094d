"""Run a training repeatedly, each time in a process that is killed at a random moment or during a write, until one finishes.

    python -m tests.training.killing RECIPE.pickle KILLS SEED

Importing once and forking makes thirty kills take a minute. Prints how many processes were killed while writing.
"""

import os
import pickle
import random
import signal
import sys
import time
from pathlib import Path

from rcodsr.training.recipe import Recipe
from rcodsr.training.run import Run


def main(recipe: Recipe, kills: int, seed: int) -> None:
    chance, writing = random.Random(seed), 0
    for number in range(kills):
        child = os.fork()
        if child == 0:
            Run(recipe, _silent).go()
            os._exit(0)
        _wait(recipe.output / "metrics.jsonl", chance)
        if number % 2:
            _wait_for_a_write(recipe.output)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            raise SystemExit("the run ended before it could be killed often enough")
        writing += _is_writing(recipe.output)
    Run(recipe, _silent).go()
    print(writing)


def _wait(journal: Path, chance: random.Random) -> None:
    """Usually wait until the run is under way for a while, sometimes less."""
    before, patience = _size(journal), time.monotonic() + (20 if chance.random() < 0.8 else chance.uniform(0, 1))
    while _size(journal) == before and time.monotonic() < patience:
        time.sleep(0.005)
    time.sleep(chance.uniform(0, 0.35))


def _wait_for_a_write(output: Path) -> None:
    """Wait until a state or the checkpoint is being written: a random moment alone may miss that in a few kills."""
    patience = time.monotonic() + 20
    while not _is_writing(output) and time.monotonic() < patience:
        pass


def _is_writing(output: Path) -> bool:
    return bool(list((output / "states").glob(".*.part"))) or (output / ".checkpoint.new").exists()


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _silent(_: str) -> None:
    pass


if __name__ == "__main__":
    main(pickle.loads(Path(sys.argv[1]).read_bytes()), int(sys.argv[2]), int(sys.argv[3]))
