"""Photo files for training and test sets: finding them, checking their headers, decoding them once."""

from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from rcodsr.errors import InputError, NoInputError, UsageError
from rcodsr.images import io
from rcodsr.images.lists import read_lines
from rcodsr.images.matching import match
from rcodsr.images.picture import to_pil
from rcodsr.variants import VariantSpec


def find_photos(source: Path) -> list[Path]:
    """Find the pictures of a directory, recursively, in a stable order; or those listed in a `.txt` file, in its order.

    The list has one path per line, relative to its own directory; see `images.lists`.

    Raises:
        NoInputError: when there is none.
        InputError: when the list cannot be read, or a listed file is missing; names the line.
    """
    photos = _listed(source) if source.suffix.lower() == ".txt" and source.is_file() else _contained(source)
    if not photos:
        raise NoInputError(
            source, "no photos found", "point to a directory with PNG, JPEG or WebP files, or to a .txt file that lists some"
        )
    return photos


def find_pairs(photos: Path, lr: Path) -> dict[Path, Path]:
    """Photos of a directory with their low-resolution versions: the same path in the directory `lr` up to the suffix.

    Tails of names (`images.matching.bare_stem`) may differ.

    Raises:
        UsageError: when one of both is not a directory.
        NoInputError: when there is none.
        InputError: when a photo has no counterpart or is not exactly four times as large; it names the pair.
    """
    for folder in (photos, lr):
        if not folder.is_dir():
            raise UsageError(folder, "not a directory", "photos with lr= are two directories whose files have the same names")
    high, low = find_photos(photos), find_photos(lr)
    pairs = match(high, low, below=(photos, lr), one_to_one=True, fault=InputError)
    for path in sorted((set(high) - pairs.keys()) | (set(low) - set(pairs.values()))):
        other = lr if path in high else photos
        raise InputError(path, f"has no counterpart in {other}", "remove it or add the other half of the pair")
    for photo, counterpart in pairs.items():
        (width, height), small = io.read_header(photo).size, io.read_header(counterpart).size
        if (width, height) != (VariantSpec.scale * small[0], VariantSpec.scale * small[1]):
            cause = f"{width}×{height} is not four times {small[0]}×{small[1]} of {counterpart}"
            raise InputError(photo, cause, "remove the pair or crop it to match")
    return pairs


def check_sizes(photos: list[Path], crop: int) -> None:
    """Find unreadable and too small photos by their headers, before hours of training.

    Raises:
        InputError: naming the first unreadable one, or the first too small one and how many more there are.
    """
    small = [path for path in photos if min(io.read_header(path).size) < crop]
    if small:
        others = len(small) - 1
        more = f", and {others} more {'are' if others > 1 else 'is'}" if others else ""
        raise InputError(small[0], f"smaller than the {crop}-pixel crop{more}", "remove them or use a smaller crop")


class PhotoCache:
    """A least-recently-used cache of decoded photos.

    Args:
        max_bytes: upper limit of all pixels together. Larger photos are decoded each time.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.bytes = 0
        self._decoded: OrderedDict[Path, np.ndarray] = OrderedDict()

    def fill(self, paths: list[Path]) -> None:
        """Decode photos in parallel until one no longer fits; processes forked later share this memory."""
        with ThreadPoolExecutor() as pool:
            for path, pixels in zip(paths, pool.map(_decoded_or_none, paths), strict=True):
                if pixels is None:
                    continue
                if self.bytes + pixels.nbytes > self.max_bytes:
                    pool.shutdown(wait=False, cancel_futures=True)
                    break
                self._keep(path, pixels)

    def read(self, path: Path) -> np.ndarray:
        """Pixels of a photo, shape (H, W, 3), uint8, transparency laid on white; not to be written to.

        Raises:
            InputError: when the file is not a whole picture.
        """
        if path in self._decoded:
            self._decoded.move_to_end(path)
            return self._decoded[path]
        pixels = _decoded(path)
        if pixels.nbytes <= self.max_bytes:
            self._keep(path, pixels)
        while self.bytes > self.max_bytes:
            self.bytes -= self._decoded.popitem(last=False)[1].nbytes
        return pixels

    def _keep(self, path: Path, pixels: np.ndarray) -> None:
        self._decoded[path] = pixels
        self.bytes += pixels.nbytes


def _decoded(path: Path) -> np.ndarray:
    return np.asarray(to_pil(io.read(path).laid_on()).convert("RGB"))


def _decoded_or_none(path: Path) -> np.ndarray | None:
    """Return None for an unreadable photo, which is reported when it is drawn."""
    try:
        return _decoded(path)
    except InputError:
        return None


def _contained(directory: Path) -> list[Path]:
    found = (p for p in directory.rglob("*") if p.suffix.lower() in io.SUFFIXES and not p.name.startswith("."))
    return sorted(p for p in found if p.is_file())


def _listed(source: Path) -> list[Path]:
    try:
        lines = read_lines(source, source.read_bytes())
    except OSError as error:
        raise InputError(source, f"cannot be read ({error.strerror})", "check its permissions") from error
    photos = []
    for number, line in lines:
        if not line.strip():
            continue
        photos.append(source.parent / line.strip())
        if not photos[-1].is_file():
            remedy = "list one path per line, relative to the list's directory"
            raise InputError(f"{source}:{number}", f"no file {photos[-1]}", remedy)
    return photos
