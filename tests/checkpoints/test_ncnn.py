"""ncnn's pair of files, byte by byte."""

import struct
from pathlib import Path

import pytest
import torch

from rcodsr.checkpoints.ncnn import read_ncnn
from rcodsr.errors import WeightsError

PARAM = """7767517
5 5
Input        data   0 1 data
Convolution  first  1 1 data a 0=1 1=1 4=0 5=1 6=3 9=2 -23310=1,2.000000e-01
Split        both   1 2 a b c
Convolution  second 1 1 b d 0=2 1=1 5=0 6=2
Interp       twice  1 1 d out 0=1 1=2.000000e+00 2=2.000000e+00
"""
HALF, FULL = (0x01306B47).to_bytes(4, "little"), bytes(4)
FIRST = HALF + struct.pack("<3e", 0.5, -2, 0.25) + b"\0\0" + struct.pack("<f", 0.1)  # padded to four bytes; then the bias
SECOND = FULL + struct.pack("<2f", 1 / 3, 7)


def _pair(folder: Path, param: str = PARAM, binary: bytes = FIRST + SECOND) -> tuple[Path, Path]:
    (folder / "net.param").write_text(param)
    (folder / "net.bin").write_bytes(binary)
    return folder / "net.param", folder / "net.bin"


def test_halves_and_floats_with_and_without_bias(tmp_path: Path) -> None:
    (weight, bias), (second, none) = read_ncnn(*_pair(tmp_path))
    assert weight.shape == (1, 3, 1, 1)
    assert weight.flatten().tolist() == [0.5, -2, 0.25]
    assert bias.tolist() == pytest.approx([0.1])
    assert second.shape == (2, 1, 1, 1)
    assert second.flatten().tolist() == pytest.approx([1 / 3, 7])
    assert none.tolist() == [0, 0]
    assert {weight.dtype, bias.dtype, second.dtype} == {torch.float32}


@pytest.mark.parametrize(
    ("param", "binary", "words"),
    [
        ("", FIRST + SECOND, "net.param: not an ncnn network"),
        (PARAM.replace("7767517", "7767518"), FIRST + SECOND, "net.param: not an ncnn network (unexpected first line)"),
        (PARAM.replace("6=3", "6=x"), FIRST + SECOND, "net.param: not an ncnn network"),
        (PARAM.replace("0=2", "0=3"), FIRST + SECOND, "has an impossible shape"),
        (PARAM, FIRST + SECOND[:-1], "net.bin: does not belong to net.param (ends after 27 bytes)"),
        (PARAM, FIRST, "net.bin: does not belong to net.param (ends after 16 bytes)"),
        (PARAM, FIRST + SECOND + bytes(8), "net.bin: does not belong to net.param: 8 bytes are left over"),
        (PARAM, b"\x01" + FIRST[1:] + SECOND, "net.bin: does not belong to net.param (weights of an unknown type"),
        (PARAM, FIRST + FULL + struct.pack("<2f", float("nan"), 1), "holds NaN or infinity"),
    ],
    ids=["empty", "sign", "words", "shape", "short", "half", "long", "type", "nan"],
)
def test_what_is_wrong_is_named(tmp_path: Path, param: str, binary: bytes, words: str) -> None:
    with pytest.raises(WeightsError) as caught:
        read_ncnn(*_pair(tmp_path, param, binary))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("gone", ["net.param", "net.bin"])
def test_a_missing_file_is_named(tmp_path: Path, gone: str) -> None:
    pair = _pair(tmp_path)
    (tmp_path / gone).unlink()
    with pytest.raises(WeightsError, match=f"{gone}: missing"):
        read_ncnn(*pair)
