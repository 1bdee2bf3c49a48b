"""Vector files, through pyogrio and shapely, which are optional and imported by the functions that use them."""

from __future__ import annotations

import importlib.util
import os
import warnings
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsedge.errors import BackendError, InputError, OutputError
from rsedge.files import private_folder, sync, writing
from rsedge.raster.writer import check_replaceable, check_target

LAYER = "landcover"
GDAL_LOG = "CPL_LOG"  # variable that names the file of GDAL's messages
COLUMNS = ("class_id", "class", "area_m2")
HEAD_BYTES = 4096
NAMES_OTHERS = (b"<OGRVRTDataSource", b"<OGRWFSDataSource")  # GDAL finds these at any position
NO_NETWORK = {
    "CPL_VSIL_CURL_ALLOWED_FILENAME": "none",
    "GML_DOWNLOAD_SCHEMA": "NO",
}  # for every file that pyogrio opens


def need_vector_libraries(purpose: str) -> None:
    """Raise BackendError if pyogrio or shapely is missing. ``purpose``: subject of the message, in the plural."""
    if missing := [name for name in ("pyogrio", "shapely") if importlib.util.find_spec(name) is None]:
        raise BackendError(
            f'{purpose} need {" and ".join(missing)}. Install with: pip install "rsedge[polygons]"'
        )


def check_polygon_target(path: Path, overwrite: bool = False) -> None:
    """Raise InputError if ``path`` cannot become a GeoPackage or is a file that rsedge did not write.

    A file of another program is replaced only with ``overwrite``.
    """
    check_target(path, overwrite, (".gpkg",))
    check_replaceable(path, overwrite, _is_ours)


def _is_ours(path: Path) -> bool:
    """Return True if rsedge wrote the only layer of a GeoPackage."""
    pyogrio = _import_pyogrio()
    try:
        if pyogrio.list_layers(path)[:, 0].tolist() != [LAYER]:
            return False
        return tuple(pyogrio.read_info(path, layer=LAYER)["fields"]) == COLUMNS
    except (RuntimeError, ValueError, OSError):
        return False


class LandcoverWriter:
    """Writer of polygons to a GeoPackage, which appears complete when the ``with`` block ends without error.

    ``crs``: WKT, or None. Raises OutputError if writing fails; an existing file at ``path`` is then untouched.
    """

    def __init__(self, path: Path, crs: str | None) -> None:
        self._path = Path(os.path.realpath(path))  # a link stays a link
        self._leftovers = ExitStack()
        self._crs, self._exists = crs, False
        self.written = 0

    def write(
        self,
        xy: NDArray[np.float64],
        ring_starts: NDArray[np.int64],
        polygon_starts: NDArray[np.int64],
        class_id: NDArray[np.uint8],
        name: NDArray[Any],
        area_m2: NDArray[np.float64],
    ) -> None:
        """Append n polygons: vertices (v, 2) of closed rings, starts of rings and polygons, and columns (n,)."""
        pyogrio = _import_pyogrio()
        import shapely  # noqa: PLC0415

        polygons = shapely.from_ragged_array(shapely.GeometryType.POLYGON, xy, (ring_starts, polygon_starts))
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "'crs' was not provided")  # rsedge prints its own note
                pyogrio.raw.write(
                    self._partial,
                    shapely.to_wkb(polygons),
                    [class_id.astype(np.int32), name, area_m2],
                    list(COLUMNS),
                    layer=LAYER,
                    driver="GPKG",
                    geometry_type="Polygon",
                    crs=self._crs,
                    append=self._exists,
                )
        except (RuntimeError, ValueError, OSError) as error:
            raise OutputError(f"{self._path} cannot be written: {error}") from error
        self._exists = True
        self.written += len(class_id)

    def __enter__(self) -> LandcoverWriter:
        with writing(self._path):
            folder = self._leftovers.enter_context(private_folder(self._path))
        self._partial = folder / f"{self._path.stem}.gpkg"  # GDAL warns of another suffix
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._publish()
        finally:
            self._leftovers.close()

    def _publish(self) -> None:
        if not self._exists:  # a mask of nodata only gives a layer without polygons
            start = np.zeros(1, np.int64)
            none = np.zeros(0)
            self.write(np.zeros((0, 2)), start, start, none.astype(np.uint8), none.astype(object), none)
        with writing(self._path):
            sync(self._partial)
            self._partial.replace(self._path)


def read_polygon_file(path: Path, layer: str | None = None) -> tuple[list[Any], str | None]:
    """Read geometries as GeoJSON objects (None if a feature has none), and the CRS (None if unknown).

    Raises BackendError if the libraries are missing, InputError if the file or the layer cannot be read,
    or if the file has several layers and none was chosen.
    """
    need_vector_libraries(f"areas of interest in {path.suffix} files")
    pyogrio = _import_pyogrio()
    import shapely  # noqa: PLC0415
    from shapely.geometry import mapping  # noqa: PLC0415

    if any(sign in head_of(path) for sign in NAMES_OTHERS):
        raise InputError(
            f"{path} holds no polygons but names other files or servers. Convert it with `ogr2ogr`"
        )
    pyogrio.set_gdal_config_options(NO_NETWORK)
    try:
        layers = pyogrio.list_layers(path)[:, 0].tolist()
        chosen = _chosen_layer(path, layers, layer)
        meta, _, geometry, _ = pyogrio.raw.read(path, layer=chosen, columns=[], force_2d=True)
    except (RuntimeError, OSError) as error:
        raise InputError(f"{path} cannot be read as a vector file: {error}") from error
    if geometry is None:
        raise InputError(
            f"{path}: layer {chosen} is a table without geometries. Choose another with --aoi-layer"
        )
    found = shapely.from_wkb(geometry)
    return [None if g is None else mapping(g) for g in found], meta["crs"]


def head_of(path: Path) -> bytes:
    """Return the first bytes of a file, by which GDAL chooses a driver. Raises InputError if it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(HEAD_BYTES)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error


def _import_pyogrio() -> Any:
    """Import pyogrio without the warnings of its GDAL about drivers in GDAL_SKIP that it does not have."""
    before = os.environ.get(GDAL_LOG)
    os.environ[GDAL_LOG] = os.devnull
    try:
        import pyogrio  # noqa: PLC0415
        import pyogrio.raw  # noqa: PLC0415
    finally:
        os.environ.pop(GDAL_LOG)
        if before is not None:
            os.environ[GDAL_LOG] = before
    return pyogrio


def _chosen_layer(path: Path, layers: list[str], layer: str | None) -> str:
    if not layers:
        raise InputError(f"{path} has no layers")
    if layer is None and len(layers) > 1:
        raise InputError(f"{path} has layers {', '.join(layers)}. Choose one with --aoi-layer")
    if layer is not None and layer not in layers:
        raise InputError(f"{path} has no layer {layer!r}. Choose one of {', '.join(layers)}")
    return layers[0] if layer is None else layer
