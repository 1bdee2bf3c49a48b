"""What users bring, through the whole of `segment`, against numpy."""

from __future__ import annotations

import struct
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, Resampling
from rasterio.rpc import RPC
from rasterio.transform import Affine

from rsedge import InputError, Options, segment
from rsedge.backends import Backend
from rsedge.model.manifest import NODATA
from rsedge.raster.grid import unreferenced_allowed
from toys import read, strongest

Write = Callable[..., Path]
Noise = Callable[..., np.ndarray]
Check = Callable[..., None]
GRID = {"crs": CRS.from_epsg(32631), "transform": Affine(0.5, 0, 500000, 0, -0.5, 5400000)}


@pytest.fixture
def check(model: Backend, tmp_path: Path) -> Check:
    """Segments a raster and compares the mask with the strongest of ``pixels``, where ``valid``."""

    def run(
        raster: Path | str, pixels: np.ndarray, valid: np.ndarray | None = None, **options: object
    ) -> None:
        out = tmp_path / "mask.tif"
        result = segment(model, raster, out, Options(**{"format": "gtiff", **options}))
        holds = np.ones(pixels.shape[1:], bool) if valid is None else valid
        with unreferenced_allowed():
            mask = read(out)
        np.testing.assert_array_equal(mask, np.where(holds, strongest(pixels), NODATA))
        assert result.nodata_pixels == np.count_nonzero(~holds)

    return run


@pytest.fixture
def pixels(noise: Noise) -> np.ndarray:
    return noise(100, 130)


@pytest.fixture
def half(pixels: np.ndarray) -> np.ndarray:
    """Which pixels hold data, in files that lack some: a slanted border and a hole."""
    rows, cols = np.indices(pixels.shape[1:])
    return (cols > 20 + rows // 4) & ~((rows > 40) & (rows < 60) & (cols > 90))


@pytest.mark.parametrize(("dtype", "factor", "offset"), [
    ("uint8", 1, 0), ("uint16", 200, 1000), ("int16", 100, -9000), ("int32", 10**6, 5), ("uint32", 10**6, 5),
    ("float32", 1 / 255, 0), ("float32", 40, -3e3), ("float64", 1e-9, 0), ("int8", 1, -128),
])  # fmt: skip
def test_dtypes_with_their_scale(
    check: Check, write_raster: Write, pixels: np.ndarray, dtype: str, factor: float, offset: float
) -> None:
    stored = (pixels.astype(np.float64) * factor + offset).astype(dtype)
    scale = (offset, offset + 255 * factor)
    check(write_raster(stored), pixels, scale=None if dtype == "uint8" else scale)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("gap", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_no_data(
    check: Check, write_raster: Write, pixels: np.ndarray, half: np.ndarray, dtype: str, gap: float
) -> None:
    stored = pixels.astype(dtype)
    stored[1, ~half] = gap
    check(write_raster(stored), pixels, half, scale=(0, 255))
    check(write_raster(stored, nodata=np.nan), pixels, half, scale=(0, 255))


def test_the_least_float_as_nodata(
    check: Check, write_raster: Write, pixels: np.ndarray, half: np.ndarray
) -> None:
    least = float(np.finfo(np.float32).min)
    stored = np.where(half, pixels, least).astype(np.float32)
    check(write_raster(stored, nodata=least), pixels, half, scale=(0, 255))


@pytest.mark.parametrize(("count", "bands"), [(4, (3, 2, 1)), (4, (4, 1, 2)), (8, (6, 4, 2)), (8, (8, 8, 1))])
def test_bands_chosen_among_several(
    check: Check, write_raster: Write, count: int, bands: tuple[int, ...]
) -> None:
    stored = np.random.default_rng(4).integers(0, 256, (count, 70, 90), np.uint8)
    check(write_raster(stored, photometric="minisblack"), stored[np.array(bands) - 1], bands=bands)


def test_nodata(check: Check, write_raster: Write, pixels: np.ndarray, half: np.ndarray) -> None:
    pixels[1, 5, 100] = 0  # one band only: data
    check(write_raster(np.where(half, pixels, 0), nodata=0), pixels, half)


def test_an_internal_mask(check: Check, write_raster: Write, pixels: np.ndarray, half: np.ndarray) -> None:
    raster = write_raster(pixels)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(raster, "r+") as dst:
        dst.write_mask(half)
    assert not raster.with_name(raster.name + ".msk").exists()
    check(raster, pixels, half)


def test_a_mask_file(check: Check, write_raster: Write, pixels: np.ndarray, half: np.ndarray) -> None:
    raster = write_raster(pixels)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(raster, "r+") as dst:
        dst.write_mask(half)
    assert raster.with_name(raster.name + ".msk").exists()
    check(raster, pixels, half)


@pytest.mark.parametrize("nodata", [None, 0, 255])
def test_alpha(
    check: Check, write_raster: Write, pixels: np.ndarray, half: np.ndarray, nodata: int | None
) -> None:
    stored = np.concatenate([pixels, np.where(half, 255, 0)[None].astype(np.uint8)])
    raster = write_raster(stored, nodata=nodata)
    with rasterio.open(raster, "r+") as dst:
        dst.colorinterp = [ColorInterp[c] for c in ("red", "green", "blue", "alpha")]
    check(raster, pixels, half)


def test_alpha_and_nodata_both_count(
    check: Check, write_raster: Write, pixels: np.ndarray, half: np.ndarray
) -> None:
    pixels[:, 70:80, 100:] = 0
    stored = np.concatenate([pixels, np.where(half, 255, 0)[None].astype(np.uint8)])
    raster = write_raster(stored, nodata=0)
    with rasterio.open(raster, "r+") as dst:
        dst.colorinterp = [ColorInterp[c] for c in ("red", "green", "blue", "alpha")]
    check(raster, pixels, half & (pixels > 0).any(0))


@pytest.mark.parametrize("file_format", ["gtiff", "cog"])
def test_a_rotated_grid_stays(
    check: Check, write_raster: Write, pixels: np.ndarray, tmp_path: Path, file_format: str
) -> None:
    turned = Affine(0.4, 0.3, 5e5, 0.3, -0.4, 5.4e6)
    check(write_raster(pixels, transform=turned), pixels, format=file_format)
    with rasterio.open(tmp_path / "mask.tif") as dst:
        assert dst.transform.almost_equals(turned, 1e-9)
        assert dst.crs == GRID["crs"]


@pytest.mark.parametrize("file_format", ["gtiff", "cog"])
def test_control_points_stay(
    check: Check, write_raster: Write, pixels: np.ndarray, tmp_path: Path, file_format: str
) -> None:
    points = [
        GroundControlPoint(r, c, 4 + c / 1e4, 52 - r / 1e4)
        for r, c in ((0, 0), (0, 130), (100, 0), (100, 130))
    ]
    check(
        write_raster(pixels, transform=None, gcps=points, crs=CRS.from_epsg(4326)), pixels, format=file_format
    )
    with rasterio.open(tmp_path / "mask.tif") as dst:
        found, crs = dst.gcps
    assert crs == CRS.from_epsg(4326)
    assert [(p.row, p.col, p.x, p.y) for p in found] == [(p.row, p.col, p.x, p.y) for p in points]


@pytest.mark.parametrize("file_format", ["gtiff", "cog"])
def test_rpcs_stay(
    check: Check, write_raster: Write, pixels: np.ndarray, tmp_path: Path, file_format: str
) -> None:
    rpcs = RPC(
        100.0, 50.0, 52.0, 1.0, [1.0] + [0.001] * 19, [2.0] * 20, 50.0, 50.0, 4.0, 1.0, [3.0] * 20, [4.0] * 20,
        65.0, 65.0, 0.5, 0.25,
    )  # fmt: skip
    check(write_raster(pixels, transform=None, crs=None, rpcs=rpcs), pixels, format=file_format)
    with rasterio.open(tmp_path / "mask.tif") as dst:
        assert dst.rpcs.to_dict() == rpcs.to_dict()


def test_jpeg_in_ycbcr(check: Check, write_raster: Write, tmp_path: Path) -> None:
    base = np.random.default_rng(5).normal(0, 1, (3, 12, 16)).cumsum(1).cumsum(2)
    smooth = np.clip(base.repeat(16, 1).repeat(16, 2) * 9 + 120, 0, 255).astype(np.uint8)
    raster = write_raster(
        smooth, compress="jpeg", photometric="ycbcr", tiled=True, blockxsize=64, blockysize=64
    )
    with rasterio.open(raster) as src:
        decoded = src.read()
    assert (decoded != smooth).any()
    check(raster, decoded)


def test_a_mosaic_with_a_gap(check: Check, write_raster: Write, noise: Noise, tmp_path: Path) -> None:
    left, right = noise(100, 60, 1), noise(100, 50, 2)
    names = [write_raster(p, f"{i}.tif", nodata=0).name for i, p in enumerate((left, right))]
    xml = "<VRTDataset rasterXSize='130' rasterYSize='100'>"
    for band in (1, 2, 3):
        xml += f"<VRTRasterBand dataType='Byte' band='{band}'><NoDataValue>0</NoDataValue>"
        for name, col, width in ((names[0], 0, 60), (names[1], 80, 50)):
            xml += (
                f"<ComplexSource><SourceFilename relativeToVRT='1'>{name}</SourceFilename><SourceBand>{band}"
                f"</SourceBand><SrcRect xOff='0' yOff='0' xSize='{width}' ySize='100'/>"
                f"<DstRect xOff='{col}' yOff='0' xSize='{width}' ySize='100'/><NODATA>0</NODATA></ComplexSource>"
            )
        xml += "</VRTRasterBand>"
    path = tmp_path / "mosaic.vrt"
    path.write_text(xml + "</VRTDataset>")
    pixels = np.concatenate([left, np.zeros((3, 100, 20), np.uint8), right], 2)
    check(path, pixels, pixels.any(0))


def test_overviews_are_left_alone(check: Check, write_raster: Write, noise: Noise) -> None:
    pixels = noise(300, 400)
    raster = write_raster(pixels, tiled=True, blockxsize=64, blockysize=64)
    with rasterio.open(raster, "r+") as dst:
        dst.build_overviews([2, 4], Resampling.average)
    check(raster, pixels)


def test_a_raster_in_a_zip(check: Check, write_raster: Write, pixels: np.ndarray, tmp_path: Path) -> None:
    raster, archive = write_raster(pixels), tmp_path / "delivery.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as stored:
        stored.write(raster, "images/scene 1.tif")
    raster.unlink()
    before = archive.read_bytes()
    check(f"/vsizip/{archive}/images/scene 1.tif", pixels)
    check(f"zip://{archive}!/images/scene 1.tif", pixels)
    assert archive.read_bytes() == before


def test_a_missing_member_of_a_zip_is_named(
    model: Backend, write_raster: Write, pixels: np.ndarray, tmp_path: Path
) -> None:
    archive = tmp_path / "delivery.zip"
    with zipfile.ZipFile(archive, "w") as stored:
        stored.write(write_raster(pixels), "a.tif")
    with pytest.raises(InputError, match="b.tif"):
        segment(model, f"zip://{archive}!b.tif", tmp_path / "mask.tif")


class Ranges(SimpleHTTPRequestHandler):
    """Serves byte ranges, to those who say the password only."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Nothing."""

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def answer(self, with_body: bool) -> None:
        path = Path(self.translate_path(self.path))
        asked = self.headers.get("Range")
        self.server.asked.append((self.command, asked))  # type: ignore[attr-defined]
        if self.headers.get("X-Password") != "sesame" or not path.is_file():
            self.send_response(404 if path.suffix != ".tif" else 403)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        data = path.read_bytes()
        begin, end = 0, len(data)
        if asked:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            begin, end = int(first), min(int(last or len(data) - 1) + 1, len(data))
        self.send_response(206 if asked else 200)
        self.send_header("Accept-Ranges", "bytes")
        if asked:
            self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{len(data)}")
        self.send_header("Content-Length", str(end - begin))
        self.end_headers()
        if with_body:
            self.wfile.write(data[begin:end])


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Ranges, directory=str(tmp_path))) as running:
        running.asked = []  # type: ignore[attr-defined]
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def test_a_raster_over_http(
    check: Check,
    write_raster: Write,
    noise: Noise,
    server: ThreadingHTTPServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With a header that GDAL takes from the environment, and by ranges."""
    pixels = noise(400, 500)
    raster = write_raster(pixels, "remote.tif", tiled=True, blockxsize=64, blockysize=64, compress="deflate")
    monkeypatch.setenv("GDAL_HTTP_HEADERS", "X-Password: sesame")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("GDAL_DISABLE_READDIR_ON_OPEN", "EMPTY_DIR")
    check(f"http://127.0.0.1:{server.server_address[1]}/remote.tif", pixels)
    gets = [asked for command, asked in server.asked if command == "GET"]  # type: ignore[attr-defined]
    assert any(asked and asked.startswith("bytes=") for asked in gets)
    assert raster.exists()


def test_a_raster_that_a_server_withholds_is_an_error(
    model: Backend,
    write_raster: Write,
    pixels: np.ndarray,
    server: ThreadingHTTPServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_raster(pixels, "secret.tif")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with pytest.raises(InputError, match=r"secret\.tif cannot be opened as a raster"):
        segment(model, f"http://127.0.0.1:{server.server_address[1]}/secret.tif", tmp_path / "mask.tif")


@pytest.mark.parametrize("size", [(1, 1), (1, 200), (200, 1), (1, 64), (63, 65)])
@pytest.mark.parametrize("file_format", ["gtiff", "cog"])
def test_small_and_narrow_rasters(
    check: Check, write_raster: Write, noise: Noise, size: tuple[int, int], file_format: str
) -> None:
    pixels = noise(*size)
    check(write_raster(pixels), pixels, format=file_format)


@pytest.mark.parametrize("driver", ["PNG", "JPEG", "BMP"])
def test_pictures_with_and_without_a_world_file(
    check: Check, pixels: np.ndarray, tmp_path: Path, driver: str
) -> None:
    from PIL import Image

    path = tmp_path / f"plain.{driver.lower()}"
    Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0))).save(path)
    with unreferenced_allowed(), rasterio.open(path) as src:
        decoded = src.read()
    assert driver == "JPEG" or (decoded == pixels).all()
    check(path, decoded)
    path.with_suffix(".wld").write_text("0.5\n0\n0\n-0.5\n500000\n5400000\n")
    check(path, decoded)
    with rasterio.open(tmp_path / "mask.tif") as dst:
        assert dst.transform.almost_equals(Affine(0.5, 0, 499999.75, 0, -0.5, 5400000.25))


def test_an_interlaced_png_comes_in_one_piece(check: Check, tmp_path: Path) -> None:
    """GDAL decodes it anew for every row that is out of order; written by hand, as Pillow does not."""
    pixels = np.arange(3 * 20 * 20, dtype=np.uint8).reshape(3, 20, 20)
    passes = (
        (0, 0, 8, 8),
        (0, 4, 8, 8),
        (4, 0, 8, 4),
        (0, 2, 4, 4),
        (2, 0, 4, 2),
        (0, 1, 2, 2),
        (1, 0, 2, 1),
    )
    data = b"".join(
        b"\0" + row.tobytes()
        for top, left, down, along in passes
        for row in pixels[:, top::down, left::along].transpose(1, 2, 0)
        if row.size
    )
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", 20, 20, 8, 2, 0, 0, 1)),
        (b"IDAT", zlib.compress(data)),
        (b"IEND", b""),
    )
    path = tmp_path / "interlaced.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks
        )
    )
    check(path, pixels)
