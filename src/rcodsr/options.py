"""Options that a user can set: levels, formats, and the options of one picture. Standard library only."""

from __future__ import annotations

import hashlib
import math
import os
import re
from dataclasses import dataclass, field
from functools import cached_property
from importlib.util import find_spec
from typing import Literal

from rcodsr.errors import InputError, UsageError

DEFAULT_WEIGHTS = "rcod-small"
"""Weights used by default."""

LEVELS = {"fidelity": 0.0, "neutral": 0.5, "realism": 1.0}
"""Words of `--realism` and their values."""

LAST_TIMESTEP = 999
"""Largest index of the 1000-step training schedule."""

OUTPUT_FORMATS = {"png": ".png", "jpg": ".jpg", "webp": ".webp", "tiff": ".tif", "bmp": ".bmp", "avif": ".avif", "jxl": ".jxl"}
"""Words of `--format` and the suffixes of their files."""

PIXELS = 3
"""Revision of the pixels, increased when the same input, weights and options produce another picture than before."""
MAX_OUTPUT_PIXELS = 200_000_000
"""Default maximum pixels of one output: a 12-megapixel photo enlarged ×4, about 8 GB of memory."""

ColorFix = Literal["wavelet", "adain", "none"]
COLOR_FIXES: tuple[ColorFix, ...] = ("wavelet", "adain", "none")
Dtype = Literal["auto", "fp32", "bf16", "fp16"]
Protected = Literal["text"]
AdaptiveBy = Literal["image", "tile"]


@dataclass(frozen=True)
class WeightsRequest:
    """Weights, their source, settings fixed for all pictures when they are loaded, and device and dtype."""

    name: str = DEFAULT_WEIGHTS
    """Name in the manifest, checkpoint directory, organisation/repository, or `random:VARIANT[:SEED]`."""
    revision: str | None = None
    """Commit, branch or tag of a repository."""
    base_model: str | None = None
    """Directory or repository that replaces the diffusion base of an adapter."""
    offline: bool = False
    """Contact no server, use only cached files."""
    device: str = "auto"
    dtype: str = "auto"
    prompt: str | None = None
    """Replaces a fixed text prompt."""
    guidance: float | None = None
    """Scale of S3Diff's guidance, which needs a second U-Net pass."""
    as_published: bool = False
    """Take pictures as the weights' own authors' script does."""

    @property
    def dtypes(self) -> tuple[str, ...]:
        """Dtypes that `dtype` may resolve to on any machine, with any weights."""
        return ("fp32", "bf16", "fp16") if self.dtype == "auto" else (self.dtype,)


def prompt_digest(prompt: str) -> str:
    """Short digest of a text, for ids."""
    return hashlib.sha256(prompt.encode()).hexdigest()[:8]


def from_environment(name: str) -> tuple[str, str] | None:
    """Default of an option from the variable RCODSR_NAME, and its name for errors. None if unset or empty."""
    variable = f"RCODSR_{name.upper()}"
    value = os.environ.get(variable)
    return (value, f"{variable}={value}") if value else None


MAX_MAP_LEVELS = 5
"""Maximum number of levels in a realism map. A tile needs one U-Net pass per level in it."""


MAX_SCALE = 8.0
"""Largest enlargement. More would gain nothing, since the model's own scale is 4."""


def output_size(size: tuple[int, int], scale: float) -> tuple[int, int]:
    """Width and height of a picture enlarged by `scale`, rounded, at least one pixel."""
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


@dataclass(frozen=True)
class TargetSize:
    """Final size of a picture in pixels, instead of a factor. 0 leaves a value open."""

    width: int = 0
    height: int = 0
    short: int = 0
    long: int = 0

    @classmethod
    def parse(cls, text: str) -> TargetSize:
        """Parse `WxH`, `Wx`, `xH`, `short=N` or `long=N`.

        Raises:
            UsageError: when the text has another form.
        """
        found = re.fullmatch(r"(?:([1-9]\d{0,5})?x([1-9]\d{0,5})?)|(short|long)=([1-9]\d{0,5})", text)
        if found is None or text == "x":
            raise UsageError("--size", f"'{text}' is not a valid size", "use WIDTHxHEIGHT, WIDTHx, xHEIGHT, short=N or long=N")
        if found[3]:
            return cls(**{found[3]: int(found[4])})
        return cls(int(found[1] or 0), int(found[2] or 0))

    def __str__(self) -> str:
        """The size in the form that `parse` reads."""
        if self.short or self.long:
            return f"short={self.short}" if self.short else f"long={self.long}"
        return f"{self.width or ''}x{self.height or ''}"

    def of(self, size: tuple[int, int]) -> tuple[int, int]:
        """Output width and height for a picture of this width and height, with its aspect ratio.

        Raises:
            InputError: when the picture would be stretched, or enlarged more than 8 times.
        """
        wanted = ((self.width, size[0]), (self.height, size[1]), (self.short, min(size)), (self.long, max(size)))
        factors = [pixels / side for pixels, side in wanted if pixels]
        if max(factors) > 1.01 * min(factors):
            remedy = "use WIDTHx, xHEIGHT, short=N or long=N, or crop it"
            raise InputError("--size", f"{self} would stretch a picture of {size[0]}×{size[1]}", remedy)
        if max(factors) > MAX_SCALE:
            raise InputError("--size", f"{self} would enlarge it {max(factors):.1f} times", "use at most 8 times")
        width, height = output_size(size, factors[0])
        return self.width or width, self.height or height


def realism_hint(value: float) -> str:
    """Remedy for an out-of-range realism value."""
    if 1.0 < value <= 100.0:
        return f"did you mean {value / 100:g}? 0 stays with the evidence, 1 fills in believable texture"
    return "use a number from 0 (stay with the evidence) to 1 (believable texture), or fidelity, neutral, realism"


def parse_realism(text: str) -> float:
    """Parse `--realism`: a number from 0 to 1, or fidelity, neutral, realism.

    Raises:
        UsageError: for anything else.
    """
    word = text.strip().lower()
    if word in LEVELS:
        return LEVELS[word]
    try:
        value = float(word.removesuffix("%"))
    except ValueError:
        raise UsageError("--realism", f"'{text}' is not a valid realism level", realism_hint(math.nan)) from None
    if word.endswith("%") or not (math.isfinite(value) and 0.0 <= value <= 1.0):
        raise UsageError("--realism", f"'{text}' is not between 0 and 1", realism_hint(value))
    return value


def parse_format(text: str) -> str:
    """Parse `--format`: auto or a word of `OUTPUT_FORMATS`, in any case. jpeg and tif mean jpg and tiff.

    Raises:
        UsageError: for anything else.
    """
    word = text.lower().removeprefix(".")
    word = {"jpeg": "jpg", "tif": "tiff"}.get(word, word)
    if word != "auto" and word not in OUTPUT_FORMATS:
        raise UsageError("--format", f"'{text}' is not an output format", f"use auto, {', '.join(OUTPUT_FORMATS)}")
    if word == "jxl" and find_spec("pillow_jxl") is None:
        raise UsageError("--format", "jxl needs pillow-jxl-plugin", "pip install pillow-jxl-plugin")
    return word


def parse_tile(tile: int | str | None) -> int | None:
    """Parse `--tile`: None for auto, 0 for off, or a number of input pixels.

    Raises:
        UsageError: for anything else.
    """
    if isinstance(tile, str) and tile not in {"auto", "off"} and not tile.isdecimal():
        raise UsageError("--tile", f"'{tile}' is not a valid tile size", "use auto, off or a number of input pixels")
    return None if tile is None or tile == "auto" else 0 if tile == "off" else int(tile)


@dataclass(frozen=True)
class Level:
    """One realism for the whole picture.

    Raises:
        UsageError: when it is not in [0, 1].
    """

    realism: float
    """0 stays with the evidence, 1 fills in believable texture."""

    def __post_init__(self) -> None:
        """Check the range."""
        if not (math.isfinite(self.realism) and 0.0 <= self.realism <= 1.0):
            raise UsageError("--realism", f"{self.realism:g} is not between 0 and 1", realism_hint(self.realism))


@dataclass(frozen=True)
class Adaptive:
    """Realism chosen by the degradation, Eq. (5): of the whole picture, or of each tile.

    Raises:
        UsageError: when `by` is neither image nor tile.
    """

    by: AdaptiveBy = "image"

    def __post_init__(self) -> None:
        """Check the word."""
        if self.by not in {"image", "tile"}:
            raise UsageError("--adaptive-by", f"'{self.by}' is not known", "use image or tile")


@dataclass(frozen=True)
class RealismMap:
    """A realism level per pixel, created by `images.maps` from a mask. It has the size of the picture or of its output."""

    width: int
    height: int
    levels: tuple[float, ...]
    """Realism values in [0, 1], at most `MAX_MAP_LEVELS`."""
    indices: bytes = field(repr=False)
    """Index of each pixel's level, row by row, one byte per pixel."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.width, self.height

    @property
    def parts(self) -> tuple[float, ...]:
        """Share of the map's pixels for each level."""
        return tuple(self.indices.count(bytes([i])) / len(self.indices) for i in range(len(self.levels)))

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the map's contents, independent of its file."""
        said = f"{self.width}x{self.height} {self.levels} ".encode()
        return hashlib.sha256(said + self.indices).hexdigest()

    def require_fit(self, subject: object, size: tuple[int, int], enlarged: tuple[int, int]) -> None:
        """Refuse a picture that the map does not fit.

        Args:
            subject: the picture, for the message.
            size: width and height of the picture.
            enlarged: width and height of its output.

        Raises:
            UsageError: naming all three sizes.
        """
        if self.size in (size, enlarged):
            return
        mine, small, large = (f"{width}×{height}" for width, height in (self.size, size, enlarged))
        cause = f"the realism map is {mine}, and the picture is {small}"
        raise UsageError(subject, cause, f"use a map of {small} pixels, or of the output's {large} pixels")


Control = Level | Adaptive | RealismMap
"""Control of how much may be invented."""


def choose_control(
    realism: float | str | None = None, adaptive: AdaptiveBy | None = None, realism_map: RealismMap | None = None
) -> Control | None:
    """Choose the requested control from its three forms.

    Args:
        realism: a number from 0 to 1. Text is parsed by `parse_realism`.
        adaptive: choose by the degradation of the image or of each tile.
        realism_map: a realism level per pixel.

    Raises:
        UsageError: when two are requested, or one is out of range.
    """
    if adaptive is not None and realism is not None:
        raise UsageError("-a", "contradicts -r", "use only one of the two")
    if realism_map is not None and (adaptive is not None or realism is not None):
        raise UsageError("--realism-map", f"contradicts {'-a' if realism is None else '-r'}", "use only one of the two")
    if realism is not None:
        return Level(parse_realism(realism) if isinstance(realism, str) else float(realism))
    return realism_map if adaptive is None else Adaptive(adaptive)


@dataclass(frozen=True)
class UpscaleOptions:
    """Options of one picture. `None` means the checkpoint's own value.

    Raises:
        UsageError: when a value is out of range.
    """

    control: Control | None = None
    """How much may be invented. None: the weights' fixed timestep, or `default_realism` for weights with a knob."""
    default_realism: float = LEVELS["neutral"]
    scale: float = 4.0
    """Final enlargement. If it differs from the model's own scale, one resize follows."""
    size: TargetSize | None = None
    """Final size, instead of `scale`."""
    tile: int | None = None
    """Tile side in input pixels. None chooses it, 0 disables tiling."""
    tile_overlap: int | None = None
    """Input pixels shared by neighbouring tiles. None: the weights' own value."""
    color_fix: ColorFix | None = None
    protect: Protected | None = None
    """Keep regions that look like text at realism 0, whatever the control."""
    prompt: str | None = None
    """The picture's own prompt, for weights with a text prompt."""
    invented: bool = False
    """Also map the departure from the result at realism 0, at the cost of one more U-Net pass. Pixels do not change."""

    def __post_init__(self) -> None:
        """Check ranges."""
        Level(self.default_realism)
        if self.protect not in {None, "text"}:
            raise UsageError("--protect", f"'{self.protect}' is not known", "use text")
        if not (math.isfinite(self.scale) and 1.0 <= self.scale <= MAX_SCALE):
            raise UsageError("--scale", f"{self.scale:g} is not between 1 and 8", "use for example --scale 4")
        if self.color_fix not in {None, *COLOR_FIXES}:
            raise UsageError("--color-fix", f"'{self.color_fix}' is not known", f"use {', '.join(COLOR_FIXES)}")
        overlap = self.tile_overlap or 0
        if overlap < 0:
            raise UsageError("--tile-overlap", f"{overlap} is negative", "use 0 or more input pixels")
        if self.tile is not None and self.tile != 0 and self.tile < 32:
            raise UsageError("--tile", f"{self.tile} is too small", "use 32 or more input pixels, auto or off")
        if self.tile and overlap >= self.tile:
            raise UsageError(
                "--tile-overlap", f"{overlap} is not below the tile side {self.tile}", "use a quarter of it or less"
            )

    @property
    def chosen(self) -> Control:
        """The control for weights with a knob."""
        return Level(self.default_realism) if self.control is None else self.control

    def output_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Final width and height for a picture of this width and height.

        Raises:
            InputError: when `size` does not fit the picture.
        """
        return output_size(size, self.scale) if self.size is None else self.size.of(size)

    def factor(self, size: tuple[int, int]) -> float:
        """Enlargement of the picture's longer side.

        Raises:
            InputError: see `output_size`.
        """
        return self.scale if self.size is None else max(self.output_size(size)) / max(size)
