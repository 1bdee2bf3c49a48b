"""Limits on what a raster may open: which GDAL drivers may read it, which files it may name, and no network.

GDAL chooses the driver by content, not by name, and some drivers read other files or servers that a file names.
"""

from __future__ import annotations

import io
import os
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import rasterio
from rasterio.drivers import raster_driver_extensions
from rasterio.errors import RasterioError

from rsedge.errors import InputError
from rsedge.gdal_settings import NO_RAW_BANDS, REMOTE
from rsedge.raster.grid import unreferenced_allowed
from rsedge.raster.side_files import OVERVIEW_FILE, SideFiles, check_kind, head_of, real_path

# Drivers whose files hold their own pixels and name no other file or server.
PLAIN = (
    "GTiff", "PNG", "JPEG", "JP2OpenJPEG", "JP2KAK", "JP2ECW", "JP2MrSID", "JP2Lura", "WEBP", "BMP", "GIF", "BIGGIF",
    "HFA", "ENVI", "EHdr",
)  # fmt: skip
# Drivers that take any file as pixels if a header file lies beside it.
HEADERLESS = {"ENVI", "EHdr", "ISCE", "ROI_PAC", "RST", "PAux", "MFF", "GenBin", "NDF", "SNODAS"}
# In addition to GDAL's own suffixes, which have one driver each.
BY_SUFFIX = {
    "nc": ("netCDF", "HDF5"), "nc4": ("netCDF", "HDF5"), "h5": ("HDF5", "netCDF"), "he5": ("HDF5", "netCDF"),
    "hdf5": ("HDF5",), "hdf": ("HDF4", "HDF4Image", "HDF5"), "zarr": ("Zarr",), "safe": ("SAFE", "SENTINEL2"),
    "xml": ("DIMAP", "SENTINEL2", "TSX", "RS2", "PDS4"), "zip": ("SENTINEL2", "DIMAP"), "til": ("TIL",),
    "nitf": ("NITF",), "grib": ("GRIB",), "jxl": ("JPEGXL",), "heic": ("HEIF",), "heif": ("HEIF",), "avif": ("AVIF",),
    "sid": ("MrSID",), "ecw": ("ECW",), "pbm": ("PNM",), "tga": ("TGA",), "adf": ("AIG",), "flt": ("EHdr",),
}  # fmt: skip
OUTSIDE = "outside"  # value of ``allow``: a VRT's sources may lie outside its folder
ALONE = {"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR"}  # hides the files beside the raster from GDAL
NO_NETWORK = {"CPL_VSIL_CURL_ALLOWED_FILENAME": "none"}
LOCAL_VSI = ("/vsizip/", "/vsitar/", "/vsigzip/", "/vsimem/")
PREFIX = re.compile(r"(?!vrt://)([A-Za-z][A-Za-z0-9_]+):(?!//)")  # NETCDF:"a.nc":red
QUOTED = re.compile(
    r'^(?:NETCDF|HDF5|ZARR|HDF4_\w+:\w+|GTIFF_DIR:(?:off:)?\d+):"?([^"]+?)"?(?::.*)?$', re.IGNORECASE
)
MARKUP = (
    b"<VRTDataset",
    b"<OGRVRT",
    b"<GDAL_W",
    b"<WCS_GDAL",
    b"<WMS_",
    b"<Capabilities",
    b"<TileMap",
    b"<kml",
)
SOURCES = {"sourcefilename", "sourcedataset", "dempath", "arraysource"}  # elements of a VRT that name a file
BANDS = {
    "",
    "vrtsourcedrasterband",
    "vrtderivedrasterband",
    "vrtwarpedrasterband",
    "vrtpansharpenedrasterband",
}
DATASETS = {"", "vrtwarpeddataset", "vrtpansharpeneddataset"}
MRF_SOURCES, MOST_MRF_BYTES = (b"<source", b"<datafile", b"<indexfile", b"<cachedsource"), 1 << 20
MOST_VRT_BYTES, MOST_VRTS = 256 << 20, 1000


@dataclass(frozen=True)
class Trust:
    """The trust in a raster.

    ``named``: the user has named the raster, so its suffix, or a prefix such as NETCDF:, may choose the driver.
    ``allow``: further GDAL drivers, in any case, and `OUTSIDE`. Raises InputError if GDAL lacks such a driver, or
    it may not be allowed.
    """

    named: bool = True
    allow: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in self.allow:
            if name.lower() != OUTSIDE:
                self._driver(name)

    @property
    def may_leave(self) -> bool:
        """Return True if a VRT's sources may lie outside its folder."""
        return OUTSIDE in map(str.lower, self.allow)

    def drivers(self, path: str) -> list[str]:
        """Return the drivers that may open ``path``."""
        allowed = [self._driver(name) for name in self.allow if name.lower() != OUTSIDE]
        return [*PLAIN, *allowed, *(_by_name(path) if self.named else ())]

    @staticmethod
    def _driver(name: str) -> str:
        known = {driver.lower(): driver for driver in _registered()}
        if name.lower() in map(str.lower, REMOTE):
            raise InputError(f"{name} reads from servers and is never allowed. Download the raster first")
        if name.lower() not in known:
            raise InputError(f"the installed GDAL has no driver {name!r}. Allow one such as vrt or netcdf")
        return known[name.lower()]


NAMED = Trust()


def _registered() -> Iterable[str]:
    with rasterio.Env() as env:
        return [name for name in env.drivers() if name not in REMOTE]


def _by_name(path: str) -> Iterable[str]:
    """Return the drivers that a path, as the user wrote it, chooses."""
    if path.lower().startswith("vrt://"):
        return ("VRT",)
    if PREFIX.match(path) and not os.path.exists(path):
        return [name for name in _registered() if name != "VRT"]
    suffix = path.rstrip("/").rpartition(".")[2].lower()
    if suffix in BY_SUFFIX:
        return BY_SUFFIX[suffix]
    return [name for name in [raster_driver_extensions().get(suffix)] if name and name not in REMOTE]


def as_file(path: str) -> str:
    """Return ``path``, prefixed with ./ if an existing file has a name that GDAL parses, such as GTIFF_DIR:2:a.tif."""
    return os.path.join(os.curdir, path) if PREFIX.match(path) and os.path.lexists(path) else path


def is_remote(path: str) -> bool:
    """Return True if the path is a URL, or a /vsi path of GDAL's that reads from servers."""
    if path.lower().startswith(("vrt://", "file://", "zip://", "tar://", "gzip://")):
        return "://" in path.partition("://")[2] or "/vsi" in path
    return "://" in path or ("/vsi" in path and not (path.startswith(LOCAL_VSI) and "/vsi" not in path[1:]))


class Check:
    """Checks of a raster and the files it names, each once, before and after opening."""

    def __init__(self, path: str, trust: Trust) -> None:
        self.given = path
        inner = path[6:].partition("?")[0] if path.lower().startswith("vrt://") else path
        self.path, self.trust = inner.removeprefix("file://"), trust
        self._seen: set[tuple[str, str, bool]] = set()  # folder of the VRT, source, whether relative
        self._vrts: set[str] = set()
        self._side_files = SideFiles()

    @property
    def options(self) -> Mapping[str, str]:
        """Return the GDAL settings for opening and reading the raster."""
        if is_remote(self.given):
            return NO_RAW_BANDS
        alone = ALONE if os.path.isfile(self.given) and self._side_files.must_hide(self.given) else {}
        return {**NO_RAW_BANDS, **NO_NETWORK, **alone}

    def before(self) -> None:
        """Raise InputError if a local raster, or a file beside it that GDAL opens unasked, may not be read."""
        path = self.path
        if os.path.lexists(path):
            check_kind(path)
            self._side_files.check(path)
            if path.lower().endswith(".vrt") and _is_markup(path):
                self._check_files(os.path.realpath(path))
            if path.lower().endswith(".mrf") and any(tag in _text(path) for tag in MRF_SOURCES):
                raise InputError(f"{path} is an MRF that names other files. Convert it (`gdal_translate`)")

    def opened(self, src: Any) -> None:
        """Raise InputError if an opened raster names files that it may not read."""
        if OVERVIEW_FILE in map(str.lower, src.tags(ns="OVERVIEWS")):
            raise InputError(
                f"{self.path} names another file for its overviews. Rebuild the overviews with `gdaladdo`"
            )
        if (
            src.driver in HEADERLESS
            and len({os.path.dirname(os.path.realpath(name)) for name in src.files}) > 1
        ):
            raise InputError(
                f"{self.path} ({src.driver}): after following links, header and pixels lie in different folders. "
                "Put both into one folder"
            )
        if src.driver == "VRT":  # checked again as GDAL has parsed it
            self._check_text(src.tags(ns="xml:VRT").get("xml:VRT", "").encode(), self.path)
        elif src.driver not in PLAIN and not self.trust.may_leave and not PREFIX.match(self.path):
            for name in src.files[1:]:
                _check_place(name, self.path, os.path.dirname(os.path.realpath(self.path)))

    def _check_files(self, path: str) -> None:
        """Check a local VRT and its nested VRTs. Raises InputError."""
        waiting = [path]
        while waiting:
            path = waiting.pop()
            if path in self._vrts:
                continue
            self._vrts.add(path)
            if len(self._vrts) > MOST_VRTS:
                raise InputError(f"{path} nests more than {MOST_VRTS} VRTs. Build it from their sources")
            if os.path.getsize(path) > MOST_VRT_BYTES:
                raise InputError(f"{path} is a VRT of more than {MOST_VRT_BYTES >> 20} MiB. Convert it")
            with open(path, "rb") as file:
                waiting += self._check_text(file.read(), path)

    def _check_text(self, text: bytes, path: str) -> list[str]:
        """Check the text of the VRT at ``path``; return the VRTs among its sources. Raises InputError."""
        folder = os.path.dirname(os.path.realpath(path) if os.path.exists(path) else path)
        nested = []
        for name, is_relative in _named(text, path):
            if (key := (folder, name, is_relative)) in self._seen:
                continue
            self._seen.add(key)
            local = _check_place(name, path, folder, is_relative, self.trust.may_leave)
            if not local and not is_remote(path):
                _check_in_archive(os.path.join(path.rpartition("/")[0], name) if is_relative else name, path)
            if local and os.path.lexists(local):
                check_kind(local)
                self._side_files.check(local, is_source=True)
                if _is_markup(local):
                    if not local.lower().endswith(".vrt"):
                        raise InputError(
                            f"{path}: its source {name} names other files or servers. Remove this source"
                        )
                    nested.append(local)
        return nested


def _text(path: str) -> bytes:
    """Return the beginning of a file, in lower case."""
    with open(path, "rb") as file:
        return file.read(MOST_MRF_BYTES).lower()


def _is_markup(path: str) -> bool:
    """Return True if a file looks like text in which a GDAL driver finds names of files or servers."""
    head = head_of(path).partition(b"\0")[0]
    return head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith((b"<", b"{")) or any(w in head for w in MARKUP)


def why_not_plain(path: str) -> str | None:
    """Return why no permitted driver opens a local file, if its content shows the reason."""
    if not os.path.isfile(path) or not _is_markup(path):
        return None
    return (
        f"{path} holds no pixels but names other files or servers. Name a VRT .vrt (and give `rsedge watch` the "
        "option --allow vrt); convert anything else with `gdal_translate`"
    )


def _named(text: bytes, path: str) -> Iterator[tuple[str, bool]]:
    """Yield each source of a VRT, and whether it is relative to the VRT. Raises InputError if it may not be read."""
    if b"<!DOCTYPE" in text or b"<!ENTITY" in text:
        raise InputError(f"{path} is a VRT with a document type declaration. Remove the declaration")
    try:
        for _, element in ET.iterparse(io.BytesIO(text)):
            facts = {key.lower(): value for key, value in element.items()}  # GDAL ignores case
            tag, name = element.tag.rpartition("}")[2].lower(), (element.text or "").strip()
            kind = facts.get("subclass", "").lower()
            allowed = BANDS if tag == "vrtrasterband" else DATASETS if tag == "vrtdataset" else {kind}
            if kind not in allowed or tag == "group":
                raise InputError(f"{path} is a VRT with {kind or tag}, which may read any file. Convert it")
            if facts.get("key", "").upper() == "OVERVIEW_FILE":
                raise InputError(f"{path} is a VRT that names an overview file. Remove this entry")
            if tag == "pixelfunctionlanguage" and name.lower() == "python":
                raise InputError(f"{path} is a VRT with Python code, which rsedge does not run. Convert it")
            if tag in SOURCES and name:
                if (relative := facts.get("relativetovrt", "0")) not in {"0", "1"}:
                    raise InputError(f"{path} is a VRT whose relativeToVRT is {relative!r:.60}, not 0 or 1")
                yield name, relative == "1"
            element.clear()
    except ET.ParseError as error:
        raise InputError(f"{path} is not well-formed XML: {error}. Build the VRT again") from error


def _check_place(name: str, path: str, folder: str, relative: bool = False, anywhere: bool = False) -> str:
    """Return the local path of a source of the raster at ``path``; "" if it is in an archive or not a file.

    Raises InputError if the source is outside ``folder``, unless ``anywhere`` is True, or not on this machine.
    """
    found = QUOTED.match(name)
    inner = found[1] if found else name
    archive = next((p for p in LOCAL_VSI if inner.startswith(p)), None)
    inner = inner[len(archive) :] if archive else inner
    if is_remote(path) and inner.startswith(f"{folder}/") and "/../" not in inner:
        return ""
    there = os.path.join(folder, inner) if relative else inner
    odd = "://" in inner or inner.startswith(("/vsi", "<", "{"))
    if odd or (PREFIX.match(inner) and not os.path.lexists(there)):
        raise InputError(f"{path} reads {name}, which is not a file on this machine. Download or convert it")
    if is_remote(path) or path.startswith(LOCAL_VSI):
        base = path.rpartition("/")[0]
        place = os.path.normpath(inner if inner.startswith("/") else f"{base}/{inner}")
        inside = f"{place}/".startswith(f"{os.path.normpath(base)}/") or (relative and ".." not in inner)
        local = ""
    else:
        local = os.path.abspath(there)
        inside = real_path(local).startswith(folder.rstrip("/") + "/")
    if not inside and not anywhere:
        raise InputError(
            f"{path} reads {name}, which is outside its folder {folder}. Put the VRT above its sources, or allow "
            "this with `rsedge infer --allow outside`"
        )
    return "" if archive or found else local


def _check_in_archive(name: str, path: str) -> None:
    """Raise InputError if a source in an archive is a VRT, because its own sources cannot be checked."""
    with suppress(RasterioError), unreferenced_allowed(), rasterio.open(name, driver="VRT"):
        raise InputError(f"{path} reads {name}, a VRT in an archive. Unpack the archive")
