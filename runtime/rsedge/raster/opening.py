"""Opening rasters: georeference, pages and source files, and the errors to report."""

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
from rasterio.enums import ColorInterp
from rasterio.env import ensure_env_with_credentials
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader

from rsedge.errors import InputError, RsedgeError
from rsedge.files import check_utf8
from rsedge.raster.grid import UNREFERENCED, Grid, unreferenced_allowed
from rsedge.raster.trust import Check, as_file, why_not_plain

MOST_VRTS = 1000  # nested VRTs searched for source files
MOST_LISTED = 20  # rasters of a container named in an error


@contextmanager
def readable(path: str) -> Iterator[None]:
    """Turn any error that rasterio raises for an odd raster into InputError; rasterio has no common class."""
    try:
        yield
    except (RsedgeError, MemoryError):
        raise
    except Exception as error:
        raise InputError(_why_not(path, error)) from error


def open_source(check: Check, threads: int) -> Any:
    """Open the raster of ``check`` as a rasterio dataset with at least one band.

    Raises InputError if GDAL cannot open the file, if it is a container of rasters, or if it would read files
    that its trust does not allow.
    """
    path = check.given
    check_utf8(path)
    with readable(path):
        check.before()
        source = open_with(path, check.trust.drivers(path))
        try:
            check.opened(source)
            _check_bands(path, source)
        except BaseException:
            source.close()
            raise
        if threads < 2 or source.driver != "GTiff":  # other drivers warn of the unknown option
            return source
        source.close()
        return rasterio.open(as_file(path), driver="GTiff", num_threads=threads)


@ensure_env_with_credentials  # type: ignore[untyped-decorator]
def open_with(path: str, drivers: Sequence[str]) -> Any:
    """Open ``path`` with the first of ``drivers`` that accepts the content; `rasterio.open` takes one driver only."""
    return DatasetReader(_parse_path(as_file(path)), driver=list(drivers), sharing=False)


def place(src: Any) -> tuple[Grid, tuple[str, ...]]:
    """Return the raster's grid, and notes on georeferences of the file that cannot be used.

    Values that are not finite, or that give pixels no area, are ignored.
    """
    gcps, gcp_crs = src.gcps
    notes, t = list[str](), src.transform
    try:
        rpcs = src.rpcs
    except Exception:  # a value is not a number, or a line is missing
        rpcs = None
        notes.append("the raster's RPCs cannot be read and are ignored")
    if not all(math.isfinite(v) for p in gcps for v in (p.row, p.col, p.x, p.y, p.z or 0)):
        gcps = []
        notes.append("a ground control point of the raster is not finite; all are ignored")
    if rpcs is not None and not np.isfinite(_numbers(rpcs.to_dict())).all():
        rpcs = None
        notes.append("the raster's RPCs are not finite and are ignored")
    crs = gcp_crs if gcps else src.crs
    corner = t.c + t.a * src.width + t.b * src.height, t.f + t.d * src.width + t.e * src.height
    if not (t.determinant and np.isfinite([*t[:6], t.determinant, *corner]).all()):
        t, crs = UNREFERENCED, gcp_crs if gcps else None
        notes.append(
            f"the raster's geotransform {tuple(src.transform)[:6]} is invalid; the raster counts as not georeferenced"
        )
    return Grid(src.height, src.width, crs or None, t, tuple(gcps), rpcs), tuple(notes)


def _numbers(facts: dict[str, Any]) -> list[float]:
    found = [v for value in facts.values() for v in (value if isinstance(value, list) else [value])]
    return [v for v in found if isinstance(v, float | int)]


def pages(src: Any, path: str) -> tuple[str, ...]:
    """Return a note if the file holds further images besides the one that is read."""
    try:
        names = src.subdatasets
        _ = src.colorinterp  # GDAL raises the error of a damaged page, which is not read, at the next call
    except (RasterioError, CPLE_BaseError):
        return ()
    others = [name for name in names if name != path]
    if len(others) < 2 or len(others) < len(names):  # second case: the user named one of them
        return ()
    return (
        f"the file holds {len(others)} images (pages) and the first is read; to read another, give its name instead "
        f"of the file's, such as {shlex.quote(others[1])}",
    )


def color_interp(src: Any) -> tuple[ColorInterp, ...]:
    """Return the colour interpretation of each band.

    GDAL gives the bands of an Idrisi RGB file as red, green, blue but tags them blue, green, red.
    """
    mistagged = src.driver == "RST" and src.count > 1
    return (ColorInterp.undefined,) * src.count if mistagged else tuple(src.colorinterp)


def _check_bands(path: str, src: Any) -> None:
    if not src.count:
        raise _what_is_inside(path, src)


def _what_is_inside(path: str, src: Any) -> InputError:
    """Return an error for a container of rasters, or a file without a raster."""
    tags = src.tags(ns="SUBDATASETS")
    names = src.subdatasets
    if not names:
        return InputError(f"{path} ({src.driver}) has no bands. Give a raster")
    listed = [
        f"{shlex.quote(name)}  {tags.get(f'SUBDATASET_{i}_DESC', '')}".rstrip()
        for i, name in enumerate(names[:MOST_LISTED], 1)
    ]
    more = [f"and {len(names) - MOST_LISTED} more"] if len(names) > MOST_LISTED else []
    return InputError(
        f"{path} ({src.driver}) is a container of {len(names)} rasters. Name one of them, as in "
        f"`rsedge infer {shlex.quote(names[0])} --out MASK.tif`, or join single bands with `gdalbuildvrt -separate "
        "ALL.vrt A B C`:",
        below=[*listed, *more],
    )


def files_of(src: Any) -> list[str]:
    """Return all files of a dataset, including those of nested VRTs, which GDAL does not list."""
    found = dict.fromkeys(src.files)
    for path in _nested(found, src.files[1:]):
        try:
            with unreferenced_allowed(), open_with(path, ["VRT"]) as source:
                found.update(dict.fromkeys(source.files))
        except Exception:
            continue  # reading the raster will raise the error
    return list(found)


def _nested(found: dict[str, None], first: list[str]) -> Iterator[str]:
    """Yield the VRTs in ``first``, then those added to ``found`` meanwhile, each once, at most `MOST_VRTS`."""
    seen, waiting = set[str](), [path for path in first if is_vrt(path)]
    while waiting and len(seen) < MOST_VRTS:
        path = waiting.pop()
        if path not in seen:
            seen.add(path)
            before = len(found)
            yield path
            waiting += [new for new in list(found)[before:] if is_vrt(new)]


def is_vrt(path: str) -> bool:
    """Return True if the file name ends in .vrt."""
    return path.lower().endswith(".vrt")


def _why_not(path: str, error: Exception) -> str:
    """Return the error for a path that GDAL could not open."""
    is_local = "://" not in path and not path.startswith("/vsi")
    if is_local and os.path.isdir(path):
        return f"{path} is a folder. Give raster files, or a glob such as '{path.rstrip('/')}/*.tif'"
    if is_local and not os.path.exists(path):
        return f"{path} not found. Check the path"
    if "Range downloading not supported" in str(error):
        return (
            f"{path}: the server does not support range requests, which GDAL needs. Download the file first"
        )
    if path.endswith(".zip"):
        inside = path if path.startswith("/vsizip/") else f"/vsizip/{path}"
        return f"{path} is an archive. Name a raster in it, such as {inside}/NAME.tif"
    if isinstance(error, RasterioError) and (reason := why_not_plain(path)):
        return reason
    said = (
        str(error)
        if isinstance(error, RasterioError | CPLE_BaseError)
        else f"{type(error).__name__}: {error}"
    )
    return f"{path} cannot be opened as a raster: {said}"
