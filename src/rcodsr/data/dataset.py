"""Seeded training pairs from photos."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from rcodsr.data.degradation import Degradation, apply, degrade_batch, sample_degradation
from rcodsr.data.pairs import covered, shrunk_to_low
from rcodsr.data.photos import PhotoCache
from rcodsr.data.presets import PRESETS
from rcodsr.errors import InputError
from rcodsr.variants import VariantSpec

_MOST_REDRAWS = 20


@dataclass(frozen=True)
class Sample:
    """One training pair, as returned by a data worker."""

    hr: Tensor
    """Shape (3, crop, crop), uint8."""
    lr: Tensor | Degradation
    """Shape (3, crop/4, crop/4), uint8; or the degradation that makes it from `hr`."""
    corrupt: tuple[InputError, ...]
    """Photos drawn for this pair that could not be read."""
    text: str = ""
    """The photo's caption, if the dataset has captions."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A batch of training pairs on a device."""

    hr: Tensor
    """Ground truth, shape (B, 3, H, W), float32 in [0, 1]."""
    lr: Tensor
    """Low resolution, shape (B, 3, H/4, W/4), float32 in [0, 1]."""
    samples: tuple[int, ...] = ()
    """Index of each pair within the whole run; seeds its random draws."""
    texts: tuple[str, ...] = ()
    """The photos' captions; empty strings for photos without one."""


@dataclass(frozen=True, kw_only=True)
class RawBatch:
    """A batch of training pairs from a loader: in bytes, and not yet degraded if the device is to do so."""

    hr: Tensor
    """Shape (B, 3, crop, crop), uint8."""
    lr: Tensor | tuple[Degradation, ...]
    """Shape (B, 3, crop/4, crop/4), uint8; or the degradations that make it from `hr`."""
    corrupt: tuple[InputError, ...]
    texts: tuple[str, ...] = ()

    def to_batch(self, device: torch.device | str = "cpu", samples: tuple[int, ...] = ()) -> Batch:
        """Move the pairs to a device as floats, and degrade those that the workers have not.

        Args:
            device: device of the batch.
            samples: index of each pair within the whole run.
        """
        hr = _to_float(self.hr.to(device))
        lr = _to_float(self.lr.to(device)) if isinstance(self.lr, Tensor) else degrade_batch(hr, self.lr)
        return Batch(hr=hr, lr=lr, samples=samples, texts=self.texts)


def collate(samples: list[Sample]) -> RawBatch:
    """Stack samples of one dataset into a batch, in order."""
    lr = [sample.lr for sample in samples]
    made, planned = [x for x in lr if isinstance(x, Tensor)], [x for x in lr if isinstance(x, Degradation)]
    return RawBatch(
        hr=torch.stack([sample.hr for sample in samples]),
        lr=torch.stack(made) if made else tuple(planned),
        corrupt=tuple(error for sample in samples for error in sample.corrupt),
        texts=tuple(sample.text for sample in samples),
    )


class PhotoPairs(Dataset[Sample]):
    """Endless training pairs; pair i depends only on (seed, i) and the photos.

    Photos that cannot be read are reported with the sample; the sample's own generator draws a replacement.

    Args:
        photos: picture files, each at least as large as the crop.
        crop: side of the ground truth, in pixels, a multiple of 4.
        mix: preset name → share of the pairs.
        seed: seed of the whole stream.
        length: number of pairs.
        zoom_probability: share of pairs whose photo is first zoomed.
        lr: low-resolution version of each photo (`pairs.find_pairs`); disables zoom and degradation.
        degrade: degrade in the data worker; otherwise the batch is degraded on the trainer's device.
        cache: decoded photos; None creates one of 1 GiB in each worker.
        zoom: range of factors by which zoomed photos are resized.
        transpose: transpose half of the pairs, in addition to mirroring.
        captions: text of each photo.
    """

    def __init__(
        self,
        photos: list[Path],
        crop: int,
        mix: dict[str, float],
        seed: int,
        length: int,
        zoom_probability: float = 0.3,
        lr: dict[Path, Path] | None = None,
        degrade: bool = True,
        cache: PhotoCache | None = None,
        zoom: tuple[float, float] = (0.55, 0.95),
        transpose: bool = True,
        captions: dict[Path, str] | None = None,
    ) -> None:
        self.photos = photos
        self.crop = crop
        self.presets = [PRESETS[name] for name in mix]
        self.shares = np.array(list(mix.values())) / sum(mix.values())
        self.seed = seed
        self.length = length
        self.zoom_probability = zoom_probability
        self.zoom = zoom
        self.lr = lr
        self.transpose = transpose
        self.captions = captions or {}
        self.degrade = degrade
        self.cache = PhotoCache(1 << 30) if cache is None else cache

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        """Return pair `index`.

        Raises:
            InputError: when 20 photos in a row cannot be read.
        """
        rng = np.random.default_rng((self.seed, index))
        path, decoded, corrupt = self._draw(rng)
        text = self.captions.get(path, "")
        if self.lr is not None:
            hr, low = self._cut(decoded, rng)
            return Sample(hr, low, corrupt, text)
        (hr,) = self._cut([self._zoom(decoded[0], rng)], rng)
        preset = self.presets[rng.choice(len(self.presets), p=self.shares)]
        degradation = sample_degradation(preset, (self.seed, index, 1), self.crop, self.crop, VariantSpec.scale)
        return Sample(hr, _to_bytes(apply(_to_float(hr), degradation)) if self.degrade else degradation, corrupt, text)

    def _draw(self, rng: np.random.Generator) -> tuple[Path, list[np.ndarray], tuple[InputError, ...]]:
        """A readable photo, its pixels (and its low-resolution version's), and the errors of the photos drawn before it."""
        corrupt: list[InputError] = []
        while True:
            path = self.photos[rng.integers(len(self.photos))]
            try:
                return path, self._read(path), tuple(corrupt)
            except InputError as error:
                corrupt.append(error)
                if len(corrupt) == _MOST_REDRAWS:
                    raise InputError(
                        path, f"{error.cause}, like the {_MOST_REDRAWS - 1} photos drawn before it", error.remedy
                    ) from error

    def _read(self, path: Path) -> list[np.ndarray]:
        hr = self.cache.read(path)
        decoded = [hr] if self.lr is None else self._pair(path, hr, self.lr[path])
        if min(decoded[0].shape[:2]) < self.crop:  # replaced since its header was checked
            raise InputError(path, f"smaller than the {self.crop}-pixel crop", "remove it or use a smaller crop")
        return decoded

    def _pair(self, path: Path, hr: np.ndarray, counterpart: Path) -> list[np.ndarray]:
        """A photo and its low-resolution version, cropped to their common area."""
        height, width = hr.shape[:2]
        lr = self.cache.read(counterpart, partial(shrunk_to_low, photo=(height, width)))
        shown = covered((height, width), (lr.shape[0], lr.shape[1]))
        if shown is None:
            raise InputError(path, f"not four times as large as {counterpart}", "remove the pair or crop it to match")
        return [hr[: shown[0], : shown[1]], lr[: shown[0] // VariantSpec.scale, : shown[1] // VariantSpec.scale]]

    def _zoom(self, pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if rng.random() >= self.zoom_probability:
            return pixels
        share = rng.uniform(*self.zoom)
        height, width = (max(self.crop, round(side * share)) for side in pixels.shape[:2])
        return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS))

    def _cut(self, decoded: list[np.ndarray], rng: np.random.Generator) -> list[Tensor]:
        """Cut the same random crop, randomly mirrored (and transposed), from a photo and any low-resolution version."""
        grid = 1 if len(decoded) == 1 else VariantSpec.scale  # crops of pairs start at a low-resolution pixel
        top, left = (grid * int(rng.integers((side - self.crop) // grid + 1)) for side in decoded[0].shape[:2])
        patches = [
            pixels[top // scale : (top + self.crop) // scale, left // scale : (left + self.crop) // scale]
            for pixels, scale in zip(decoded, (1, VariantSpec.scale), strict=False)
        ]
        if rng.random() < 0.5:
            patches = [patch[:, ::-1] for patch in patches]
        if self.transpose and rng.random() < 0.5:
            patches = [patch.transpose(1, 0, 2) for patch in patches]
        return [torch.from_numpy(patch.transpose(2, 0, 1).copy()) for patch in patches]


def batches(pairs: PhotoPairs, batch: int, first: int, steps: int) -> Iterator[list[int]]:
    """Yield the indices of `steps` batches, starting at batch number `first`."""
    for step in range(first, first + steps):
        start = step * batch
        yield [i % len(pairs) for i in range(start, start + batch)]


def _to_float(pixels: Tensor) -> Tensor:
    return pixels.float() / 255


def _to_bytes(x: Tensor) -> Tensor:
    return (x * 255).round().byte()
