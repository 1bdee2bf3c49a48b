"""`infer --summary`: the cells of a small JSON file against numpy on the mask as rasterio reads it."""

from __future__ import annotations

import json
import math
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.control import GroundControlPoint
from rasterio.transform import Affine

import rsedge.raster.parts as parts
from rsedge import InputError, Options, segment
from rsedge.backends import Backend
from rsedge.infer.summary import MOST_NUMBERS, most_cells, tally_cells
from rsedge.raster.cells import Side, cells_of
from rsedge.raster.grid import Grid

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
Write = Callable[..., Path]
Noise = Callable[..., np.ndarray]
Call = Callable[..., tuple[int, str, str]]


def by_cell(mask: Path, size: tuple[float, float], in_pixels: bool) -> dict[tuple[int, int], np.ndarray]:
    """Counts of each class by cell, pixel by pixel from the places of their centres."""
    with rasterio.open(mask) as src:
        values, t = src.read(1), src.transform
    rows, cols = np.mgrid[: values.shape[0], : values.shape[1]] + 0.5
    x, y = (cols, rows) if in_pixels else (t.c + t.a * cols + t.b * rows, t.f + t.d * cols + t.e * rows)
    found: dict[tuple[int, int], np.ndarray] = {}
    for i, j, value in zip(
        np.floor(x / size[0]).astype(int).ravel(),
        np.floor(y / size[1]).astype(int).ravel(),
        values.ravel(),
        strict=True,
    ):
        if value != 255:
            found.setdefault((int(i), int(j)), np.zeros(3, int))[value] += 1
    return found


def check(summary: Path, mask: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(summary.read_text())
    in_pixels = facts["cell"]["unit"].startswith("pixels")
    wanted = by_cell(mask, tuple(facts["cell"]["size"]), in_pixels)
    assert {(c[0], c[1]): c[2] for c in facts["cells"]} == {k: v.sum() for k, v in wanted.items()}
    for i, j, pixels, _, shares, *_ in facts["cells"]:
        np.testing.assert_allclose(shares, wanted[i, j] / pixels, atol=5.1e-5)
    total = sum(wanted.values())
    assert [c["pixels"] for c in facts["classes"]] == total.tolist()
    if facts["classes"][0]["area_m2"] is not None:
        areas = sum(c[3] for c in facts["cells"])
        assert areas == pytest.approx(sum(c["area_m2"] for c in facts["classes"]), rel=1e-5, abs=10)
    return facts


@pytest.fixture
def holed(noise: Noise) -> np.ndarray:
    pixels = noise(300, 420)
    pixels[:, 100:180, 200:] = 0
    return pixels


def run(model: Backend, raster: Path, **how: Any) -> dict[str, Any]:
    out, summary = raster.with_name("mask.tif"), raster.with_name("s.json")
    segment(model, raster, out, Options(summary=summary, **how))
    return check(summary, out)


def test_cells_lie_at_multiples_of_metres_and_count_what_the_mask_holds(
    model: Backend, write_raster: Write, holed: np.ndarray
) -> None:
    raster = write_raster(holed, nodata=0)
    facts = run(model, raster, summary_cell="40m", confidence=True)
    assert facts["cell"]["size"] == [40, 40]
    assert (facts["model"], facts["nodata_pixels"]) == ("strongest-band", 80 * 220)
    full = [c for c in facts["cells"] if c[2] == 80 * 80]
    # UTM at its central meridian is 0.9996 of the ground
    assert full
    assert all(c[3] == pytest.approx(1600 / 0.9996**2, rel=1e-4) for c in full if c[0] == 500000 // 40)
    with (
        rasterio.open(raster.with_name("mask_confidence.tif")) as src,
        rasterio.open(raster.with_name("mask.tif")) as mask,
    ):
        confidence, values = src.read(1), mask.read(1)
    assert facts["mean_confidence_percent"] == pytest.approx(confidence[values != 255].mean(), abs=0.06)
    first = min(c[:2] for c in facts["cells"])  # at the lower left
    i, j, pixels, *_, mean = next(c for c in facts["cells"] if c[:2] == first)
    bottom = round((5400000 - j * 40) / 0.5)
    block = np.s_[max(0, bottom - 80) : bottom, round((i * 40 - 500000) / 0.5) :][:2]
    part = confidence[block][:, :80][values[block][:, :80] != 255]
    assert (part.size, mean) == (pixels, pytest.approx(part.mean(), abs=0.06))


@pytest.mark.parametrize(
    ("profile", "cell", "pixels"),
    [
        ({"crs": "EPSG:4326", "transform": Affine(5e-6, 0, 2, 0, -4e-6, 48.7)}, "30m", False),
        ({"crs": "EPSG:3857", "transform": Affine(0.7, 0, 222000, 0, -0.7, 6200000)}, "50m", False),
        ({"transform": Affine(0.5, 0, 500000, 0, 0.5, 5400000)}, "33.3m", False),  # rows from south to north
        ({"transform": Affine(-0.5, 0, 500000, 0, -0.5, 5400000)}, "33m", False),
        ({"transform": Affine(0.4, 0.3, 500000, 0.3, -0.4, 5400000)}, "30m", True),
        ({"crs": None, "transform": Affine.identity()}, None, True),
        ({"crs": None, "transform": Affine.identity()}, "100px", True),
        ({}, "64px", True),
        ({}, None, False),
    ],
)
def test_grids_of_all_kinds(
    model: Backend, write_raster: Write, holed: np.ndarray, profile: dict[str, Any], cell: str, pixels: bool
) -> None:
    facts = run(model, write_raster(holed, nodata=0, **profile), summary_cell=cell)
    assert facts["cell"]["unit"].startswith("pixels") == pixels
    assert len(facts["cells"]) <= 100 or cell
    if cell and cell.endswith("m"):  # a cell that the raster fills is as large as asked
        asked_m2 = float(cell[:-1]) ** 2
        assert max(c[3] for c in facts["cells"]) == pytest.approx(asked_m2, rel=0.04)
    if profile.get("crs", 0) is None:
        assert "no CRS" in facts["cell"]["note"]


def test_a_resumed_run_counts_the_parts_made_before_the_kill(
    model: Backend, write_raster: Write, noise: Noise, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "PART_PIXELS", 1)  # a part a row of blocks
    raster = write_raster(noise(1700, 90))
    options = {"summary": tmp_path / "s.json", "summary_cell": "77px", "confidence": True}

    class StopError(Exception):
        pass

    def stop(done: int, total: int) -> None:
        if done > 0.7 * total:
            raise StopError

    with pytest.raises(StopError):
        segment(model, raster, tmp_path / "mask.tif", Options(**options), stop)
    assert not (tmp_path / "s.json").exists()
    again = segment(model, raster, tmp_path / "mask.tif", Options(**options, resume=True))
    assert 0 < again.resumed_pixels < 1700 * 90
    resumed = check(tmp_path / "s.json", tmp_path / "mask.tif")
    segment(model, raster, tmp_path / "whole.tif", Options(**options))
    whole = json.loads((tmp_path / "s.json").read_text())
    assert [resumed[k] for k in ("cells", "classes", "cell")] == [
        whole[k] for k in ("cells", "classes", "cell")
    ]


def test_resampled_and_cropped_results_are_counted_on_their_own_grid(
    model: Backend, write_raster: Write, holed: np.ndarray
) -> None:
    raster = write_raster(holed, nodata=0)
    box = (500010.0, 5399900.0, 500120.0, 5399980.0)
    facts = run(model, raster, bbox=box, crop=True, summary_cell="25m")
    assert sum(c["pixels"] for c in facts["classes"]) + facts["nodata_pixels"] == 220 * 160


def test_a_big_raster_gives_no_big_file() -> None:
    grid = Grid(2_000_000, 1_500_000, rasterio.crs.CRS.from_epsg(32631), Affine(0.1, 0, 4e5, 0, -0.1, 5.4e6))
    with pytest.raises(InputError, match=r"200 x 150 cells of 1km.*at most 400.*--summary-cell 20km or more"):
        cells_of(grid, Side.parse("1km"), most_cells(5))
    cells = cells_of(grid, None, most_cells(5))
    assert (str(cells.side), len(cells.i), len(cells.j)) == ("20km", 8, 10)
    for classes in (1, 5, 255):
        few = cells_of(grid, None, most_cells(classes))
        assert len(few.i) * len(few.j) * (classes + 5) <= MOST_NUMBERS


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (40_000, 3)])
def test_some_round_side_fits_every_raster(size: tuple[int, int]) -> None:
    for crs, t in ((None, Affine.identity()), ("EPSG:4326", Affine(1e-5, 0, -1e-5, 0, -1e-5, 1e-5))):
        cells = cells_of(Grid(*size, crs and rasterio.crs.CRS.from_string(crs), t), None, 400)
        assert len(cells.i) * len(cells.j) <= 100
        assert (cells.rows[0], cells.rows[-1], cells.cols[-1]) == (0, size[0], size[1])


def test_what_cannot_be_summarised_is_an_error_before_the_run(
    call_rsedge: Call, bundle: Path, write_raster: Write, noise: Noise, tmp_path: Path
) -> None:
    placed = write_raster(noise(90, 80))
    loose = write_raster(noise(90, 80), "loose.tif", crs=None, transform=Affine.identity())
    points = [
        GroundControlPoint(r, c, 2 + c / 1e4, 48 - r / 1e4) for r, c in ((0, 0), (0, 80), (90, 0), (90, 80))
    ]
    gcps = write_raster(noise(90, 80), "gcps.tif", transform=Affine.identity(), gcps=points, crs="EPSG:4326")
    (tmp_path / "mine.json").write_text('{"a": 1}')
    for raster, options, why in (
        (loose, ("--summary", "s.json", "--summary-cell", "1km"), "no CRS"),
        (gcps, ("--summary", "s.json", "--summary-cell", "1km"), "control points"),
        (placed, ("--summary", "s.json", "--summary-cell", "10cm"), "not a length"),
        (placed, ("--summary", "s.json", "--summary-cell", "0m"), "impossible"),
        (placed, ("--summary", "s.json", "--summary-cell", "0.1m"), "smaller than a pixel"),
        (placed, ("--summary", "s.json", "--summary-cell", "1m"), "too large"),
        (placed, ("--summary", "s.txt"), r"end in .json"),
        (placed, ("--summary", "mine.json"), "not written by rsedge"),
        (placed, ("--summary-cell", "1km"), "without summary"),
    ):
        named = [str(tmp_path / o) if "." in o and o[0] in "sm" else o for o in options]
        code, _, complaint = call_rsedge(
            "infer", raster, "--out", tmp_path / "m.tif", "--model", bundle, *named
        )
        assert code == 2, complaint
        assert why in complaint
        assert not (tmp_path / "m.tif").exists()
    assert (tmp_path / "mine.json").read_text() == '{"a": 1}'
    code, printed, _ = call_rsedge(
        "infer",
        gcps,
        "--out",
        tmp_path / "m.tif",
        "--model",
        bundle,
        "--summary",
        tmp_path / "s.json",
        "--json",
    )
    assert code == 0
    assert json.loads(printed.splitlines()[-1])["summary"] == str(tmp_path / "s.json")
    assert "control points" in json.loads((tmp_path / "s.json").read_text())["cell"]["note"]


def test_several_rasters_get_a_summary_each(
    call_rsedge: Call, bundle: Path, write_raster: Write, noise: Noise, tmp_path: Path
) -> None:
    rasters = [write_raster(noise(60, 70, seed), f"{seed}.tif") for seed in (1, 2)]
    code, _, complaint = call_rsedge(
        "infer", *rasters, "--out-dir", tmp_path / "o", "--model", bundle, "--summary", "s.json", "-q"
    )
    assert code == 0, complaint
    for seed in (1, 2):
        check(tmp_path / f"o/{seed}_s.json", tmp_path / f"o/{seed}.tif")
        assert math.log10((tmp_path / f"o/{seed}_s.json").stat().st_size) < 4


def test_memory_does_not_grow_with_the_mask(tmp_path: Path) -> None:
    peaks = []
    for height in (1024, 8192):
        path, grid = tmp_path / f"{height}.tif", Grid(height, 8192)
        with rasterio.open(
            path, "w", driver="GTiff", height=height, width=8192, count=1, dtype="uint8", tiled=True,
            blockxsize=512, blockysize=512, compress="deflate",
        ) as dst:  # fmt: skip
            dst.write(np.ones((height, 8192), np.uint8), 1)
        cells = cells_of(grid, None, 400)
        tracemalloc.start()
        tally = tally_cells(path, path, cells, 3, None)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert tally.pixels.sum() == tally.percent.sum() == height * 8192
    assert peaks[1] < 1.1 * peaks[0] < 32 << 20
