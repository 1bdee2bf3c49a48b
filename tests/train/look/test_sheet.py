from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rsedge.errors import InputError, OutputError
from rsedge.tiling.window import Window
from rsedge_sample import SampleScene
from rsedge_sample.files import LANDCOVER
from rsedge_train.data.base import SceneFiles
from rsedge_train.data.scan import BLOCK, SceneScan
from rsedge_train.look.sheet import SheetRow, _fitted, _font, _score, choose_crops, draw_sheet

CELL, PITCH, LEFT, TOP = 256, 264, 12, 35  # pixels, as drawn
COLUMNS = ("image", "truth", "student")
COLORS = np.array([c.color for c in LANDCOVER], np.uint8)


def sample(side: int = CELL) -> tuple[np.ndarray, np.ndarray]:
    return SampleScene(side, side, seed=3).render(Window(0, 0, side, side))


def cell(sheet: np.ndarray, column: int) -> np.ndarray:
    left = LEFT + column * PITCH
    return sheet[TOP : TOP + CELL, left : left + CELL]


def drawn(path: Path, *rows: SheetRow, columns: tuple[str, ...] = COLUMNS) -> np.ndarray:
    draw_sheet(path, rows, LANDCOVER, columns)
    return np.asarray(Image.open(path))


def test_cells_show_image_truth_and_prediction(tmp_path: Path) -> None:
    image, truth = sample()
    truth = truth.copy()
    truth[:50, :60] = 255
    predicted = np.roll(sample()[1], 9, 1)
    sheet = drawn(tmp_path / "s.png", SheetRow("a crop", image, (truth, predicted)))
    np.testing.assert_array_equal(cell(sheet, 0), image.transpose(1, 2, 0))
    np.testing.assert_array_equal(cell(sheet, 2), COLORS[predicted])
    known = truth != 255
    np.testing.assert_array_equal(cell(sheet, 1)[known], COLORS[truth[known]])
    assert (cell(sheet, 1)[~known] == 255).all()
    legend = sheet[TOP + CELL + 24 :].reshape(-1, 3)
    assert all((legend == color).all(1).sum() > 100 for color in COLORS)


def test_a_missing_mask_leaves_its_cell_and_score_out(tmp_path: Path) -> None:
    image, truth = sample()
    sheet = drawn(tmp_path / "s.png", SheetRow("", image, (truth, None)))
    right = sheet[TOP - 2 : TOP + CELL + 24, LEFT + 2 * PITCH - 4 :]
    assert (right == 255).all()


def test_without_truth_nothing_is_scored(tmp_path: Path) -> None:
    image, mask = sample()
    sheet = drawn(tmp_path / "s.png", SheetRow("", image, (None, mask)))
    below = sheet[TOP + CELL + 2 : TOP + CELL + 24]
    assert (below == 255).all()
    np.testing.assert_array_equal(cell(sheet, 2), COLORS[mask])


@pytest.mark.parametrize("shape", [(40, 40), (600, 90), (90, 600), (1, 700), (512, 512)])
def test_crops_of_any_shape_fill_the_same_cells(tmp_path: Path, shape: tuple[int, int]) -> None:
    image = np.full((3, *shape), 10, np.uint8)
    mask = np.full(shape, 4, np.uint8)
    sheet = drawn(tmp_path / "s.png", SheetRow("", image, (mask, mask)))
    assert sheet.shape[1] == 3 * PITCH - 8 + 2 * LEFT
    area = (sheet[:, LEFT + 2 * PITCH :] == COLORS[4]).all(2).sum()  # right of the legend's swatches
    expected = np.prod([max(1, n * CELL // max(shape)) for n in shape])
    assert area == expected


def test_the_score_is_the_mean_iou_over_labelled_pixels() -> None:
    truth = np.array([[0, 0, 1, 255]], np.uint8)
    predicted = np.array([[0, 1, 1, 2]], np.uint8)
    assert _score(truth, predicted, 3, [0, 1, 2]) == "mIoU 50.0 %"  # 1/2 and 1/2; the third does not occur
    assert _score(truth, np.array([[0, 0, 0, 0]], np.uint8), 3, [0]) == "mIoU 66.7 %"
    assert (
        _score(np.full((2, 2), 255, np.uint8), np.zeros((2, 2), np.uint8), 3, [0, 1, 2]) == "nothing to score"
    )


def test_texts_are_cut_to_their_room() -> None:
    font = _font(12)
    text = "vaihingen/top_mosaic_09cm_area11, rows 512..1024"
    assert _fitted(text, font, 1000) == text
    cut = _fitted(text, font, 150)
    assert 120 < font.getlength(cut) <= 150
    head, tail = cut.split("…")
    assert text.startswith(head)
    assert text.endswith(tail)


def test_a_long_title_stays_clear_of_the_scores(tmp_path: Path) -> None:
    image, truth = sample()
    short, long = (
        drawn(tmp_path / "s.png", SheetRow(title, image, (truth, truth)))[TOP + CELL : TOP + CELL + 22]
        for title in ("", "a long title " * 30)
    )
    np.testing.assert_array_equal(short[:, LEFT + 2 * PITCH :], long[:, LEFT + 2 * PITCH :])


def test_rows_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    image, truth = sample(64)
    with pytest.raises(InputError, match="1 masks for 3 columns"):
        drawn(tmp_path / "s.png", SheetRow("x", image, (truth,)))
    with pytest.raises(InputError, match="differ in size"):
        drawn(tmp_path / "s.png", SheetRow("x", image, (truth, truth[1:])))
    with pytest.raises(InputError, match="at least one"):
        drawn(tmp_path / "s.png")
    with pytest.raises(OutputError, match="cannot be written"):
        drawn(tmp_path / "none" / "s.png", SheetRow("x", image, (truth, truth)))
    assert not list(tmp_path.iterdir())


def scan_of(labels: np.ndarray, name: str = "a", classes: int = 5) -> SceneScan:
    """A scan counted block by block, without files."""
    height, width = labels.shape
    present = np.zeros((classes, -(-height // BLOCK), -(-width // BLOCK)), bool)
    for k, row, col in np.ndindex(present.shape):
        rows, cols = (slice(i * BLOCK, (i + 1) * BLOCK) for i in (row, col))
        present[k, row, col] = (labels[rows, cols] == k).any()
    counts = np.bincount(labels.ravel(), minlength=256)[:classes]
    return SceneScan(SceneFiles(name, name, Path(name), Path(name)), height, width, counts, present)


def crop(labels: np.ndarray, window: Window) -> np.ndarray:
    return labels[window.row : window.row_end, window.col : window.col_end]


def test_crops_show_all_classes_also_rare_ones() -> None:
    scenes = [np.zeros((700, 900), np.uint8) for _ in range(3)]
    scenes[0][650, 10] = 3
    scenes[1][300, 400] = 4
    scenes[2][:64, :64], scenes[2][64:128, 64:128] = 1, 2
    crops = choose_crops([scan_of(s, str(i)) for i, s in enumerate(scenes)], 5, 3, 256, seed=0)
    seen = [set(np.unique(crop(scenes[int(f.name)], w)).tolist()) for f, w in crops]
    assert seen[0] == {0, 1, 2}
    # Class 3 lies in a row of blocks that no whole window on the grid reaches: rows 640..699.
    assert set.union(*seen) == {0, 1, 2, 4}


def test_crops_lie_on_the_grid_within_the_raster_and_differ() -> None:
    labels = np.random.default_rng(0).integers(0, 5, (500, 333)).astype(np.uint8)
    for side in (50, 64, 100, 200, 320):
        crops = choose_crops([scan_of(labels)], 5, 6, side, seed=1)
        windows = [w for _, w in crops]
        assert len(set(windows)) == len(windows)
        for w in windows:
            assert (w.row % BLOCK, w.col % BLOCK, w.height, w.width) == (0, 0, side, side)
            assert w.row_end <= 500
            assert w.col_end <= 333


def test_smaller_rasters_are_taken_whole() -> None:
    small, flat = np.zeros((100, 130), np.uint8), np.ones((90, 600), np.uint8)
    crops = choose_crops([scan_of(small, "small"), scan_of(flat, "flat")], 5, 2, 256, seed=0)
    sizes = {f.name: (w.height, w.width) for f, w in crops}
    assert sizes == {"small": (100, 130), "flat": (90, 256)}
    assert len(choose_crops([scan_of(small)], 5, 4, 256, seed=0)) == 1  # there is no other


def test_other_scenes_and_clear_windows_come_first() -> None:
    same = np.zeros((512, 512), np.uint8)
    crops = choose_crops([scan_of(same, str(i)) for i in range(4)], 5, 4, 256, seed=0)
    assert {f.name for f, _ in crops} == {"0", "1", "2", "3"}
    wide = np.zeros((256, 1024), np.uint8)
    (_, a), (_, b) = choose_crops([scan_of(wide)], 5, 2, 256, seed=0)
    assert abs(a.col - b.col) >= 256


def test_windows_without_labels_are_not_shown() -> None:
    labels = np.full((256, 1024), 255, np.uint8)
    labels[:, 512:576] = 2
    crops = choose_crops([scan_of(labels)], 5, 20, 128, seed=0)
    assert crops
    assert all((crop(labels, w) == 2).any() for _, w in crops)


def test_the_seed_decides_ties() -> None:
    scans = [scan_of(np.zeros((1024, 1024), np.uint8))]
    drawn_by = [choose_crops(scans, 5, 2, 128, seed)[0][1] for seed in (0, 0, 1, 2, 3)]
    assert drawn_by[0] == drawn_by[1]
    assert len(set(drawn_by)) > 2


@pytest.mark.parametrize(("count", "side"), [(0, 64), (1, 0)])
def test_impossible_requests_are_refused(count: int, side: int) -> None:
    with pytest.raises(InputError, match="at least 1"):
        choose_crops([scan_of(np.zeros((64, 64), np.uint8))], 5, count, side, seed=0)
