"""On real rasters and labels, where they are at hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio

from rsedge import Options, evaluate, open_model, segment
from rsedge.backends import Backend
from rsedge.model.manifest import NODATA
from rsedge.score.labels import LabelColors
from rsedge_sample import CLASSES
from toys import SHARED, read, shared

pytestmark = shared
RASTERS = {
    "tile7_cog_jpeg.tif": Options(),
    "tile7crop_nodata0.tif": Options(),
    "naip_rgbn_uint8.tif": Options(),
    "RGB.byte.tif": Options(),
    "sentinel2_8band_uint16_striped.tif": Options(bands=(4, 3, 2), scale=(0, 10000)),
    "all-nodata.tif": Options(scale=(0, 65535)),
    "RGBA.uint16.tif": Options(scale=(0, 65535)),
}


@pytest.mark.parametrize("name", RASTERS)
def test_every_raster_keeps_its_grid_and_its_nodata(model: Backend, tmp_path: Path, name: str) -> None:
    """With the strongest-band model, against rasterio and numpy on the whole raster."""
    options = RASTERS[name]
    result = segment(model, SHARED / "rasters" / name, tmp_path / "mask.tif", options)
    with rasterio.open(SHARED / "rasters" / name) as src, rasterio.open(tmp_path / "mask.tif") as dst:
        assert (dst.shape, dst.crs, dst.transform) == (src.shape, src.crs, src.transform)
        pixels, valid = src.read(list(result.bands)), src.dataset_mask() > 0
    if options.scale:
        pixels = np.rint(np.clip((pixels - options.scale[0]) * (255 / np.diff(options.scale)), 0, 255))
    np.testing.assert_array_equal(read(tmp_path / "mask.tif"), np.where(valid, pixels.argmax(0), NODATA))


@pytest.mark.slow
def test_the_default_model_keeps_its_promise_on_scene_7() -> None:
    table = Path(__file__).parents[3] / "train" / "rsedge_train" / "data" / "dubai.toml"
    with open_model() as model:
        result = evaluate(model, SHARED / "dubai" / "tile7", colors=LabelColors.read(table, CLASSES))
    assert result.confusion.miou > 0.5
    assert result.confusion.majority.miou < 0.15
