"""Broken files, read in a process of its own: a crash or a hang there is a failure here, with the file's name.

What is promised, and tested: whatever was done to a file, it reads, or fails with InputError; never a crash, a
hang or another exception. A file cut short fails, unless all its pixels are still there. A bit turned in the
data fails where the format has a checksum that GDAL checks: PNG, LERC. libtiff checks that of DEFLATE and LZMA
where it decodes a whole block and the damage does not make it longer: of 100 such bits 88 are found.
Other codecs (none, LZW, PackBits, ZSTD and JPEG in TIFF, and JPEG files) have none: what reads may be other
pixels, and nobody can tell. Nor can one tell of a bit turned in the header, which may say another size.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.crs import CRS
from rasterio.enums import Compression
from rasterio.transform import Affine

import rsedge
from rsedge.raster.grid import unreferenced_allowed
from toys import SHARED

HEIGHT, WIDTH, BLOCK = 192, 256, 64
TIME_LIMIT_S = 120
CHILD = r"""
import json, resource, sys, zlib
resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))
from rsedge.errors import InputError
from rsedge.raster import BandPlan, RasterReader
from rsedge.tiling.window import Window

def read(path, known):
    with RasterReader(path) as reader:
        shape = [len(reader.dtypes), reader.grid.height, reader.grid.width, reader.dtypes[0]]
        plan = BandPlan(tuple(range(1, 1 + min(3, len(reader.dtypes)))), reader.dtypes[0])
        if known is not None and shape != known[0]:  # perhaps a billion pixels wide
            reader.read(Window(0, 0, min(16, shape[1]), min(16, shape[2])), plan)
            return [shape, None]
        crc = 0
        for strip in reader.row_strips(Window(0, 0, shape[1], shape[2])):
            pixels, valid = reader.read(strip, plan)
            crc = zlib.crc32(valid.tobytes(), zlib.crc32(pixels.tobytes(), crc))
        return [shape, crc]

good = {}
for line in sys.stdin:
    name, path = json.loads(line)
    print(json.dumps(path), end=" ", flush=True)
    try:
        found = read(path, good.get(name))
    except InputError as error:
        found = None
        assert path in str(error) or "scale" in str(error), error
    if name not in good:
        good[name] = found
        outcome = "whole" if found else "unreadable"
    else:
        outcome = "error" if not found else "header" if found[0] != good[name][0] else (
            "same" if found == good[name] else "changed")
    print(json.dumps([name, outcome]), flush=True)
"""


def layouts() -> Iterator[tuple[str, dict[str, object]]]:
    tiled = {"tiled": True, "blockxsize": BLOCK, "blockysize": BLOCK, "interleave": "pixel"}
    for codec in ("none", "deflate", "lzw", "packbits", "zstd", "lzma", "lerc", "jpeg"):
        yield f"{codec} tiles", {"driver": "GTiff", "compress": codec, **tiled}
    yield "deflate strips", {"driver": "GTiff", "compress": "deflate", "blockysize": 16}
    yield "lzw strips", {"driver": "GTiff", "compress": "lzw", "blockysize": 1}
    yield "raw strips", {"driver": "GTiff"}
    yield "sparse", {"driver": "GTiff", "compress": "deflate", "sparse_ok": True, **tiled}
    yield "cog", {"driver": "COG", "compress": "deflate", "blocksize": BLOCK, "overviews": "none"}
    yield "png", {"driver": "PNG"}
    yield "jpeg", {"driver": "JPEG"}


CHECKED = ("png", "lerc tiles")
MOSTLY_CHECKED = ("deflate tiles", "deflate strips", "lzma tiles", "cog")


def data_of(path: Path) -> list[tuple[int, int]]:
    """Where a file's pixels lie: offsets and sizes, bytes."""
    with unreferenced_allowed(), rasterio.open(path) as src:
        if src.driver != "GTiff":
            return [(path.stat().st_size // 4, path.stat().st_size // 2)]
        high, wide = src.block_shapes[0]
        found = [
            tuple(src.get_tag_item(f"BLOCK_{kind}_{x}_{y}", "TIFF", bidx=1) for kind in ("OFFSET", "SIZE"))
            for y in range(-(-src.height // high))
            for x in range(-(-src.width // wide))
        ]
    return [(int(offset), int(size)) for offset, size in found if size and int(size)]


def damaged(path: Path, seed: int, cuts: int, bits: int, anywhere: int) -> Iterator[tuple[str, bytes]]:
    """Kinds of damage, and the file that comes of each."""
    chance, good, data = random.Random(f"{path.name} {seed}"), path.read_bytes(), data_of(path)
    for _ in range(cuts):
        yield "cut", good[: chance.randrange(len(good) // 100, len(good) - 1)]
    for kind, count in (("bit", bits), ("bit anywhere", anywhere)):
        for turn in range(count):
            broken = bytearray(good)
            offset, size = chance.choice(data) if kind == "bit" else (0, len(good) if turn % 2 else 400)
            broken[offset + chance.randrange(min(size, len(good)))] ^= 1 << chance.randrange(8)
            yield kind, bytes(broken)


def write_small(folder: Path) -> Iterator[tuple[str, Path]]:
    rough = np.random.default_rng(0).normal(0, 1, (3, HEIGHT, WIDTH)).cumsum(1).cumsum(2)
    pixels = np.clip(rough + 120, 0, 255).astype(np.uint8)
    grid = {"crs": CRS.from_epsg(32631), "transform": Affine(0.5, 0, 500000, 0, -0.5, 5400000)}
    for name, profile in layouts():
        path = folder / name.replace(" ", "_")
        stored = pixels.copy()
        if name == "sparse":
            stored[:, :BLOCK] = 0
        place = {} if profile["driver"] in {"PNG", "JPEG"} else grid
        facts = {"count": 3, "height": HEIGHT, "width": WIDTH, "dtype": "uint8", **place, **profile}
        try:
            with unreferenced_allowed(), rasterio.open(path, "w", **facts) as dst:
                dst.write(stored)
        except rasterio.errors.RasterioError:
            assert str(profile.get("compress")) in {c.value.lower() for c in Compression}
            continue  # a codec that this GDAL was built without
        yield name, path


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Counter[str]]:
    """(file, damage) to how often each outcome came."""
    folder = tmp_path_factory.mktemp("corrupted")
    asked: list[tuple[str, str, Path]] = []
    originals = list(write_small(folder))
    if SHARED.is_dir():
        originals += [(p.name, p) for p in sorted((SHARED / "rasters").glob("*.tif"))]
    for name, path in originals:
        asked.append((name, "none", path))
        large = path.stat().st_size > 1_000_000
        for number, (kind, content) in enumerate(damaged(path, 1, *((2, 1, 2) if large else (6, 10, 10)))):
            broken = folder / f"{path.stem}.{number}{path.suffix}"
            broken.write_bytes(content)
            asked.append((name, kind, broken))
    lines = "".join(json.dumps([name, str(path)]) + "\n" for name, _, path in asked)
    source = str(Path(rsedge.__file__).parents[1])
    try:
        done = subprocess.run(
            [sys.executable, "-X", "faulthandler", "-W", "ignore", "-c", CHILD],
            input=lines, capture_output=True, text=True, timeout=TIME_LIMIT_S, check=False,
            env={**os.environ, "PYTHONPATH": source},
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        pytest.fail(f"hangs, or is slow, after {(error.stdout or b'')[-300:]!r}")
    assert done.returncode == 0, f"after {done.stdout[-300:]}\n{done.stderr[-3000:]}"
    found: dict[tuple[str, str], Counter[str]] = {}
    answers = [json.loads(line[line.index(" [") :]) for line in done.stdout.splitlines()]
    for (name, kind, _), (answered, outcome) in zip(asked, answers, strict=True):
        assert name == answered
        found.setdefault((name, kind), Counter())[outcome] += 1
    return found


def total(
    outcomes: dict[tuple[str, str], Counter[str]], kind: str, names: tuple[str, ...] = ()
) -> Counter[str]:
    return sum(
        (c for (name, k), c in outcomes.items() if k == kind and (not names or name in names)), Counter()
    )


def test_no_file_crashes_hangs_or_raises_anything_else(
    outcomes: dict[tuple[str, str], Counter[str]],
) -> None:
    """The child ended well, so each file read or failed as it should; all of them were asked."""
    assert set(total(outcomes, "none")) == {"whole"}
    broken = total(outcomes, "cut") + total(outcomes, "bit") + total(outcomes, "bit anywhere")
    assert sum(broken.values()) >= 100
    assert set(broken) <= {"error", "same", "changed", "header"}
    assert broken["error"] > 0.3 * sum(broken.values())


def test_a_file_cut_short_never_reads_as_other_pixels(outcomes: dict[tuple[str, str], Counter[str]]) -> None:
    cut = total(outcomes, "cut")
    assert set(cut) <= {"error", "same"}
    assert cut["error"] > 0.9 * sum(cut.values())  # in the rest, what was cut held no pixels


def test_a_bit_turned_in_checked_data_is_an_error(outcomes: dict[tuple[str, str], Counter[str]]) -> None:
    names = tuple(n for n in CHECKED if (n, "bit") in outcomes)
    assert "png" in names
    assert set(total(outcomes, "bit", names)) == {"error"}


def test_most_bits_turned_in_compressed_data_are_errors(
    outcomes: dict[tuple[str, str], Counter[str]],
) -> None:
    found = total(outcomes, "bit", MOSTLY_CHECKED)
    assert found["error"] > 0.7 * sum(found.values())


def test_bits_turned_elsewhere_can_be_told_by_nobody(outcomes: dict[tuple[str, str], Counter[str]]) -> None:
    """Not a wish: if this fails, GDAL has learnt to tell, and the text above is to be changed."""
    assert total(outcomes, "bit", ("none tiles", "raw strips"))["error"] == 0
    assert total(outcomes, "bit", ("none tiles", "raw strips"))["changed"] > 0
    assert total(outcomes, "bit", ("jpeg", "jpeg tiles", "lzw strips"))["changed"] > 0
