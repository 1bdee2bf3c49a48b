"""Writer of GeoTIFFs that appear under their own names only when complete."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from html import escape
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError  # rasterio.shutil raises it, and no public module exports it
from rasterio.crs import CRS
from rasterio.errors import RasterioError
from rasterio.windows import Window as GdalWindow

from rsedge.errors import InputError, OutputError
from rsedge.files import private_folder, sync
from rsedge.model.manifest import NODATA, ClassInfo
from rsedge.raster.grid import Grid, unreferenced_allowed
from rsedge.raster.trust import why_not_plain
from rsedge.text import xml_text

Format = Literal["cog", "gtiff"]
CLASSES_TAG = "RSEDGE_CLASSES"  # of masks and sample labels: names by index
BLOCK = 512
MOST_NAME_BYTES = 200  # file systems take 255, but hidden and side files add to the name
TIFF_SUFFIXES = (".tif", ".tiff")
GDAL_ERRORS = (RasterioError, CPLE_BaseError, OSError)
BASE_PROFILE = {
    "driver": "GTiff",
    "dtype": "uint8",
    "tiled": True,
    "blockxsize": BLOCK,
    "blockysize": BLOCK,
    "bigtiff": "IF_SAFER",  # otherwise GDAL fails at 4 GiB, at the end of the inference
}


class RasterWriter:
    """Writer of an uint8 raster, top down, which appears complete when the ``with`` block ends without error.

    The profile is built from scratch, because a source's JPEG compression would change classes. With
    ``classes`` the raster is a mask: one band with their palette and names, and nodata 255.

    Raises InputError if ``path`` cannot become a file, OutputError if writing fails (disk full); an existing
    file at ``path`` is then untouched.
    """

    def __init__(
        self,
        path: Path,
        grid: Grid,
        bands: int = 1,
        classes: Sequence[ClassInfo] = (),
        tags: Mapping[str, str] | None = None,
        overwrite: bool = False,
    ) -> None:
        check_target(path, overwrite)
        path = Path(os.path.realpath(path))  # a link stays a link
        self._path, self._classes = path, classes
        self._leftovers = ExitStack()
        self._rows = np.empty((bands, BLOCK, grid.width), np.uint8)
        self._held, self._next_row, self._crc = 0, 0, 0
        self._is_whole = False
        options: dict[str, Any] = {"count": bands, "compress": "deflate"}
        if classes:
            options["nodata"] = NODATA
        if bands >= 3:
            options.update(photometric="rgb", predictor=2)
        try:
            self._partial = self._leftovers.enter_context(private_folder(path)) / path.name
            self._dst = create(self._partial, grid, options)
            if classes:
                self._dst.write_colormap(1, {i: (*c.color, 255) for i, c in enumerate(classes)})
                names = json.dumps({str(i): c.name for i, c in enumerate(classes)})
                self._dst.update_tags(**{CLASSES_TAG: names})
            self._dst.update_tags(**{key: xml_text(value) for key, value in (tags or {}).items()})
        except BaseException as error:
            self._leftovers.close()
            raise failure(path, error) from error

    @staticmethod
    def row_of_blocks_bytes(grid: Grid, bands: int = 1) -> int:
        """Return the bytes of one row of the blocks that will be written."""
        return BLOCK * grid.width * bands

    def write(self, rows: NDArray[np.uint8]) -> None:
        """Append rows, (bands, rows, width). Each block is written once, when it is full."""
        while rows.shape[1]:
            taken = min(BLOCK - self._held, rows.shape[1])
            self._rows[:, self._held : self._held + taken] = rows[:, :taken]
            self._held += taken
            rows = rows[:, taken:]
            if self._held == BLOCK:
                self._flush()

    def finish(self) -> None:
        """Close the file and read it back, so that only the renaming remains.

        GDAL does not report every failed write (disk full), so the checksum of the written pixels is
        compared with that of the file. The end of the ``with`` block calls this method if needed.
        """
        if self._is_whole:
            return
        try:
            if self._held:
                self._flush()
            self._dst.close()
            sync(self._partial)
            if _checksum(self._partial) != self._crc:
                raise OutputError(f"{self._path}: the pixels read back differ. The disk may be full")
            if self._classes:
                write_class_names(self._partial, self._classes)
        except GDAL_ERRORS as error:
            raise failure(self._path, error) from error
        self._is_whole = True

    def __enter__(self) -> RasterWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.finish()
                self._publish()
            else:
                self._close_quietly()
        finally:
            self._leftovers.close()

    def _flush(self) -> None:
        window = GdalWindow(0, self._next_row, self._rows.shape[2], self._held)
        rows = self._rows[:, : self._held]
        try:
            self._dst.write(rows, window=window)
        except GDAL_ERRORS as error:
            raise failure(self._path, error) from error
        self._crc = zlib.crc32(np.ascontiguousarray(rows).data, self._crc)
        self._next_row, self._held = self._next_row + self._held, 0

    def _publish(self) -> None:
        try:
            publish(self._partial, self._path)
        except OSError as error:
            raise failure(self._path, error) from error

    def _close_quietly(self) -> None:
        with suppress(*GDAL_ERRORS):  # the run has already failed, and its first error is the one to report
            self._dst.close()


def check_target(
    path: Path, overwrite: bool = False, suffixes: tuple[str, ...] = TIFF_SUFFIXES, ours: str = "RSEDGE_"
) -> None:
    """Raise InputError if ``path`` cannot become a file or is a raster of another program.

    A raster without a tag that begins with ``ours`` is replaced only with ``overwrite``.
    """
    if path.suffix.lower() not in suffixes:
        raise InputError(f"{path}: the name must end in {' or '.join(suffixes)}, as the format requires")
    if len(os.fsencode(path.name)) > MOST_NAME_BYTES:
        raise InputError(f"{path.name}: the name is too long. Use at most {MOST_NAME_BYTES} bytes")
    folder = Path(os.path.realpath(path)).parent  # of the file that a link points to
    if not folder.is_dir():
        raise InputError(f"{path}: the folder {folder} does not exist. Create it first")
    if path.is_symlink() and not _is_own_link(path, suffixes):
        raise InputError(
            f"{path} is a link of another user, or to a file of another format. Remove it, or choose another name"
        )
    if path.exists() and not path.is_file():
        raise InputError(f"{path} exists and is not a file. Choose another name")
    if not os.access(folder, os.W_OK):
        raise InputError(
            f"{path}: the folder {folder} is not writable. Choose another, or change its permissions"
        )
    if path.exists() and not path.stat().st_mode & 0o222:
        raise InputError(f"{path} exists and is write-protected. Choose another name")
    if not overwrite and path.suffix.lower() in TIFF_SUFFIXES and _is_foreign_raster(path, ours):
        raise InputError(
            f"{path} was not written by rsedge. Choose another name, or use --overwrite to replace it"
        )


def check_replaceable(path: Path, overwrite: bool, is_own: Callable[[Path], bool]) -> None:
    """Raise InputError if ``path`` is a file that rsedge did not write, unless ``overwrite``."""
    if path.exists() and not overwrite and not is_own(path):
        raise InputError(
            f"{path} was not written by rsedge. Choose another name, or use --overwrite to replace it"
        )


def _is_own_link(path: Path, suffixes: tuple[str, ...]) -> bool:
    """Return True if a link belongs to this user, the folder's owner or root, and leads to a permitted suffix."""
    facts = path.lstat()
    me = os.getuid() if hasattr(os, "getuid") else facts.st_uid
    own = facts.st_uid in {0, me, path.parent.stat().st_uid}
    return own and Path(os.path.realpath(path)).suffix.lower() in suffixes


def _is_foreign_raster(path: Path, ours: str) -> bool:
    try:
        with unreferenced_allowed(), rasterio.open(path, driver="GTiff") as src:
            return not any(tag.startswith(ours) for tag in src.tags())
    except RasterioError:
        return why_not_plain(str(path)) is not None  # if None, the file is missing or not a raster
    except Exception:
        return True  # unreadable tags count as tags of another program


def tag_of(path: Path, tag: str) -> str | None:
    """Return a tag of a raster; None if the raster or the tag is missing."""
    try:
        with unreferenced_allowed(), rasterio.open(path, driver="GTiff") as src:
            return src.tags().get(tag)  # type: ignore[no-any-return]
    except Exception:
        return None


def create(path: Path, grid: Grid, options: Mapping[str, Any]) -> Any:
    """Open a new tiled uint8 GeoTIFF for writing, with a profile built from scratch."""
    profile = {**BASE_PROFILE, **options, "height": grid.height, "width": grid.width, "crs": grid.crs}
    if not grid.gcps and not grid.transform.is_identity:
        profile["transform"] = grid.transform
    with unreferenced_allowed():
        dst = rasterio.open(path, "w", **profile)
        if grid.gcps:
            dst.gcps = (list(grid.gcps), grid.crs or CRS())
        if grid.rpcs is not None:
            dst.rpcs = grid.rpcs
    return dst


def _checksum(path: Path) -> int:
    """Return the CRC-32 of a raster's pixels, read in the order in which ``RasterWriter`` wrote them."""
    crc = 0
    with unreferenced_allowed(), rasterio.open(path) as src:
        for row in range(0, src.height, BLOCK):
            window = GdalWindow(0, row, src.width, min(BLOCK, src.height - row))
            crc = zlib.crc32(np.ascontiguousarray(src.read(window=window)).data, crc)
    return crc


def write_class_names(path: Path, classes: Sequence[ClassInfo]) -> None:
    """Write class names into the ``.aux.xml`` beside a GeoTIFF, where GDAL and QGIS look for them."""
    names = "".join(f"<Category>{escape(xml_text(c.name), quote=False)}</Category>" for c in classes)
    band = f'<PAMRasterBand band="1"><CategoryNames>{names}</CategoryNames></PAMRasterBand>'
    _sidecar(path).write_text(f"<PAMDataset>{band}</PAMDataset>\n", encoding="utf-8")


def publish(whole: Path, target: Path) -> None:
    """Rename a finished file and its sidecar to ``target``. Raises OSError."""
    whole.replace(target)
    if _sidecar(whole).exists():
        _sidecar(whole).replace(_sidecar(target))
    else:
        _sidecar(target).unlink(missing_ok=True)  # belongs to the replaced file


def _sidecar(path: Path) -> Path:
    return path.with_name(f"{path.name}.aux.xml")


def failure(path: Path, error: BaseException) -> BaseException:
    """Return an OutputError for an error of GDAL's; other errors are returned unchanged."""
    if isinstance(error, OutputError) or not isinstance(error, GDAL_ERRORS):
        return error
    return OutputError(f"{path} cannot be written: {error.__cause__ or error}")
