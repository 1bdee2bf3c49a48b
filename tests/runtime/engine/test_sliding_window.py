from __future__ import annotations

import time
import tracemalloc
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import rasterio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.lib.stride_tricks import sliding_window_view
from onnx import TensorProto, helper, numpy_helper

from rsedge import Options, open_model, segment
from rsedge.backends import Backend
from rsedge.backends.base import TensorSpec
from rsedge.engine import sliding_window as engine
from rsedge.engine.sliding_window import Pixels, Source, Strip
from rsedge.engine.stages import Stats
from rsedge.infer.job import Job
from rsedge.raster import RasterReader, plan_bands
from rsedge.tiling.axes import Tiling
from rsedge.tiling.window import Window
from toys import make_bundle, pointwise_graph, pointwise_manifest, read, strongest

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
KERNEL = np.random.default_rng(5).normal(size=(3, 3, 5, 5)).astype(np.float32)
LAYOUTS: dict[str, dict[str, Any]] = {
    "tiled": {"tiled": True, "blockxsize": 32, "blockysize": 16},
    "striped": {"blockysize": 3},
    "one block": {"blockysize": 4096},
}
on_the_spot = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def convolved(tiles: np.ndarray, dtype: type = np.float32) -> np.ndarray:
    """Convolve (N, 3, t, t) by 5 x 5 with zero padding to three scores of magnitude about 1."""
    low = 1.0 if tiles.dtype.kind == "f" else float(np.iinfo(tiles.dtype).max)
    padded = np.pad(tiles.astype(dtype) / dtype(low), ((0, 0), (0, 0), (2, 2), (2, 2)))
    views = sliding_window_view(padded, (5, 5), axis=(2, 3))
    return np.einsum("nbyxij,kbij->nkyx", views, KERNEL.astype(dtype), optimize=True)


class Convolution(Backend):
    """A model with spatial context that records every tile."""

    name, version, threads, provider = "stand-in", "1", 1, "numpy"

    def __init__(self, tile: int, dtype: str = "uint8") -> None:
        super().__init__(SimpleNamespace(manifest=pointwise_manifest(tile, dtype=dtype), precision="fp32"))
        self.tiles: list[int] = []

    @property
    def input_spec(self) -> TensorSpec:
        return TensorSpec((None,), "uint8")

    output_spec = input_spec

    def _run(self, batch: np.ndarray) -> np.ndarray:
        assert batch.flags.c_contiguous
        self.tiles.append(len(batch))
        return np.ascontiguousarray(convolved(batch), np.float32)

    def close(self) -> None:
        pass


class Steady(Convolution):
    """A model that returns a tile's own pixels and allocates nothing, so that all growth is the engine's."""

    kept = 3

    def __init__(self, tile: int) -> None:
        super().__init__(tile)
        self._ring, self._answers = np.empty((self.kept, 1, 3, tile, tile), np.float32), 0

    def stream(self, batches: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        for batch in batches:
            place = self._ring[self._answers % self.kept]
            np.copyto(place, batch)
            self._answers += 1
            yield place


class Batched(Convolution):
    """A model that takes the next batch before it answers one, and overwrites all but its last ``kept`` answers."""

    batch = 3

    def __init__(self, tile: int, kept: int) -> None:
        super().__init__(tile)
        self.kept, self._answers = kept, 0
        self._ring = np.full((kept, self.batch, 3, tile, tile), np.nan, np.float32)

    def stream(self, batches: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        waiting = None
        for batch in batches:
            assert len(batch) <= self.batch
            before, waiting = waiting, self._run(batch)
            batch.fill(7)  # the engine's memory: it must be filled anew
            if before is not None:
                yield self._answer(before)
        if waiting is not None:
            yield self._answer(waiting)

    def _answer(self, scores: np.ndarray) -> np.ndarray:
        place = self._ring[self._answers % self.kept]
        place.fill(np.nan)
        place[: len(scores)] = scores
        self._answers += 1
        return place[: len(scores)]


class Keep:
    """A sink that keeps all strips."""

    def __init__(self) -> None:
        self.strips: list[Strip] = []

    def take(self, strip: Strip) -> None:
        self.strips.append(strip)


class Rectangle:
    """An area of interest."""

    def __init__(self, window: Window) -> None:
        self.window = window

    def touches(self, window: Window) -> bool:
        return bool(self.inside(window).any())

    def inside(self, window: Window) -> np.ndarray:
        rows, cols = np.arange(window.row, window.row_end), np.arange(window.col, window.col_end)
        w = self.window
        down, across = (rows >= w.row) & (rows < w.row_end), (cols >= w.col) & (cols < w.col_end)
        return np.logical_and.outer(down, across)


@st.composite
def windows(draw: st.DrawFn, height: int, width: int) -> Window:
    row, col = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
    return Window(row, col, draw(st.integers(1, height - row)), draw(st.integers(1, width - col)))


def write(path: Path, pixels: np.ndarray, **profile: Any) -> Path:
    shape = {"count": len(pixels), "height": pixels.shape[1], "width": pixels.shape[2]}
    with rasterio.open(path, "w", driver="GTiff", dtype=pixels.dtype.name, **shape, **profile) as dst:
        dst.write(pixels)
    return path


def run(
    backend: Backend, path: Path, tiling: Tiling, area: Window | None = None, inside: Rectangle | None = None
) -> tuple[np.ndarray, Stats, list[Window]]:
    """Return the mask of the area, whose strips must tile it in order, the statistics, and the strips read."""
    seen, sink = list[Window](), Keep()
    with RasterReader(path) as reader:
        plan = plan_bands(reader, backend.bundle.manifest, None, None)
        source = Source(reader, plan, tiling, area, inside, lambda strip: seen.append(strip.window))
        stats = engine.run(backend, source, [sink])
    area = area or Window(0, 0, tiling.rows.length, tiling.cols.length)
    end = area.row
    for strip in sink.strips:
        assert (strip.row, strip.col, strip.mask.shape[1]) == (end, area.col, area.width)
        end += len(strip.mask)
    assert end == area.row_end
    return np.concatenate([strip.mask for strip in sink.strips]), stats, seen


def blended(pixels: np.ndarray, valid: np.ndarray, tiling: Tiling) -> np.ndarray:
    """Return the scores of the whole raster at once, in float64."""
    filled = np.where(valid, pixels, np.array(120, pixels.dtype))
    whole, side = np.zeros(pixels.shape), tiling.rows.tile
    for window in tiling:
        rows, cols = slice(window.row, window.row_end), slice(window.col, window.col_end)
        grow = (0, 0), (0, side - window.height), (0, side - window.width)
        tile = np.pad(filled[:, rows, cols], grow, mode="symmetric")
        scores = convolved(tile[None], np.float64)[0, :, : window.height, : window.width]
        down = tiling.rows.weights[tiling.rows.starts.index(window.row)].astype(np.float64)
        across = tiling.cols.weights[tiling.cols.starts.index(window.col)]
        whole[:, rows, cols] += scores * np.outer(down, across)
    return whole


def assert_same(mask: np.ndarray, whole: np.ndarray, wanted: np.ndarray) -> None:
    """Check that the mask is the best class of the blended scores inside, else nodata, except for near ties."""
    best = np.sort(whole, axis=0)
    clear = best[-1] - best[-2] > 1e-5
    assert clear.mean() > 0.9 or clear.size < 500  # else this would compare little
    np.testing.assert_array_equal(mask[wanted & clear], whole.argmax(0)[wanted & clear])
    assert (mask[wanted] < 3).all()
    assert (mask[~wanted] == 255).all()


@on_the_spot
@given(
    data=st.data(),
    dtype=st.sampled_from(["uint8", "uint16", "float32"]),
    layout=st.sampled_from(list(LAYOUTS)),
)
def test_the_mask_is_that_of_the_whole_raster_at_once(
    tmp_path: Path, data: st.DataObject, dtype: str, layout: str
) -> None:
    """Whatever its size, layout and dtype, the tiles, their overlap and seams, holes and area of interest."""
    height, width = data.draw(st.integers(1, 120)), data.draw(st.integers(1, 120))
    tile = data.draw(st.integers(5, 48))
    overlap, seam = data.draw(st.floats(0, 0.75)), data.draw(st.sampled_from(["blend", "crop"]))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    high = 1.0 if dtype == "float32" else np.iinfo(dtype).max
    pixels = (
        (rng.random((3, height, width)) * high).clip(1).astype(dtype)
        if high > 1
        else rng.random((3, height, width), np.float32) + np.float32(0.01)
    )
    valid = np.ones((height, width), bool)
    for hole in data.draw(st.lists(windows(height, width), max_size=2)):
        valid[hole.row : hole.row_end, hole.col : hole.col_end] = False
    pixels[:, ~valid] = 0
    raster = write(tmp_path / "raster.tif", pixels, nodata=0, **LAYOUTS[layout])
    tiling = Tiling.of(height, width, tile, overlap, seam)
    area = data.draw(st.none() | windows(height, width))
    inside = data.draw(st.none() | st.builds(Rectangle, windows(height, width)))
    wanted = valid if inside is None else valid & inside.inside(Window(0, 0, height, width))

    backend = Convolution(tile, dtype)
    mask, stats, seen = run(backend, raster, tiling, area, inside)

    area = area or Window(0, 0, height, width)
    here = np.s_[area.row : area.row_end, area.col : area.col_end]
    assert_same(mask, blended(pixels, valid, tiling)[:, here[0], here[1]], wanted[here])
    assert stats.valid_pixels == np.count_nonzero(wanted[here])
    needed = [w for w in tiling if w.row < area.row_end and w.row_end > area.row]
    needed = [w for w in needed if w.col < area.col_end and w.col_end > area.col]
    with_data = [w for w in needed if wanted[w.row : w.row_end, w.col : w.col_end].any()]
    assert (stats.windows, stats.windows_skipped) == (len(needed), len(needed) - len(with_data))
    assert sum(backend.tiles) == len(with_data)  # a window without a valid pixel is never given to the model
    first, last = min(w.row for w in needed), max(w.row_end for w in needed)
    assert [w.row for w in seen] == [first, *[w.row_end for w in seen[:-1]]]  # each row is read once
    assert seen[-1].row_end == last


@on_the_spot
@given(
    size=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    overlap=st.floats(0, 0.75),
    seam=st.sampled_from(["blend", "crop"]),
    layout=st.sampled_from(list(LAYOUTS)),
    seed=st.integers(0, 99),
)
def test_a_model_of_single_pixels_returns_the_raster(
    model: Backend, tmp_path: Path, size: tuple[int, int], overlap: float, seam: str, layout: str, seed: int
) -> None:
    pixels = (np.random.default_rng(seed).integers(1, 84, (3, *size)) * 3).astype(np.uint8)
    pixels += np.arange(3, dtype=np.uint8)[:, None, None]  # no ties
    raster = write(tmp_path / "raster.tif", pixels, **LAYOUTS[layout])
    mask, _, _ = run(model, raster, Tiling.of(*size, 64, overlap, seam))
    np.testing.assert_array_equal(mask, strongest(pixels))


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_other_dtypes_go_to_the_model_as_they_are(tmp_path: Path, dtype: str) -> None:
    manifest = pointwise_manifest(dtype=dtype)
    graph = pointwise_graph(manifest)
    kind = TensorProto.UINT16 if dtype == "uint16" else TensorProto.FLOAT
    graph.graph.input[0].type.tensor_type.elem_type = kind
    raster = np.random.default_rng(0).random((3, 100, 150))
    pixels = (raster * 60_000 + 1).astype(dtype)
    write(tmp_path / "raster.tif", pixels)
    with open_model(make_bundle(tmp_path / "model.rsedge", manifest, graph), threads=1) as backend:
        mask, _, _ = run(backend, tmp_path / "raster.tif", Tiling.of(100, 150, 64, 0.25, "blend"))
    np.testing.assert_array_equal(mask, pixels.astype(np.float64).argmax(0))


def test_a_network_with_context_is_blended_as_the_formula_says(tmp_path: Path) -> None:
    """onnxruntime's convolution, a bundle, the API and the file, against whole arrays in float64."""
    manifest = pointwise_manifest()
    shape = ["batch", 3, 64, 64]
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["pixels"], ["real"], to=TensorProto.FLOAT),
            helper.make_node("Conv", ["real", "weight"], ["scores"], pads=[2, 2, 2, 2]),
        ],
        "context",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, shape)],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(KERNEL / 255, "weight")],
    )
    network = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(network)
    pixels = np.random.default_rng(0).integers(1, 255, (3, 301, 407)).astype(np.uint8)
    raster = write(tmp_path / "raster.tif", pixels)
    with open_model(make_bundle(tmp_path / "context.rsedge", manifest, network), threads=1) as backend:
        segment(backend, raster, tmp_path / "mask.tif", Options(overlap=0.3))
    whole = blended(pixels, np.ones((301, 407), bool), Tiling.of(301, 407, 64, 0.3, "blend"))
    assert_same(read(tmp_path / "mask.tif"), whole, np.ones((301, 407), bool))


@pytest.mark.parametrize("kept", [1, 2, 3, 5])
@pytest.mark.parametrize("seam", ["blend", "crop"])
def test_batches_and_overwritten_answers_change_nothing(tmp_path: Path, kept: int, seam: str) -> None:
    pixels = np.random.default_rng(1).integers(0, 255, (3, 170, 333)).astype(np.uint8)
    pixels[:, 30:120, 50:180] = 0  # windows that are left out of the middle of a batch
    raster = write(tmp_path / "raster.tif", pixels, nodata=0)
    tiling = Tiling.of(170, 333, 32, 0.4, seam)
    one, _, _ = run(Convolution(32), raster, tiling)
    backend = Batched(32, kept)
    many, stats, _ = run(backend, raster, tiling)
    np.testing.assert_array_equal(many, one)
    assert max(backend.tiles) == 3
    assert sum(backend.tiles) == stats.windows - stats.windows_skipped


def test_strips_are_read_into_memory_that_is_used_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for strips in (RasterReader.iter_strips, RasterReader.first_strips):
        monkeypatch.setattr(strips, "__defaults__", (32,))
    pixels = np.ones((3, 1200, 90), np.uint8)
    raster = write(tmp_path / "raster.tif", pixels, tiled=True, blockxsize=16, blockysize=16)
    places: list[int] = []
    into = RasterReader.read_into

    def note(self: RasterReader, window: Window, plan: Any, image: np.ndarray, valid: np.ndarray) -> bool:
        places.append(image.__array_interface__["data"][0])
        return into(self, window, plan, image, valid)

    monkeypatch.setattr(RasterReader, "read_into", note)
    _, _, seen = run(Convolution(64), raster, Tiling.of(1200, 90, 64, 0.25, "blend"))
    rows = max(w.height for w in seen)
    assert len(places) == len(seen) > 2 * len(set(places))
    assert (
        len(set(places)) <= 64 // rows + 1 + 2 * engine.AHEAD + 1
    )  # of one row of windows, and those on the way


def test_nothing_grows_from_tile_to_tile(tmp_path: Path) -> None:
    """Memory grows by less than a tenth of a tile per tile, over hundreds of tiles.

    How many strips are on their way at one time is the threads' affair: a few tiles more or less.
    """
    raster = write(tmp_path / "raster.tif", np.ones((3, 12000, 150), np.uint8), blockysize=32)
    held: dict[int, int] = {}

    def progress(done: int, _: int) -> None:
        held[done] = tracemalloc.get_traced_memory()[0]

    class Drop:
        def take(self, strip: Strip) -> None:
            pass

    backend, tiling = Steady(64), Tiling.of(12000, 150, 64, 0.25, "blend")
    with RasterReader(raster) as reader:
        source = Source(reader, plan_bands(reader, backend.bundle.manifest, None, None), tiling)
        tracemalloc.start()
        try:
            engine.run(backend, source, [Drop()], progress)
        finally:
            tracemalloc.stop()
    tiles = max(held)
    early, late = (min(held[n] for n in held if low < 4 * n / tiles <= low + 1) for low in (1, 3))
    assert tiles > 500
    assert late - early < 3 * 64 * 64 * 4 * tiles / 20  # half of the tiles lie between


@pytest.mark.parametrize("seam", ["blend", "crop"])
def test_columns_of_a_raster_give_the_same_result_as_one_block(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seam: str
) -> None:
    monkeypatch.setattr("rsedge.infer.memory_plan.warm_up", lambda backend: 0)
    pixels = np.random.default_rng(2).integers(1, 255, (3, 1300, 2900)).astype(np.uint8)
    pixels[:, 200:900, 700:1100] = 0
    raster = write(tmp_path / "raster.tif", pixels, nodata=0, tiled=True, blockxsize=256, blockysize=256)
    with open_model(bundle, threads=1) as backend:
        files, counts = [], []
        most: int | None = None
        for number in range(3):
            out = tmp_path / f"mask{number}.tif"
            options = Options(seam=seam, overlap=0.3, confidence=True, max_ram_bytes=most)
            with Job(backend, raster, out, options) as job:
                plan = job.plan()
            result = segment(backend, raster, out, options)
            assert result.bound_bytes == plan.bound_bytes <= (most or plan.bound_bytes)
            files.append([read(p) for p in (out, tmp_path / f"mask{number}_confidence.tif")])
            counts.append((result.classes, result.nodata_pixels))
            assert len(plan.blocks) > number  # more of them each time
            most = plan.bound_bytes - 1
    for number in (1, 2):
        np.testing.assert_array_equal(files[number], files[0])
    assert counts[1] == counts[0] == counts[2]


def test_the_strip_a_watcher_sees_is_what_the_model_sees(tmp_path: Path) -> None:
    pixels = np.random.default_rng(3).integers(1, 255, (3, 90, 80)).astype(np.uint8)
    pixels[:, 40:50, 20:30] = 0
    raster, seen = write(tmp_path / "raster.tif", pixels, nodata=0), np.zeros_like(pixels)

    def watch(strip: Pixels) -> None:
        w = strip.window
        seen[:, w.row : w.row_end, w.col : w.col_end] = strip.image

    backend = Convolution(32)
    with RasterReader(raster) as reader:
        plan = plan_bands(reader, backend.bundle.manifest, None, None)
        engine.run(backend, Source(reader, plan, Tiling.of(90, 80, 32, 0.25, "blend"), watch=watch), [Keep()])
    np.testing.assert_array_equal(seen, np.where((pixels == 0).all(0), np.uint8(120), pixels))


class Napping(Convolution):
    """A device that takes 10 ms to get pixels, 20 to compute and 10 to bring scores back."""

    def _run(self, batch: np.ndarray) -> np.ndarray:
        with self.copying("copy_in"):
            time.sleep(0.01)
        time.sleep(0.02)
        with self.copying("copy_out"):
            time.sleep(0.01)
        return super()._run(batch)


def test_stages_are_each_their_own_and_add_up_to_the_busy_time(tmp_path: Path) -> None:
    class Slow:
        def take(self, strip: Strip) -> None:
            time.sleep(0.05)

    pixels = np.random.default_rng(3).integers(1, 255, (3, 90, 80)).astype(np.uint8)
    backend, raster = Napping(32), write(tmp_path / "raster.tif", pixels)
    with RasterReader(raster) as reader:
        plan = plan_bands(reader, backend.bundle.manifest, None, None)
        stats = engine.run(backend, Source(reader, plan, Tiling.of(90, 80, 32, 0.25, "blend")), [Slow()])
    found, windows = stats.seconds, len(backend.tiles)
    assert found["copy_in"] >= 0.01 * windows
    assert found["copy_out"] >= 0.01 * windows
    assert found["infer"] >= 0.02 * windows
    # Each is counted once: what a thread does in one stage is in no other, and waiting is in none.
    assert sum(found.values()) <= stats.busy_s
    assert sum(found.values()) >= 0.04 * windows + found["encode"]
