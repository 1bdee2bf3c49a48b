"""Containers without bands, files of several pages, invalid georeferences."""

from __future__ import annotations

import json
import math
import os
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.control import GroundControlPoint
from rasterio.errors import RasterioError
from rasterio.shutil import copy
from rasterio.transform import Affine

from rsedge import InputError, Options, segment
from rsedge.backends import Backend
from rsedge.errors import unexpected
from rsedge.model.bundle import Bundle
from rsedge.raster import RasterReader, plan_bands
from rsedge.raster.grid import unreferenced_allowed
from rsedge.raster.trust import NAMED, Trust
from toys import read, strongest

Write = Callable[..., Path]
Noise = Callable[..., np.ndarray]
Run = Callable[..., tuple[int, str, str]]
NAN, INF = math.nan, math.inf


def container(path: Path, *pages: np.ndarray) -> Path:
    """Write several rasters into one container, as in HDF5, netCDF or SAFE, with Zarr."""
    path.mkdir()
    (path / ".zgroup").write_text('{"zarr_format": 2}')
    for i, page in enumerate(pages):
        array = path / f"band{i}"
        array.mkdir()
        facts = {"zarr_format": 2, "shape": page.shape, "chunks": page.shape, "dtype": "|u1", "compressor": None,
                 "fill_value": None, "order": "C", "filters": None}  # fmt: skip
        (array / ".zarray").write_text(json.dumps(facts))
        (array / "0.0").write_bytes(page.tobytes())
    return path


def test_a_container_lists_what_is_in_it_and_the_command(
    tmp_path: Path, noise: Noise, bundle: Path, call_rsedge: Run
) -> None:
    path = container(tmp_path / "two parts.zarr", *noise(40, 50)[:2])
    with unreferenced_allowed(), rasterio.open(path) as src:
        names = src.subdatasets
    assert len(names) == 2
    code, _, complaint = call_rsedge("infer", path, "--out", tmp_path / "m.tif", "--model", bundle)
    assert code == 2
    assert "is a container of 2 rasters" in complaint
    _, *below = complaint.splitlines()
    assert [line.split("  ")[2] for line in below] == [shlex.quote(name) for name in names]
    command = complaint.split("`")[1]
    assert shlex.split(command)[:3] == ["rsedge", "infer", names[0]]
    code, _, complaint = call_rsedge("infer", names[0], "--out", tmp_path / "m.tif", "--model", bundle)
    assert (code, "1 usable band" in complaint) == (2, True)  # opened, and one band is too few
    join = tmp_path / "all.vrt"
    bands = "".join(
        f"<VRTRasterBand dataType='Byte' band='{i}'><SimpleSource><SourceFilename>{name.replace('&', '&amp;')}"
        f"</SourceFilename><SourceBand>1</SourceBand></SimpleSource></VRTRasterBand>"
        for i, name in enumerate((names[0], names[1], names[0]), 1)
    )
    join.write_text(f"<VRTDataset rasterXSize='50' rasterYSize='40'>{bands}</VRTDataset>")
    assert call_rsedge("infer", join, "--out", tmp_path / "m.tif", "--model", bundle)[0] == 0


def test_an_idrisi_files_bands_are_taken_in_the_order_in_which_they_are_read(
    tmp_path: Path, noise: Noise, bundle: Path
) -> None:
    bands = noise(40, 50)
    path = tmp_path / "a.rst"
    with rasterio.open(
        path, "w", driver="RST", width=50, height=40, count=3, dtype="uint8", crs="EPSG:32632",
        transform=rasterio.Affine(0.5, 0, 500000, 0, -0.5, 5000000),
    ) as dst:  # fmt: skip
        dst.write(bands)
    with rasterio.open(path) as src:
        np.testing.assert_array_equal(src.read(), bands)
    stored = np.fromfile(path, np.uint8).reshape(40, 50, 3)
    np.testing.assert_array_equal(stored[..., ::-1], bands.transpose(1, 2, 0))  # Idrisi stores blue first
    with RasterReader(path) as reader:
        assert plan_bands(reader, Bundle.open(bundle).manifest).indexes == (1, 2, 3)


def test_a_container_does_not_stop_the_others(
    tmp_path: Path, noise: Noise, write_raster: Write, bundle: Path, call_rsedge: Run
) -> None:
    path = container(tmp_path / "c.zarr", *noise(40, 50)[:2])
    good = [write_raster(noise(40, 50), f"{i}.tif") for i in range(2)]
    code, _, complaint = call_rsedge(
        "infer", good[0], path, good[1], "--out-dir", tmp_path / "out", "--model", bundle
    )
    assert (code, "1 of 3 rasters failed" in complaint) == (2, True)
    assert sorted(p.name for p in (tmp_path / "out").glob("*.tif")) == ["0.tif", "1.tif"]


@pytest.mark.parametrize(
    "error", [IndexError("tuple index out of range"), RasterioError("odd"), OSError("odd")]
)
def test_an_error_nobody_foresaw_is_one_rasters_failure(
    tmp_path: Path,
    noise: Noise,
    write_raster: Write,
    bundle: Path,
    call_rsedge: Run,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    rasters = [write_raster(noise(40, 50), f"{i}.tif") for i in range(3)]
    opened = RasterReader.__init__

    def fail(self: RasterReader, path: Path | str, threads: int = 1, trust: Trust = NAMED) -> None:
        if str(path).endswith("1.tif") and threads:
            raise error
        opened(self, path, threads, trust)

    monkeypatch.setattr(RasterReader, "__init__", fail)
    code, _, complaint = call_rsedge("infer", *rasters, "--out-dir", tmp_path / "out", "--model", bundle)
    assert code == 2
    assert "please report it" in complaint
    assert f"{type(error).__name__}: {error}" in complaint
    assert "1 of 3 rasters failed" in complaint
    assert sorted(p.name for p in (tmp_path / "out").glob("*.tif")) == ["0.tif", "2.tif"]
    if not isinstance(error, OSError):
        with pytest.raises(type(error)):  # alone it is shown as it is, with where it came from
            call_rsedge("infer", rasters[1], "--out", tmp_path / "m.tif", "--model", bundle)


def test_what_is_said_of_an_unexpected_error() -> None:
    empty = list[int]()
    try:
        empty.pop()
    except IndexError as error:
        said = unexpected("a.tif", error)
    assert said.startswith("a.tif: IndexError: pop from empty list at test_opening.py:")
    assert "report" in said


def test_several_pages_get_a_note_and_a_name_none(tmp_path: Path, noise: Noise, model: Backend) -> None:
    first, second = noise(60, 70), noise(50, 40, seed=1)
    pages = [Image.fromarray(p.transpose(1, 2, 0)) for p in (first, second)]
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    out = tmp_path / "mask.tif"
    result = segment(model, tmp_path / "pages.tif", out)
    (note,) = (n for n in result.notes if "pages" in n)
    with unreferenced_allowed():
        assert np.array_equal(read(out), strongest(first))
    (name,) = shlex.split(note.split("such as ")[1])
    result = segment(model, name, out)
    assert not any("pages" in n for n in result.notes)
    with unreferenced_allowed():
        assert np.array_equal(read(out), strongest(second))


def test_bands_that_are_pages_are_named_where_too_few_are_found(
    tmp_path: Path, noise: Noise, model: Backend
) -> None:
    pages = [Image.fromarray(band) for band in noise(50, 40)]
    pages[0].save(tmp_path / "bands.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(InputError, match="1 usable band.*holds 3 images"):
        segment(model, tmp_path / "bands.tif", tmp_path / "m.tif")


def test_overviews_and_masks_inside_a_file_are_no_pages(write_raster: Write, noise: Noise) -> None:
    path = write_raster(noise(600, 600), tiled=True, blockxsize=256, blockysize=256)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as dst:
        dst.write_mask(np.ones((600, 600), bool))
        dst.build_overviews([2, 4])
    with RasterReader(path) as reader:
        assert reader.notes == ()


BROKEN = [
    Affine(NAN, 0, 500000, 0, -0.5, 5e6),
    Affine(0.5, 0, INF, 0, -0.5, 5e6),
    Affine(0.5, 0, 5e5, 0, -INF, 5e6),
    Affine(0.5, NAN, 5e5, 0, -0.5, 5e6),
    Affine(0, 0, 5e5, 0, 0, 5e6),
    Affine(1, 2, 5e5, 2, 4, 5e6),
    Affine(1e300, 0, 5e5, 0, -1e300, 5e6),
]


@pytest.mark.parametrize("transform", BROKEN)
def test_a_geotransform_that_places_nothing_counts_as_none(
    model: Backend,
    bundle: Path,
    tmp_path: Path,
    write_raster: Write,
    noise: Noise,
    call_rsedge: Run,
    transform: Affine,
) -> None:
    pixels = noise(70, 80)
    path, out = write_raster(pixels, transform=transform), tmp_path / "mask.tif"
    result = segment(model, path, out)
    assert any("not georeferenced" in note for note in result.notes)
    with unreferenced_allowed():
        assert np.array_equal(read(out), strongest(pixels))
    with unreferenced_allowed(), rasterio.open(out) as src:
        assert (src.transform, src.crs) == (Affine.identity(), None)
    code, said, _ = call_rsedge("infer", path, "--out", out, "--model", bundle, "--json")
    assert code == 0

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    json.loads(said.splitlines()[-1], parse_constant=refuse)
    for more in (("--polygons", tmp_path / "p.gpkg"), ("--bbox", "0,0,9,9")):
        code, _, complaint = call_rsedge("infer", path, "--out", tmp_path / "n.tif", "--model", bundle, *more)
        assert code == 2, more
        assert complaint.startswith("error: ")
    assert not (tmp_path / "p.gpkg").exists()
    assert not (tmp_path / "n.tif").exists()


def test_a_control_point_that_is_not_finite_is_not_used(
    write_raster: Write, noise: Noise, tmp_path: Path
) -> None:
    points = [GroundControlPoint(r, c, x, 50.0 + r) for r, c, x in ((0, 0, 5.0), (0, 9, NAN), (9, 0, 6.0))]
    path = tmp_path / "gcps.vrt"
    source = write_raster(noise(20, 20))
    listed = "".join(
        f"<GCP Id='{i}' Pixel='{p.col}' Line='{p.row}' X='{p.x}' Y='{p.y}'/>" for i, p in enumerate(points)
    )
    bands = "".join(
        f"<VRTRasterBand dataType='Byte' band='{b}'><SimpleSource><SourceFilename>{source}</SourceFilename>"
        f"<SourceBand>{b}</SourceBand></SimpleSource></VRTRasterBand>"
        for b in (1, 2, 3)
    )
    path.write_text(
        f"<VRTDataset rasterXSize='20' rasterYSize='20'><GCPList Projection='EPSG:4326'>{listed}</GCPList>{bands}"
        "</VRTDataset>"
    )
    with RasterReader(path) as reader:
        assert reader.grid.gcps == ()
        assert any("control point" in note for note in reader.notes)


def test_a_netcdf_file_of_several_variables_is_a_container(
    tmp_path: Path, write_raster: Write, noise: Noise
) -> None:
    path = tmp_path / "c.nc"
    with rasterio.Env() as env:
        if "netCDF" not in env.drivers():
            pytest.skip("this GDAL has no netCDF")
    copy(write_raster(noise(20, 30)), path, driver="netCDF")
    with pytest.raises(InputError, match=r"(?i)container of 3 rasters[\s\S]*netcdf:"):
        RasterReader(path)


def test_options_do_not_hide_that(model: Backend, tmp_path: Path, noise: Noise) -> None:
    path = container(tmp_path / "c.zarr", *noise(40, 50)[:2])
    with pytest.raises(InputError, match="a container of 2 rasters"):
        segment(model, path, tmp_path / "m.tif", Options(bands=(1, 2, 3)))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes have no names here")
@pytest.mark.parametrize(
    ("raster", "beside"),
    [
        *[("one.tif", name) for name in ("one.RPB", "one_RPC.TXT", "ONE.IMD", "one.tfw", "one.tab")],
        ("IMG_PHR1A.tif", "DIM_PHR1A.XML"),
        ("IMG_PHR1A.tif", "RPC_PHR1A.XML"),
    ],
)
def test_a_pipe_or_device_beside_a_raster_is_never_waited_for(
    tmp_path: Path, write_raster: Write, noise: Noise, raster: str, beside: str
) -> None:
    path, odd, vrt = write_raster(noise(60, 70), raster), tmp_path / beside, tmp_path / "all.vrt"
    copy(path, vrt, driver="VRT")
    for make in (os.mkfifo, lambda p: p.symlink_to("/dev/zero"), lambda p: p.symlink_to("/proc/kmsg")):
        make(odd)
        for opened in (path, vrt):
            with pytest.raises(InputError, match=r"a device, a pipe|is not a raster"):
                RasterReader(opened)
        odd.unlink()
    os.mkfifo(tmp_path / "other.tfw")  # not of this raster
    odd.symlink_to("nowhere")
    with RasterReader(path):
        pass


def test_python_in_a_vrt_does_not_run_whatever_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GDAL_VRT_ENABLE_PYTHON", "YES")
    source, ran = tmp_path / "a.tif", tmp_path / "ran"
    with rasterio.open(
        source, "w", driver="GTiff", width=8, height=8, count=1, dtype="uint8", transform=Affine.scale(2)
    ) as out:
        out.write(np.ones((1, 8, 8), np.uint8))
    vrt = tmp_path / "a.vrt"
    vrt.write_text(
        '<VRTDataset rasterXSize="8" rasterYSize="8"><GeoTransform>0,2,0,0,0,2</GeoTransform>'
        '<VRTRasterBand dataType="Byte" band="1" subClass="VRTDerivedRasterBand">'
        "<PixelFunctionType>f</PixelFunctionType><PixelFunctionLanguage>Python</PixelFunctionLanguage>"
        f"<PixelFunctionCode><![CDATA[\ndef f(*a, **k):\n    open({str(ran)!r}, 'w').close()\n]]></PixelFunctionCode>"
        '<SimpleSource><SourceFilename relativeToVRT="1">a.tif</SourceFilename></SimpleSource>'
        "</VRTRasterBand></VRTDataset>"
    )
    with pytest.raises(InputError, match="Python"):
        RasterReader(str(vrt))
    assert not ran.exists()
