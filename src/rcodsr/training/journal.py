"""The log of a run: one JSON line per step, boards to watch, and lines for people."""

import json
import time
from collections import deque
from pathlib import Path

import torch

from rcodsr.bench.memory import peak_resident
from rcodsr.messages import Log
from rcodsr.training.boards import Boards

_SCARCE = 0.02
"""Groups with a smaller share of the samples trigger a warning: they learn nothing."""
_WINDOW = 500
"""Number of steps over which shares are averaged."""


class Journal:
    """Logs a run to its directory.

    Args:
        run: the run's directory.
        step: steps already done; lines that an interrupted attempt wrote after it are dropped.
        total: steps of the whole run.
        log: receives lines for people.
        boards: where curves and pictures are watched.
    """

    def __init__(self, run: Path, step: int, total: int, log: Log, boards: Boards) -> None:
        self.path = run / "metrics.jsonl"
        self.total, self.log = total, log
        _keep_until(self.path, step)
        self._lines = self.path.open("a", encoding="utf-8")
        self._boards = boards
        self._shares: deque[dict[str, float]] = deque(maxlen=_WINDOW)
        self._warned: set[str] = set()
        self._since, self._samples = time.monotonic(), 0

    def record(self, step: int, phase: str, facts: dict[str, float], samples: int, rate: float) -> None:
        """Log one step."""
        self._lines.write(json.dumps({"step": step, "phase": phase, "rate": rate, **facts}) + "\n")
        self._lines.flush()
        self._samples += samples
        self._shares.append({name: value for name, value in facts.items() if name.startswith("share_")})
        self._boards.scalars(facts, step)
        if step % 50 == 0 or step == self.total:
            self._report(step, phase, facts)

    def validation(self, step: int, sheet: torch.Tensor, scores: dict[str, float]) -> None:
        """Show a contact sheet (3, H, W) in [0, 1] and its scores as curves on the boards."""
        self._boards.picture("validation", sheet, step)
        self._boards.scalars({f"validation/{name}": value for name, value in scores.items()}, step)

    def close(self) -> None:
        """Close the log files."""
        self._lines.close()
        self._boards.close()

    def _report(self, step: int, phase: str, facts: dict[str, float]) -> None:
        seconds = time.monotonic() - self._since
        speed = self._samples / seconds if seconds else 0.0
        steps = min(50, step) / seconds if seconds else 0.0
        left = (self.total - step) / steps if steps else 0.0
        shown = "  ".join(f"{name} {value:.4g}" for name, value in facts.items() if not name.startswith("share_"))
        memory = _peak_memory()
        self.log(f"{phase} {step}/{self.total}  {shown}  {speed:.1f} img/s  {memory:.1f} GiB  {_duration(left)} left")
        self._boards.scalars({"img_per_s": speed, "peak_memory_gib": memory}, step)
        self._since, self._samples = time.monotonic(), 0
        self._warn_of_scarce_groups()

    def _warn_of_scarce_groups(self) -> None:
        for name in self._shares[-1]:
            share = sum(shares.get(name, 0.0) for shares in self._shares) / len(self._shares)
            if share < _SCARCE and name not in self._warned and len(self._shares) >= 100:
                self._warned.add(name)
                timestep = name.removeprefix("share_")
                self.log(
                    f"warning: only {share:.1%} of the samples get timestep {timestep}; change metric_min, metric_max or n"
                )


def _keep_until(path: Path, step: int) -> None:
    """Drop a truncated line and the lines of steps that the resumed run will repeat."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError, TypeError):
            continue
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
    temporary.replace(path)


def _peak_memory() -> float:
    """Peak memory so far in GiB: the GPU's, or without one, this process's."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    return peak_resident() / 2**30


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{minutes} min"
