"""benchmarks/peers.py without the peers: where tiles go, geodeep's models, rows, the environment."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import rasterio
from rasterio import Affine

from rsedge.machine import usable_cores
from rsedge_sample.files import write_sample

BENCHMARKS = str(Path(__file__).resolve().parents[2] / "benchmarks")
sys.path.append(BENCHMARKS)
try:
    import peers
    import peers_contenders as contenders
    import peers_inputs as inputs
    import peers_tables as tables
    import streaming_inputs
    import streaming_run as running
finally:
    sys.path.remove(BENCHMARKS)

MIB = 2**20


@pytest.mark.parametrize("row", [-6, -2, 0, 3, 9, 12])
@pytest.mark.parametrize("col", [-6, -1, 0, 4, 8, 11])
def test_tiles_are_cut_at_the_borders(row, col):
    mask, part = np.zeros((10, 9), np.uint8), np.arange(1, 21, dtype=np.uint8).reshape(4, 5)
    tables.put(mask, part, row, col)
    margin = np.zeros((30, 29), np.uint8)
    margin[10 + row : 14 + row, 10 + col : 15 + col] = part
    np.testing.assert_array_equal(mask, margin[10:20, 10:19])


def test_coordinates_give_the_first_pixel():
    grid = Affine(0.5, 0, 300_000, 0, -0.5, 5_000_000)
    assert tables.first_pixel(grid, 300_000 + 384 * 0.5, 5_000_000 - 100 * 0.5) == (100, 384)
    assert tables.first_pixel(grid, 300_000.0001, 5_000_000 + 60 * 0.5) == (-60, 0)


def _rows():
    peak = [110 * MIB, 130 * MIB]
    runs = {
        "rsedge": {"wall_s": [1.0, 2.0], "peak_rss_bytes": peak},
        "geodeep": {"wall_s": [4.0, 6.0], "loop_s": [3.0, 3.0], "peak_rss_bytes": peak},
    }
    kept = {"same_grid": True, "nodata_marked": 0.0, "valid_marked": 0.25}
    small = {name: {"peak_rss_bytes": 100 * MIB, "unlike": 0.01, "kept": kept} for name in runs}
    return tables.rows_of(
        runs, small, {"rsedge": 1.0, "geodeep": 0.9}, pixels=4_000_000, small_pixels=1_000_000
    )


def test_ratios_are_of_the_same_round_and_the_filter_is_told_apart():
    own, geodeep, loop = _rows()
    assert (own.over_own.p10, own.over_own.p90) == (1.0, 1.0)
    assert geodeep.over_own.p50 == pytest.approx(3.5)  # of 4 and 3
    assert loop.over_own.p50 == pytest.approx(2.25)  # of 3 and 1.5
    assert geodeep.mpx_per_s.p50 == pytest.approx((1.0 + 4 / 6) / 2)
    assert geodeep.bytes_per_pixel == pytest.approx(10 * MIB / 1e6)  # 30 MiB more for 3 Mpx more
    assert (loop.contender, loop.peak_bytes) == ("geodeep, without its filter", None)


def test_the_table_has_a_line_a_contender():
    lines = tables.table(_rows()).splitlines()
    assert lines[3] == (
        "| geodeep | 5.00 (4.20 to 5.80) | 0.833 (0.700 to 0.967) | 3.50 (3.10 to 3.90) | 130 | 10.0 | 90.000 % "
        "| 1.0000 % | crop | kept, library | 0.0 % / 25.0 % |"
    )
    assert len({line.count("|") for line in lines}) == 1
    json.dumps([row.to_dict() for row in _rows()])


def test_geodeep_gets_the_same_model(tmp_path):
    model = streaming_inputs.graph(for_geodeep=False)
    other = inputs.for_geodeep(model, {"seg_thresh": "0"})
    onnx.checker.check_model(other, full_check=True)
    assert [(p.key, p.value) for p in other.metadata_props] == [("seg_thresh", "0")]
    pixels = np.random.default_rng(0).integers(0, 256, (1, 3, 512, 512), np.uint8)
    expected, found = (
        onnxruntime.InferenceSession(m.SerializeToString()).run(None, {name: values})[0]
        for m, name, values in (
            (model, "pixels", pixels),
            (other, "scaled", pixels.astype(np.float32) / 255),
        )
    )
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_everybody_has_the_same_session(tmp_path, monkeypatch):
    monkeypatch.setattr(onnxruntime, "InferenceSession", onnxruntime.InferenceSession)  # put back afterwards
    path = tmp_path / "model.onnx"
    onnx.save(streaming_inputs.graph(for_geodeep=True), path)

    def peer(model):
        session = onnxruntime.InferenceSession(model, sess_options=None, providers=["CUDAExecutionProvider"])
        options = session.get_session_options()
        return {
            "threads": options.intra_op_num_threads,
            "spinning": options.get_session_config_entry("session.intra_op.allow_spinning"),
            "providers": session.get_providers(),
        }

    assert contenders.same_session(peer)(model=str(path)) == {
        "threads": usable_cores(),
        "spinning": "0",
        "providers": ["CPUExecutionProvider"],
    }


def _moved(grid):
    return Affine(grid.a, grid.b, grid.c + grid.a, grid.d, grid.e, grid.f)


def test_a_mask_is_asked_what_it_kept(tmp_path):
    raster, empty, mask = (str(tmp_path / name) for name in ("scene.tif", "nodata.tif", "mask.tif"))
    write_sample(Path(raster), 90, 60, seed=3)
    inputs.write_nodata(raster, empty)
    with rasterio.open(empty) as src:
        valid, place = src.dataset_mask() > 0, {"crs": src.crs, "transform": src.transform}
    assert valid[:, :60].all()
    assert not valid[:, 60:].any()
    profile = {
        "driver": "GTiff",
        "width": 90,
        "height": 60,
        "count": 1,
        "dtype": "uint8",
        "nodata": 255,
        **place,
    }
    classes = np.ones((1, 60, 90), np.uint8)
    classes[:, :, 75:] = 255  # half of the nodata pixels,
    classes[:, :6, :60] = 255  # and a tenth of the others
    with rasterio.open(mask, "w", **profile) as dst:
        dst.write(classes)
    found = contenders.inspect(empty, mask)
    assert found["same_grid"]
    assert (found["nodata_marked"], found["valid_marked"]) == pytest.approx((0.5, 0.1))
    with rasterio.open(mask, "w", **{**profile, "transform": _moved(place["transform"])}) as dst:
        dst.write(classes)
    assert not contenders.inspect(empty, mask)["same_grid"]


def test_who_dies_takes_no_further_turn(capsys):
    tried, died = list[int](), dict[str, str]()

    def dies():
        tried.append(len(tried))
        if len(tried) == 2:
            raise running.DiedError("python x.py", "no memory")
        return {"wall_s": 1.0, "process_s": 2.0}

    turns = running.tolerated({"dies": dies, "lives": lambda: {"wall_s": 3.0, "process_s": 4.0}}, died)
    runs = running.take_turns(turns, 4)
    assert died == {"dies": "no memory"}
    assert tried == [0, 1]
    assert runs["lives"]["wall_s"] == [3.0] * 4


def test_an_environment_never_takes_the_place_of_other_files(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(FileExistsError, match="--env"):
        peers.environment(tmp_path, fresh=True)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_a_finished_environment_is_taken_as_it_is(tmp_path):
    mark = tmp_path / peers.MARK
    mark.write_text(json.dumps({"packages": peers.PACKAGES}))
    assert peers.environment(tmp_path, fresh=False).parent.parent == tmp_path
    for other in ("", "{}", json.dumps({"packages": ["geodeep"]})):
        mark.write_text(other)
        assert peers.asked_for(tmp_path) != list(peers.PACKAGES)


@pytest.mark.parametrize("wrong", [["--size", "1000"], ["--rounds", "0"], ["--models", "b7"]])
def test_wrong_usage_ends_before_anything_is_installed(tmp_path, wrong):
    script = Path(BENCHMARKS) / "peers.py"
    env = tmp_path / "env"
    ended = subprocess.run(
        [sys.executable, script, "--env", env, *wrong], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2
    assert wrong[0] in ended.stderr
    assert not env.exists()
