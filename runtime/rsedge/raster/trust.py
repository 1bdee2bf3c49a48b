"""What a raster may open beside itself: which of GDAL's drivers look at it, which files it names, and no network.

GDAL opens by content whatever a name says, and some of its drivers read what their file names: other files, servers.
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

# Their files hold their own pixels, and no other file's or server's.
PLAIN = (
    "GTiff", "PNG", "JPEG", "JP2OpenJPEG", "JP2KAK", "JP2ECW", "JP2MrSID", "JP2Lura", "WEBP", "BMP", "GIF", "BIGGIF",
    "HFA", "ENVI", "EHdr",
)  # fmt: skip
# Any file is pixels to these, if one beside it says how to take it.
HEADERLESS = {"ENVI", "EHdr", "ISCE", "ROI_PAC", "RST", "PAux", "MFF", "GenBin", "NDF", "SNODAS"}
# Beside GDAL's own suffixes, of which each has one driver.
BY_SUFFIX = {
    "nc": ("netCDF", "HDF5"), "nc4": ("netCDF", "HDF5"), "h5": ("HDF5", "netCDF"), "he5": ("HDF5", "netCDF"),
    "hdf5": ("HDF5",), "hdf": ("HDF4", "HDF4Image", "HDF5"), "zarr": ("Zarr",), "safe": ("SAFE", "SENTINEL2"),
    "xml": ("DIMAP", "SENTINEL2", "TSX", "RS2", "PDS4"), "zip": ("SENTINEL2", "DIMAP"), "til": ("TIL",),
    "nitf": ("NITF",), "grib": ("GRIB",), "jxl": ("JPEGXL",), "heic": ("HEIF",), "heif": ("HEIF",), "avif": ("AVIF",),
    "sid": ("MrSID",), "ecw": ("ECW",), "pbm": ("PNM",), "tga": ("TGA",), "adf": ("AIG",), "flt": ("EHdr",),
}  # fmt: skip
OUTSIDE = "outside"  # allowed: a VRT's sources may lie outside its folder
ALONE = {"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR"}  # GDAL sees no file beside the raster
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
    """How far a raster is trusted.

    ``named``: the user has named it, so its suffix, or a prefix such as NETCDF:, may choose the driver. ``allow``:
    further drivers of GDAL's, whatever their case, and `OUTSIDE`. Raises InputError where one is not there, or is
    none to be allowed.
    """

    named: bool = True
    allow: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in self.allow:
            if name.lower() != OUTSIDE:
                self._driver(name)

    @property
    def may_leave(self) -> bool:
        """Whether a VRT's sources may lie outside its folder."""
        return OUTSIDE in map(str.lower, self.allow)

    def drivers(self, path: str) -> list[str]:
        """Those that may look at ``path``."""
        allowed = [self._driver(name) for name in self.allow if name.lower() != OUTSIDE]
        return [*PLAIN, *allowed, *(_by_name(path) if self.named else ())]

    @staticmethod
    def _driver(name: str) -> str:
        known = {driver.lower(): driver for driver in _registered()}
        if name.lower() in map(str.lower, REMOTE):
            raise InputError(f"{name} reads from servers and cannot be allowed; download the raster first")
        if name.lower() not in known:
            raise InputError(f"GDAL here has no driver {name!r} to allow; name one such as vrt or netcdf")
        return known[name.lower()]


NAMED = Trust()


def _registered() -> Iterable[str]:
    with rasterio.Env() as env:
        return [name for name in env.drivers() if name not in REMOTE]


def _by_name(path: str) -> Iterable[str]:
    """Drivers that a path chooses, as the user has written it."""
    if path.lower().startswith("vrt://"):
        return ("VRT",)
    if PREFIX.match(path) and not os.path.exists(path):
        return [name for name in _registered() if name != "VRT"]
    suffix = path.rstrip("/").rpartition(".")[2].lower()
    if suffix in BY_SUFFIX:
        return BY_SUFFIX[suffix]
    return [name for name in [raster_driver_extensions().get(suffix)] if name and name not in REMOTE]


def as_file(path: str) -> str:
    """The path, so written that GDAL takes it for a file where there is one: it knows GTIFF_DIR:2:a.tif, too."""
    return os.path.join(os.curdir, path) if PREFIX.match(path) and os.path.lexists(path) else path


def is_remote(path: str) -> bool:
    """Whether the path itself is a URL, or one of GDAL's that reads from elsewhere."""
    if path.lower().startswith(("vrt://", "file://", "zip://", "tar://", "gzip://")):
        return "://" in path.partition("://")[2] or "/vsi" in path
    return "://" in path or ("/vsi" in path and not (path.startswith(LOCAL_VSI) and "/vsi" not in path[1:]))


def options_for(path: str) -> Mapping[str, str]:
    """GDAL's settings for all that is done with the raster."""
    if is_remote(path):
        return NO_RAW_BANDS
    alone = ALONE if os.path.isfile(path) and SideFiles().must_hide(path) else {}
    return {**NO_RAW_BANDS, **NO_NETWORK, **alone}


class Check:
    """Looks at a raster and all it names, each once, before it is opened and when it is."""

    def __init__(self, path: str, trust: Trust) -> None:
        inner = path[6:].partition("?")[0] if path.lower().startswith("vrt://") else path
        self.path, self.trust = inner.removeprefix("file://"), trust
        self._seen: set[tuple[str, str, bool]] = set()  # sources, by the folder of their VRT
        self._vrts: set[str] = set()
        self._side_files = SideFiles()

    def before(self) -> None:
        """Raise InputError where a local raster, or a file beside it that GDAL opens by itself, may not be read."""
        path = self.path
        if os.path.lexists(path):
            check_kind(path)
            self._side_files.check(path)
            if path.lower().endswith(".vrt") and _is_markup(path):
                self._check_files(os.path.realpath(path))
            if path.lower().endswith(".mrf") and any(tag in _text(path) for tag in MRF_SOURCES):
                raise InputError(f"{path} is an MRF that names other files; convert it with `gdal_translate`")

    def opened(self, src: Any) -> None:
        """Raise InputError where an opened raster names files that it may not read."""
        if OVERVIEW_FILE in map(str.lower, src.tags(ns="OVERVIEWS")):
            raise InputError(
                f"{self.path} names another file for its overviews; make them anew with `gdaladdo`"
            )
        if (
            src.driver in HEADERLESS
            and len({os.path.dirname(os.path.realpath(name)) for name in src.files}) > 1
        ):
            raise InputError(
                f"{self.path} is {src.driver}, whose header lies in another folder than its pixels, links followed; "
                "put both into one"
            )
        if src.driver == "VRT":  # as GDAL has understood it
            self._check_text(src.tags(ns="xml:VRT").get("xml:VRT", "").encode(), self.path)
        elif src.driver not in PLAIN and not self.trust.may_leave and not PREFIX.match(self.path):
            for name in src.files[1:]:
                _check_place(name, self.path, os.path.dirname(os.path.realpath(self.path)))

    def _check_files(self, path: str) -> None:
        """A VRT on this machine, and those that it is made of."""
        waiting = [path]
        while waiting:
            path = waiting.pop()
            if path in self._vrts:
                continue
            self._vrts.add(path)
            if len(self._vrts) > MOST_VRTS:
                raise InputError(f"{path} is made of more than {MOST_VRTS} VRTs; make it of their sources")
            if os.path.getsize(path) > MOST_VRT_BYTES:
                raise InputError(f"{path} is a VRT of more than {MOST_VRT_BYTES >> 20} MiB; convert it")
            with open(path, "rb") as file:
                waiting += self._check_text(file.read(), path)

    def _check_text(self, text: bytes, path: str) -> list[str]:
        """The text of the VRT at ``path``; the VRTs among its sources. Raises InputError."""
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
                            f"{path}: its source {name} names other files or servers; take it out"
                        )
                    nested.append(local)
        return nested


def _text(path: str) -> bytes:
    """The beginning of a file, in small letters."""
    with open(path, "rb") as file:
        return file.read(MOST_MRF_BYTES).lower()


def _is_markup(path: str) -> bool:
    """Whether a file is text that names other files or servers, as some of GDAL's drivers take it."""
    head = head_of(path).partition(b"\0")[0]
    return head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith((b"<", b"{")) or any(w in head for w in MARKUP)


def why_not_plain(path: str) -> str | None:
    """What to say of a local file that no driver which may look at it takes, where its content tells."""
    if not os.path.isfile(path) or not _is_markup(path):
        return None
    return (
        f"{path} holds no pixels but names other files or servers. A VRT is opened where it is named .vrt "
        "(by `rsedge watch --allow vrt` too); convert anything else with `gdal_translate`"
    )


def _named(text: bytes, path: str) -> Iterator[tuple[str, bool]]:
    """What a VRT names as its sources, and whether relative to itself. Raises InputError where it may not be read."""
    if b"<!DOCTYPE" in text or b"<!ENTITY" in text:
        raise InputError(f"{path} is a VRT with a document type, which none needs; take it out")
    try:
        for _, element in ET.iterparse(io.BytesIO(text)):
            facts = {key.lower(): value for key, value in element.items()}  # GDAL knows no capitals
            tag, name = element.tag.rpartition("}")[2].lower(), (element.text or "").strip()
            kind = facts.get("subclass", "").lower()
            allowed = BANDS if tag == "vrtrasterband" else DATASETS if tag == "vrtdataset" else {kind}
            if kind not in allowed or tag == "group":
                raise InputError(f"{path} is a VRT with {kind or tag}, which may read any file; convert it")
            if facts.get("key", "").upper() == "OVERVIEW_FILE":
                raise InputError(f"{path} is a VRT that names a file of overviews; take that out")
            if tag == "pixelfunctionlanguage" and name.lower() == "python":
                raise InputError(f"{path} is a VRT with a program in Python, which is not run; convert it")
            if tag in SOURCES and name:
                if (relative := facts.get("relativetovrt", "0")) not in {"0", "1"}:
                    raise InputError(f"{path} is a VRT whose relativeToVRT is {relative!r:.60}, not 0 or 1")
                yield name, relative == "1"
            element.clear()
    except ET.ParseError as error:
        raise InputError(f"{path} is no well-formed XML: {error}; make the VRT anew") from error


def _check_place(name: str, path: str, folder: str, relative: bool = False, anywhere: bool = False) -> str:
    """A local file that the raster at ``path`` reads, "" where it is in an archive or no file.

    Raises InputError where it is outside of ``folder``, unless ``anywhere`` on this machine.
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
        raise InputError(f"{path} reads {name}, which is no file of this machine; download it, or convert it")
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
            f"{path} reads {name}, which is outside of its folder, {folder}; put the VRT above its sources, or "
            "allow it with `rsedge infer --allow outside`"
        )
    return "" if archive or found else local


def _check_in_archive(name: str, path: str) -> None:
    """Raise InputError where a source that is no file of its own is a VRT: what that one names is not looked at."""
    with suppress(RasterioError), unreferenced_allowed(), rasterio.open(name, driver="VRT"):
        raise InputError(f"{path} reads {name}, a VRT in an archive; unpack the archive")
