from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning

from rsedge import InputError
from rsedge.raster import BandPlan, RasterReader, plan_bands
from rsedge.raster.bands import choose_bands
from rsedge.tiling.window import Window
from toys import pointwise_manifest

Write = Callable[..., Path]
Noise = Callable[..., np.ndarray]
COLORS = {v: ((v * 37) % 256, (v * 91) % 256, (v * 5) % 256, 255) for v in range(256)}
WHOLE = Window(0, 0, 40, 50)


@pytest.fixture
def values() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (1, 40, 50), np.uint8)


@pytest.fixture
def palette_tiff(write_raster: Write, values: np.ndarray) -> Path:
    path = write_raster(values, "palette.tif", photometric="palette")
    with rasterio.open(path, "r+") as dst:
        dst.write_colormap(1, COLORS)
    return path


def colors_of(values: np.ndarray, colors: dict[int, tuple[int, ...]] = COLORS) -> np.ndarray:
    table = np.array([colors.get(v, (0, 0, 0, 0)) for v in range(256)], np.uint8)
    return table[values[0]].transpose(2, 0, 1)


def test_a_palette_is_expanded(palette_tiff: Path, values: np.ndarray) -> None:
    with RasterReader(palette_tiff) as reader:
        plan = plan_bands(reader, pointwise_manifest())
        assert (plan.indexes, plan.outputs) == ((1,), 3)
        assert any("palette" in note for note in plan.notes)
        assert not reader.may_have_nodata(plan)
        image, valid = reader.read(WHOLE, plan)
        part, _ = reader.read(Window(7, 9, 20, 30), plan)
        assert reader.read_into(WHOLE, plan, np.empty_like(image), np.zeros((40, 50), np.bool_))
    np.testing.assert_array_equal(image, colors_of(values)[:3])
    np.testing.assert_array_equal(part, image[:, 7:27, 9:39])
    assert valid.all()


def test_nodata_of_a_palette_raster_is_a_value_not_a_colour(palette_tiff: Path, values: np.ndarray) -> None:
    with rasterio.open(palette_tiff, "r+") as dst:
        dst.nodata = 17
    with RasterReader(palette_tiff) as reader:
        plan = plan_bands(reader, pointwise_manifest())
        assert reader.may_have_nodata(plan)
        image, valid = reader.read(WHOLE, plan)
    np.testing.assert_array_equal(valid, values[0] != 17)
    np.testing.assert_array_equal(image[:, valid], colors_of(values)[:3, valid])


def test_transparent_and_unlisted_colours_are_no_data(tmp_path: Path, values: np.ndarray) -> None:
    """A PNG's palette has alpha, and may list fewer colours than the dtype has values."""
    from PIL import Image

    path = tmp_path / "palette.png"
    shown = values[0] % 9
    picture = Image.frombytes("P", (50, 40), shown.tobytes())
    picture.putpalette([c for v in range(9) for c in COLORS[v][:3]])
    picture.save(path, transparency=bytes([255, 255, 0, 255, 128, 0]))
    with RasterReader(path) as reader:
        plan = plan_bands(reader, pointwise_manifest())
        assert reader.may_have_nodata(plan)
        image, valid = reader.read(Window(0, 0, 40, 50), plan)
    np.testing.assert_array_equal(valid, (shown != 2) & (shown != 5))
    np.testing.assert_array_equal(image[:, valid], colors_of(shown[None])[:3, valid])
    rgba = np.asarray(Image.open(path).convert("RGBA")).transpose(2, 0, 1)  # as Pillow has it
    np.testing.assert_array_equal(valid, rgba[3] > 0)
    np.testing.assert_array_equal(image[:, valid], rgba[:3, valid])
    short = BandPlan((1,), "uint8", palette=tuple(COLORS[v] for v in range(4)))
    with RasterReader(path) as reader:
        assert reader.may_have_nodata(short)
        np.testing.assert_array_equal(reader.read(Window(0, 0, 40, 50), short)[1], shown < 4)


def test_an_alpha_band_beside_a_palette_counts(write_raster: Write, values: np.ndarray) -> None:
    alpha = np.where(np.arange(50) < 20, 0, 255).astype(np.uint8) * np.ones((1, 40, 1), np.uint8)
    path = write_raster(np.concatenate([values, alpha]), photometric="palette", alpha="yes")
    with rasterio.open(path, "r+") as dst:
        dst.write_colormap(1, COLORS)
    with RasterReader(path) as reader:
        plan = plan_bands(reader, pointwise_manifest())
        image, valid = reader.read(WHOLE, plan)
    np.testing.assert_array_equal(valid, alpha[0] > 0)
    np.testing.assert_array_equal(image, colors_of(values)[:3])


@pytest.mark.parametrize(("changes", "bands"), [
    ({"bands": ("red", "green", "nir")}, None),
    ({"bands": ("nir", "swir", "blue")}, None),
    ({"dtype": "uint16"}, None),
    ({"dtype": "float32"}, None),
])  # fmt: skip
def test_a_model_of_other_bands_gets_advice(
    palette_tiff: Path, changes: dict[str, object], bands: tuple[int, ...] | None
) -> None:
    with RasterReader(palette_tiff) as reader, pytest.raises(InputError, match="expand rgb"):
        plan_bands(reader, pointwise_manifest(**changes), bands)


def test_a_scale_means_nothing_to_a_palette(palette_tiff: Path) -> None:
    with RasterReader(palette_tiff) as reader, pytest.raises(InputError, match="Leave --scale out"):
        plan_bands(reader, pointwise_manifest(), None, (0, 10))


def test_bands_named_in_spite_of_a_palette_are_bands(palette_tiff: Path, values: np.ndarray) -> None:
    with RasterReader(palette_tiff) as reader:
        plan = plan_bands(reader, pointwise_manifest(), (1, 1, 1))
        assert not plan.palette
        np.testing.assert_array_equal(reader.read(WHOLE, plan)[0], np.repeat(values, 3, 0))


def test_a_label_palette_of_one_band_models_stays_values(palette_tiff: Path, values: np.ndarray) -> None:
    manifest = pointwise_manifest(bands=("gray",), fill=(1.0,))
    with RasterReader(palette_tiff) as reader:
        plan = plan_bands(reader, manifest)
        np.testing.assert_array_equal(reader.read(WHOLE, plan)[0], values)


def test_bands_are_chosen_by_colour_then_by_place(write_raster: Write, noise: Noise) -> None:
    path = write_raster(np.concatenate([noise(9, 9), noise(9, 9)[:1]]), photometric="minisblack")
    with RasterReader(path) as reader:
        chosen, notes = choose_bands(reader, pointwise_manifest())
    assert chosen == (1, 2, 3)
    assert any("choose others with --bands" in note for note in notes)
    with rasterio.open(path, "r+") as dst:
        dst.colorinterp = [ColorInterp[c] for c in ("undefined", "blue", "red", "green")]
    with RasterReader(path) as reader:
        assert choose_bands(reader, pointwise_manifest()) == ((3, 4, 2), ())
        assert choose_bands(reader, pointwise_manifest(), (4, 4, 1)) == ((4, 4, 1), ())
        with pytest.raises(InputError, match="has no band 5"):
            choose_bands(reader, pointwise_manifest(), (4, 5, 1))


@pytest.mark.parametrize("scale", [(1, 1), (2, 1), (0, float("nan")), (float("-inf"), 0)])
def test_a_plan_with_an_impossible_scale_cannot_be_made(scale: tuple[float, float]) -> None:
    with pytest.raises(InputError, match="must be finite with LOW below HIGH"):
        BandPlan((1, 2, 3), "uint8", scale)


def test_complex_numbers_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "sar.tif"
    facts = {"driver": "GTiff", "count": 3, "height": 4, "width": 4, "dtype": "complex64"}
    with pytest.warns(NotGeoreferencedWarning), rasterio.open(path, "w", **facts) as dst:
        dst.write(np.ones((3, 4, 4), np.complex64))
    with RasterReader(path) as reader, pytest.raises(InputError, match="complex64"):
        plan_bands(reader, pointwise_manifest(), None, (0, 1))
