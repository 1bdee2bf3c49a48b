from __future__ import annotations

import io
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rasterio.enums import ColorInterp

from rsedge.raster import BandPlan, RasterReader, bounded_cache, exact_cache, opening
from rsedge.raster.cache import LEAST_BYTES
from rsedge.tiling.window import Window
from toys import SHARED, shared

Write = Callable[..., Path]
Noise = Callable[..., np.ndarray]
RGB = BandPlan((1, 2, 3), "uint8")
IO = Path("/proc/self/io")
counts_reads = pytest.mark.skipif(not IO.exists(), reason="this system does not count what a process reads")


def area_of(reader: RasterReader) -> Window:
    return Window(0, 0, reader.grid.height, reader.grid.width)


def read_strips(reader: RasterReader, plan: BandPlan, most_rows: int = 512) -> tuple[np.ndarray, np.ndarray]:
    """Read the whole raster, strip by strip, with `read_into`; valid is 7 where a strip reported all valid."""
    height, width = reader.grid.height, reader.grid.width
    image, valid = np.empty((plan.outputs, height, width), plan.dtype), np.empty((height, width), np.uint8)
    for strip in reader.row_strips(area_of(reader), most_rows):
        pixels = np.empty((plan.outputs, strip.height, width), plan.dtype)
        holds = np.zeros((strip.height, width), np.bool_)
        if reader.read_into(strip, plan, pixels, holds):
            holds[:] = True
        image[:, strip.row : strip.row_end], valid[strip.row : strip.row_end] = pixels, holds
    return image, valid.astype(bool)


LAYOUTS: dict[str, dict[str, object]] = {
    "tiles": {"tiled": True, "blockxsize": 64, "blockysize": 64, "interleave": "pixel"},
    "tiles, bands apart": {"tiled": True, "blockxsize": 64, "blockysize": 64, "interleave": "band"},
    "high tiles": {"tiled": True, "blockxsize": 16, "blockysize": 208, "interleave": "pixel"},
    "high tiles, bands apart": {"tiled": True, "blockxsize": 16, "blockysize": 208, "interleave": "band"},
    "strips of 1": {"blockysize": 1, "interleave": "pixel"},
    "strips of 1, bands apart": {"blockysize": 1, "interleave": "band"},
    "strips of 100": {"blockysize": 100, "interleave": "pixel"},
    "strips of 37": {"blockysize": 37, "interleave": "band"},
    "one strip": {"blockysize": 450, "interleave": "pixel"},
    "one strip a band": {"blockysize": 450, "interleave": "band"},
}


class CountedFile(io.FileIO):
    """A count of the bytes that GDAL reads, independent of its buffers."""

    bytes_read = 0

    def read(self, size: int = -1) -> bytes:
        data = super().read(size)
        CountedFile.bytes_read += len(data)
        return data


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Return the bytes read since the last call from files opened by rasterio; GDAL's cache has a floor of 100 kB."""
    monkeypatch.setattr("rsedge.raster.cache.LEAST_BYTES", 100_000)  # else the floor would do it all
    really_open = rasterio.open

    def count() -> int:
        taken, CountedFile.bytes_read = CountedFile.bytes_read, 0
        return taken

    def opened(path: str, **options: object) -> object:
        return really_open(path, opener=lambda name, mode="rb", **_: CountedFile(name, "rb"), **options)

    monkeypatch.setattr(rasterio, "open", opened)
    monkeypatch.setattr(opening, "open_with", lambda path, _: opened(path))
    return count


def write_noise(write_raster: Write, bands: int, **profile: object) -> tuple[Path, np.ndarray]:
    """Noise does not compress, so bytes read beyond the file's size were read twice."""
    pixels = np.random.default_rng(0).integers(0, 256, (bands, 450, 1100), np.uint8)
    return write_raster(pixels, compress="deflate", **profile), pixels


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("most_rows", [512, 100, 7])
@pytest.mark.parametrize("threads", [1, 2])
def test_strips_decode_every_block_once(
    write_raster: Write, request: pytest.FixtureRequest, layout: str, most_rows: int, threads: int
) -> None:
    raster, pixels = write_noise(write_raster, 3, **LAYOUTS[layout])
    counted = request.getfixturevalue("counted")  # from here on; a file is not written through it
    with (
        RasterReader(raster, threads) as reader,
        exact_cache(reader.cache_bytes(area_of(reader), RGB, most_rows)),
    ):
        counted()
        image, valid = read_strips(reader, RGB, most_rows)
    assert 0.97 < counted() / raster.stat().st_size < 1.01
    np.testing.assert_array_equal(image, pixels)
    assert valid.all()


@pytest.mark.parametrize("layout", ["tiles", "high tiles", "one strip a band"])
def test_the_count_sees_blocks_decoded_twice(
    write_raster: Write, request: pytest.FixtureRequest, layout: str
) -> None:
    raster, _ = write_noise(write_raster, 3, **LAYOUTS[layout])
    counted = request.getfixturevalue("counted")
    with RasterReader(raster) as reader, exact_cache(0):
        counted()
        for row in range(0, 450, 45):
            reader.read(Window(row, 0, 45, 1100), RGB)
    assert counted() > 1.5 * raster.stat().st_size


@pytest.mark.parametrize("layout", ["tiles", "high tiles", "strips of 37"])
def test_alpha_in_the_same_blocks_is_decoded_with_them(
    write_raster: Write, request: pytest.FixtureRequest, layout: str
) -> None:
    raster, pixels = write_noise(write_raster, 4, photometric="rgb", alpha="yes", **LAYOUTS[layout])
    counted = request.getfixturevalue("counted")
    with RasterReader(raster) as reader, exact_cache(reader.cache_bytes(area_of(reader), RGB, 100)):
        counted()
        image, valid = read_strips(reader, RGB, 100)
    assert counted() < 1.01 * raster.stat().st_size
    np.testing.assert_array_equal(image, pixels[:3])
    np.testing.assert_array_equal(valid, pixels[3] > 0)


def bytes_read() -> int:
    """Return the bytes read by this process so far, including those from the kernel's cache."""
    return int(IO.read_text().split()[1])


@counts_reads
def test_a_mosaics_sources_are_decoded_once(write_raster: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """A VRT's own blocks of 128 differ from those of its sources, which begin in row 30."""
    pixels = np.random.default_rng(0).integers(0, 256, (3, 2000, 300), np.uint8)
    layout = {"tiled": True, "blockxsize": 256, "blockysize": 640, "interleave": "pixel"}
    source = write_raster(pixels, "source.tif", compress="deflate", **layout)
    path = mosaic(source.with_name("m.vrt"), 2030, 300, 3, [(source, 30, 0, 2000, 300)])
    monkeypatch.setattr("rsedge.raster.cache.LEAST_BYTES", 100_000)
    with RasterReader(path) as reader, exact_cache(reader.cache_bytes(area_of(reader), RGB)):
        begin = bytes_read()
        image, _ = read_strips(reader, RGB)
        assert bytes_read() - begin < 1.05 * source.stat().st_size
    np.testing.assert_array_equal(image[:, 30:], pixels)


def mosaic(
    path: Path, height: int, width: int, bands: int, parts: list[tuple[Path, int, int, int, int]]
) -> Path:
    """A VRT; ``parts`` are (file, row, column, height, width)."""
    xml = f"<VRTDataset rasterXSize='{width}' rasterYSize='{height}'>"
    for band in range(1, bands + 1):
        xml += f"<VRTRasterBand dataType='Byte' band='{band}'>"
        for file, row, col, h, w in parts:
            xml += (
                f"<SimpleSource><SourceFilename>{file}</SourceFilename><SourceBand>{band}</SourceBand>"
                f"<SrcRect xOff='0' yOff='0' xSize='{w}' ySize='{h}'/>"
                f"<DstRect xOff='{col}' yOff='{row}' xSize='{w}' ySize='{h}'/></SimpleSource>"
            )
        xml += "</VRTRasterBand>"
    path.write_text(xml + "</VRTDataset>")
    return path


def test_only_the_columns_asked_for_count_in_the_cache(write_raster: Write) -> None:
    raster = write_raster(np.zeros((3, 1200, 1000), np.uint8), tiled=True, blockxsize=64, blockysize=1024)
    with RasterReader(raster) as reader:
        narrow = reader.cache_bytes(Window(0, 130, 1200, 60))
        assert 3 * 64 * 1024 <= narrow < 3 * 64 * 1024 * 1.05
        assert 3 * 1024 * 1024 <= reader.cache_bytes(area_of(reader)) < 3 * 1024 * 1024 * 1.05
        assert reader.cache_bytes(Window(1024, 0, 100, 1000)) == 0
        assert reader.cache_bytes(area_of(reader), most_rows=1024) == 0


def test_a_raster_in_one_block_needs_it_whole_where_it_is_read_in_parts(write_raster: Write) -> None:
    pixels = np.zeros((3, 1200, 1000), np.uint8)
    options = {"blockysize": 1200, "compress": "deflate"}
    raster = write_raster(pixels, interleave="pixel", **options)
    with RasterReader(raster) as reader:
        assert 3_600_000 <= reader.cache_bytes(area_of(reader)) < 3_700_000
        one = BandPlan((2,), "uint8")
        assert reader.cache_bytes(area_of(reader), one) == reader.cache_bytes(area_of(reader))
    with RasterReader(write_raster(pixels, "b.tif", interleave="band", **options)) as reader:
        assert 1_200_000 <= reader.cache_bytes(area_of(reader), one) < 1_300_000


def cached_bytes(env: rasterio.Env) -> int:
    with env:
        return int(rasterio.env.getenv()["GDAL_CACHEMAX"])


def test_the_cache_has_a_floor_and_a_cap() -> None:
    assert LEAST_BYTES == 8 << 20
    assert cached_bytes(bounded_cache(0)) == cached_bytes(exact_cache(5)) == LEAST_BYTES
    assert cached_bytes(bounded_cache(20 << 20)) == 40 << 20
    assert cached_bytes(bounded_cache(1 << 40)) == 512 << 20
    assert cached_bytes(bounded_cache(1 << 30, most=None)) == 2 << 30
    assert cached_bytes(bounded_cache(1 << 30, most=100)) == 100
    assert cached_bytes(exact_cache(3 << 30)) == 3 << 30


KINDS = ("plain", "nodata", "alpha", "mask", "scale", "float", "alpha and scale")


def write_kind(
    write_raster: Write, kind: str, profile: dict[str, object], height: int, width: int, seed: int
) -> tuple[Path, np.ndarray, np.ndarray, tuple[float, float] | None]:
    """Write a raster with gaps: file, pixels as a model gets them, their validity, and the scale."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 3, (3, height, width)).astype(np.uint8) * 100
    holds = rng.random((height, width)) > 0.3 * (seed % 2)
    stack, scale = pixels, None
    if kind == "nodata":
        profile["nodata"], holds = 100, ~(pixels == 100).all(0)
    if kind.startswith("alpha"):
        stack = np.concatenate([pixels, np.where(holds, 255, 0)[None].astype(np.uint8)])
    if kind.endswith("scale"):
        stack, scale = stack.astype(np.int16) * 20 - 1000, (-1000.0, 4100.0)
        if kind.startswith("alpha"):
            stack[3] = np.where(holds, 1, 0)
    if kind == "float":
        stack, scale = np.where(holds, pixels, np.nan).astype(np.float32), (0.0, 255.0)
    if kind in {"plain", "scale"}:
        holds = np.ones_like(holds)
    raster = write_raster(stack, **profile)
    if kind.startswith("alpha"):
        with rasterio.open(raster, "r+") as dst:
            dst.colorinterp = [ColorInterp[c] for c in ("red", "green", "blue", "alpha")]
    if kind == "mask":
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(raster, "r+") as dst:
            dst.write_mask(holds)
    return raster, pixels, holds, scale


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    layout=st.sampled_from(sorted(LAYOUTS)),
    height=st.integers(1, 130),
    width=st.integers(1, 130),
    bands=st.permutations([1, 2, 3]),
    corner=st.tuples(st.integers(0, 1000), st.integers(0, 1000)),
    seed=st.integers(0, 99),
    threads=st.integers(1, 2),
)
def test_any_window_is_what_numpy_says(
    write_raster: Write,
    kind: str,
    layout: str,
    height: int,
    width: int,
    bands: list[int],
    corner: tuple[int, int],
    seed: int,
    threads: int,
) -> None:
    raster, pixels, holds, scale = write_kind(write_raster, kind, dict(LAYOUTS[layout]), height, width, seed)
    plan = BandPlan(tuple(bands), "uint8", scale)
    row, col = corner[0] % height, corner[1] % width
    window = Window(row, col, 1 + corner[1] % (height - row), 1 + corner[0] % (width - col))
    part = np.s_[row : window.row_end, col : window.col_end]
    expected = pixels[np.array(bands) - 1][(slice(None), *part)]
    with RasterReader(raster, threads=threads) as reader:
        image, valid = reader.read(window, plan)
        into, filled = np.empty_like(image), np.zeros_like(valid)
        all_valid = reader.read_into(window, plan, into, filled)
        if not reader.may_have_nodata(plan):
            assert all_valid
        assert all_valid == holds[part].all()
    np.testing.assert_array_equal(valid, holds[part])
    np.testing.assert_array_equal(image[:, valid], expected[:, valid])
    np.testing.assert_array_equal(into, image)
    if not all_valid:
        np.testing.assert_array_equal(filled, valid)


@pytest.mark.parametrize(("profile", "maybe"), [
    ({}, False),
    ({"nodata": 0}, True),
    ({"nodata": 255}, True),
    ({"dtype": "int16", "nodata": -9999}, True),
    ({"dtype": "float32"}, True),
])  # fmt: skip
def test_only_what_can_lack_data_may(write_raster: Write, profile: dict[str, object], maybe: bool) -> None:
    raster = write_raster(np.ones((3, 5, 5), profile.get("dtype", "uint8")), **profile)
    with RasterReader(raster) as reader:
        assert reader.may_have_nodata(BandPlan((1, 2, 3), "uint8", (0, 2))) is maybe


def test_a_nodata_value_that_the_dtype_cannot_hold_means_nothing(tmp_path: Path, write_raster: Write) -> None:
    raster = write_raster(np.ones((3, 5, 5), np.uint8))
    path = tmp_path / "odd.vrt"
    bands = "".join(
        f"<VRTRasterBand dataType='Byte' band='{b}'><NoDataValue>{value}</NoDataValue><SimpleSource>"
        f"<SourceFilename>{raster}</SourceFilename><SourceBand>{b}</SourceBand></SimpleSource></VRTRasterBand>"
        for b, value in ((1, -9999), (2, 1.5), (3, "nan"))
    )
    path.write_text(f"<VRTDataset rasterXSize='5' rasterYSize='5'>{bands}</VRTDataset>")
    with RasterReader(path) as reader:
        assert not reader.may_have_nodata(RGB)
        assert reader.read(Window(0, 0, 5, 5), RGB)[1].all()


def test_arrays_that_do_not_fit_are_refused(write_raster: Write, noise: Noise) -> None:
    valid = np.empty((4, 5), np.bool_)
    with RasterReader(write_raster(noise(9, 9))) as reader:
        for image in (
            np.empty((3, 5, 4), np.uint8),
            np.empty((2, 4, 5), np.uint8),
            np.empty((3, 4, 5), np.uint16),
            np.empty((4, 5, 3), np.uint8).transpose(2, 0, 1),
        ):
            with pytest.raises(ValueError, match="do not fit|C-contiguous"):
                reader.read_into(Window(0, 0, 4, 5), RGB, image, valid)


@pytest.mark.parametrize("nodata", [None, 0])
@pytest.mark.parametrize("scale", [None, (0.0, 510.0)])
def test_little_is_held_beside_the_arrays(
    write_raster: Write, nodata: int | None, scale: tuple[float, float] | None
) -> None:
    pixels = np.full((3, 1024, 4096), 9, np.uint8)
    raster = write_raster(pixels, nodata=nodata)
    plan, window = BandPlan((1, 2, 3), "uint8", scale), Window(0, 0, 1024, 4096)
    image, valid = np.empty_like(pixels), np.empty((1024, 4096), np.bool_)
    with RasterReader(raster) as reader:
        reader.read_into(window, plan, image, valid)
        tracemalloc.start()
        reader.read_into(window, plan, image, valid)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < (pixels.nbytes + 16e6 if scale else pixels.nbytes / 8)


@pytest.mark.parametrize("name", ["tile7crop_nodata0.tif", "naip_rgbn_uint8.tif", "RGB.byte.tif"])
@shared
def test_real_rasters_read_by_strips_are_what_rasterio_reads(name: str) -> None:
    path = SHARED / "rasters" / name
    with RasterReader(path, threads=2) as reader, rasterio.open(path) as src:
        image, valid = read_strips(reader, RGB)
        np.testing.assert_array_equal(image, src.read([1, 2, 3]))
        np.testing.assert_array_equal(valid, (src.read_masks([1, 2, 3]) > 0).any(0))


@pytest.mark.parametrize("chosen", [(1, 2, 3), (1, 1, 1), (2, 3, 2), (3, 3, 3)])
def test_bands_with_masks_of_their_own(write_raster: Write, noise: Noise, chosen: tuple[int, ...]) -> None:
    """A pixel that one of the chosen bands masks holds no data; bands that are not chosen do not count."""
    pixels, masks = noise(40, 50), np.random.default_rng(1).random((3, 40, 50)) > 0.2
    masks[2] = True
    source = write_raster(pixels, "pixels.tif")
    stored = write_raster(masks.astype(np.uint8) * 255, "masks.tif")
    xml = "<VRTDataset rasterXSize='50' rasterYSize='40'>"
    for band in (1, 2, 3):
        part = "<SimpleSource><SourceFilename>{}</SourceFilename><SourceBand>{}</SourceBand></SimpleSource>"
        own = (
            f"<MaskBand><VRTRasterBand dataType='Byte'>{part.format(stored, band)}</VRTRasterBand></MaskBand>"
        )
        xml += f"<VRTRasterBand dataType='Byte' band='{band}'>{part.format(source, band)}{own * (band < 3)}"
        xml += "</VRTRasterBand>"
    path = source.with_name("masked.vrt")
    path.write_text(xml + "</VRTDataset>")
    plan = BandPlan(chosen, "uint8")
    with RasterReader(path) as reader:
        assert reader.may_have_nodata(plan) is (set(chosen) != {3})
        image, valid = reader.read(area_of(reader), plan)
    np.testing.assert_array_equal(valid, masks[[i - 1 for i in chosen]].all(0))
    np.testing.assert_array_equal(image, pixels[[i - 1 for i in chosen]])


def test_files_of_mosaics_of_mosaics(write_raster: Write, noise: Noise) -> None:
    """Nested VRTs are followed to the end, and a circle of VRTs ends, too."""
    source = write_raster(noise(20, 30), "source.tif")
    inner = mosaic(source.with_name("inner.vrt"), 20, 30, 3, [(source, 0, 0, 20, 30)])
    middle = mosaic(source.with_name("middle.vrt"), 20, 30, 3, [(inner, 0, 0, 20, 30)])
    outer = mosaic(source.with_name("outer.vrt"), 20, 30, 3, [(middle, 0, 0, 20, 30), (inner, 0, 0, 20, 30)])
    with RasterReader(outer) as reader:
        assert sorted(f.name for f in reader.files) == ["inner.vrt", "middle.vrt", "outer.vrt", "source.tif"]
        assert reader.files[0] == outer
    mosaic(inner, 20, 30, 3, [(source, 0, 0, 20, 30), (outer, 0, 0, 20, 30)])
    with RasterReader(outer) as reader:
        assert sorted(f.name for f in reader.files) == ["inner.vrt", "middle.vrt", "outer.vrt", "source.tif"]


@pytest.mark.parametrize(("kind", "dtype"), [
    ("plain", "uint8"), ("nodata", "uint8"), ("alpha", "uint8"), ("scale", "uint16"), ("scale", "float64"),
    ("mask", "uint8"), ("alpha and scale", "uint16"),
])  # fmt: skip
def test_extra_bytes_bound_what_is_held_beside_a_strip(write_raster: Write, kind: str, dtype: str) -> None:
    pixels = np.full((3 + kind.startswith("alpha"), 1200, 3000), 9, dtype)
    tiles = {"tiled": True, "blockxsize": 256, "blockysize": 256}
    raster = write_raster(pixels, nodata=9 if kind == "nodata" else None, **tiles)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(raster, "r+") as dst:
        if kind == "mask":
            dst.write_mask(np.arange(3000) % np.full((1200, 1), 7) > 0)
        if kind.startswith("alpha"):
            dst.colorinterp = [ColorInterp[c] for c in ("red", "green", "blue", "alpha")]
    plan = BandPlan((1, 2, 3), "uint8", (0.0, 100.0) if kind.endswith("scale") else None)
    image, valid = np.empty((3, 512, 3000), np.uint8), np.empty((512, 3000), np.bool_)
    with RasterReader(raster) as reader:
        reader.read_into(Window(0, 0, 512, 3000), plan, image, valid)
        tracemalloc.start()
        reader.read_into(Window(0, 0, 512, 3000), plan, image, valid)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        bound = reader.extra_bytes(area_of(reader), plan)
    assert peak <= bound
    assert bound <= 1.5 * peak + 4e6


def test_extra_bytes_know_what_is_decoded_whole(write_raster: Write, noise: Noise, tmp_path: Path) -> None:
    from PIL import Image

    pixels = noise(2100, 700)
    picture = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    picture.save(tmp_path / "p.jpg", progressive=True, subsampling="4:2:0")
    picture.save(tmp_path / "full.jpg", progressive=True, subsampling="4:4:4")
    picture.save(tmp_path / "b.jpg")
    picture.save(tmp_path / "a.png")
    strip = write_raster(pixels, "strip.tif", compress="deflate", blockysize=2100, interleave="pixel")
    area, found = Window(0, 0, 2100, 700), {}
    for path in (*tmp_path.glob("*.jpg"), tmp_path / "a.png", strip):
        with RasterReader(path) as reader:
            found[path.name] = reader.extra_bytes(area, RGB)
    little = 2 * 512 * 700 + 1e5
    assert found["b.jpg"] < little
    assert found["a.png"] < little
    assert 2 * 2100 * 700 * 1.5 <= found["p.jpg"] < 2 * 2100 * 700 * 1.5 + little
    assert 2 * 2100 * 700 * 3 <= found["full.jpg"] < 2 * 2100 * 700 * 3 + little
    assert strip.stat().st_size * 0.99 < found["strip.tif"] < 3 * strip.stat().st_size
