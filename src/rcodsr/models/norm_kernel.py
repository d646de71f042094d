# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""GroupNorm + SiLU on channels_last tensors in three small Triton kernels: sums, statistics, result.

Reads the tensor twice and writes it once. Sums are float32 and in a fixed order, so results are deterministic. Triton comes
with torch's CUDA builds. Based on the idea of stable-fast and of Apex's group_norm_nhwc.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

_CHANNELS = 64
"""Channels that a program processes in parallel."""
_ROWS = 64
"""Positions that a program reads at once."""
_CHUNK = 2048
"""Positions that one program sums."""
_WIDEST = 128
"""Maximum channels per group in this kernel; the paper's networks have at most 80. Wider groups compile their own kernel."""
_SIZES = ["positions", "chunks", "groups"]
"""Arguments whose values do not trigger recompilation. The number of channels does: multiples of 16 load faster."""


@triton.jit(do_not_specialize=_SIZES)
def _sums(x, partial, positions, channels, chunks, size: tl.constexpr, height: tl.constexpr, width: tl.constexpr):
    """Sum and sum of squares of each channel over a chunk of positions, minus its first value to keep squares precise."""
    chunk, block, sample = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    columns = block * width + tl.arange(0, width)
    pivot = tl.load(x + sample * positions * channels + columns, columns < channels, 0.0).to(tl.float32)
    total = tl.zeros((width,), tl.float32)
    squares = tl.zeros((width,), tl.float32)
    for first in range(0, size, height):
        rows = chunk * size + first + tl.arange(0, height)
        inside = (rows[:, None] < positions) & (columns[None, :] < channels)
        where = (sample * positions + rows[:, None]) * channels + columns[None, :]
        values = tl.where(inside, tl.load(x + where, inside, 0.0).to(tl.float32) - pivot[None, :], 0.0)
        total += tl.sum(values, 0)
        squares += tl.sum(values * values, 0)
    out = partial + ((sample * chunks + chunk) * 2) * channels + columns
    tl.store(out, total, columns < channels)
    tl.store(out + channels, squares, columns < channels)


@triton.jit(do_not_specialize=_SIZES)
def _statistics(
    x,
    partial,
    weight,
    bias,
    scale,
    shift,
    positions,
    channels,
    chunks,
    groups,
    eps,
    padded: tl.constexpr,
    many: tl.constexpr,
):
    """Combine the sums of a group's channels into each channel's scale and shift."""
    group, sample = tl.program_id(0), tl.program_id(1).to(tl.int64)
    width = channels // groups
    columns = tl.arange(0, padded)
    mine = columns < width
    columns = group * width + columns
    total = tl.zeros((padded,), tl.float32)
    squares = tl.zeros((padded,), tl.float32)
    for first in range(0, chunks, many):
        rows = first + tl.arange(0, many)
        inside = (rows[:, None] < chunks) & mine[None, :]
        where = ((sample * chunks + rows[:, None]) * 2) * channels + columns[None, :]
        total += tl.sum(tl.load(partial + where, inside, 0.0), 0)
        squares += tl.sum(tl.load(partial + where + channels, inside, 0.0), 0)
    pivot = tl.load(x + sample * positions * channels + columns, mine, 0.0).to(tl.float32)
    own = total / positions
    mean = tl.sum(pivot + own, 0) / width
    apart = tl.where(mine, pivot + own - mean, 0.0)
    within = tl.maximum(squares / positions - own * own, 0.0)
    variance = tl.sum(within + apart * apart, 0) / width
    gain = tl.load(weight + columns, mine, 0.0).to(tl.float32) / tl.sqrt(variance + eps)
    tl.store(scale + sample * channels + columns, gain, mine)
    tl.store(shift + sample * channels + columns, tl.load(bias + columns, mine, 0.0).to(tl.float32) - mean * gain, mine)


@triton.jit(do_not_specialize=_SIZES)
def _apply(x, out, scale, shift, positions, channels, silu: tl.constexpr, height: tl.constexpr, width: tl.constexpr):
    """Compute x · scale + shift, then SiLU."""
    block, part, sample = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    columns = part * width + tl.arange(0, width)
    rows = block * height + tl.arange(0, height)
    inside = (rows[:, None] < positions) & (columns[None, :] < channels)
    where = (sample * positions + rows[:, None]) * channels + columns[None, :]
    gain = tl.load(scale + sample * channels + columns, columns < channels, 0.0)
    offset = tl.load(shift + sample * channels + columns, columns < channels, 0.0)
    value = tl.load(x + where, inside, 0.0).to(tl.float32) * gain[None, :] + offset[None, :]
    if silu:
        value = value / (1.0 + tl.exp(-value))
    tl.store(out + where, value.to(out.dtype.element_ty), inside)


def group_norm_nhwc(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, silu: bool) -> Tensor:
    """GroupNorm, optionally followed by SiLU.

    Args:
        x: shape (B, C, h, w); copied if it is not channels_last.
        weight: shape (C,).
        bias: shape (C,).
        groups: divides C.
        eps: added to the variance.
        silu: apply SiLU.

    Returns:
        The same shape, dtype and layout.
    """
    x = x.contiguous(memory_format=torch.channels_last)
    samples, channels, height, width = x.shape
    positions = height * width
    chunks = triton.cdiv(positions, _CHUNK)
    parts = triton.cdiv(channels, _CHANNELS)
    partial = torch.empty((samples, chunks, 2, channels), dtype=torch.float32, device=x.device)
    scale, shift = torch.empty((2, samples, channels), dtype=torch.float32, device=x.device)
    out = torch.empty_like(x)
    _sums[(chunks, parts, samples)](x, partial, positions, channels, chunks, size=_CHUNK, height=_ROWS, width=_CHANNELS)
    _statistics[(groups, samples)](
        x, partial, weight, bias, scale, shift, positions, channels, chunks, groups, eps,
        padded=max(_WIDEST, triton.next_power_of_2(channels // groups)), many=16,
    )  # fmt: skip
    grid = (triton.cdiv(positions, _ROWS), parts, samples)
    _apply[grid](x, out, scale, shift, positions, channels, silu=silu, height=_ROWS, width=_CHANNELS)
    return out
