import itertools

import numpy as np
import pytest
import skimage.data
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rcodsr.images.tiling import Segment, plan_tiles, segments

axes = st.tuples(st.integers(1, 60), st.integers(1, 400), st.integers(0, 200), st.sampled_from([1, 4, 16, 64]))
"""Length in multiples, tile, overlap, multiple."""


def total_weight(length: int, parts: list[Segment]) -> torch.Tensor:
    total = torch.zeros(length)
    for part in parts:
        total[part.span] += part.weight
    return total


def shared(parts: list[Segment]) -> list[int]:
    return [left.span.stop - right.start for left, right in itertools.pairwise(parts)]


@given(axes)
@settings(max_examples=300, deadline=None)
def test_segments_are_equal_aligned_and_cover_the_axis(axis: tuple[int, int, int, int]) -> None:
    blocks, tile, overlap, multiple = axis
    length = blocks * multiple
    assume(multiple <= tile and overlap < tile)
    parts = segments(length, tile, overlap, multiple)
    assert len({len(part.weight) for part in parts}) == 1
    assert len(parts[0].weight) <= max(tile, multiple)
    assert len(parts[0].weight) % multiple == 0
    assert all(part.start % multiple == 0 for part in parts)
    assert parts[0].start == 0
    assert parts[-1].span.stop == length
    possible = min(overlap, tile // multiple * multiple - multiple)
    assert all(common >= 0 and common >= possible - multiple for common in shared(parts))


@given(axes)
@settings(max_examples=300, deadline=None)
def test_weights_sum_to_one_and_are_never_negative(axis: tuple[int, int, int, int]) -> None:
    blocks, tile, overlap, multiple = axis
    length = blocks * multiple
    assume(multiple <= tile and overlap < tile)
    parts = segments(length, tile, overlap, multiple)
    assert torch.allclose(total_weight(length, parts), torch.ones(length), atol=1e-5)
    for part in parts:
        assert part.weight.min() >= -1e-6
        assert part.weight.max() <= 1 + 1e-6


@pytest.mark.parametrize(
    ("length", "tile", "overlap", "multiple"), [(128, 64, 0, 16), (704, 16, 4, 16), (31, 2, 0, 1), (768, 126, 76, 64)]
)
def test_tiles_that_only_touch_still_weigh_one_everywhere(length: int, tile: int, overlap: int, multiple: int) -> None:
    parts = segments(length, tile, overlap, multiple)
    assert 0 in shared(parts)
    assert torch.allclose(total_weight(length, parts), torch.ones(length), atol=1e-5)


@pytest.mark.parametrize("tile", [0, 96, 97, 4096])
def test_one_tile_where_it_covers_the_picture(tile: int) -> None:
    grid = plan_tiles(96, 64, tile, 16, 16)
    assert len(grid) == 1
    ((rows, columns, weight),) = grid
    assert (rows, columns) == (slice(0, 96), slice(0, 64))
    assert torch.equal(weight, torch.ones(96, 64))


def test_a_long_picture_is_cut_along_one_axis_only() -> None:
    grid = plan_tiles(64, 640, 128, 32, 16)
    assert len(grid.rows) == 1
    assert len(grid.columns) > 4


def test_tiles_come_row_by_row() -> None:
    grid = plan_tiles(160, 224, 64, 16, 16)
    order = [(rows.start, columns.start) for rows, columns, _ in grid]
    assert order == sorted(order)
    assert len(order) == len(grid) == len(grid.rows) * len(grid.columns) > 4


@pytest.mark.parametrize(("tile", "overlap"), [(64, 32), (96, 24), (128, 64), (200, 7 * 16)])
def test_blending_the_identity_gives_the_picture_back(tile: int, overlap: int) -> None:
    pixels = np.ascontiguousarray(skimage.data.chelsea()[:288, :448])
    picture = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
    grid = plan_tiles(288, 448, tile, overlap, 16)
    assert len(grid) > 1
    result = torch.zeros_like(picture)
    for rows, columns, weight in grid:
        result[:, rows, columns] += picture[:, rows, columns] * weight
    assert (result - picture).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("length", "tile", "overlap", "multiple"), [(448, 256, 64, 64), (416, 160, 32, 16), (1024, 256, 128, 16)]
)
def test_the_outer_quarters_of_an_overlap_are_context_only(length: int, tile: int, overlap: int, multiple: int) -> None:
    parts = segments(length, tile, overlap, multiple)
    assert len(parts) > 1
    for left, right in itertools.pairwise(parts):
        common = left.span.stop - right.start
        quarter = common // 4
        assert quarter > 0
        assert torch.equal(left.weight[-quarter:], torch.zeros(quarter))
        assert torch.equal(right.weight[:quarter], torch.zeros(quarter))
        # inside they share: each rises or falls strictly
        inner = right.weight[quarter : common - quarter]
        assert (inner.diff() > 0).all()
        assert 0 < inner[0] < inner[-1] < 1


def test_a_tile_below_the_multiple_is_raised_to_it() -> None:
    assert {len(part.weight) for part in segments(64, 5, 0, 16)} == {16}
