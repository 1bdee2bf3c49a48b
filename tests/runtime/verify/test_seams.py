from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from rsedge import InputError, Options, open_model
from rsedge.backends import Backend
from rsedge.engine.sliding_window import Source, run
from rsedge.infer.inputs import plan_run
from rsedge.raster import RasterReader
from rsedge.tiling.axes import Axis, Tiling
from rsedge.verify.seams import BORDER_PX, SHIFT, Seams, borders, measure_seams
from toys import TILE, make_bundle, pointwise_graph, pointwise_manifest

Write = Callable[..., Path]
MANIFEST = pointwise_manifest()


def tile_dependent(steepness: float) -> onnx.ModelProto:
    """The first class gains the more, the further right in its tile a pixel lies: it has seams by construction."""
    model = pointwise_graph(MANIFEST)
    model.graph.node[1].output[0] = "plain"
    ramp = np.zeros((1, 3, 1, TILE), np.float32)
    ramp[0, 0] = steepness * np.arange(TILE)
    model.graph.initializer.append(numpy_helper.from_array(ramp, "ramp"))
    model.graph.node.append(helper.make_node("Add", ["plain", "ramp"], ["scores"]))
    return model


def wrong_at_edges(pixels: int) -> onnx.ModelProto:
    """The outermost columns of a tile are the first class, whatever is there: what padding does to a network."""
    model = pointwise_graph(MANIFEST)
    model.graph.node[1].output[0] = "plain"
    gain = np.zeros((1, 3, 1, TILE), np.float32)
    gain[0, 0, 0, :pixels] = gain[0, 0, 0, -pixels:] = 1000
    model.graph.initializer.append(numpy_helper.from_array(gain, "gain"))
    model.graph.node.append(helper.make_node("Add", ["plain", "gain"], ["scores"]))
    return model


def masks(model: Backend, raster: Path, options: Options) -> list[np.ndarray]:
    """Of both tilings, whole."""
    found = list[np.ndarray]()
    with RasterReader(raster) as reader:
        plan, tiling = plan_run(reader, model.bundle.manifest, options)
        for shift in (0.0, SHIFT):
            length = tiling.rows.length, tiling.cols.length
            own = Tiling.of(*length, TILE, options.overlap, options.seam, shift)

            class Rows(list[Any]):
                def take(self, strip: Any) -> None:
                    self.append(strip.mask)

            rows = Rows()
            run(model, Source(reader, plan, own), [rows])
            found.append(np.concatenate(rows))
    return found


def near_by_hand(length: int, options: Options) -> np.ndarray:
    """Distances to the cuts between windows, one pixel at a time: half a pixel is the nearest there is."""
    near = np.zeros(length, bool)
    for shift in (0.0, SHIFT):
        axis = Axis(length, TILE, options.overlap, "crop", shift)
        centres = [(a + b) / 2 for a, b in zip(axis.starts, axis.ends, strict=True)]
        for left, right in pairwise(centres):
            cut = np.ceil((left + right) / 2)  # a pixel right in the middle is the left window's
            near |= np.abs(np.arange(length) + 0.5 - cut) < BORDER_PX
    return near


@pytest.mark.parametrize(("seam", "overlap"), [("blend", 0.25), ("crop", 0.25), ("crop", 0.0)])
def test_counts_are_numpys(tmp_path: Path, write_raster: Write, seam: Any, overlap: float) -> None:
    pixels = np.random.default_rng(5).integers(1, 256, (3, 230, 260)).astype(np.uint8)
    pixels[:, 50:120, 30:90] = 0
    raster, options = write_raster(pixels, nodata=0), Options(seam=seam, overlap=overlap)
    with open_model(make_bundle(tmp_path / "b", MANIFEST, tile_dependent(1.0)), "cpu", 1) as model:
        found = measure_seams(model, raster, options)
        first, second = masks(model, raster, options)
    near = near_by_hand(230, options)[:, None] | near_by_hand(260, options)
    valid = pixels.any(0)
    np.testing.assert_array_equal(valid, (first != 255) & (second != 255))
    differs = valid & (first != second)
    assert (found.near_pixels, found.far_pixels) == ((near & valid).sum(), (~near & valid).sum())
    assert (found.near_differing, found.far_differing) == ((near & differs).sum(), (~near & differs).sum())
    assert found.near_share == pytest.approx(differs[near & valid].mean())
    assert found.elsewhere_share == pytest.approx(differs[~near & valid].mean())
    assert found.ratio == pytest.approx(found.near_share / found.elsewhere_share)


def test_a_pointwise_model_has_no_seams(
    bundle: Path, write_raster: Write, noise: Callable[..., np.ndarray]
) -> None:
    raster, told = write_raster(noise(150, 200)), list[tuple[int, int]]()
    with open_model(bundle, "cpu", 1) as model:
        for seam in ("blend", "crop"):
            found = measure_seams(model, raster, Options(seam=seam), lambda *p: told.append(p))
            assert (found.near_differing, found.far_differing, found.ratio) == (0, 0, None)
            assert found.verdict == "no pixel differs, so no border shows"
            assert found.near_pixels > 0 < found.far_pixels
            assert told[-1][0] == told[-1][1]


def test_a_model_that_errs_at_edges_has_seams_without_overlap_and_fewer_with(
    tmp_path: Path, write_raster: Write, noise: Callable[..., np.ndarray]
) -> None:
    raster = write_raster(noise(5 * TILE, 5 * TILE))
    with open_model(make_bundle(tmp_path / "b", MANIFEST, wrong_at_edges(6)), "cpu", 1) as model:
        bare, crop, blend = (
            measure_seams(model, raster, Options(seam=seam, overlap=overlap))
            for seam, overlap in (("crop", 0.0), ("crop", 0.25), ("blend", 0.25))
        )
    assert bare.near_share is not None
    assert bare.near_share > 0.1
    assert bare.verdict == "only along borders"
    # 8 px are cut away, but at the raster's own edge, where both masks have the same.
    assert (crop.near_differing, crop.far_differing) == (0, 0)
    assert blend.near_differing > 0


def test_a_ramp_over_the_tile_is_a_seam_that_blending_softens(
    tmp_path: Path, write_raster: Write, noise: Callable[..., np.ndarray]
) -> None:
    raster = write_raster(noise(5 * TILE, 12 * TILE))
    with open_model(make_bundle(tmp_path / "b", MANIFEST, tile_dependent(1.5)), "cpu", 1) as model:
        bare = measure_seams(model, raster, Options(seam="crop", overlap=0.0))
        crop, blend = (measure_seams(model, raster, Options(seam=s, overlap=0.5)) for s in ("crop", "blend"))
    assert bare.ratio is not None
    assert blend.ratio is not None
    assert crop.ratio is not None
    assert bare.ratio > 1.2
    assert blend.ratio < crop.ratio


def test_a_raster_of_one_tile_has_no_borders(model: Backend, write_raster: Write) -> None:
    raster = write_raster(np.full((3, TILE, 20), 9, np.uint8))
    with pytest.raises(InputError, match=r"64 x 20 pixels, at most one tile of 64.*larger raster"):
        measure_seams(model, raster)


def test_without_data_near_borders_there_is_nothing_to_compare(model: Backend, write_raster: Write) -> None:
    pixels = np.zeros((3, 150, 150), np.uint8)
    pixels[:, :4, :4] = 9
    found = measure_seams(model, write_raster(pixels, nodata=0))
    assert (found.near_pixels, found.far_pixels, found.near_share, found.ratio) == (0, 16, None, None)
    assert "nothing to compare" in found.verdict


def test_only_along_borders_is_no_number() -> None:
    found = Seams.of(Options(), (100, 100), (5, 0))
    assert (found.near_share, found.elsewhere_share, found.ratio) == (0.05, 0, None)
    assert found.verdict == "only along borders"
    assert Seams.of(Options(), (100, 200), (6, 4)).verdict == "3.00 times as often along borders"
    with pytest.raises(InputError, match="more pixels differ than exist"):
        Seams.of(Options(), (1, 1), (2, 0))


class TestBorders:
    @given(st.integers(1, 900), st.integers(8, 128), st.sampled_from([0.0, 0.1, 0.25, 0.5]), st.booleans())
    def test_of_crop_they_are_where_the_owner_changes(
        self, length: int, tile: int, overlap: float, shifted: bool
    ) -> None:
        axis = Axis(length, tile, overlap, "crop", SHIFT if shifted else 0.0)
        owner = np.zeros(length, int)
        for number, (start, weight) in enumerate(zip(axis.starts, axis.weights, strict=True)):
            owner[start : start + axis.size][weight == 1] = number
        assert borders(axis) == tuple(p for p in range(1, length) if owner[p] != owner[p - 1])

    @given(st.integers(1, 12), st.sampled_from([0.25, 0.5]), st.sampled_from([64, 128]))
    def test_of_blend_they_are_those_of_crop_where_windows_are_a_stride_apart(
        self, windows: int, overlap: float, tile: int
    ) -> None:
        length = tile + windows * (tile - round(tile * overlap))
        found = borders(Axis(length, tile, overlap, "blend"))
        assert found == borders(Axis(length, tile, overlap, "crop"))

    def test_where_windows_share_more_than_the_ramp_their_edges_show(self) -> None:
        assert Axis(100, 64, 0.0, "blend").starts == (0, 36)
        assert borders(Axis(100, 64, 0.0, "blend")) == (36, 37, 50, 63, 64)
        assert borders(Axis(100, 64, 0.0, "crop")) == (50,)
