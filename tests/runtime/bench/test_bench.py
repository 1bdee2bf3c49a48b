from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from artifacts import graph_of, make_artifacts
from rsedge import BackendError, InputError
from rsedge.bench import BenchOptions, BenchResult, Contender, bench, example_tile
from rsedge.bench.contender import FOR_TENSORRT, of_bundles
from rsedge.bench.crew import Worker
from rsedge.bench.facts import TEACHER, Cost, Latency, Row, Spread
from rsedge.bench.inputs import example_raster
from rsedge.bench.rows import rows_of
from rsedge.bench.sensors import Sensors
from rsedge.bench.turns import RASTER_S, Measured, fitting_side
from rsedge.engine.stages import STAGES
from rsedge.score.pairs import find_pairs
from rsedge.tiling.axes import Tiling
from rsedge_sample.files import write_sample
from toys import TILE, make_bundle, pointwise_graph, pointwise_manifest

COUNTS: dict[str, Any] = {
    "network": "small",
    "params": 1_000_000,
    "macs": 2_000_000_000,
    "macs_tile": TILE,
    "params_deployed": 900_000,
    "macs_deployed": 1_500_000_000,
    "teacher": {
        "network": "large", "params": 30_000_000, "macs": 50_000_000_000, "macs_tile": TILE, "size_bytes": 120_000_000,
    },
}  # fmt: skip
SHORT = BenchOptions(rounds=2, seconds=0.01, raster_side=100, device="cpu", threads=1)


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the bundle of ``conftest`` with counts in its manifest."""
    manifest = pointwise_manifest(complexity=COUNTS)
    folder = tmp_path_factory.mktemp("counted") / "small.rsedge"
    return make_bundle(folder, manifest, pointwise_graph(manifest))


@pytest.fixture(scope="module")
def result(counted: Path) -> BenchResult:
    return bench([counted, counted], SHORT)


def artifacts_of(folder: Path, *precisions: str) -> Path:
    manifest = pointwise_manifest()
    return make_artifacts(folder / "b.rsedge", manifest, {p: graph_of(manifest, p) for p in precisions})


class TestARun:
    def test_the_teacher_is_first_and_known_by_its_facts(self, result: BenchResult) -> None:
        teacher = result.rows[0]
        assert (teacher.label, teacher.role, teacher.name) == ("T", TEACHER, "large")
        assert teacher.cost == Cost("large", 30_000_000, 50_000_000_000, TILE)
        assert teacher.size_bytes == 120_000_000
        assert teacher.latency is None
        assert "--teacher" in str(teacher.why_not)

    def test_the_counts_are_the_bundles(self, result: BenchResult, counted: Path) -> None:
        row = result.rows[1]
        assert row.cost == Cost("small", 1_000_000, 2_000_000_000, TILE)
        assert (row.cost.flops, row.cost.paper_flops) == (4_000_000_000, 16_000_000_000)
        assert row.cost_exported == Cost("small", 900_000, 1_500_000_000, TILE)
        assert row.size_bytes == (counted / "model.fp32.onnx").stat().st_size
        sizes = {"params": 30, "macs": 25, "size": 120_000_000 / row.size_bytes}
        assert row.ratios == {**sizes, "memory": None, "energy": None}

    def test_the_figures_are_consistent_with_each_other(self, result: BenchResult) -> None:
        assert [row.label for row in result.rows] == ["T", "1", "2"]
        assert result.base == "1"
        for row in result.rows[1:]:
            took, single, whole = row.latency, row.fps[1], row.end_to_end
            assert took is not None
            assert single is not None
            assert took.runs == single.n >= 2
            assert took.p50_s <= took.p95_s <= took.p99_s
            assert single.p90 <= 1 / took.spread.p10 * 1.001
            assert whole is not None
            assert (whole.height, whole.width, whole.windows) == (
                100,
                100,
                len(Tiling.of(100, 100, TILE, 0.25, "blend")),
            )
            assert whole.mpx_per_s.p50 == pytest.approx(0.01 / whole.total_s.p50, rel=0.2)
            assert row.memory is not None
            assert 1 << 20 < row.memory.tile_peak_rss_bytes < 1 << 31

    def test_stages_account_for_the_work(self, result: BenchResult) -> None:
        whole = result.rows[1].end_to_end
        assert whole is not None
        assert list(whole.stages_s) == ["prepare", *STAGES, "write"]
        # Busy time is measured apart, as each thread's lifetime less its waiting; on a raster this small the time
        # between the stages counts too.
        assert 0 < whole.stages_over_busy <= 1.001

    def test_ratios_are_to_the_first_that_was_measured(self, result: BenchResult) -> None:
        assert result.rows[1].fps_ratio == {1: None, 8: None}
        against = result.rows[2].fps_ratio[1]
        assert against is not None
        assert against.n == 2  # one per round
        assert 0.1 < against.p50 < 10  # the same model twice

    def test_it_is_json(self, result: BenchResult) -> None:
        facts = json.loads(json.dumps(result.to_dict(), allow_nan=False))
        assert facts["rsedge_bench_schema"] == 1
        assert facts["rows"][1]["cost"]["flops"] == 2 * facts["rows"][1]["cost"]["macs"]
        assert set(facts["rows"][1]["fps"]) == {"1", "8"}
        assert 0 <= facts["method"]["overhead_share"] < 1
        assert facts["machine"]["cores"] >= 1

    def test_no_process_is_left(self, result: BenchResult) -> None:
        assert result
        children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
        left = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children.read_text().split()]
        assert not [line for line in left if b"rsedge.bench.worker" in line]


def test_what_the_bundle_does_not_say_stays_unknown(bundle: Path) -> None:
    found = bench([bundle], SHORT)
    assert [row.label for row in found.rows] == ["1"]
    assert found.rows[0].cost == Cost(None, None, None, None)
    assert (found.rows[0].accuracy, found.rows[0].gate, found.rows[0].power) == (None, None, None)


def test_the_gate_and_its_scores_come_from_the_bundle(tmp_path: Path) -> None:
    manifest = pointwise_manifest()
    judged = {
        "precision": "int8",
        "passed": True,
        "tiles": 3,
        "tiles_from": "tiles of t",
        "quantized": ["conv"],
    }
    report = {
        "limits": {"miou_drop": 0.5},
        "artifacts": {
            "model.fp32.onnx": {"precision": "fp32", "passed": True},
            "model.int8.onnx": {**judged, "miou": 0.4, "miou_fp32": 0.5},
        },
    }
    graphs = {p: graph_of(manifest, p) for p in ("fp32", "int8")}
    full, small = bench([make_artifacts(tmp_path / "b.rsedge", manifest, graphs, report)], SHORT).rows
    assert full.accuracy is not None
    assert small.accuracy is not None
    assert (full.accuracy.miou, small.accuracy.miou) == (0.5, 0.4)
    assert small.accuracy.source == "report.json: 3 tiles of t"
    assert small.gate is not None
    assert small.gate["limits"] == {"miou_drop": 0.5}
    assert "quantized" not in small.gate


def test_scores_of_the_training_are_those_of_fp32(tmp_path: Path) -> None:
    scores = {"miou": 0.75, "oa": 0.8, "iou": {"red": 0.7, "green": 0.8, "blue": 0.75}}
    training = {"progress": {"val_best": scores}, "teacher": {"val": {**scores, "miou": 0.875}}}
    manifest = pointwise_manifest(complexity=COUNTS, provenance={"training": training})
    graphs = {p: graph_of(manifest, p) for p in ("fp32", "int8")}
    rows = bench([make_artifacts(tmp_path / "b.rsedge", manifest, graphs)], SHORT).rows
    assert [row.accuracy.miou if row.accuracy else None for row in rows] == [0.875, 0.75, None]
    assert rows[0].accuracy is not None
    assert rows[0].accuracy.source == "the bundle: validation when it was trained"


def test_accuracy_can_be_measured(bundle: Path, tmp_path: Path) -> None:
    from rsedge_sample.files import write_sample

    manifest = pointwise_manifest(classes=pointwise_manifest().classes)
    write_sample(tmp_path / "town.tif", 70, 70, seed=3)
    (image, label), *_ = find_pairs(tmp_path)
    assert (image.name, manifest.takes_rgb8) == ("town.tif", True)
    label.unlink()
    import rasterio

    with rasterio.open(image) as src, rasterio.open(label, "w", **{**src.profile, "count": 1}) as dst:
        pixels = src.read()
        dst.write(pixels.astype(int).argmax(0).astype(np.uint8), 1)
    found = bench([bundle], BenchOptions(1, 0, 100, "cpu", data=str(tmp_path), threads=1)).rows[0].accuracy
    assert found is not None
    assert (found.miou, found.oa) == (1, 1)  # the model returns the strongest band
    assert found.source == "measured: 1 rasters, 0.00 Mpx labelled"


def test_accuracy_of_bands_and_values_that_are_told(
    bundle: Path, noise: Callable[..., np.ndarray], write_raster: Callable[..., Path], tmp_path: Path
) -> None:
    pixels = noise(70, 70)
    (tmp_path / "data").mkdir()
    write_raster(pixels[::-1].astype(np.uint16) * 100, "data/a.tif")
    write_raster(pixels.argmax(0).astype(np.uint8)[None], "data/a_labels.tif")
    told = {"data": str(tmp_path / "data"), "bands": (3, 2, 1), "scale": (0, 25500), "nodata": (65535,)}
    result = bench([bundle], BenchOptions(1, 0, 100, "cpu", threads=1, **told))
    assert result.rows[0].accuracy is not None
    assert result.rows[0].accuracy.oa > 0.99
    method = result.to_dict()["method"]
    assert (method["bands"], method["scale"], method["nodata"]) == ("3,2,1", "0,25500", "65535")


class TestWhatCannotRun:
    def test_a_device_that_is_missing_is_listed(self, bundle: Path) -> None:
        with pytest.raises(BackendError, match="no artifact can run on this machine: .*not offer CUDA"):
            bench([bundle], BenchOptions(device="cuda"))

    def test_files_for_tensorrt_are_not_timed_on_a_cpu(self, tmp_path: Path) -> None:
        folder = artifacts_of(tmp_path, "fp32", "int8-trt10")
        contenders, left_out = of_bundles([folder], BenchOptions(device="cpu"))
        assert [c.precision for c in contenders] == ["fp32"]
        assert left_out[0].why == FOR_TENSORRT
        asked, _ = of_bundles([folder], BenchOptions(device="cpu", precision="int8-trt10"))
        assert [c.precision for c in asked] == ["int8-trt10"]

    def test_a_damaged_artifact_is_listed_and_the_rest_runs(self, tmp_path: Path) -> None:
        folder = artifacts_of(tmp_path, "fp32", "fp16")
        (folder / "model.fp16.onnx").write_bytes(b"torn")
        found = bench([folder], SHORT)
        assert [row.precision for row in found.rows] == ["fp32"]
        assert any("fp16 on cpu" in n.what and "was changed" in n.why for n in found.not_run)

    def test_what_was_measured_before_a_model_broke_down_stands(self, bundle: Path, tmp_path: Path) -> None:
        write_sample(tmp_path / "town.tif", 70, 70, seed=3)  # its labels have five classes, the model three
        found = bench([bundle], replace(SHORT, data=str(tmp_path), allow_missing=True))
        assert found.rows[0].end_to_end is not None
        assert found.rows[0].accuracy is None
        assert any("remaining turns" in n.what for n in found.not_run)

    def test_a_process_that_dies_says_how(self, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2] / "support"))
        with pytest.raises(BackendError, match="ended with exit code 3: .*no device for you"):
            Worker(Contender(str(bundle), "cpu", opener="dying:open_and_die"))

    def test_a_raster_smaller_than_a_tile_is_refused(self, bundle: Path) -> None:
        with pytest.raises(InputError, match=f"63 px is smaller than the model's tile \\({TILE} px\\)"):
            bench([bundle], BenchOptions(1, 0, TILE - 1, "cpu"))

    def test_a_model_of_other_bands_has_no_whole_raster(self, tmp_path: Path) -> None:
        manifest = pointwise_manifest(dtype="uint16")
        graph = pointwise_graph(manifest)
        graph.graph.input[0].type.tensor_type.elem_type = 4  # UINT16
        found = bench([make_bundle(tmp_path / "b", manifest, graph)], SHORT).rows[0]
        assert found.end_to_end is None
        assert found.latency is not None
        assert found.latency.pixels.startswith("smooth noise")


def test_a_busy_machine_is_said(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rsedge.bench.machine.load_1min", lambda: 1e3)
    assert any("other work was running (load 1000.0" in n for n in bench([bundle], SHORT).notes)


def measured(role: str, tile_s: float, rounds: int = 2) -> Measured:
    """Make measurements in which each tile took ``tile_s``, and half of ``tile_s`` in a batch."""
    facts = {
        "name": role, "precision": "fp32", "backend": "b", "version": "1", "provider": "p", "threads": 1, "sha256": "",
        "tile": TILE, "takes_rgb8": True, "cost": Cost(role, 10, 10, TILE).__dict__, "size_bytes": 5,
    }  # fmt: skip
    found = Measured(Contender(role, "cpu", role=role), facts, cpu_s=1.0, pixels="zeros")
    for number in range(rounds):
        found.times_s[1][number] = [tile_s, tile_s]
        found.times_s[8][number] = [4 * tile_s]
    return found


def test_a_raster_s_speed_is_its_pixels_over_the_total() -> None:
    stages = dict.fromkeys(("prepare", *STAGES, "write"), 0.25)
    mine, teacher = measured("student", 0.01), measured(TEACHER, 0.5)
    for number, total_s in enumerate((1.0, 2.0)):
        seconds = {**stages, "busy": 2.5, "total": total_s}
        mine.rasters[number] = {"height": 1000, "width": 2000, "windows": 12, "seconds": seconds}
        teacher.rasters[number] = {
            "height": 1000,
            "width": 1000,
            "windows": 6,
            "seconds": {**seconds, "total": 10.0},
        }
        # The ratio is measured on the teacher's smaller raster.
        mine.on_base_raster[number] = {**teacher.rasters[number], "seconds": {**seconds, "total": total_s}}
    rows, _ = rows_of([mine, teacher], Sensors(smi="/nowhere"))
    whole = rows[1].end_to_end
    assert whole is not None
    assert (whole.total_s.p50, whole.busy_s) == (1.5, 2.5)
    assert astuple(whole.mpx_per_s) == pytest.approx((1.5, 1.1, 1.9, 2))
    assert whole.ratio is not None
    assert astuple(whole.ratio) == pytest.approx((7.5, 5.5, 9.5, 2))
    assert whole.stages_over_busy == pytest.approx(len(STAGES) * 0.25 / (2.5 - 0.5))


def test_a_measured_teacher_is_the_base() -> None:
    rows, base = rows_of([measured("student", 0.01), measured(TEACHER, 0.5)], Sensors(smi="/nowhere"))
    assert (base, [row.label for row in rows]) == ("T", ["T", "1"])
    assert rows[1].fps_ratio[1] == Spread(50, 50, 50, 2)
    assert rows[1].fps[8] == Spread(200, 200, 200, 2)
    assert rows[0].fps_ratio[1] is None


def test_ratios_are_of_rounds_that_both_took_part_in() -> None:
    rows, _ = rows_of(
        [measured("student", 0.01, rounds=5), measured(TEACHER, 0.5, rounds=3)], Sensors(smi="/nowhere")
    )
    against = rows[1].fps_ratio[1]
    assert against is not None
    assert against.n == 3


def test_a_teacher_of_another_bundle_is_not_compared_with(counted: Path, tmp_path: Path) -> None:
    other = pointwise_manifest(complexity={**COUNTS, "teacher": {**COUNTS["teacher"], "params": 7}})
    folder = make_bundle(tmp_path / "b", other, pointwise_graph(other))
    _, mine, theirs = bench([counted, folder], SHORT).rows
    assert (mine.ratios["params"], theirs.ratios) == (30, {})


def test_models_of_different_classes_share_no_teacher(counted: Path, tmp_path: Path) -> None:
    other = pointwise_manifest(classes=pointwise_manifest().classes[::-1])
    folder = make_bundle(tmp_path / "b", other, pointwise_graph(other))
    with pytest.raises(InputError, match="no teacher in common"):
        bench([counted, folder], SHORT, Contender("x", "cpu", role=TEACHER))


def test_macs_of_two_tiles_are_not_divided(tmp_path: Path) -> None:
    manifest = pointwise_manifest(complexity={**COUNTS, "teacher": {**COUNTS["teacher"], "macs_tile": 1024}})
    row = bench([make_bundle(tmp_path / "b", manifest, pointwise_graph(manifest))], SHORT).rows[1]
    assert (row.ratios["macs"], row.ratios["params"]) == (None, 30)


@pytest.mark.parametrize("junk", ["6.7 M", -1, 0, 1.5, True, None, [1]])
def test_a_count_that_is_none_is_unknown(junk: object) -> None:
    found = Cost.of({"params": junk, "macs": junk, "macs_tile": 512})
    assert (found.params, found.macs, found.flops) == (None, None, None)


def test_a_summary_of_times() -> None:
    times_s = [n / 100 for n in range(1, 101)]
    found = Latency.of(times_s, 22.0, "pixels")
    assert (found.runs, found.p50_s, found.p95_s) == (100, pytest.approx(0.505), pytest.approx(0.9505))
    assert found.p99_s == pytest.approx(np.percentile(times_s, 99))
    assert found.cpu_mean_s == pytest.approx(0.22)
    assert astuple(found.spread) == pytest.approx((0.505, 0.109, 0.901, 100))


@pytest.mark.parametrize(
    ("side", "tile_s"), [(2048, 0.01), (2048, 2.0), (4096, 0.5), (512, 9.0), (600, 100.0)]
)
def test_a_slow_model_gets_a_smaller_raster(side: int, tile_s: float) -> None:
    found = fitting_side(side, 512, tile_s)
    windows = len(Tiling.of(found, found, 512, 0.25, "blend"))
    assert 512 <= found <= side
    assert windows * tile_s <= RASTER_S or windows <= 4
    if len(Tiling.of(side, side, 512, 0.25, "blend")) * tile_s <= RASTER_S:
        assert found == side


def test_a_raster_is_drawn_once(tmp_path: Path) -> None:
    path = example_raster(tmp_path, 70)
    before = path.stat().st_mtime_ns
    assert example_raster(tmp_path, 70).stat().st_mtime_ns == before


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
        assert np.abs(np.diff(band)).max() <= mean / 16 + 1  # no step steeper than between support points


IMPOSSIBLE: list[tuple[Callable[[], BenchOptions], str]] = [
    (lambda: BenchOptions(rounds=0), "rounds 0"),
    (lambda: BenchOptions(bands=(1, 2, 3)), "--data, which was not given"),
    (lambda: BenchOptions(scale=(0, 1)), "--data, which was not given"),
    (lambda: BenchOptions(seconds=-1), "seconds -1"),
    (lambda: BenchOptions(seconds=math.inf), "seconds inf"),
    (lambda: BenchOptions(seconds=math.nan), "seconds nan"),
    (lambda: BenchOptions(threads=0), "threads 0"),
    (lambda: BenchOptions(classes="c.toml"), "--classes"),
]


@pytest.mark.parametrize(("make", "message"), IMPOSSIBLE)
def test_impossible_options_are_refused(make: Callable[[], BenchOptions], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


def test_a_row_of_facts_alone_is_json() -> None:
    row = Row("T", TEACHER, "large", "b", Cost("large", 1, None, None))
    assert json.loads(json.dumps(row.to_dict()))["cost"] == {
        "network": "large", "params": 1, "macs": None, "macs_tile": None, "flops": None, "paper_flops": None,
    }  # fmt: skip
