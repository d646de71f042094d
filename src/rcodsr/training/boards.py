"""Where a run's curves and pictures are watched: TensorBoard, Weights & Biases; through accelerate's trackers."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import Tensor

from rcodsr.errors import OutputError, UsageError
from rcodsr.messages import Log, first_line

_ID = "wandb_id"
"""File of a run's directory by which Weights & Biases goes on with the same curves."""


def require_trackers(trackers: Sequence[str]) -> None:
    """See that what was asked for is installed. TensorBoard, which is there by default, may be missing.

    Raises:
        UsageError: naming what to install.
    """
    if "wandb" in trackers and not (_installed("wandb") and _installed("accelerate")):
        raise UsageError(
            "trackers", "Weights & Biases is not installed", "pip install accelerate wandb, or leave wandb out of trackers"
        )


class Boards:
    """The boards of a run.

    Args:
        trackers: tensorboard, wandb.
        run: the run's directory.
        step: steps done; what an earlier attempt has shown of later ones is dropped.
        settings: of the run, JSON-ready.
        log: receives a note for each board that is not installed.

    Raises:
        OutputError: when Weights & Biases cannot be reached or does not know the user.
    """

    def __init__(self, trackers: Sequence[str], run: Path, step: int, settings: Mapping[str, Any], log: Log) -> None:
        self._open: dict[str, Any] = {}
        if "tensorboard" in trackers:
            self._open |= _tensorboard(run, step, log)
        if "wandb" in trackers:
            self._open["wandb"] = _wandb(run, step, settings)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Points of curves, by name."""
        for board in self._open.values():
            board.log(dict(values), step=step)

    def picture(self, name: str, picture: Tensor, step: int) -> None:
        """A picture (3, H, W) in [0, 1]."""
        pixels = (picture.clamp(0, 1) * 255).round().byte().permute(1, 2, 0)[None].numpy()
        for kind, board in self._open.items():
            board.log_images({name: pixels}, step=step, **({"dataformats": "NHWC"} if kind == "tensorboard" else {}))

    def close(self) -> None:
        """Finish all boards."""
        for board in self._open.values():
            board.finish()


def _tensorboard(run: Path, step: int, log: Log) -> dict[str, Any]:
    if not (_installed("tensorboard") and _installed("accelerate")):
        missing = "TensorBoard is not installed (pip install accelerate tensorboard)"
        log(f"{missing}; metrics.jsonl holds everything except the pictures")
        return {}
    from accelerate.tracking import TensorBoardTracker  # type: ignore[import-untyped]

    board = TensorBoardTracker("tensorboard", run, purge_step=step + 1)
    board.start()
    return {"tensorboard": board}


def _wandb(run: Path, step: int, settings: Mapping[str, Any]) -> Any:
    from accelerate.tracking import WandBTracker

    known = run / _ID
    if step == 0 or not known.is_file():
        known.write_text(uuid.uuid4().hex[:8], encoding="utf-8")
    board = WandBTracker("rcodsr", dir=str(run), name=run.name, id=known.read_text(encoding="utf-8"), resume="allow")
    try:
        board.start()
    except Exception as error:  # its own kinds, of an account, a network, a server
        remedy = "log in with `wandb login`, set WANDB_MODE=offline, or leave wandb out of trackers"
        raise OutputError("Weights & Biases", f"does not start ({first_line(error)})", remedy) from error
    board.store_init_configuration(dict(settings))
    return board


def _installed(module: str) -> bool:
    return find_spec(module) is not None
