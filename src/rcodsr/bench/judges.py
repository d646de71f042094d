"""Judges of picture quality: PSNR and SSIM always; NIQE and learned distances if the user has their files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import torch

from rcodsr.bench.quality import Niqe, eight_bit, psnr_y, ssim_y
from rcodsr.checkpoints.tensors import load_strictly
from rcodsr.engine.runtime import exact_convolutions
from rcodsr.errors import WeightsError
from rcodsr.images.picture import Picture
from rcodsr.models.dists import Dists
from rcodsr.models.lpips import Lpips, LpipsAlex, LpipsSqueeze, LpipsVgg

_REMEDY = "make it with `rcodsr weights convert`, see docs/weights.md"
_LPIPS: dict[str, Callable[[], Lpips]] = {"lpips": LpipsAlex, "lpips_vgg": LpipsVgg, "lpips_squeeze": LpipsSqueeze}


@dataclass(frozen=True)
class JudgeFiles:
    """Parameter files of the judges, by score; judges without a file are skipped."""

    niqe: Path | None = None
    lpips: Path | None = None
    """LPIPS with AlexNet."""
    lpips_vgg: Path | None = None
    """LPIPS with VGG16, whose features DISTS also uses."""
    dists: Path | None = None
    lpips_squeeze: Path | None = None

    @classmethod
    def of_directory(cls, directory: Path) -> JudgeFiles:
        """Find the files listed in `FILES` in a directory.

        Raises:
            WeightsError: when there are none, or DISTS without VGG16.
        """
        found = {score: directory / name for score, name in FILES.items() if (directory / name).is_file()}
        if not found:
            cause = f"contains none of {', '.join(FILES.values())}" if directory.is_dir() else "is not a directory"
            raise WeightsError(directory, cause, "make them with `rcodsr weights convert`, see docs/weights.md")
        if "dists" in found and "lpips_vgg" not in found:
            raise WeightsError(directory / FILES["lpips_vgg"], f"missing, and {FILES['dists']} needs it", _REMEDY)
        return cls(**found)

    @property
    def missing(self) -> list[str]:
        """Names of missing files."""
        return [name for score, name in FILES.items() if getattr(self, score) is None]


FILES = {
    "lpips": "lpips_alexnet.safetensors",
    "lpips_vgg": "lpips_vgg16.safetensors",
    "dists": "dists.safetensors",
    "niqe": "niqe_pris_params.npz",
    "lpips_squeeze": "lpips_squeeze.safetensors",
}
"""File name of each score in a directory of judges."""


@dataclass(frozen=True)
class Scores:
    """Scores of one picture, or means over a set; None if a judge is missing or the picture is too small for it."""

    psnr: float
    ssim: float
    niqe: float | None = None
    lpips: float | None = None
    lpips_vgg: float | None = None
    dists: float | None = None
    lpips_squeeze: float | None = None


class Scorer:
    """Scores results against ground truth with the available judges.

    Args:
        files: the judges' parameters.
        device: device of the learned distances, which run in float32 as in the papers.

    Raises:
        WeightsError: when a file cannot be read.
    """

    def __init__(self, files: JudgeFiles | None = None, device: torch.device | str = "cpu") -> None:
        files = files or JudgeFiles()
        self.device = torch.device(device)
        self.niqe = Niqe(files.niqe) if files.niqe else None
        self.distances: dict[str, Lpips | Dists] = {}
        """Learned distances by the field of `Scores`."""
        for score, build in _LPIPS.items():
            if (path := getattr(files, score)) is not None:
                network = build()
                load_strictly(network, path)
                self.distances[score] = network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if files.dists is not None:
            vgg = self.distances.get("lpips_vgg")
            if not isinstance(vgg, LpipsVgg):
                raise WeightsError(files.dists, f"needs {FILES['lpips_vgg']} as well", _REMEDY)
            dists = Dists(vgg)
            load_strictly(dists.shares, files.dists)
            self.distances["dists"] = dists.to(self.device)

    @property
    def columns(self) -> set[str]:
        """Fields of `Scores` that are filled."""
        return {"psnr", "ssim", *self.distances} | ({"niqe"} if self.niqe else set())

    def __call__(self, result: Picture, truth: Picture) -> Scores:
        """Score one result; both pictures must have the same size, sides of at least 11 pixels. No NIQE below 192."""
        a, b = eight_bit(result.rgb), eight_bit(truth.rgb)
        side = min(result.size)
        niqe = self.niqe(a) if self.niqe and side >= 2 * Niqe.block else None
        x, y = (picture[None].to(self.device) for picture in (a, b))
        with torch.no_grad(), exact_convolutions():
            learned = {score: d(x, y).item() for score, d in self.distances.items() if side >= d.SMALLEST}
        return Scores(psnr_y(a, b), ssim_y(a, b), niqe, **learned)


def mean_scores(rows: list[Scores]) -> Scores:
    """Means over a set, each over the pictures that have the score."""

    def mean(name: str) -> float | None:
        present = [value for row in rows if (value := getattr(row, name)) is not None]
        return sum(present) / len(present) if present else None

    return Scores(**{field.name: mean(field.name) for field in fields(Scores)})  # type: ignore[arg-type]
