"""Read convolutions of a network in ncnn's format: a .param file that lists the layers, and a .bin file with their values.

.param   7767517, then the numbers of layers and blobs, then a line per layer: type, name, numbers of blobs in and
out, the blobs' names, and settings KEY=VALUE. For a convolution 0: channels out, 1: kernel, 5: has a bias,
6: number of weights
.bin     for each convolution in turn: four bytes with the type of its weights, the weights, padded to four bytes,
and its bias in float32
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from rcodsr.errors import WeightsError

_SIGN = "7767517"
_TYPES = {0: torch.float32, 0x01306B47: torch.float16}
"""Dtypes of weights, by the number before them."""
_LARGEST = 1 << 20, 1 << 30
"""Maximum bytes of a .param and of a .bin file."""
_REMEDY = "download it again from its authors"


@dataclass(frozen=True)
class _Convolution:
    """Settings of one convolution in a .param file."""

    wide_out: int
    kernel: int
    bias: bool
    weights: int


def read_ncnn(param: Path, binary: Path) -> list[tuple[Tensor, Tensor]]:
    """Read the convolutions of a network, in the order in which they run.

    Args:
        param: lists the layers.
        binary: their values. Only those of convolutions are read.

    Returns:
        Weight (out, in, k, k) and bias (out,) of each, float32.

    Raises:
        WeightsError: when a file cannot be read, is damaged, or does not belong to the other.
    """
    for path, most in zip((param, binary), _LARGEST, strict=True):
        if not path.is_file():
            raise WeightsError(path, "not a file" if path.exists() else "missing", "pass the published file")
        if path.stat().st_size > most:
            raise WeightsError(path, f"{path.stat().st_size} bytes are too many", _REMEDY)
    try:
        layers = list(_layers(param.read_text(encoding="ascii")))
    except ValueError as error:  # a UnicodeDecodeError is a ValueError
        raise WeightsError(param, f"not an ncnn network ({error})", _REMEDY) from error
    data, at, found = binary.read_bytes(), 0, []
    try:
        for layer in layers:
            weight, bias, at = _values(data, at, layer)
            found.append((weight, bias))
    except ValueError as error:
        raise WeightsError(binary, f"does not belong to {param.name} ({error})", "pass two files of one network") from error
    if at != len(data):
        cause = f"does not belong to {param.name}: {len(data) - at} bytes are left over"
        raise WeightsError(binary, cause, "pass two files of one network")
    return found


def _layers(text: str) -> Iterator[_Convolution]:
    """Parse the layers. Raises ValueError for invalid text."""
    lines = text.splitlines()
    if lines[:1] != [_SIGN]:
        raise ValueError("unexpected first line")
    for line in lines[2:]:
        if line.startswith("Convolution "):
            settings = dict(word.split("=", 1) for word in line.split()[2:] if "=" in word)
            out, kernel, bias, weights = (int(settings.get(key, 0)) for key in "0156")
            if min(out, kernel, weights) < 1 or weights % (out * kernel * kernel):
                raise ValueError(f"'{line[:60]}' has an impossible shape")
            yield _Convolution(out, kernel, bool(bias), weights)


def _values(data: bytes, at: int, layer: _Convolution) -> tuple[Tensor, Tensor, int]:
    """Weight, bias, and offset of the next layer. Raises ValueError if they are incomplete or not finite."""
    kind = int.from_bytes(data[at : at + 4], "little")
    if len(data) < at + 4 or kind not in _TYPES:
        raise ValueError(f"ends after {len(data)} bytes" if len(data) < at + 4 else f"weights of an unknown type, {kind:#x}")
    weight, at = _taken(data, at + 4, layer.weights, _TYPES[kind])
    bias = torch.zeros(layer.wide_out)
    if layer.bias:
        bias, at = _taken(data, at, layer.wide_out, torch.float32)
    return weight.view(layer.wide_out, -1, layer.kernel, layer.kernel), bias, at


def _taken(data: bytes, at: int, count: int, dtype: torch.dtype) -> tuple[Tensor, int]:
    size = count * dtype.itemsize
    if at + size > len(data):
        raise ValueError(f"ends after {len(data)} bytes")
    values = torch.frombuffer(bytearray(data[at : at + size]), dtype=dtype).float()
    if not torch.isfinite(values).all():
        raise ValueError("holds NaN or infinity")
    return values, at + (size + 3) // 4 * 4
