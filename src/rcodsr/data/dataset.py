"""Photos → seeded training pairs."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from rcodsr.data.degradation import PRESETS, degrade
from rcodsr.errors import InputError, NoInputError
from rcodsr.images import io
from rcodsr.images.picture import to_pil


def find_photos(source: Path) -> list[Path]:
    """Pictures of a directory, recursively, in a stable order.

    Raises:
        NoInputError: when there is none.
    """
    found = (p for p in source.rglob("*") if p.suffix.lower() in io.SUFFIXES and not p.name.startswith("."))
    photos = sorted(p for p in found if p.is_file())
    if not photos:
        raise NoInputError(source, "no photos found", "point to a directory with PNG, JPEG or WebP files")
    return photos


def check_sizes(photos: list[Path], crop: int) -> None:
    """Find unreadable and too small photos by their headers, before hours of training.

    Raises:
        InputError: naming the first.
    """
    for path in photos:
        if min(io.read_header(path).size) < crop:
            raise InputError(path, f"smaller than the {crop}-pixel crop", "remove it or train with a smaller crop")


class PhotoPairs(Dataset[tuple[Tensor, Tensor]]):
    """Endless training pairs; pair i depends on (seed, i) alone. Decoded photos are kept in memory, by each worker.

    Args:
        photos: picture files, each at least as large as the crop.
        crop: side of the ground truth, in pixels.
        mix: preset name → share of the pairs.
        seed: of the whole stream.
        length: number of pairs.
        zoom_probability: share of pairs whose photo is first shrunk to 0.55–0.95.
    """

    def __init__(
        self, photos: list[Path], crop: int, mix: dict[str, float], seed: int, length: int, zoom_probability: float = 0.3
    ) -> None:
        self.photos = photos
        self.crop = crop
        self.presets = [PRESETS[name] for name in mix]
        self.shares = np.array(list(mix.values())) / sum(mix.values())
        self.seed = seed
        self.length = length
        self.zoom_probability = zoom_probability
        self._decoded: dict[Path, np.ndarray] = {}

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Pair `index`: ground truth (3, crop, crop) and its degraded version (3, crop/4, crop/4), both in [0, 1]."""
        rng = np.random.default_rng((self.seed, index))
        hr = self._crop(self.photos[rng.integers(len(self.photos))], rng)
        preset = self.presets[rng.choice(len(self.presets), p=self.shares)]
        return hr, degrade(hr, preset, (self.seed, index, 1))

    def _crop(self, path: Path, rng: np.random.Generator) -> Tensor:
        pixels = self._load(path)
        if rng.random() < self.zoom_probability:
            share = rng.uniform(0.55, 0.95)
            sides = [max(self.crop, round(side * share)) for side in pixels.shape[:2]]
            pixels = np.asarray(Image.fromarray(pixels).resize((sides[1], sides[0]), Image.Resampling.LANCZOS))
        top, left = (int(rng.integers(side - self.crop + 1)) for side in pixels.shape[:2])
        patch = pixels[top : top + self.crop, left : left + self.crop]
        if rng.random() < 0.5:
            patch = patch[:, ::-1]
        if rng.random() < 0.5:
            patch = patch.transpose(1, 0, 2)
        return torch.from_numpy(patch.copy()).permute(2, 0, 1).float() / 255

    def _load(self, path: Path) -> np.ndarray:
        if path not in self._decoded:
            self._decoded[path] = np.asarray(to_pil(io.read(path)).convert("RGB"))
        return self._decoded[path]


def batches(pairs: PhotoPairs, batch: int, first: int, steps: int) -> Iterator[list[int]]:
    """Indices of `steps` batches starting at batch number `first`."""
    for step in range(first, first + steps):
        start = step * batch
        yield [i % len(pairs) for i in range(start, start + batch)]
