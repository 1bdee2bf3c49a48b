from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rsedge import InputError, open_model
from rsedge.backends import Backend
from rsedge.bench import WARMUP, BenchOptions, BenchResult, Cost, Latency, bench, example_tile, time_tile
from toys import TILE, make_bundle, pointwise_graph, pointwise_manifest

COUNTS: dict[str, Any] = {
    "network": "small",
    "params": 1_000_000,
    "macs": 2_000_000_000,
    "macs_tile": TILE,
    "params_deployed": 900_000,
    "macs_deployed": 1_500_000_000,
    "teacher": {"network": "large", "params": 30_000_000, "macs": 50_000_000_000, "macs_tile": TILE},
}


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    """The bundle of ``conftest`` with counts in its manifest."""
    manifest = pointwise_manifest(complexity=COUNTS)
    folder = tmp_path_factory.mktemp("counted") / "small.rsedge"
    with open_model(make_bundle(folder, manifest, pointwise_graph(manifest)), threads=1) as backend:
        yield backend


@pytest.fixture(scope="module")
def result(counted: Backend) -> BenchResult:
    return bench(counted, BenchOptions(tile_count=4, seconds=0, raster_side=100))


def test_the_numbers_are_consistent_with_each_other(result: BenchResult) -> None:
    took, whole = result.latency, result.end_to_end
    assert (took.runs, took.warmup_runs, took.pixels) == (4, WARMUP, "sample scene")
    assert 0 < took.p50_s <= took.p90_s
    assert took.tiles_per_s == pytest.approx(1 / took.mean_s)
    assert took.mpx_per_s == pytest.approx(took.tiles_per_s * TILE**2 / 1e6)
    assert whole is not None
    assert (whole.height, whole.width, whole.windows) == (100, 100, 4)
    assert whole.mpx_per_s == pytest.approx(100 * 100 / 1e6 / whole.seconds["total"])
    assert 1 << 20 < result.model_peak_rss_bytes <= result.peak_rss_bytes


def test_counts_come_from_the_bundle(counted: Backend, result: BenchResult) -> None:
    assert result.cost == Cost("small", 1_000_000, 2_000_000_000, TILE, 4_000_000_000)
    assert (result.cost_exported.params, result.cost_exported.flops) == (900_000, 3_000_000_000)
    assert result.teacher == Cost("large", 30_000_000, 50_000_000_000, TILE, 100_000_000_000)
    assert (result.params_ratio, result.macs_ratio) == (30, 25)
    artifact = Path(result.path) / "model.fp32.onnx"
    assert result.artifact_bytes == artifact.stat().st_size
    assert (result.model, result.sha256) == ("strongest-band", counted.bundle.sha256)


@pytest.mark.parametrize(("load", "notes"), [(None, 0), (1.0, 0), (1.1, 1)])
def test_a_busy_machine_is_said(result: BenchResult, load: float | None, notes: int) -> None:
    found = replace(result, conditions=replace(result.conditions, cores=2, load_1min_before=load))
    assert len(found.notes) == notes


def test_it_is_json(result: BenchResult) -> None:
    facts = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert facts["cost"]["flops"] == 2 * facts["cost"]["macs"]
    assert facts["macs_ratio"] == 25
    assert facts["conditions"]["threads"] == 1


def test_what_the_bundle_does_not_say_stays_unknown(model: Backend) -> None:
    found = bench(model, BenchOptions(tile_count=1, seconds=0, raster_side=8))
    assert found.cost == Cost(None, None, None, None, None)
    assert (found.teacher, found.params_ratio, found.macs_ratio) == (None, None, None)


@pytest.mark.parametrize("junk", ["6.7 M", -1, 0, 1.5, True, None, [1]])
def test_a_count_that_is_none_is_unknown(junk: object) -> None:
    found = Cost.of({"params": junk, "macs": junk, "macs_tile": 512})
    assert (found.params, found.macs, found.flops) == (None, None, None)


def test_macs_of_two_tiles_are_not_divided(tmp_path: Path) -> None:
    manifest = pointwise_manifest(complexity={**COUNTS, "teacher": {**COUNTS["teacher"], "macs_tile": 1024}})
    with open_model(make_bundle(tmp_path / "b", manifest, pointwise_graph(manifest)), threads=1) as backend:
        found = bench(backend, BenchOptions(1, 0, 8))
    assert (found.macs_ratio, found.params_ratio) == (None, 30)


def test_a_summary_of_times() -> None:
    found = Latency.of([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 2.0], 22.0, 1000, "pixels")
    assert (found.runs, found.p50_s, found.p90_s) == (11, pytest.approx(0.6), pytest.approx(1.0))
    assert found.mean_s == pytest.approx(7.5 / 11)
    assert found.cpu_mean_s == pytest.approx(2)
    assert found.mpx_per_s == pytest.approx(11 / 7.5)  # a tile of 1 Mpx


class Counting:
    """Stands for a backend on a clock that moves by ``step_s`` a run."""

    def __init__(self, step_s: float) -> None:
        self.step_s, self.now_s, self.runs = step_s, 0.0, 0

    def infer(self, _pixels: object) -> None:
        self.runs += 1
        self.now_s += self.step_s


@pytest.mark.parametrize(("tile_count", "seconds", "runs"), [(10, 0.0, 10), (10, 4.0, 16), (1, 0.3, 2)])
def test_it_runs_until_both_bounds_are_reached(
    monkeypatch: pytest.MonkeyPatch, tile_count: int, seconds: float, runs: int
) -> None:
    backend = Counting(0.25)
    monkeypatch.setattr("rsedge.bench.time.perf_counter", lambda: backend.now_s)
    monkeypatch.setattr("rsedge.bench.time.process_time", lambda: 2 * backend.now_s)
    found = time_tile(backend, np.zeros(1), BenchOptions(tile_count, seconds))  # type: ignore[arg-type]
    assert found == ([0.25] * runs, 0.5 * runs)
    assert backend.runs == runs + WARMUP


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_other_bands_get_smooth_noise_around_their_mean(dtype: str) -> None:
    manifest = pointwise_manifest(
        tile=70, dtype=dtype, bands=("red", "green", "blue", "nir"), fill=(20.0, 80.0, 100.0, 120.0)
    )
    tile, what = example_tile(manifest)
    assert (tile.shape, tile.dtype.name) == ((1, 4, 70, 70), dtype)
    assert what.startswith("smooth noise")
    for band, mean in zip(tile[0].astype(float), manifest.fill, strict=True):
        assert mean * 0.5 - 1 <= band.min() < band.max() <= mean * 1.5 + 1
        assert np.abs(np.diff(band)).max() <= mean / 16 + 1  # no step beyond a support's slope


def test_a_model_of_other_bands_has_no_whole_raster(tmp_path: Path) -> None:
    manifest = pointwise_manifest(dtype="uint16")
    graph = pointwise_graph(manifest)
    graph.graph.input[0].type.tensor_type.elem_type = 4  # UINT16
    with open_model(make_bundle(tmp_path / "b", manifest, graph), threads=1) as backend:
        found = bench(backend, BenchOptions(1, 0, 8))
    assert found.end_to_end is None
    assert found.latency.pixels.startswith("smooth noise")


@pytest.mark.parametrize(
    "options", [(0, 1.0, 8), (1, -1.0, 8), (1, math.inf, 8), (1, math.nan, 8), (1, 1.0, 0)]
)
def test_impossible_options_are_refused(options: tuple[int, float, int]) -> None:
    with pytest.raises(InputError, match="must be"):
        BenchOptions(*options)
