"""The arithmetic of benchmarks/streaming.py; nothing is timed."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsedge.model.bundle import METADATA_KEY
from rsedge.model.manifest import Manifest
from rsedge.tiling.axes import Axis, Tiling

BENCHMARKS = str(Path(__file__).resolve().parents[2] / "benchmarks")
sys.path.append(BENCHMARKS)
try:
    import streaming_inputs as inputs
    import streaming_tables as tables
finally:
    sys.path.remove(BENCHMARKS)


def test_ratios_are_of_the_same_round():
    found = tables.ratios(
        [2.0, 30.0, 4.0], [1.0, 10.0, 4.0]
    )  # 2, 3, 1: load in the second round hides nothing
    assert (found.p10, found.p50, found.p90) == pytest.approx((1.2, 2.0, 2.8))


@pytest.mark.parametrize("rounds", [([1.0], [1.0, 2.0]), ([], [])])
def test_ratios_want_rounds(rounds):
    with pytest.raises(ValueError, match="rounds"):
        tables.ratios(*rounds)


def test_the_floor_is_the_slower_of_two_each_round():
    floor = tables.floor_s([1.0, 1.0], [0.5, 0.5], [1.2, 2.0])
    assert floor.tolist() == [1.5, 2.0]


@pytest.mark.parametrize(
    ("kind", "bar", "holds"),
    [("at most", 1.6, True), ("at most", 1.4, False), ("at least", 1.4, True), ("at least", 1.6, False),
     ("at most", None, None)],
)  # fmt: skip
def test_a_bar_is_held_against_the_median(kind, bar, holds):
    row = tables.Row("what", tables.Spread(1.0, 1.5, 9.0), bar, kind)
    assert row.holds is holds
    assert row.to_dict()["holds"] is holds


def test_the_table_says_what_is_missed():
    missed = tables.Row("slow", tables.Spread(1.7, 1.8, 1.9), 1.6)
    told = tables.Row("told", tables.Spread(100.0, 250.0, 300.4), unit=" MiB", note="why")
    assert tables.bars_table([missed, told]).splitlines()[2:] == [
        "| slow | 1.80 (1.70 to 1.90) | at most 1.6 | **no** |",
        "| told (why) | 250 (100 to 300) MiB |  |  |",
    ]


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (3e-8, "3.0e-08"), (0.5, "0.500"), (1.234, "1.23"), (99.9, "99.90")]
)
def test_numbers_are_short(value, text):
    assert str(tables.Spread(value, value, value)) == f"{text} ({text} to {text})"


def test_seconds_table_has_a_line_a_contender():
    runs = {
        "read": {
            "wall_s": [1.0],
            "process_s": [2.0],
            "cpu_s": [3.0],
            "peak_rss_bytes": [5 * 2**20, 7 * 2**20],
        }
    }
    assert tables.seconds_table(runs).endswith(
        "| read | 1.00 (1.00 to 1.00) | 2.00 (2.00 to 2.00) | 3.00 (3.00 to 3.00) | 7 |"
    )


def test_the_least_of_a_stage_is_what_binds_it():
    work = tables.Work("blend", bytes_moved=4e9, operations=1e9, seconds=3.0)
    assert work.least_s(bytes_per_s=2e9, operations_per_s=1e9) == 2.0
    assert work.least_s(bytes_per_s=8e9, operations_per_s=1e9) == 1.0
    machine = {"copy_1_bytes_per_s": 2e9, "copy_2_bytes_per_s": 3e9, "operations_per_s": 1e9}
    assert tables.work_table([work], machine).endswith("| blend | 3.000 | 4000 | 1.00 | 1.33 | 0.33 | 1.5 |")


def test_work_without_overlap_carries_nothing():
    work = tables.geometry_work(pixels=100, window_pixels=100, bands=3, classes=6)
    assert work["decode"] == (300, 0)
    assert work["gather"] == (600, 0)
    assert work["blend + argmax"] == (100 * 6 * 4 + 100, 2 * 600 + 500)


def test_work_counts_overlap_out_and_in():
    work = tables.geometry_work(pixels=100, window_pixels=150, bands=3, classes=2)
    assert work["blend + argmax"][0] == 150 * 8 + 2 * 50 * 8 + 100


@given(
    length=st.integers(1, 400), tile=st.integers(4, 64), overlap=st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75])
)
def test_the_reference_has_the_weights_of_the_runtime(length, tile, overlap):
    axis = Axis(length, tile, overlap)
    ours = tables.ramps(axis.starts, length, tile, overlap)
    assert list(ours) == list(axis.starts)
    np.testing.assert_allclose(np.stack(list(ours.values())), axis.weights, atol=1e-6)


def test_the_reference_of_a_function_of_the_pixel_is_that_function():
    tiling, rng = Tiling.of(50, 70, 16, 0.25, "blend"), np.random.default_rng(0)
    whole = rng.normal(size=(3, 50, 70)).astype(np.float32)
    down, across = (tables.ramps(a.starts, a.length, a.tile, 0.25) for a in (tiling.rows, tiling.cols))
    scores = ((w.row, w.col, whole[:, w.row : w.row_end, w.col : w.col_end]) for w in tiling)
    found = tables.blend_reference(scores, whole.shape, down, across)
    np.testing.assert_allclose(found, whole, atol=1e-12)


def test_the_reference_weighs_two_tiles_by_their_ramps():
    down, across = {0: np.ones(1)}, {0: np.array([1.0, 0.75]), 1: np.array([0.25, 1.0])}
    tiles = [(0, 0, np.full((1, 1, 2), 8, np.float32)), (0, 1, np.full((1, 1, 2), 4, np.float32))]
    assert tables.blend_reference(tiles, (1, 1, 3), down, across).tolist() == [[[8.0, 7.0, 4.0]]]


def test_the_model_answers_the_nearest_colour():
    weight, bias = inputs.weights()
    colors = np.array(inputs.COLORS)
    pixels = np.random.default_rng(0).integers(0, 256, (1000, 3))
    nearest = ((pixels[:, None] - colors) ** 2).sum(2)
    scores = pixels / 255 @ weight[:, :, 0, 0].T + bias
    chosen = nearest[np.arange(1000), scores.argmax(1)]
    assert (chosen <= nearest.min(1) + 0.1).all()  # a tie may fall either way
    assert (colors / 255 @ weight[:, :, 0, 0].T + bias).argmax(1).tolist() == list(range(len(colors)))


def test_both_models_say_what_they_are():
    own, geodeep = ({p.key: p.value for p in inputs.graph(g).metadata_props} for g in (False, True))
    assert Manifest.from_json(own[METADATA_KEY], "the model") == inputs.manifest()
    assert json.loads(geodeep["model_type"]) == "Segmentor"
    assert float(geodeep["tiles_overlap"]) == 25.0
    assert int(geodeep["seg_small_segment"]) == 0
