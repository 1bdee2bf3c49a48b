from __future__ import annotations

import hashlib
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import rasterio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from rasterio.rpc import RPC
from rasterio.transform import Affine

from rsedge.errors import OutputError
from rsedge.raster import Grid, stored_blocks
from rsedge.raster import parts as module
from rsedge.raster.overviews import halve
from rsedge.raster.part_file import PartFile
from rsedge.raster.parts import Finish, Layer, assemble, part_areas, write_part
from rsedge.raster.resample import upsample_index
from rsedge.tiling.window import Window
from toys import CLASSES

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
FORMATS = ("cog", "gtiff")
TAGS = {"RSEDGE_MODEL": 'a "model" <& more>', "TIFFTAG_SOFTWARE": "rsedge 0"}
UTM = Grid(1300, 1100, CRS.from_epsg(32631), Affine(0.5, 0, 5e5, 0, -0.5, 5.4e6))
MASK = Layer("mask", 1, CLASSES)
Placed = list[tuple[Window, Path, PartFile]]


def noise(height: int, width: int, bands: int = 1, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 3, (bands, height, width)).astype(np.uint8)


def put(folder: Path, pixels: np.ndarray, areas: Sequence[Window], layer: str = "mask") -> Placed:
    """Write parts of (bands, h, w), one per area."""
    placed = []
    for area in areas:
        path = folder / f"{area.row}-{area.col}.{layer}"
        rows, cols = slice(area.row, area.row_end), slice(area.col, area.col_end)
        placed.append((area, path, write_part(path, layer, pixels[:, rows, cols])))
    return placed


def quarters(height: int, width: int, row: int = 512, col: int = 512) -> list[Window]:
    """Cut an area into parts in two dimensions, by blocks of columns."""
    return [
        Window(r, c, r_end - r, c_end - c)
        for c, c_end in ((0, col), (col, width))
        for r, r_end in ((0, row), (row, height))
    ]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@given(st.integers(0, 3000), st.integers(0, 3000), st.integers(1, 40_000), st.integers(1, 40_000))
def test_parts_tile_an_area_from_the_top_down(row: int, col: int, height: int, width: int) -> None:
    areas, end = part_areas(Window(row, col, height, width)), row
    for area in areas:
        assert (area.row, area.col, area.width) == (end, col, width)
        assert area.height % 512 == 0 or area is areas[-1]
        assert area.height * area.width <= max(module.PART_PIXELS, 512 * width)
        end = area.row_end
    assert end == row + height


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("compress", module.COMPRESSIONS)
def test_the_result_is_what_a_gis_expects(tmp_path: Path, format: str, compress: str) -> None:
    pixels, out = noise(UTM.height, UTM.width), tmp_path / "whole.tif"
    pixels[0, :90, 30:] = 255
    parts = put(tmp_path, pixels, quarters(UTM.height, UTM.width))
    assemble(out, UTM, MASK, parts, Finish(format, compress, TAGS))
    with rasterio.open(out) as src:
        np.testing.assert_array_equal(src.read(), pixels)
        assert (src.crs, src.transform, src.nodata) == (UTM.crs, UTM.transform, 255)
        assert src.profile["compress"] == compress
        assert (src.profile["tiled"], src.block_shapes) == (True, [(512, 512)])
        assert src.colorinterp == (ColorInterp.palette,)
        assert [src.colormap(1)[i][:3] for i in range(3)] == [c.color for c in CLASSES]
        assert {key: src.tags()[key] for key in TAGS} == TAGS
        assert '"0": "red"' in src.tags()["RSEDGE_CLASSES"]
        layout = src.tags(ns="IMAGE_STRUCTURE").get("LAYOUT")
        assert layout == ("COG" if format == "cog" else None)
        assert src.overviews(1) == ([2, 4] if format == "cog" else [])
    if format == "cog":
        for level in (0, 1):
            pixels = halve(pixels[0])[None]
            with rasterio.open(out, overview_level=level) as src:
                np.testing.assert_array_equal(src.read(), pixels)
    assert "<Category>green</Category>" in out.with_name("whole.tif.aux.xml").read_text()
    left = {p.name for p in tmp_path.iterdir()} - {path.name for _, path, _ in parts}
    assert left == {"whole.tif", "whole.tif.aux.xml"}


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("bands", [1, 2, 3, 4, 5])
def test_shares_in_percent_are_neither_colours_nor_opacity(tmp_path: Path, format: str, bands: int) -> None:
    pixels, out = noise(600, 700, bands), tmp_path / "whole.tif"
    names = tuple(f"class {i}" for i in range(bands))
    layer = Layer("probabilities", bands, descriptions=names, unit="percent")
    parts = put(tmp_path, pixels, part_areas(Window(0, 0, 600, 700)))
    assemble(out, Grid(600, 700), layer, parts, Finish(format, "zstd"))
    with rasterio.open(out) as src:
        np.testing.assert_array_equal(src.read(), pixels)
        assert src.descriptions == names
        assert src.units == ("percent",) * bands
        assert src.nodatavals == (255,) * bands
        assert set(src.colorinterp) <= {ColorInterp.gray, ColorInterp.undefined}
    assert not out.with_name("whole.tif.aux.xml").exists()


GCPS = tuple(
    GroundControlPoint(row=r, col=c, x=4 + c / 1e4, y=50 - r / 1e4, z=1.5, id=f"{r}{c}", info="point")
    for r, c in ((0, 0), (0, 600), (600, 0), (550, 540))
)
RPCS = RPC(
    height_off=100, height_scale=500, lat_off=50, lat_scale=0.1, line_off=300, line_scale=300, long_off=4,
    long_scale=0.1, samp_off=300, samp_scale=300, line_num_coeff=[i / 8 for i in range(20)],
    line_den_coeff=[1] + [0] * 19, samp_num_coeff=[i / 4 for i in range(20)], samp_den_coeff=[1] + [0] * 19,
    err_bias=1.0, err_rand=2.0,
)  # fmt: skip


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(
    "facts",
    [
        {},
        {"transform": Affine(2, 0, 7, 0, -2, 9)},
        {"crs": CRS.from_epsg(32631), "transform": Affine(0.5, 0.2, 5e5, 0.1, -0.5, 5.4e6)},
        {"crs": CRS.from_epsg(4326), "transform": Affine(1e-5, 0, 4, 0, -1e-5, 50)},
        {"crs": CRS.from_epsg(4326), "gcps": GCPS},
        {"gcps": GCPS},
        {"rpcs": RPCS},
    ],
    ids=["nothing", "no CRS", "rotated", "geographic", "GCPs", "GCPs without CRS", "RPCs"],
)
def test_every_kind_of_place_on_earth_is_carried_through(
    tmp_path: Path, format: str, facts: dict[str, object]
) -> None:
    grid, pixels = Grid(600, 620, **facts), noise(600, 620)
    parts = put(tmp_path, pixels, part_areas(Window(0, 0, 600, 620)))
    assemble(tmp_path / "whole.tif", grid, MASK, parts, Finish(format, "zstd"))
    with rasterio.open(tmp_path / "whole.tif") as src:
        gcps, gcp_crs = src.gcps
        assert src.transform == grid.transform
        assert (src.crs or (gcp_crs if gcps else None) or None) == grid.crs
        assert [(p.row, p.col, p.x, p.y, p.z) for p in gcps] == [
            (p.row, p.col, p.x, p.y, p.z) for p in grid.gcps
        ]
        assert (src.rpcs and src.rpcs.to_dict()) == (grid.rpcs and grid.rpcs.to_dict())


@pytest.mark.parametrize("format", FORMATS)
def test_what_no_part_covers_is_nodata(tmp_path: Path, format: str) -> None:
    pixels, area = noise(1300, 1100), Window(101, 37, 800, 650)
    parts = put(tmp_path, pixels, part_areas(area))
    assemble(tmp_path / "whole.tif", UTM, MASK, parts, Finish(format, "zstd"))
    expected = np.full((1, 1300, 1100), 255, np.uint8)
    here = np.s_[:, area.row : area.row_end, area.col : area.col_end]
    expected[here] = pixels[here]
    with rasterio.open(tmp_path / "whole.tif") as src:
        np.testing.assert_array_equal(src.read(), expected)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    coarse=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    fine=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    format=st.sampled_from(FORMATS),
)
def test_a_finer_or_coarser_grid_takes_the_pixel_under_each_centre(
    tmp_path: Path, coarse: tuple[int, int], fine: tuple[int, int], format: str
) -> None:
    pixels = np.random.default_rng(1).integers(0, 255, (1, *coarse)).astype(np.uint8)
    parts = put(tmp_path, pixels, [Window(0, 0, *coarse)])
    grid = Grid(*fine, CRS.from_epsg(32631), Affine(2, 0, 5e5, 0, -2, 5.4e6))
    assemble(tmp_path / "whole.tif", Grid(*coarse), MASK, parts, Finish(format, "zstd", fine=grid))
    rows, cols = ((2 * np.arange(n) + 1) * c // (2 * n) for n, c in zip(fine, coarse, strict=True))
    with rasterio.open(tmp_path / "whole.tif") as src:
        np.testing.assert_array_equal(src.read(), pixels[:, rows][:, :, cols])
        assert src.transform == grid.transform


def test_a_finer_grid_of_many_blocks_has_overviews_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PIECE_BYTES", 512 * 512)
    pixels, grid = noise(700, 600), Grid(1400, 1111)
    parts = put(tmp_path, pixels, quarters(700, 600))
    assemble(tmp_path / "whole.tif", Grid(700, 600), MASK, parts, Finish("cog", "zstd", fine=grid))
    fine = pixels[0][upsample_index(700, 1400)[:, None], upsample_index(600, 1111)]
    with rasterio.open(tmp_path / "whole.tif") as src:
        np.testing.assert_array_equal(src.read(1), fine)
    with rasterio.open(tmp_path / "whole.tif", overview_level=0) as src:
        np.testing.assert_array_equal(src.read(1), halve(fine))


@pytest.mark.parametrize("format", FORMATS)
def test_the_bytes_do_not_depend_on_how_the_parts_came(tmp_path: Path, format: str) -> None:
    """One or four parts, in any order, over the files of an earlier, killed attempt."""
    pixels, digests = noise(1300, 1100), set()
    for name, areas in (
        ("one", [Window(0, 0, 1300, 1100)]),
        ("four", quarters(1300, 1100)),
        ("backwards", quarters(1300, 1100, 300, 1000)[::-1]),
    ):
        folder = tmp_path / name
        folder.mkdir()
        parts = put(folder, pixels, areas)
        for attempt in range(2):
            if attempt:
                (folder / "whole.tif").write_bytes(b"half a file")
                (folder / "scratch.mask.whole.vrt").write_bytes(b"<VRTDataset")
                (folder / "scratch.mask.overview0.tif").write_bytes(b"II*\0")
            assemble(folder / "whole.tif", UTM, MASK, parts, Finish(format, "zstd", TAGS))
            digests.add(sha256(folder / "whole.tif"))
    assert len(digests) == 1


@pytest.mark.parametrize("change", ["truncate", "flip", "remove"])
def test_a_part_that_changed_is_told(tmp_path: Path, change: str) -> None:
    parts = put(tmp_path, noise(600, 600), part_areas(Window(0, 0, 600, 600)))
    path, data = parts[0][1], bytearray(parts[0][1].read_bytes())
    if change == "truncate":
        path.write_bytes(data[:-1])
    elif change == "flip":
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    else:
        path.unlink()
    with pytest.raises(
        OutputError, match=r"0-0.mask was damaged and is removed. Redo this part with --resume"
    ):
        assemble(tmp_path / "whole.tif", Grid(600, 600), MASK, parts, Finish("cog", "zstd"))
    assert not (tmp_path / "whole.tif").exists()


def test_a_part_that_was_written_wrongly_without_a_word_is_found_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = module.create

    def silently_empty(path: Path, grid: Grid, options: dict[str, object]) -> object:
        create(path, grid, options).close()
        return create(path.with_name("elsewhere.tif"), grid, options)

    monkeypatch.setattr(module, "create", silently_empty)
    with pytest.raises(OutputError, match="the pixels read back differ"):
        put(tmp_path, noise(1300, 1100) % 7 + 1, quarters(1300, 1100)[1:2])


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("compress", ["zstd", "deflate"])
@pytest.mark.parametrize("place", [(0, 0, 0), (0, 1299, 1099), (0, 511, 512)])
def test_one_wrong_pixel_in_the_result_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: tuple[int, int, int], compress: str, format: str
) -> None:
    pixels, out = noise(1300, 1100), tmp_path / "whole.tif"

    def spoil(path: Path) -> None:
        with rasterio.open(path, "r+", IGNORE_COG_LAYOUT_BREAK="YES") as dst:
            wrong = dst.read()
            wrong[place] += 1
            dst.write(wrong)

    monkeypatch.setattr(module, "sync", spoil)
    monkeypatch.setattr(stored_blocks, "sync", spoil)
    parts = put(tmp_path, pixels, quarters(1300, 1100))
    with pytest.raises(OutputError, match="read back differ"):
        assemble(out, UTM, MASK, parts, Finish(format, compress))


LIMITED = """
import resource, sys
from pathlib import Path
import numpy as np, rasterio
sys.path.insert(0, {here!r})
from rsedge.raster.quiet import hush_libtiff
from rsedge.errors import OutputError
from test_parts import *
folder, format, limit = Path({folder!r}), {format!r}, {limit}
pixels = noise(1300, 1100)
parts = put(folder, pixels, quarters(1300, 1100)) if {early} else None
hush_libtiff()
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    assemble(folder / "whole.tif", UTM, MASK, parts or put(folder, pixels, quarters(1300, 1100)),
             Finish(format, "zstd"))
except OutputError as error:
    print("refused", error)
else:
    with rasterio.open(folder / "whole.tif") as src:
        assert (src.read() == pixels).all()
    print("whole")
"""


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("limit", [300, 20_000, 120_000, 300_000, 1_000_000])
def test_a_full_disk_is_one_error_of_ours_or_no_harm(tmp_path: Path, format: str, limit: int) -> None:
    """A limit on file size makes writes fail like a full disk, including those that GDAL does not report."""
    facts = {"here": str(Path(__file__).parent), "folder": str(tmp_path), "format": format}
    script = LIMITED.format(**facts, limit=limit, early=limit > 100_000)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2] / "support",
    )  # fmt: skip
    assert done.stderr == ""
    assert done.stdout.startswith("whole" if limit == 1_000_000 else "refused")
    assert not [p.name for p in tmp_path.iterdir() if p.name.startswith("scratch")]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is read as Linux tells it")
@pytest.mark.parametrize("format", FORMATS)
def test_memory_does_not_grow_with_the_width(tmp_path: Path, format: str) -> None:
    script = f"""
import resource, sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_parts import *
def run(width):
    folder = Path({str(tmp_path)!r}) / str(width)
    folder.mkdir()
    grid = Grid(1100, width)
    areas = [Window(r, c, min(512, 1100 - r), 4096) for c in range(0, width, 4096) for r in range(0, 1100, 512)]
    pixels = noise(512, 4096)
    parts = []
    for i, area in enumerate(areas):
        path = folder / str(i)
        parts.append((area, path, write_part(path, "mask", pixels[:, : area.height])))
    assemble(folder / "whole.tif", grid, MASK, parts, Finish({format!r}, "zstd"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
narrow, wide = run(4096 * 4), run(4096 * 16)
print(wide - narrow)
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2] / "support",
    )  # fmt: skip
    assert float(done.stdout) < 24, done.stdout  # MiB; one row of blocks is 24 wider


@pytest.mark.parametrize("format", FORMATS)
def test_names_with_controls_leave_all_metadata_readable(tmp_path: Path, format: str) -> None:
    """XML cannot hold these characters: GDAL would read no tag at all, and QGIS no class."""
    odd = [SimpleNamespace(name=name, color=(9, 9, 9)) for name in ("a\x01b", "c\x1b[31m", "\ud800<&>")]
    pixels, out = noise(UTM.height, UTM.width), tmp_path / "whole.tif"
    layer = Layer("mask", 1, tuple(odd), descriptions=("d\x02\udfff",))
    parts = put(tmp_path, pixels, quarters(UTM.height, UTM.width))
    assemble(out, UTM, layer, parts, Finish(format, "zstd", {**TAGS, "RSEDGE_ODD": "m\x03\ud800"}))
    with rasterio.open(out) as src:
        np.testing.assert_array_equal(src.read(), pixels)
        assert {key: src.tags()[key] for key in TAGS} == TAGS
        assert src.tags()["RSEDGE_ODD"] == "m\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}"
        assert src.descriptions == ("d\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}",)
    names = [e.text for e in ET.parse(f"{out}.aux.xml").iter("Category")]
    assert names == ["a\ufffdb", "c\ufffd[31m", "\ufffd<&>"]
