"""Rasters of many formats, and what a seed makes of them: bits, header fields, tags, texts and side files changed."""

from __future__ import annotations

import os
import random
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import rasterio
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from rasterio.transform import Affine

from fuzzing import damaged, retold
from rsedge.raster.grid import unreferenced_allowed

HEIGHT, WIDTH = 90, 130
SCALED = ("uint16", "float32")  # kinds to be read with --scale
GRID = {"crs": CRS.from_epsg(32631), "transform": Affine(0.5, 0, 500000, 0, -0.5, 5400000)}
TILES = {"tiled": True, "blockxsize": 32, "blockysize": 32}
PLAIN: dict[str, dict[str, object]] = {
    "strips": {"nodata": 0},
    "tiles": {"interleave": "pixel", **TILES},
    "deflate": {"compress": "deflate", "predictor": 2, "nodata": 0, **TILES},
    "deflate_strips": {"compress": "deflate", "blockysize": 16},
    "lzw": {"compress": "lzw", "blockysize": 7},
    "zstd": {"compress": "zstd", "interleave": "band", **TILES},
    "jpeg_tiff": {"compress": "jpeg", "photometric": "ycbcr", "interleave": "pixel", **TILES},
    "bigtiff": {"bigtiff": "yes", "compress": "deflate", "nodata": 0, **TILES},
    "uint16": {"dtype": "uint16", "compress": "lzw", "nodata": 0},
    "float32": {"dtype": "float32", "compress": "deflate", "predictor": 3, "nodata": -9999.0},
    "alpha": {"count": 4, "photometric": "rgb", "compress": "lzw"},
    "palette": {"count": 1, "compress": "packbits"},
    "cog": {"driver": "COG", "compress": "deflate", "blocksize": 64, "overviews": "auto"},
    "png": {"driver": "PNG"},
    "png_alpha": {"driver": "PNG", "count": 4},
    "png_palette": {"driver": "PNG", "count": 1},
    "jpeg": {"driver": "JPEG"},
    "jp2": {"driver": "JP2OpenJPEG", "quality": "100", "reversible": "yes"},
    "hfa": {"driver": "HFA", "nodata": 0},
}
SUFFIXES = {"PNG": ".png", "JPEG": ".jpg", "JP2OpenJPEG": ".jp2", "HFA": ".img"}
WORLD = {".png": ".pgw", ".jpg": ".jgw", ".jp2": ".j2w", ".tif": ".tfw"}
FUNCTIONS = ("LINE_NUM", "LINE_DEN", "SAMP_NUM", "SAMP_DEN")
RPC = b"".join(
    b"%s: %s\n" % (key, value)
    for key, value in [
        *[(f"{a}_OFF".encode(), b"45.0") for a in ("LINE", "SAMP", "LAT", "LONG", "HEIGHT")],
        *[(f"{a}_SCALE".encode(), b"50.0") for a in ("LINE", "SAMP", "LAT", "LONG", "HEIGHT")],
        *[(f"{a}_COEFF_{i}".encode(), b"0.5") for a in FUNCTIONS for i in range(1, 21)],
    ]
)  # fmt: skip
AUX = b"""<PAMDataset>
  <SRS>EPSG:32631</SRS><GeoTransform>500000, 0.5, 0, 5400000, 0, -0.5</GeoTransform>
  <GCPList Projection="EPSG:32631"><GCP Id="1" Info="" Pixel="0" Line="0" X="500000" Y="5400000" Z="0"/>
  <GCP Id="2" Info="" Pixel="90" Line="0" X="500045" Y="5400000"/></GCPList>
  <Metadata><MDI key="AREA_OR_POINT">Area</MDI></Metadata>
  <Metadata domain="IMAGE_STRUCTURE"><MDI key="INTERLEAVE">PIXEL</MDI><MDI key="NBITS">7</MDI></Metadata>
  <PAMRasterBand band="1"><Description>one</Description><NoDataValue>0</NoDataValue><ColorInterp>Red</ColorInterp>
  <Scale>2</Scale><Offset>3</Offset><Metadata><MDI key="STATISTICS_MAXIMUM">255</MDI></Metadata></PAMRasterBand>
  <PAMRasterBand band="2"><NoDataValue>0</NoDataValue><ColorInterp>Blue</ColorInterp></PAMRasterBand>
  <PAMRasterBand band="3"><NoDataValue>0</NoDataValue><ColorInterp>Green</ColorInterp></PAMRasterBand>
</PAMDataset>"""
VRT = b"""<VRTDataset rasterXSize="130" rasterYSize="90"><SRS>EPSG:32631</SRS>
<GeoTransform>500000, 0.5, 0, 5400000, 0, -0.5</GeoTransform>%s</VRTDataset>"""
BAND = b"""<VRTRasterBand dataType="Byte" band="%d"><NoDataValue>0</NoDataValue><ColorInterp>%s</ColorInterp>\
<SimpleSource>
<SourceFilename relativeToVRT="1">one.tif</SourceFilename><SourceBand>%d</SourceBand>
<SrcRect xOff="0" yOff="0" xSize="130" ySize="90"/><DstRect xOff="0" yOff="0" xSize="130" ySize="90"/></SimpleSource>
</VRTRasterBand>"""
SOURCES = (b">../../outside/secret.tif", b">OUTSIDE/secret.tif", b">all.vrt",
           b">/vsicurl/http://127.0.0.1:PORT/a.tif", b">/dev/zero")  # fmt: skip
# What would be read, or asked, where a file's word is taken: PORT and OUTSIDE are put in by the worker.
HOSTILE = [
    VRT % BAND.replace(b'relativeToVRT="1">one.tif', b'relativeToVRT="0">OUTSIDE/secret.tif') % (1, b"Gray", 1),
    VRT % BAND.replace(b">one.tif", b">../../outside/secret.tif") % (1, b"Gray", 1),
    VRT % BAND.replace(b">one.tif", b">/vsicurl/http://127.0.0.1:PORT/a.tif") % (1, b"Gray", 1),
    b"<GDAL_WMS><Service name='TMS'><ServerUrl>http://127.0.0.1:PORT/${z}</ServerUrl></Service></GDAL_WMS>",
    b"<PAMDataset><Metadata domain='OVERVIEWS'><MDI key='OVERVIEW_FILE'>OUTSIDE/secret.tif</MDI></Metadata>"
    b"</PAMDataset>",
    b"<PAMDataset><Metadata domain='OVERVIEWS'><MDI key='OVERVIEW_FILE'>http://127.0.0.1:PORT/</MDI></Metadata>"
    b"</PAMDataset>",
    b"<PAMDataset><HistogramS/><Subdataset name='OUTSIDE/secret.tif'><PAMDataset/></Subdataset></PAMDataset>",
    b"<a>" * 20_000,
    b"A" * 200_000,
    b"",
    b"EHFA_HEADER_TAG" + bytes(100),
    b"II*\0" + b"\xff" * 40,
]  # fmt: skip


def pixels_of(dtype: str, count: int) -> np.ndarray:
    """Noise with a corner of zeros; alpha, the fourth band, is 0 there and at a stripe."""
    rng = np.random.default_rng(5)
    pixels = rng.integers(1, 256, (count, HEIGHT, WIDTH)).astype(dtype)
    pixels[:, 40:60, :50] = 0
    if count == 4:
        pixels[3] = np.where(pixels[3] > 0, 255, 0)
        pixels[3, 10:14] = 0
    if dtype == "float32":
        pixels[:, 40:60, :50] = -9999
        pixels[1, 3, 5:9] = np.nan
    return pixels


def write_bases(folder: Path) -> dict[str, Path]:
    """The rasters before anything is done to them, each in a folder of its own, as far as GDAL can write them."""
    found = {}
    for kind, profile in PLAIN.items():
        facts = {"driver": "GTiff", "count": 3, "dtype": "uint8", "height": HEIGHT, "width": WIDTH, **profile}
        path = folder / kind / f"one{SUFFIXES.get(str(facts['driver']), '.tif')}"
        path.parent.mkdir(parents=True)
        placed = {} if facts["driver"] in {"PNG", "JPEG"} else GRID
        try:
            with unreferenced_allowed(), rasterio.open(path, "w", **{**placed, **facts}) as dst:
                if "palette" in kind:
                    dst.write_colormap(1, {i: (i, 255 - i, i * 7 % 256, 255 * (i > 9)) for i in range(250)})
                pixels = pixels_of(str(facts["dtype"]), int(str(facts["count"])))
                dst.write(pixels % 250 if "palette" in kind else pixels)
                if kind == "alpha":
                    dst.colorinterp = [ColorInterp[n] for n in ("red", "green", "blue", "alpha")]
                if kind == "cog":
                    dst.write_mask(pixels[0] > 20)
        except rasterio.errors.RasterioError:
            shutil.rmtree(path.parent)
            continue
        found[kind] = path
    bands = b"".join(BAND % (i, name, i) for i, name in enumerate((b"Red", b"Green", b"Blue"), 1))
    (folder / "vrt").mkdir()
    shutil.copy(found["deflate"], folder / "vrt")
    (folder / "vrt" / "all.vrt").write_bytes(VRT % bands)
    return {**found, "vrt": folder / "vrt" / "all.vrt"}


def side_files(folder: Path) -> dict[str, bytes]:
    """Good side files of these rasters, by suffix."""
    facts = {"driver": "GTiff", "count": 1, "dtype": "uint8", "height": HEIGHT, "width": WIDTH, **GRID}
    with rasterio.open(folder / "side.msk", "w", **facts, compress="deflate") as dst:
        dst.write(np.where(pixels_of("uint8", 1) > 30, 255, 0).astype(np.uint8))
        dst.update_tags(INTERNAL_MASK_FLAGS_1="2", INTERNAL_MASK_FLAGS_2="2", INTERNAL_MASK_FLAGS_3="2")
    half = {"height": HEIGHT // 2, "width": WIDTH // 2, "count": 3}
    with rasterio.open(folder / "side.ovr", "w", **{**facts, **half}) as dst:
        dst.write(pixels_of("uint8", 3)[:, ::2, ::2])
    world = b"0.5\n0\n0\n-0.5\n500000\n5400000\n"
    return {
        **{suffix: (folder / f"side{suffix}").read_bytes() for suffix in (".msk", ".ovr")},
        ".aux.xml": AUX, "_RPC.TXT": RPC, "_rpc.txt": RPC, "world": world, ".wld": world, ".prj": b'LOCAL_CS["x"]',
        ".tab": b"!table\n", ".IMD": b"BEGIN_GROUP = BAND_P\nEND_GROUP = BAND_P\nEND;\n", ".RPB": RPC,
        ".hdr": b"ENVI\n",
    }  # fmt: skip


def extreme(rng: random.Random, size: int) -> int:
    """A whole number of so many bytes that is likely to be too much, too little or nearly right."""
    most = 256**size - 1
    return rng.choice(
        (0, 1, 2, 3, 255, 256, most, most - 1, most // 2, most // 2 + 1, rng.randrange(200), rng.randint(0, most))
    ) & most  # fmt: skip


def headed(rng: random.Random, data: bytes) -> bytes:
    """Fields of the first bytes set to extremes."""
    found = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        size = rng.choice((1, 2, 4))
        at = rng.randrange(max(1, min(len(found), 220) - size))
        found[at : at + size] = extreme(rng, size).to_bytes(size, rng.choice(("big", "little")))
    return bytes(found)


def entries(data: bytes) -> Iterator[tuple[int, int, int, str]]:
    """Of a TIFF: where each entry of its directories lies, size of one and of its count, and the byte order."""
    order = "<" if data[:2] == b"II" else ">"
    big = struct.unpack_from(order + "H", data, 2)[0] == 43
    pointer, count, entry = ("Q", "Q", 20) if big else ("I", "H", 12)
    at, seen = struct.unpack_from(order + pointer, data, 8 if big else 4)[0], set[int]()
    while at and at not in seen:
        seen.add(at)
        (many,) = struct.unpack_from(order + count, data, at)
        at += struct.calcsize(count)
        for _ in range(many):
            yield at, entry, 8 if big else 4, order
            at += entry
        yield at, 0, struct.calcsize(pointer), order  # where the next directory is
        (at,) = struct.unpack_from(order + pointer, data, at)


def retagged(rng: random.Random, data: bytes) -> bytes:
    """A TIFF of which entries of a directory are others: tag, kind, count or value."""
    if data[:4] not in {b"II*\0", b"II+\0"}:
        return headed(rng, data)
    found, all_entries = bytearray(data), list(entries(data))
    for _ in range(rng.randint(1, 3)):
        at, size, wide, order = rng.choice(all_entries)
        field, length = (
            (at, wide)
            if not size
            else rng.choice([(at, 2), (at + 2, 2), (at + 4, wide)] + [(at + 4 + wide, wide)] * 4)
        )
        new = extreme(rng, length)
        if size and field == at:
            new = rng.choice(
                (
                    256,
                    257,
                    258,
                    259,
                    262,
                    266,
                    273,
                    277,
                    278,
                    279,
                    284,
                    317,
                    320,
                    322,
                    324,
                    338,
                    339,
                    42113,
                    330,
                )
            )
        elif size and field == at + 2:
            new = rng.randrange(20)
        elif length == wide and rng.random() < 0.4:  # the value, a little different
            new = struct.unpack_from(order + ("Q" if wide == 8 else "I"), found, field)[0] + rng.choice(
                (-1, 1, 2, 16, 256)
            )
        found[field : field + length] = (new % 256**length).to_bytes(
            length, "little" if order == "<" else "big"
        )
    return bytes(found)  # fmt: skip


def rechunked(rng: random.Random, data: bytes) -> bytes:
    """A PNG of which a chunk is other, doubled or gone, with sums that are right."""
    if not data.startswith(b"\x89PNG"):
        return headed(rng, data)
    chunks, at = list[tuple[bytes, bytes]](), 8
    while at + 12 <= len(data):
        (size,) = struct.unpack_from(">I", data, at)
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size
    which = rng.randrange(len(chunks))
    name, content = chunks[which]
    way = rng.randrange(4)
    if way < 2 and content:
        small = name == b"IHDR"
        chunks[which] = name, headed(rng, content) if small else damaged(rng, content)
    elif way == 2:
        chunks.insert(which, (rng.choice((name, b"tRNS", b"PLTE", b"gAMA", b"eXIf", b"acTL")), content[:768]))
    else:
        del chunks[which]
    made = [struct.pack(">I", len(c)) + n + c + struct.pack(">I", zlib.crc32(n + c)) for n, c in chunks]
    return data[:8] + b"".join(made)


def mutate(
    rng: random.Random, bases: dict[str, Path], sides: dict[str, bytes], folder: Path
) -> tuple[str, Path]:
    """A raster of some kind with something done to it, in a new folder: its kind and its path."""
    kind = rng.choice(list(bases))
    folder.mkdir(parents=True)
    for file in bases[kind].parent.iterdir():
        shutil.copy(file, folder)
    path = folder / bases[kind].name
    data, done = path.read_bytes(), list[str]()
    if rng.random() < 0.75:
        target = path if kind != "vrt" or rng.random() < 0.8 else folder / "one.tif"
        data = target.read_bytes()
        ways: list[Callable[[random.Random, bytes], bytes]] = [damaged, headed, spliced(bases)]
        ways += {".tif": [retagged] * 4, ".png": [rechunked] * 3, ".vrt": [retold] * 8}.get(target.suffix, [])
        way = rng.choice(ways)
        done.append(way.__name__)
        data = way(rng, data)
        if target.suffix == ".vrt" and rng.random() < 0.15:
            data = data.replace(b">one.tif", rng.choice(SOURCES))
        target.write_bytes(data)
    if not done or rng.random() < 0.4:
        for suffix in rng.sample(list(sides), rng.randint(1, 2)):
            done.append(beside(rng, sides, path, suffix))
    if rng.random() < 0.03:
        path = path.rename(path.with_suffix(rng.choice((".tif", ".png", ".dat", ".jp2"))))
    return f"{kind} {'+'.join(done)}", path


def spliced(bases: dict[str, Path]) -> Callable[[random.Random, bytes], bytes]:
    """A way to put a piece of another raster into one."""

    def splice(rng: random.Random, data: bytes) -> bytes:
        other = bases[rng.choice(list(bases))].read_bytes()
        at, size = rng.randrange(len(data)), rng.choice((8, 200, 5000))
        begin = rng.choice((0, rng.randrange(len(other))))
        return data[:at] + other[begin : begin + size] + data[at + rng.choice((0, size)) :]

    return splice


def beside(rng: random.Random, sides: dict[str, bytes], path: Path, suffix: str) -> str:
    """Put a side file there: good, mutated, hostile, or no file at all."""
    content = sides[suffix]
    ending = WORLD.get(path.suffix, ".wld") if suffix == "world" else suffix
    named = path.name if ending in {".msk", ".ovr", ".aux.xml"} else path.stem
    file = path.with_name(named + ending)
    way = rng.choice(
        ("good", "retold", "retold", "retold", "damaged", "damaged", "hostile", "hostile", "no file")
    )
    if file.exists():
        return "there"
    if way == "no file":
        way = rng.choice(("folder", "pipe", "device", "loop", "nowhere"))
        if way == "folder":
            file.mkdir()
        elif way == "pipe":
            os.mkfifo(file)
        else:
            file.symlink_to({"device": "/dev/zero", "loop": file.name, "nowhere": "not/there"}[way])
    else:
        text = {"good": lambda: content, "damaged": lambda: damaged(rng, content),
                "hostile": lambda: rng.choice(HOSTILE),
                "retold": lambda: (retagged if content[:2] == b"II" else retold)(rng, content)}[way]()  # fmt: skip
        file.write_bytes(text)
    return f"{ending} {way}"


def put_places(folder: Path, outside: Path, port: int) -> None:
    """Write where hostile texts point to."""
    for file in folder.iterdir():
        if file.is_file() and not file.is_symlink():
            data = file.read_bytes()
            if b"OUTSIDE" in data or b"PORT" in data:
                file.write_bytes(
                    data.replace(b"OUTSIDE", str(outside).encode()).replace(b":PORT", b":%d" % port)
                )
