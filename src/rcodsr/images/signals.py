"""Colours defined without an ICC profile: by PNG chunks, nclx of AVIF and HEIF, or DCF's Adobe RGB.

They are converted to an equivalent profile, or to curves for the two HDR transfer functions. Numbers of primaries and transfer
functions are those of ITU-T H.273.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

Floats = np.ndarray[Any, np.dtype[np.float64]]
Chunks = tuple[tuple[bytes, bytes], ...]
"""PNG chunks: kind and data."""

GRAY_MODES = {"1", "L", "LA", "La", "I", "F", "I;16", "I;16B", "I;16L", "I;16N"}
REFERENCE_WHITE = 203.0
"""Luminance of diffuse white in HDR, in cd/m² (ITU-R BT.2408)."""
PQ, HLG = 16, 18
_UNSPECIFIED = 2

_D65, _D50 = (0.3127, 0.3290), (0.9642, 1.0, 0.8249)
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
_BT709 = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06), _D65)
_ADOBE = ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06), _D65)
Primaries = tuple[tuple[float, float], ...]
"""Chromaticities x, y of red, green, blue and white."""
_PRIMARIES: dict[int, Primaries] = {
    1: _BT709,
    4: ((0.67, 0.33), (0.21, 0.71), (0.14, 0.08), (0.310, 0.316)),
    5: ((0.64, 0.33), (0.29, 0.60), (0.15, 0.06), _D65),
    6: ((0.630, 0.340), (0.310, 0.595), (0.155, 0.070), _D65),
    7: ((0.630, 0.340), (0.310, 0.595), (0.155, 0.070), _D65),
    9: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046), _D65),
    11: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), (0.314, 0.351)),
    12: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), _D65),
    22: ((0.630, 0.340), (0.295, 0.605), (0.155, 0.077), _D65),
}
_GAMMAS: dict[int, float | None] = {1: None, 6: None, 13: None, 14: None, 15: None, 4: 2.2, 5: 2.8, 8: 1.0, 17: 2.6}
"""Power of each transfer function. None means sRGB's own curve, which viewers also use for the camera curves of video."""
_ADOBE_GAMMA = 563 / 256
_NEAR_SRGB = 0.05
"""Relative difference of a gamma from 1/2.2 up to which it means sRGB (libpng's threshold)."""


@dataclass(frozen=True)
class Signal:
    """Colour definition of a file's values."""

    primaries: Primaries = _BT709
    gamma: float | None = None
    """Power from value to light. None for sRGB's curve."""

    @property
    def is_srgb(self) -> bool:
        """Whether it is plain sRGB."""
        return self.gamma is None and np.allclose(self.primaries, _BT709, atol=0.002)


def color_chunks(info: dict[Any, Any]) -> Chunks:
    """PNG chunks that define a picture's colours: those of its file, or equivalent ones for AVIF."""
    if (numbers := _cicp(info)) is not None:
        return ((b"cICP", bytes(numbers)), *(_hdr_chunks(info) if numbers[1] in {PQ, HLG} else ()))
    found = []
    if isinstance(intent := info.get("srgb"), int) and 0 <= intent < 4:
        found.append((b"sRGB", bytes([intent])))
    if isinstance(gamma := info.get("gamma"), float) and 0 < gamma < 100:
        found.append((b"gAMA", struct.pack(">I", round(gamma * 1e5))))
    if isinstance(numbers := info.get("chromaticity"), tuple) and len(numbers) == 8:
        found.append((b"cHRM", struct.pack(">8I", *(round(number * 1e5) for number in numbers))))
    return tuple(found)


def signal_of(chunks: Chunks) -> Signal | None:
    """Colour definition in chunks from `color_chunks`. None if HDR, unknown or invalid."""
    found = dict(chunks)
    if b"cICP" in found:
        number, transfer, matrix, full = found[b"cICP"][:4]
        if number not in _PRIMARIES or transfer not in _GAMMAS or matrix or not full:
            return None
        return Signal(_PRIMARIES[number], _GAMMAS[transfer])
    if b"sRGB" in found:
        return Signal()
    primaries: Primaries = _BT709
    gamma = None
    if b"gAMA" in found:
        stored = int.from_bytes(found[b"gAMA"]) / 1e5
        if not 0.1 < stored < 5:
            return None
        gamma = None if abs(stored * 2.2 - 1) < _NEAR_SRGB else 1 / stored
    if b"cHRM" in found:
        x_y = [number / 1e5 for number in struct.unpack(">8I", found[b"cHRM"])]
        white, *colours = zip(x_y[::2], x_y[1::2], strict=True)
        primaries = (*colours, white)
    return Signal(primaries, gamma) if _is_possible(primaries) else None


def adobe_rgb() -> Signal:
    """Colour definition of DCF's optional colour space."""
    return Signal(_ADOBE, _ADOBE_GAMMA)


def hdr_transfer(chunks: Chunks) -> int | None:
    """`PQ` or `HLG` if the chunks define it with known primaries, else None."""
    numbers = dict(chunks).get(b"cICP", b"\0\0\0\0")
    return numbers[1] if numbers[1] in {PQ, HLG} and numbers[0] in _PRIMARIES and tuple(numbers[2:4]) == (0, 1) else None


def to_d50(primaries: Primaries) -> Floats:
    """Linear light → XYZ of the profile connection space, shape (3, 3): white goes to D50 (Bradford)."""
    xyz = np.array([(x / y, 1.0, (1 - x - y) / y) for x, y in primaries])
    colours = xyz[:3].T
    to_xyz = colours * np.linalg.solve(colours, xyz[3])
    gains = (_BRADFORD @ np.array(_D50)) / (_BRADFORD @ xyz[3])
    return np.asarray(np.linalg.inv(_BRADFORD) @ np.diag(gains) @ _BRADFORD @ to_xyz)


def hdr_primaries(chunks: Chunks) -> Primaries:
    """Primaries of chunks that have an `hdr_transfer`."""
    return _PRIMARIES[dict(chunks)[b"cICP"][0]]


def hdr_light(transfer: int, values: Floats) -> Floats:
    """PQ or HLG values in [0, 1] → linear light, 1 for diffuse white and up to 49 above it (ITU-R BT.2100).

    HLG is converted for a display of 1000 cd/m², each channel separately.
    """
    if transfer == PQ:
        power = values ** (1 / 78.84375)
        light = 10_000 * ((power - 0.8359375).clip(0) / (18.8515625 - 18.6875 * power)) ** (1 / 0.1593017578125)
    else:
        scene = np.where(values <= 0.5, values**2 / 3, (np.exp((values - 0.55991073) / 0.17883277) + 0.28466892) / 12)
        light = 1000 * scene**1.2
    return np.asarray(light / REFERENCE_WHITE)


def icc_of(signal: Signal, gray: bool) -> bytes:
    """An ICC profile (version 4) of a signal, with a single curve for grey."""
    curve = _parametric(signal.gamma)
    tags = {b"desc": _text("rcodsr: colours of the input"), b"cprt": _text("CC0"), b"wtpt": _xyz(_D50)}
    if gray:
        tags[b"kTRC"] = curve
    else:
        matrix = to_d50(signal.primaries)
        tags |= {name: _xyz(column) for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), matrix.T, strict=True)}
        tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    table, data, start = b"", b"", 128 + 4 + 12 * len(tags)
    for name, tag in tags.items():
        table += name + struct.pack(">II", start + len(data), len(tag))
        data += tag + bytes(-len(tag) % 4)
    body = struct.pack(">I", len(tags)) + table + data
    header = struct.pack(">I4sI4s4s4s", 128 + len(body), b"", 0x0430_0000, b"mntr", b"GRAY" if gray else b"RGB ", b"XYZ ")
    header += struct.pack(">6H4s", 2026, 1, 1, 0, 0, 0, b"acsp") + bytes(28) + _xyz(_D50)[8:]
    return header + bytes(128 - len(header)) + body


def is_gray(image: Image.Image) -> bool:
    """Whether an image has a single colour channel."""
    return image.mode in GRAY_MODES


def _cicp(info: dict[Any, Any]) -> tuple[int, ...] | None:
    numbers = info.get("cicp")
    if not isinstance(numbers, tuple) or len(numbers) != 4 or not all(isinstance(n, int) and 0 <= n < 256 for n in numbers):
        return None
    primaries, transfer, *others = numbers
    return 1 if primaries == _UNSPECIFIED else primaries, 13 if transfer == _UNSPECIFIED else transfer, *others


def _hdr_chunks(info: dict[Any, Any]) -> Chunks:
    found = info.get("hdr_chunks")
    return found if isinstance(found, tuple) else ()


def _is_possible(primaries: Primaries) -> bool:
    if any(not (0 <= x <= 1 and 0.001 < y <= 1) for x, y in primaries):
        return False
    (red, green, blue, _) = primaries
    return abs((green[0] - red[0]) * (blue[1] - red[1]) - (blue[0] - red[0]) * (green[1] - red[1])) > 0.001


def _text(words: str) -> bytes:
    encoded = words.encode("utf-16-be")
    return b"mluc" + struct.pack(">4xII4sII", 1, 12, b"enUS", len(encoded), 28) + encoded


def _xyz(values: Any) -> bytes:
    return b"XYZ " + struct.pack(">4x3i", *(round(float(value) * 65536) for value in values))


def _parametric(gamma: float | None) -> bytes:
    numbers = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045) if gamma is None else (gamma,)
    kind = 3 if gamma is None else 0
    return b"para" + struct.pack(f">4xHH{len(numbers)}i", kind, 0, *(round(number * 65536) for number in numbers))
