"""benchmarks/table4.py: its arithmetic, and turns of a small network at a small tile; no time is asserted."""

import json
import sys
from pathlib import Path

import pytest
import torch

from rsedge_train.nets.authors import TABLE_4

BENCHMARKS = str(Path(__file__).resolve().parents[2] / "benchmarks")
sys.path.append(BENCHMARKS)
try:
    import table4
    import table4_tables as tables
    import table4_worker as worker
finally:
    sys.path.remove(BENCHMARKS)

SMALL = "mobilenetv3_small_100"
COLUMNS = {"params_m": 1.0, "flops_g": 2.0, "size_mb": 3.0}
COUNTS = {
    name: {**COLUMNS, "printed": {**COLUMNS, "fps": TABLE_4[name].fps}} for name in ("arafnet-t", SMALL)
}


class Clock:
    """Moves on by a second whenever it is read."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        self.now += 1
        return self.now


@pytest.mark.parametrize(("seconds", "count"), [(0, 1), (1, 1), (5, 2), (10, 4)])
def test_passes_until_the_time_is_up_and_one_at_least(seconds, count):
    called = list[int]()
    found = tables.passes(lambda: called.append(1), seconds, Clock())
    assert found == [1.0] * count
    assert len(called) == count


def test_ratios_to_the_teacher_are_of_the_same_round():
    runs = {
        "arafnet-t": {"wall_s": [4.0, 40.0], "peak_rss_bytes": [1, 2]},
        SMALL: {"wall_s": [1.0, 10.0], "peak_rss_bytes": [3, 2]},
    }
    row = tables.Row.of(SMALL, COUNTS, runs, batch=8)
    assert (row.ratio.p10, row.ratio.p90) == (4.0, 4.0)  # the load of the second round hides nothing
    assert row.fps.p50 == pytest.approx((8.0 + 0.8) / 2)
    assert row.printed_ratio == pytest.approx(586.04 / 20.01)
    assert row.peak_bytes == 3
    assert tables.Row.of(SMALL, COUNTS, {SMALL: runs[SMALL]}, batch=8).ratio is None


def test_on_a_gpu_its_memory_is_told():
    runs = {SMALL: {"wall_s": [1.0], "peak_rss_bytes": [7], "device_peak_bytes": [5, 6]}}
    assert tables.Row.of(SMALL, COUNTS, runs, batch=8).peak_bytes == 6


def test_the_table_puts_ours_beside_the_papers():
    runs = {SMALL: {"wall_s": [0.5], "peak_rss_bytes": [3 * 2**20]}}
    rows = [tables.Row.of(SMALL, COUNTS, runs, batch=8)]
    lines = tables.table(rows, "host").splitlines()
    assert lines[2] == (
        f"| {SMALL} | 1.00 / 1.00 | 2.00 / 2.00 | 3.00 / 3.00 | 586.04 | 16.00 (16.00 to 16.00) | 29.3 | - | 3 |"
    )
    assert len({line.count("|") for line in lines}) == 1
    json.dumps([row.to_dict() for row in rows])
    assert tables.left_out_lines({"resnet18": "ended"}) == "- resnet18 did not run, it ended"


@pytest.mark.slow
def test_counts_have_all_that_a_row_wants():
    counts = worker.counts([SMALL])["counts"]
    assert counts[SMALL]["params_m"] == pytest.approx(counts[SMALL]["printed"]["params_m"], abs=0.01)
    counts |= {"arafnet-t": COUNTS["arafnet-t"]}
    row = tables.Row.of(SMALL, counts, {SMALL: {"wall_s": [1.0], "peak_rss_bytes": [1]}}, batch=8)
    assert row.counted.flops_g == pytest.approx(row.printed.flops_g, abs=0.01)


def _turn(way, dtype, graph=""):
    return worker.turn(
        SMALL, way, dtype, "cpu", batch=2, tile=64, threads=torch.get_num_threads(), warmup=1, seconds=0, tf32=False,
        graph=str(graph),
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("way", "dtype"), [("eager", "fp32"), ("eager", "bf16"), ("eager-deployed", "fp32")])
def test_a_turn_in_torch(way, dtype):
    found = _turn(way, dtype)
    assert found["passes"] == 1
    assert min(found["wall_s"], found["first_s"]) > 0


@pytest.mark.slow
def test_a_turn_in_onnx_runtime_is_of_a_graph_compared_with_torch(tmp_path):
    graph = tmp_path / "small.onnx"
    exported = worker.export(SMALL, "onnx", "fp32", 64, str(graph))
    assert 0 < exported["error"] < 1e-5
    assert exported["bytes"] == graph.stat().st_size
    assert _turn("onnx", "fp32", graph)["passes"] == 1


@pytest.mark.slow
def test_deployed_students_are_another_graph_and_the_same_function():
    torch.manual_seed(0)
    plain = worker._build(SMALL, "onnx", 64)
    torch.manual_seed(0)
    deployed = worker._build(SMALL, "onnx-deployed", 64)
    x = worker._example(1, 64)
    with torch.inference_mode():
        torch.testing.assert_close(deployed(x), plain(x), rtol=1e-3, atol=1e-4)
    kinds = [sum(isinstance(m, torch.nn.BatchNorm2d) for m in net.modules()) for net in (plain, deployed)]
    assert kinds[1] < kinds[0]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_an_error():
    with pytest.raises(worker.BackendError, match="--device cpu"):
        worker.conditions("cuda", None)
    assert worker.conditions("auto", None)["device"] == "cpu"


@pytest.mark.parametrize(
    "wrong", [["--tile", "100"], ["--rounds", "0"], ["--warmup", "0"], ["--networks", "unet"]]
)
def test_wrong_usage_says_so(monkeypatch, capsys, wrong):
    monkeypatch.setattr(sys, "argv", ["table4.py", *wrong])
    with pytest.raises(SystemExit) as ended:
        table4._parse()
    assert ended.value.code == 2
    assert wrong[0] in capsys.readouterr().err
