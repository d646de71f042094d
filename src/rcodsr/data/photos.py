"""Photo files for training and test sets: finding them, checking their headers, decoding them once."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from rcodsr.errors import InputError, NoInputError
from rcodsr.images import io
from rcodsr.images.lists import read_lines
from rcodsr.images.picture import to_pil
from rcodsr.messages import Log


def find_photos(source: Path) -> list[Path]:
    """Find the pictures of a directory, recursively, in a stable order; or those listed in a `.txt` file, in its order.

    The list has one path per line, relative to its own directory; see `images.lists`.

    Raises:
        NoInputError: when there are no pictures.
        InputError: when the list cannot be read, or a listed file is missing; names the line.
    """
    photos = _listed(source) if source.suffix.lower() == ".txt" and source.is_file() else _contained(source)
    if not photos:
        raise NoInputError(
            source, "no photos found", "point to a directory with PNG, JPEG or WebP files, or to a .txt file that lists some"
        )
    return photos


def check_sizes(photos: list[Path], crop: int) -> None:
    """Reject unreadable and too small photos by their headers, before hours of training.

    Raises:
        InputError: names the first unreadable photo, or the first that is too small and the number of others.
    """
    small = [path for path in photos if min(io.read_header(path).size) < crop]
    if small:
        raise InputError(small[0], f"smaller than the {crop}-pixel crop{_and_more(small)}", "remove them or use a smaller crop")


def leave_out_small(sides: Mapping[Path, int], crop: int, log: Log) -> list[Path]:
    """Select photos that a crop fits into, and log the number of the others.

    Args:
        sides: the shorter side of each photo, in pixels.
        crop: side of the crop, in pixels.
        log: receives at most one line.

    Raises:
        InputError: when all photos are too small.
    """
    small = [path for path, side in sides.items() if side < crop]
    if len(small) == len(sides):
        raise InputError(small[0], f"smaller than the {crop}-pixel crop{_and_more(small)}", "use larger ones or a smaller crop")
    if small:
        are = "is" if len(small) == 1 else "are"
        log(f"{len(small)} of {len(sides)} photos {are} smaller than the {crop}-pixel crop and left out, {small[0]} first")
    return [path for path, side in sides.items() if side >= crop]


def _and_more(paths: list[Path]) -> str:
    others = len(paths) - 1
    return f", and {others} more {'are' if others > 1 else 'is'}" if others else ""


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

    def read(self, path: Path, prepared: Callable[[np.ndarray], np.ndarray] | None = None) -> np.ndarray:
        """Pixels of a photo, shape (H, W, 3), uint8, composited on white; read-only.

        Args:
            path: the photo.
            prepared: applied to its pixels before they are cached; must be the same for a photo every time.

        Raises:
            InputError: when the file is not an intact picture.
        """
        if path in self._decoded:
            self._decoded.move_to_end(path)
            return self._decoded[path]
        pixels = _decoded(path) if prepared is None else prepared(_decoded(path))
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
