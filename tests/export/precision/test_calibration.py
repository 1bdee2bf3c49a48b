from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.windows import Window

from labelled import indices, pixels, save_tif
from rsedge import InputError
from rsedge.tiling.window import Window as SceneWindow
from rsedge_export.precision.calibration import CalibrationTiles, Imagery, imagery_of
from rsedge_sample import SampleScene
from rsedge_train.run.folder import Run
from toys import CLASSES, TILE, pointwise_manifest

MANIFEST = pointwise_manifest()
SOURCE: dict[str, Any] = dict.fromkeys(("classes", "bands", "band_names", "scale"))
RUN = Run("student", "net", CLASSES, MANIFEST.bands, TILE, data={"name": "samples"})


def windows(path: Path, bands: tuple[int, ...] = (1, 2, 3)) -> dict[bytes, str]:
    """Every tile of a raster whose sides are multiples of TILE, by rasterio."""
    with rasterio.open(path) as src:
        return {
            src.read(list(bands), window=Window(col, row, TILE, TILE)).tobytes(): f"{path.name} {row},{col}"
            for row in range(0, src.height, TILE)
            for col in range(0, src.width, TILE)
        }


def of(*paths: Path, tiles: int = 16, **more: Any) -> CalibrationTiles:
    imagery = imagery_of([str(p) for p in paths], None, tiles, **more)
    assert imagery is not None
    return CalibrationTiles(imagery, MANIFEST)


def raster(path: Path, across: int, down: int, seed: int = 0, **profile: Any) -> Path:
    return save_tif(path, pixels(down * TILE, across * TILE, seed), **profile)


def test_tiles_are_the_rasters_pixels_each_once_and_the_same_each_time(tmp_path: Path) -> None:
    path = raster(tmp_path / "a.tif", 5, 4)
    known = windows(path)
    with of(path, tiles=20) as tiles:
        found = [tile.tobytes() for tile in tiles.all()]
        assert len(tiles) == len(found) == 20
        assert set(found) == set(known)
        assert [tile.tobytes() for tile in tiles.all()] == found


@pytest.mark.parametrize("count", [16, 21, 24])
def test_scaling_choosing_and_judging_tiles_are_disjoint_and_together_all(tmp_path: Path, count: int) -> None:
    with of(raster(tmp_path / "a.tif", 6, 4), tiles=count) as tiles:
        every, *parts = (
            [tile.tobytes() for tile in part]
            for part in (tiles.all(), tiles.scaling(), tiles.choosing(), tiles.judging())
        )
    assert sorted(tile for part in parts for tile in part) == sorted(every)
    assert sum(len(set(part)) for part in parts) == len(set(every)) == count
    scaling, choosing, judging = map(len, parts)
    assert scaling == count - -(-count // 5)
    assert 0 <= choosing - judging <= 1


def test_some_are_of_those_that_set_the_scales_spread_over_them(tmp_path: Path) -> None:
    with of(raster(tmp_path / "a.tif", 8, 8), tiles=64) as tiles:
        scaling = [tile.tobytes() for tile in tiles.scaling()]
        places = [scaling.index(tile.tobytes()) for tile in tiles.some(3)]
        assert len(tiles.some(1000)) == len(scaling)
    assert len(places) == 3
    assert np.diff([0, *places, len(scaling)]).max() < len(scaling) / 2


def test_the_number_is_spread_over_rasters(tmp_path: Path) -> None:
    """20 tiles of three rasters: 6, 7 and 7; and never more than a raster has."""
    paths = [raster(tmp_path / f"{name}.tif", 3, 3, seed) for seed, name in enumerate("abc")]
    known = {tile: place[0] for path in paths for tile, place in windows(path).items()}
    with of(*paths, tiles=20) as tiles:
        from_each = [known[tile.tobytes()] for tile in tiles.all()]
    assert sorted(map(from_each.count, "abc")) == [6, 7, 7]
    with of(*paths, tiles=100) as tiles:
        assert len(tiles) == 27


def test_of_more_rasters_than_tiles_a_few_spread_over_all_are_read(tmp_path: Path) -> None:
    paths = [raster(tmp_path / f"{i:02}.tif", 2, 1, i) for i in range(40)]
    known = {tile: int(place[:2]) for path in paths for tile, place in windows(path).items()}
    with of(tmp_path, tiles=16) as tiles:
        numbers = sorted(known[tile.tobytes()] for tile in tiles.all())
    assert len(set(numbers)) == 16
    assert max(np.diff([-1, *numbers, 40])) < 10


def test_bands_and_scale_are_those_given(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 4001, (4, 4 * TILE, 4 * TILE)).astype(np.uint16)
    path = save_tif(tmp_path / "a.tif", values)
    with of(path, bands=(4, 3, 2), scale=(1000, 3000)) as tiles:
        found = list(tiles.all())
    exact = np.clip((values[[3, 2, 1]].astype(np.float64) - 1000) / 2000, 0, 1) * 255
    blocks = [
        exact[:, row : row + TILE, col : col + TILE]
        for row in range(0, 4 * TILE, TILE)
        for col in range(0, 4 * TILE, TILE)
    ]
    for tile in found:
        assert tile.dtype == np.uint8
        assert min(np.abs(tile - block).max() for block in blocks) <= 0.51


def test_nodata_pixels_become_the_training_mean_and_small_rasters_are_mirrored(tmp_path: Path) -> None:
    values = pixels(TILE, TILE)
    values[:, :, 40:] = 0
    small = [save_tif(tmp_path / "a.tif", values, nodata=0), raster(tmp_path / "b.tif", 5, 4, 1)]
    with of(*small, tiles=30) as tiles:
        (found,) = (tile for tile in tiles.all() if (tile[:, :, 40:] == 120).all())
    np.testing.assert_array_equal(found[:, :, :40], values[:, :, :40])
    narrow = pixels(TILE, 50, 2)
    with of(save_tif(tmp_path / "c.tif", narrow), small[1], tiles=30) as tiles:
        (found,) = (tile for tile in tiles.all() if (tile[:, :, :50] == narrow).all())
    np.testing.assert_array_equal(found[:, :, 50:], narrow[:, :, 49:35:-1])


class TestFailures:
    def test_a_raster_without_data_is_passed_over_but_not_alone(self, tmp_path: Path) -> None:
        empty = save_tif(tmp_path / "empty.tif", np.zeros((3, 256, 256), np.uint8), nodata=0)
        with of(empty, raster(tmp_path / "full.tif", 5, 4), tiles=32) as tiles:
            assert len(tiles) == 16  # its own half
        with pytest.raises(InputError, match=r"empty\.tif has no valid pixel"):
            of(empty)
        with pytest.raises(InputError, match=r"hold only 0 tiles of 64 px with data, of 16 required"):
            of(empty, empty)

    def test_other_bands_and_another_dtype(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="2 usable bands but the model needs 3"):
            of(save_tif(tmp_path / "two.tif", pixels(256, 256, bands=2)))
        deep = save_tif(tmp_path / "deep.tif", pixels(256, 256).astype(np.uint16))
        with pytest.raises(InputError, match="--scale LOW,HIGH"):
            of(deep)
        with pytest.raises(InputError, match="has no band 4"):
            of(raster(tmp_path / "a.tif", 4, 4), bands=(1, 2, 4))

    def test_too_few_tiles(self, tmp_path: Path) -> None:
        path = raster(tmp_path / "a.tif", 5, 3)
        with pytest.raises(InputError, match="hold only 15 tiles .* of 16 required. .* --precision fp32"):
            of(path, tiles=64)
        with pytest.raises(InputError, match="15 calibration tiles: too few"):
            of(path, tiles=15)

    def test_a_folder_without_rasters_and_a_path_that_is_none(self, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").touch()
        with pytest.raises(InputError, match="holds no raster to calibrate on"):
            of(tmp_path)
        with pytest.raises(InputError, match="not found. Check the path"):
            of(tmp_path / "none.tif")


class TestWhatToCalibrateOn:
    def test_a_folder_gives_its_images_and_not_its_labels(self, tmp_path: Path) -> None:
        wanted = [tmp_path / name for name in ("a.tif", "images/b.tif", "c.tif")]
        for i, path in enumerate((*wanted, tmp_path / "a_labels.tif", tmp_path / "masks/b.tif")):
            save_tif(path, pixels(64, 64, i))
        (tmp_path / "a.tif.aux.xml").touch()
        imagery = imagery_of([str(tmp_path)], None, 16)
        assert imagery is not None
        assert set(imagery.rasters) == set(wanted)
        assert len(imagery.rasters) == 3

    def test_samples_are_the_same_each_time_and_differ(self) -> None:
        imagery = imagery_of(["samples"], None, 20)
        assert imagery == Imagery((), 20, 20)
        with CalibrationTiles(imagery, MANIFEST) as tiles:
            assert tiles.what == "20 of sample scenes"
            first, again = list(tiles.all()), list(tiles.all())
        assert len({tile.tobytes() for tile in first}) == len(first) == 20
        np.testing.assert_array_equal(first, again)
        whole = SampleScene(256, 256, 2001).render(SceneWindow(0, 0, 256, 256))[0]
        cut = [whole[:, r : r + 64, c : c + 64] for r in range(0, 256, 64) for c in range(0, 256, 64)]
        assert any((first[1] == tile).all() for tile in cut)

    def test_samples_beside_a_raster_take_half(self, tmp_path: Path) -> None:
        path = raster(tmp_path / "a.tif", 4, 4)
        imagery = imagery_of([str(path), "samples"], None, 16)
        assert imagery is not None
        with CalibrationTiles(imagery, MANIFEST) as tiles:
            assert tiles.what == "8 tiles of 1 rasters and 8 of sample scenes"
            known = windows(path)
            assert [tile.tobytes() in known for tile in tiles.all()] == [True] * 8 + [False] * 8

    def test_without_paths_and_run_there_is_nothing(self) -> None:
        assert imagery_of([], None, 16) is None


class TestTheRunsOwnData:
    @pytest.fixture
    def data(self, tmp_path: Path) -> Path:
        for seed, name in enumerate("abc"):
            save_tif(tmp_path / "data" / f"{name}.tif", pixels(128, 128, seed, 4))
            save_tif(tmp_path / "data" / f"{name}_labels.tif", indices(128, 128, 3, seed)[None])
        table = 'ignore = ["#000000"]\n[classes]\nred = "#C80000"\ngreen = "#00C800"\nblue = "#0000C8"\n'
        (tmp_path / "data" / "classes.toml").write_text(table)
        return tmp_path / "data"

    def run(self, path: Path, **facts: Any) -> Run:
        source = {**SOURCE, "path": str(path), "val": ["c"], "test": [], "eroded": False}
        return replace(RUN, data={"name": "towns", "source": {**source, **facts.pop("source", {})}, **facts})

    def test_its_training_split_with_its_bands(self, data: Path) -> None:
        run = self.run(data, source={"bands": [3, 2, 1]})
        imagery = imagery_of([], run, 40)
        assert imagery == Imagery((data / "a.tif", data / "b.tif"), 0, 40, (3, 2, 1), None)
        with pytest.raises(InputError, match="hold only 8 tiles"):
            CalibrationTiles(imagery, MANIFEST)
        known = {t: w for name in "ab" for t, w in windows(data / f"{name}.tif", (3, 2, 1)).items()}
        with CalibrationTiles(replace(imagery, drawn=10, tiles=18), MANIFEST) as tiles:
            assert {t.tobytes() for t in tiles.all()} >= set(known)

    def test_its_share_of_sample_scenes_is_drawn(self, data: Path) -> None:
        imagery = imagery_of([], self.run(data, sample_share=0.25), 32)
        assert imagery is not None
        assert (imagery.drawn, len(imagery.rasters)) == (8, 2)

    def test_data_that_are_gone_are_none(self, data: Path) -> None:
        assert imagery_of([], self.run(data / "moved"), 32) is None

    def test_a_run_on_sample_scenes_draws_all(self) -> None:
        assert imagery_of([], RUN, 32) == Imagery((), 32, 32)
        # As training without --data writes it.
        drawn = {**SOURCE, "path": None, "sample_count": 6, "sample_side": 512}
        assert imagery_of([], replace(RUN, data={**RUN.data, "source": drawn}), 32) == Imagery((), 32, 32)
        assert imagery_of([], replace(RUN, data={"name": "towns"}), 32) is None

    def test_paths_come_first(self, data: Path, write_raster: Callable[..., Path]) -> None:
        other = write_raster(pixels(64, 64))
        assert imagery_of([str(other)], self.run(data, sample_share=0.5), 16) == Imagery((other,), 0, 16)
