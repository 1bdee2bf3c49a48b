from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from rsedge.raster.blocks import strips_of, touched
from rsedge.tiling.window import Window

AREAS = st.builds(Window, *[st.integers(0, 3000)] * 2, *[st.integers(1, 3000)] * 2)


@given(area=AREAS, block=st.integers(1, 2000), most=st.integers(-3, 900))
def test_strips_tile_an_area_and_end_where_blocks_end(area: Window, block: int, most: int) -> None:
    strips = strips_of(area, block, most)
    rows = [row for s in strips for row in range(s.row, s.row_end)]
    assert rows == list(range(area.row, area.row_end))
    assert {(s.col, s.width) for s in strips} == {(area.col, area.width)}
    most = max(most, 1)
    assert all(s.height <= most for s in strips)
    if block <= most:
        assert all(s.row_end % block == 0 for s in strips[:-1])
        for s, following in pairwise(strips):  # no strip could have taken a block more
            assert s.height + min(block, following.row_end - following.row) > most or s.height + block > most
    else:
        assert all(s.row // block == (s.row_end - 1) // block for s in strips)
        assert all(s.height == most or s.row_end % block == 0 for s in strips[:-1])


@given(begin=st.integers(0, 500), length=st.integers(1, 500), block=st.integers(1, 100))
def test_blocks_touched_are_those_with_a_pixel_inside(begin: int, length: int, block: int) -> None:
    assert touched(begin, begin + length, block) == block * len(
        {pixel // block for pixel in range(begin, begin + length)}
    )
