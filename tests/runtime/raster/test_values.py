"""Stored values that are nodata, against GDAL's own masks."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import example, given
from hypothesis import strategies as st
from rasterio.io import MemoryFile
from rasterio.transform import Affine

from rsedge.raster import BandPlan, RasterReader, open_resampled
from rsedge.raster.scaling import survey_scale
from rsedge.raster.values import is_nodata, map_scale, stored_nodata
from rsedge.score.labels import LabelColors
from rsedge.score.truth import LabelReader
from rsedge.tiling.window import Window
from toys import pointwise_manifest

Write = Callable[..., Path]
LOWEST = float(np.finfo("f4").min)
PLACEHOLDERS = {"float32": -1.2345678901234567e-20, "float64": -1.2345678901234567e-200}  # their text is long
# As ArcGIS, TouchTerrain and %g write the lowest float32; what others write, and what pixels then hold.
TAGS = [
    ("float32", "-3.4028230607370965e+38", LOWEST),
    ("float32", "-3.402823e+38", LOWEST),
    ("float32", "-3.40282347e+38", LOWEST),
    ("float32", "-3.4e+38", LOWEST),
    ("float32", "3.402823466e+38", -LOWEST),
    ("float32", "-999.99", -999.99),
    ("float32", "0.1", 0.1),
    ("float32", "-9999", -9998.999),
    ("float32", "1.70141e+38", 1.70141173319e38),
    ("float32", "1e20", 1.00000002004e20),
    ("float64", "-1.7976931348623157e+308", float(np.finfo("f8").min)),
    ("float64", "0.1", float(np.float32(0.1))),
]
BEYOND = {"1.70141e+38"}  # not rounded but other values to GDAL too


def with_tag(path: Path, tag: str) -> Path:
    """Replace the text of the nodata tag of a GeoTIFF that was written with one of `PLACEHOLDERS`."""
    data = path.read_bytes()
    (found,) = re.findall(rb"-1\.2345678\d*e-200?\0", data)
    assert len(tag) < len(found)
    path.write_bytes(data.replace(found, tag.encode().ljust(len(found), b"\0")))
    return path


@pytest.mark.parametrize(("dtype", "tag", "stored"), TAGS)
def test_a_rounded_tag_means_what_it_means_to_gdal(
    write_raster: Write, dtype: str, tag: str, stored: float
) -> None:
    pixels = np.full((3, 40, 50), 60, dtype)
    pixels[:, :7, :9] = stored
    path = with_tag(write_raster(pixels, nodata=float(np.dtype(dtype).type(PLACEHOLDERS[dtype]))), tag)
    with rasterio.open(path) as src:
        expected = src.dataset_mask() > 0
    assert expected.sum() == 40 * 50 - (0 if tag in BEYOND else 63)
    plan = BandPlan((1, 2, 3), "uint8", (0, 255))
    with RasterReader(path) as reader:
        assert np.array_equal(reader.read(Window(0, 0, 40, 50), plan)[1], expected)
    with open_resampled(path, 0.5) as finer:
        assert np.array_equal(finer.read(Window(0, 0, 80, 100), plan)[1][::2, ::2], expected)


def test_a_tag_rounded_beyond_the_largest_number_means_that_number(write_raster: Write) -> None:
    """GDAL reads the tag as infinity, and takes the gap for data."""
    lowest = float(np.finfo("f8").min)
    pixels = np.full((3, 40, 50), 60.0)
    pixels[:, :7, :9] = lowest
    path = with_tag(
        write_raster(pixels, nodata=float(np.float64(PLACEHOLDERS["float64"]))), "-1.79769313486232e+308"
    )
    with RasterReader(path) as reader:
        assert reader.nodata == -np.inf
        valid = reader.read(Window(0, 0, 40, 50), BandPlan((1, 2, 3), "uint8", (0, 255)))[1]
    assert np.array_equal(~valid, pixels[0] == lowest)


FLOATS32 = st.floats(width=32, allow_nan=False)
NEAR = st.integers(-12, 12)  # places of a float32 from the tag


@given(tag=FLOATS32, stored=st.lists(FLOATS32, max_size=5), steps=st.lists(NEAR, max_size=8))
@example(LOWEST, [-1e38, -2e31, -1e31, LOWEST], [1, 2])
@example(-LOWEST, [1e38, 2e31, 1e31], [])
@example(0.0, [1e-45, -0.0, 1e-38], [])
@example(1e-45, [0.0, 3e-45], [1, 2, 5])
def test_floats_are_nodata_where_gdals_mask_says_so(
    tag: float, stored: list[float], steps: list[int]
) -> None:
    near = (np.array(tag, "f4").view("i4").astype("i8") + steps).clip(0 if tag >= 0 else -(2**31), 2**31 - 1)
    values = np.concatenate([np.array([tag, *stored], "f4"), near.astype("i4").view("f4")])
    with np.errstate(over="ignore", invalid="ignore"):
        # GDAL's sum overflows: also what is far from a large tag is nodata to it.
        far = np.isinf(values + np.float32(tag)) & np.isfinite(2 * np.float32(tag))
    values = values[np.isfinite(values) & ~far]
    if values.size and np.isfinite(tag):
        assert np.array_equal(ours(values, tag), gdals(values, tag))


@given(
    tag=st.floats(allow_nan=False, allow_infinity=False),
    near=st.lists(st.floats(-4e-7, 4e-7), max_size=8),
    stored=st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=5),
)
@example(float(np.finfo("f8").min), [], [-1e308, -1e300, -1e292, -1e291])
def test_so_it_is_with_float64(tag: float, near: list[float], stored: list[float]) -> None:
    with np.errstate(over="ignore", invalid="ignore"):
        values = np.array([tag, *stored, *(np.float64(tag) * (1 + x) for x in near)])
        far = np.isinf(values + tag) & np.isfinite(2 * np.float64(tag))
    values = values[np.isfinite(values) & ~far]
    assert np.array_equal(ours(values, tag), gdals(values, tag))


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "uint32", "int32"])
@given(share=st.floats(0, 1), fraction=st.sampled_from([0.0, 0.25, 0.5, 0.9]))
def test_so_it_is_with_integers_and_tags_that_have_a_fraction(
    dtype: str, share: float, fraction: float
) -> None:
    limits = np.iinfo(dtype)
    tag = round(limits.min + share * (float(limits.max) - limits.min)) + fraction
    if not limits.min <= tag <= limits.max:
        tag = float(limits.min)
    near = [int(tag) + step for step in (-1, 0, 1) if limits.min <= int(tag) + step <= limits.max]
    values = np.array(near, dtype)
    assert np.array_equal(ours(values, tag), gdals(values, tag))


@pytest.mark.parametrize(
    ("dtype", "tag"), [("uint8", -9999), ("uint8", 256), ("int16", 1e10), ("uint8", np.nan), ("complex64", 0)]
)
def test_what_a_dtype_cannot_hold_is_no_nodata(dtype: str, tag: float) -> None:
    assert stored_nodata(tag, dtype) is None


def ours(values: np.ndarray, tag: float) -> np.ndarray:
    found = stored_nodata(tag, values.dtype.name)
    return np.zeros(values.shape, np.bool_) if found is None else is_nodata(values, found)


def gdals(values: np.ndarray, tag: float) -> np.ndarray:
    profile = {"driver": "GTiff", "width": len(values), "height": 1, "count": 1, "dtype": values.dtype.name}
    profile["transform"] = Affine(2, 0, 0, 0, -2, 0)
    with MemoryFile() as memory:
        with memory.open(**profile, nodata=tag) as dst:
            dst.write(values[None, None])
        with memory.open() as src:
            return np.asarray(src.read_masks(1)[0] == 0)


def test_a_label_raster_of_floats_is_unlabelled_where_its_tag_is_rounded(write_raster: Write) -> None:
    labels = np.ones((1, 6, 6), np.float32)
    labels[0, 0] = np.nextafter(np.float32(-999.99), np.float32(0))
    path = write_raster(labels, nodata=-999.99)
    with LabelReader(path, LabelColors({}), 3) as reader:
        found = reader.read(Window(0, 0, 6, 6))
    assert (found[0] == 255).all()
    assert (found[1:] == 1).all()


@pytest.mark.parametrize("filler", [LOWEST, 1e20, -9999.0, -32768.0])
def test_a_scale_of_what_gaps_were_filled_with_is_refused(write_raster: Write, filler: float) -> None:
    pixels = np.random.default_rng(1).random((3, 90, 80), np.float32)
    pixels[:, :, :30] = filler
    raster = write_raster(pixels)
    with pytest.raises(ValueError, match=r"no sensor delivers.*--nodata|too far from all others.*--nodata"):
        survey_scale([raster], pointwise_manifest())
    with pytest.raises(ValueError, match="no sensor delivers|too far from all others"):
        survey_scale([raster], (1, 2, 3))


@pytest.mark.parametrize("offset", [-300.0, -1.0, 0.0, 60000.0])
def test_a_scale_of_what_sensors_deliver_is_not(write_raster: Write, offset: float) -> None:
    pixels = np.random.default_rng(1).random((3, 90, 80), np.float32) + np.float32(offset)
    low, high = survey_scale([write_raster(pixels)], pointwise_manifest())
    assert offset <= low < high <= offset + 1.01


@pytest.mark.parametrize("stored", ["u1", "i1", "u2", "i2", "u4", "i4", "f4", "f8"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_values_are_mapped_by_the_formula_whatever_they_are_stored_in(stored: str, dtype: str) -> None:
    rng = np.random.default_rng(3)
    low, high, top = 3.5, 99.25, {"uint8": 255, "uint16": 65535, "float32": 1}[dtype]
    values = rng.integers(0 if stored[0] == "u" else -100, 120, (2, 40, 30)).astype(stored)
    valid = rng.random((40, 30)) < 0.9
    image = np.full(values.shape, 7, dtype)
    map_scale(values, BandPlan((1, 2), dtype, (low, high)), image, valid)
    expected = np.clip((values.astype(float) - low) * (top / (high - low)), 0, top)
    expected[:, ~valid] = 0
    assert np.array_equal(image, (expected if dtype == "float32" else np.rint(expected)).astype(dtype))


def test_a_scale_may_be_a_list() -> None:
    image = np.empty((1, 2, 2), np.uint8)
    map_scale(np.array([[[0, 40], [100, 200]]], np.uint16), BandPlan((1,), "uint8", [0, 100]), image, None)  # type: ignore[arg-type]
    assert image.tolist() == [[[0, 102], [255, 255]]]
