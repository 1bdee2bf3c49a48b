"""What a path holds: opening it, where it lies, which files it is made of, and what to say where that fails."""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import rasterio
from rasterio._err import CPLE_BaseError
from rasterio._path import _parse_path
from rasterio.env import ensure_env_with_credentials
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader

from rsedge.errors import InputError, RsedgeError
from rsedge.raster.grid import UNREFERENCED, Grid, unreferenced_allowed
from rsedge.raster.trust import NAMED, Check, Trust, as_file, why_not_plain

MOST_VRTS = 1000  # looked into, of those that a VRT is made of
MOST_LISTED = 20  # rasters in a container


@contextmanager
def readable(path: str) -> Iterator[None]:
    """Turn whatever rasterio raises of a raster that is odd into InputError: it has no one error for that."""
    try:
        yield
    except (RsedgeError, MemoryError):
        raise
    except Exception as error:
        raise InputError(_why_not(path, error)) from error


def open_source(path: str, threads: int, trust: Trust = NAMED) -> Any:
    """The raster at ``path`` as a rasterio dataset with at least one band.

    Raises InputError where GDAL cannot open it, where it is a container of rasters, or where it would read what
    ``trust`` does not allow.
    """
    with readable(path):
        check = Check(path, trust)
        check.before()
        source = open_with(path, trust.drivers(path))
        try:
            check.opened(source)
            _check_bands(path, source)
        except BaseException:
            source.close()
            raise
        if threads < 2 or source.driver != "GTiff":  # other drivers would warn of an option they do not know
            return source
        source.close()
        return rasterio.open(as_file(path), driver="GTiff", num_threads=threads)


@ensure_env_with_credentials  # type: ignore[untyped-decorator]
def open_with(path: str, drivers: Sequence[str]) -> Any:
    """As `rasterio.open`, which takes one driver only, by the first of ``drivers`` that likes the content."""
    return DatasetReader(_parse_path(as_file(path)), driver=list(drivers), sharing=False)


def place(src: Any) -> tuple[Grid, tuple[str, ...]]:
    """Where the raster's pixels lie, and what of that the file says could not be used.

    What is not finite, or gives pixels no area, places nothing.
    """
    gcps, gcp_crs = src.gcps
    notes, t = list[str](), src.transform
    try:
        rpcs = src.rpcs
    except Exception:  # a number that is none, or a line that is not there
        rpcs = None
        notes.append("the raster's RPCs cannot be read: they are not used")
    if not all(math.isfinite(v) for p in gcps for v in (p.row, p.col, p.x, p.y, p.z or 0)):
        gcps = []
        notes.append("a ground control point of the raster is not finite: they are not used")
    if rpcs is not None and not np.isfinite(_numbers(rpcs.to_dict())).all():
        rpcs = None
        notes.append("the raster's RPCs are not finite: they are not used")
    crs = gcp_crs if gcps else src.crs
    corner = t.c + t.a * src.width + t.b * src.height, t.f + t.d * src.width + t.e * src.height
    if not (t.determinant and np.isfinite([*t[:6], t.determinant, *corner]).all()):
        t, crs = UNREFERENCED, gcp_crs if gcps else None
        notes.append(
            f"the raster's geotransform {tuple(src.transform)[:6]} places no pixel: it counts as not placed"
        )
    return Grid(src.height, src.width, crs or None, t, tuple(gcps), rpcs), tuple(notes)


def _numbers(facts: dict[str, Any]) -> list[float]:
    found = [v for value in facts.values() for v in (value if isinstance(value, list) else [value])]
    return [v for v in found if isinstance(v, float | int)]


def pages(src: Any, path: str) -> tuple[str, ...]:
    """A note where the file holds further images beside the one that is read."""
    try:
        names = src.subdatasets
        _ = (
            src.colorinterp
        )  # an error of GDAL's, of a damaged page that nobody asked for, comes with the next call
    except (RasterioError, CPLE_BaseError):
        return ()
    others = [name for name in names if name != path]
    if len(others) < 2 or len(others) < len(names):  # the second: one of them was asked for
        return ()
    return (
        f"the file holds {len(others)} images (pages), of which the first is read; name another in the file's place, "
        f"such as {shlex.quote(others[1])}",
    )


def _check_bands(path: str, src: Any) -> None:
    if not src.count:
        raise InputError(_what_is_inside(path, src))


def _what_is_inside(path: str, src: Any) -> str:
    """Of a container of rasters, or of no raster at all, and how to go on."""
    tags = src.tags(ns="SUBDATASETS")
    names = src.subdatasets
    if not names:
        return f"{path} ({src.driver}) holds no band of pixels; give a raster"
    listed = "".join(
        f"\n  {shlex.quote(name)}  {tags.get(f'SUBDATASET_{i}_DESC', '')}".rstrip()
        for i, name in enumerate(names[:MOST_LISTED], 1)
    )
    more = f"\n  and {len(names) - MOST_LISTED} more" if len(names) > MOST_LISTED else ""
    return (
        f"{path} ({src.driver}) has no bands of its own, it holds {len(names)} rasters. Name one in its place, such as "
        f"`rsedge infer {shlex.quote(names[0])} --out MASK.tif`, or join single bands with `gdalbuildvrt -separate "
        f"ALL.vrt A B C`:{listed}{more}"
    )


def files_of(src: Any) -> list[str]:
    """GDAL lists the sources of a VRT, but not what those that are VRTs are made of."""
    found = dict.fromkeys(src.files)
    for path in _nested(found, src.files[1:]):
        try:
            with unreferenced_allowed(), open_with(path, ["VRT"]) as source:
                found.update(dict.fromkeys(source.files))
        except Exception:
            continue  # reading will tell
    return list(found)


def _nested(found: dict[str, None], first: list[str]) -> Iterator[str]:
    """The VRTs among ``first`` and then among what ``found`` has gained, each once, `MOST_VRTS` at most."""
    seen, waiting = set[str](), [path for path in first if is_vrt(path)]
    while waiting and len(seen) < MOST_VRTS:
        path = waiting.pop()
        if path not in seen:
            seen.add(path)
            before = len(found)
            yield path
            waiting += [new for new in list(found)[before:] if is_vrt(new)]


def is_vrt(path: str) -> bool:
    """Whether the file is named as one."""
    return path.lower().endswith(".vrt")


def _why_not(path: str, error: Exception) -> str:
    """What is wrong with a path that GDAL could not open."""
    is_local = "://" not in path and not path.startswith("/vsi")
    if is_local and os.path.isdir(path):
        return f"{path} is a folder; give raster files, or a glob such as '{path.rstrip('/')}/*.tif'"
    if is_local and not os.path.exists(path):
        return f"no raster at {path}; check the path"
    if "Range downloading not supported" in str(error):
        return f"{path}: this server does not send parts of files, as GDAL needs; download it first"
    if path.endswith(".zip"):
        inside = path if path.startswith("/vsizip/") else f"/vsizip/{path}"
        return f"{path} is an archive; name the raster in it, such as {inside}/NAME.tif"
    if isinstance(error, RasterioError) and (reason := why_not_plain(path)):
        return reason
    said = (
        str(error)
        if isinstance(error, RasterioError | CPLE_BaseError)
        else f"{type(error).__name__}: {error}"
    )
    return f"{path} is not a raster GDAL can open: {said}"
