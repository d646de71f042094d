"""Metrics of the paper's Table S2 that this package does not implement, through pyiqa.

pyiqa (PolyForm Noncommercial and S-Lab licences: for non-commercial use) needs torchvision and downloads its own networks, so
it is imported only on request. The configurations are those of OSEDiff's and S3Diff's test scripts.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from rcodsr.errors import UsageError, WeightsError
from rcodsr.messages import first_line

METRICS = {
    "lpips": "lpips",
    "dists": "dists",
    "niqe": "niqe",
    "musiq": "musiq",
    "maniqa": "maniqa-pipal",
    "clipiqa": "clipiqa",
    "fid": "fid",
}
"""Our columns → pyiqa's names."""
_AGAINST_TRUTH = {"lpips", "dists"}


class PaperMetrics:
    """Scores pictures as in the paper.

    Args:
        device: device of the networks.

    Raises:
        UsageError: when pyiqa is not installed or cannot be imported.
        WeightsError: when one of its networks cannot be loaded.
    """

    def __init__(self, device: str) -> None:
        create = _create_metric()
        self._metrics = {column: _created(create, name, device) for column, name in METRICS.items()}

    def __call__(self, result: Tensor, truth: Tensor) -> dict[str, float]:
        """Score one picture in every column except FID; both (3, H, W) in [0, 1]."""
        scores = {}
        for column, metric in self._metrics.items():
            if column != "fid":
                pictures = (result[None], truth[None]) if column in _AGAINST_TRUTH else (result[None],)
                scores[column] = float(metric(*pictures))
        return scores

    def fid(self, results: Path, truth: Path) -> float:
        """FID between the pictures of two folders; meaningful only for many pictures."""
        return float(self._metrics["fid"](str(results), str(truth), verbose=False))


def _create_metric() -> Callable[..., Any]:
    try:
        from pyiqa import create_metric
    except ModuleNotFoundError as error:
        if error.name == "pyiqa":
            cause = "needs pyiqa, which is not installed"
            raise UsageError("--paper", cause, "pip install pyiqa, or leave it out") from None
        raise _unusable(error) from error
    except Exception as error:  # torchvision built for another torch raises RuntimeError
        raise _unusable(error) from error
    return create_metric


def _unusable(error: Exception) -> UsageError:
    cause = f"pyiqa is installed but cannot be imported ({first_line(error)})"
    return UsageError("--paper", cause, "install torch and torchvision from one source, or leave it out")


def _created(create: Callable[..., Any], name: str, device: str) -> Any:
    try:
        return create(name, device=device)
    except Exception as error:  # downloads, files, versions
        raise WeightsError(f"pyiqa's {name}", f"cannot be loaded ({first_line(error)})", "leave out --paper") from error
