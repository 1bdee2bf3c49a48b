"""Reading windows of a raster as a model wants them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import RasterioError
from rasterio.windows import Window as GdalWindow

from rsedge.errors import InputError
from rsedge.manifest import Manifest
from rsedge.raster.grid import Grid, unreferenced_allowed
from rsedge.window import Window

Pixels = NDArray[Any]
SCALED_MAX = {"uint8": 255.0, "uint16": 65535.0, "float32": 1.0}
SOME_CLIPPED, MANY_CLIPPED = 0.02, 0.5  # shares of values outside the declared scale: a note, an error
SURELY_WRONG = 4_000_000  # values, all of them outside: no need to read the rest
LITTLE_USED = 0.05  # a share of the declared scale: with less, an image is nearly one colour to the model


@dataclass(frozen=True)
class BandPlan:
    """Which bands of a raster feed a model and how their values are mapped."""

    indexes: tuple[int, ...]  # 1-based, in the order of the model's bands
    dtype: str  # of the model's input
    scale: tuple[float, float] | None = None  # raster values that become 0 and the dtype's maximum
    notes: tuple[str, ...] = ()


class RasterReader:
    """A raster opened for reading by window. Not safe for two threads at once.

    Raises InputError when the path is no raster GDAL can read, or, while reading, when it is
    damaged.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = str(path)
        try:
            with unreferenced_allowed():
                self._src = rasterio.open(self.path)
                self.grid = _grid(self._src)
        except RasterioError as error:
            raise InputError(_why_not(self.path, error)) from error
        self.color_interp: tuple[ColorInterp, ...] = self._src.colorinterp
        self.dtypes: tuple[str, ...] = self._src.dtypes
        self.nodata: float | None = self._src.nodata  # of the first band
        self.clipped = self.scaled = 0  # values outside the declared scale, and all seen
        self._lowest, self._highest = np.inf, -np.inf  # of the values seen, as stored

    def __enter__(self) -> RasterReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._src.close()

    @property
    def row_of_blocks_bytes(self) -> int:
        """Bytes of one row of stored blocks, all bands."""
        pixel_bytes = sum(8 if d.startswith("complex") else np.dtype(d).itemsize for d in self.dtypes)
        return int(self._src.block_shapes[0][0]) * self.grid.width * pixel_bytes

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file the raster is read from: a VRT's sources and side files included."""
        return tuple(Path(f) for f in self._src.files)

    def colormap(self) -> dict[int, tuple[int, ...]] | None:
        """Palette of the first band, value to RGBA; None where it has none."""
        try:
            return dict(self._src.colormap(1))
        except ValueError:
            return None

    def read(self, window: Window, plan: BandPlan) -> tuple[Pixels, NDArray[np.bool_]]:
        """Pixels (bands, h, w) in the model's dtype, and which hold data, (h, w).

        A pixel holds no data where the alpha or mask band is 0, where every chosen band has its nodata
        value, or where one is NaN or infinite.
        """
        pixels = self._guard(lambda w: self._src.read(list(plan.indexes), window=w), window)
        valid = self._valid(pixels, window, plan)
        return (pixels if plan.scale is None else self._rescale(pixels, valid, plan)), valid

    def read_raw(self, window: Window) -> Pixels:
        """All bands as stored, (bands, h, w)."""
        return self._guard(lambda w: self._src.read(window=w), window)

    def _guard(self, read: Any, window: Window) -> Pixels:
        try:
            return np.asarray(read(GdalWindow(window.col, window.row, window.width, window.height)))
        except (RasterioError, ValueError) as error:
            detail = str(error.__cause__ or error).partition(" (this error can be turned")[0]  # GDAL's advice
            raise InputError(
                f"{self.path} cannot be read at {window}; it may be truncated or damaged: {detail}"
            ) from error

    def _valid(self, pixels: Pixels, window: Window, plan: BandPlan) -> NDArray[np.bool_]:
        flags = self._src.mask_flag_enums[plan.indexes[0] - 1]
        nodata = [self._src.nodatavals[i - 1] for i in plan.indexes]
        valid = np.ones(pixels.shape[1:], np.bool_)
        # Alpha by its colour: GDAL's flags tell of it only in two- and four-band integer rasters.
        for alpha in (i for i, c in enumerate(self.color_interp, 1) if c == ColorInterp.alpha):
            if alpha not in plan.indexes:
                valid &= self._guard(lambda w, i=alpha: self._src.read(i, window=w), window) > 0
        if MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags:
            valid &= self._guard(lambda w: self._src.read_masks(plan.indexes[0], window=w), window) > 0
        if None not in nodata:
            empty = np.ones(pixels.shape[1:], np.bool_)
            for band, value in zip(pixels, nodata, strict=True):
                empty &= band == value
            valid &= ~empty
        if pixels.dtype.kind == "f":
            valid &= np.isfinite(pixels).all(0)
        return valid

    def _rescale(self, pixels: Pixels, valid: NDArray[np.bool_], plan: BandPlan) -> Pixels:
        assert plan.scale is not None
        low, high = plan.scale
        top = SCALED_MAX[plan.dtype]
        known = np.where(valid, pixels, low).astype(np.float64)  # a nodata value may overflow
        if valid.any():
            seen = pixels[:, valid]
            self._lowest, self._highest = min(self._lowest, seen.min()), max(self._highest, seen.max())
        scaled = (known - low) * (top / (high - low))
        self.clipped += int(np.count_nonzero((scaled < 0) | (scaled > top)))
        self.scaled += int(np.count_nonzero(valid)) * len(pixels)
        if self.clipped == self.scaled > SURELY_WRONG:
            raise InputError(f"all values so far lie outside --scale {low:g},{high:g}: {self._range()}")
        np.clip(scaled, 0, top, out=scaled)
        return scaled.astype(np.float32) if plan.dtype == "float32" else np.rint(scaled).astype(plan.dtype)

    def check_scale(self, scale: tuple[float, float]) -> str | None:
        """After reading: a note where the declared scale looks wrong.

        Raises InputError where most values lie outside: it cannot be right.
        """
        if not self.scaled:
            return None
        clipped = self.clipped / self.scaled
        if clipped > MANY_CLIPPED:
            raise InputError(f"{clipped:.0%} of the values lie outside --scale: {self._range()}")
        used = (self._highest - self._lowest) / (scale[1] - scale[0])
        if used < LITTLE_USED:
            return f"the values use only {used:.1%} of --scale {scale[0]:g},{scale[1]:g}: {self._range()}"
        return (
            f"{clipped:.1%} of the values lie outside --scale and were clipped"
            if clipped > SOME_CLIPPED
            else None
        )

    def _range(self) -> str:
        return f"they run from {self._lowest:g} to {self._highest:g}; expect a wrong mask unless --scale fits them"


def plan_bands(
    reader: RasterReader,
    manifest: Manifest,
    bands: tuple[int, ...] | None = None,
    scale: tuple[float, float] | None = None,
) -> BandPlan:
    """Choose the bands of ``reader`` that feed the model.

    ``bands``: 1-based indexes; None takes the bands whose colour interpretation carries the model's
    band names, else the first ones. ``scale``: raster values that map to 0 and the maximum of the
    model's dtype, needed where the raster is stored in another dtype.

    Raises InputError when there are too few bands, a band does not exist, or the dtype does not
    fit.
    """
    if scale is not None and not (np.isfinite(scale).all() and scale[0] < scale[1]):
        raise InputError(f"scale {scale[0]:g},{scale[1]:g} is not LOW,HIGH with LOW below HIGH")
    notes: tuple[str, ...] = ()
    if bands is None:
        bands, notes = _default_bands(reader, manifest)
    count = len(reader.dtypes)
    if len(bands) != len(manifest.bands):
        raise InputError(
            f"{len(bands)} bands chosen, the model needs {len(manifest.bands)}: {', '.join(manifest.bands)}"
        )
    if outside := [b for b in bands if not 1 <= b <= count]:
        raise InputError(f"band {outside[0]} does not exist; {reader.path} has bands 1 to {count}")
    _check_dtype({reader.dtypes[b - 1] for b in bands}, manifest, scale, reader.path)
    return BandPlan(tuple(bands), manifest.dtype, scale, notes)


def _default_bands(reader: RasterReader, manifest: Manifest) -> tuple[tuple[int, ...], tuple[str, ...]]:
    wanted = manifest.bands
    by_name = {c.name.lower(): i for i, c in reversed(list(enumerate(reader.color_interp, 1)))}
    if all(name in by_name for name in wanted):
        return tuple(by_name[name] for name in wanted), ()
    usable = [i for i, c in enumerate(reader.color_interp, 1) if c != ColorInterp.alpha]
    if len(usable) < len(wanted):
        palette = (
            " (a palette image: expand it with `gdal_translate -expand rgb`)" if reader.colormap() else ""
        )
        raise InputError(
            f"{reader.path} has {len(usable)} usable band{'s' * (len(usable) != 1)}{palette}, the model needs "
            f"{len(wanted)}: {', '.join(wanted)}"
        )
    chosen = tuple(usable[: len(wanted)])
    said = {reader.color_interp[i - 1] for i in usable}
    if len(usable) == len(wanted) and said <= {ColorInterp.gray, ColorInterp.undefined}:
        return chosen, ()  # nothing else to choose, and nothing said against it
    listed = ",".join(map(str, chosen))
    note = (
        f"the raster does not say which bands are {', '.join(wanted)}: taking {listed}; choose with --bands"
    )
    return chosen, (note,)


def _check_dtype(found: set[str], manifest: Manifest, scale: tuple[float, float] | None, path: str) -> None:
    if odd := sorted(d for d in found if d.startswith("complex")):
        raise InputError(f"{path} is stored as {odd[0]}; a model reads real numbers only")
    if found == {manifest.dtype} or scale is not None:
        return
    raise InputError(
        f"{path} is stored as {', '.join(sorted(found))}, the model was trained on {manifest.dtype}; say which "
        f"values to map to 0 and {SCALED_MAX[manifest.dtype]:g} with --scale LOW,HIGH (often 0,1 for floats, "
        "0,3000 for reflectance in integers), the same for every raster of a survey"
    )


def _why_not(path: str, error: Exception) -> str:
    """What is wrong with a path that GDAL could not open."""
    is_local = "://" not in path and not path.startswith("/vsi")
    if is_local and os.path.isdir(path):
        return f"{path} is a folder; give one raster file"
    if is_local and not os.path.exists(path):
        return f"no raster at {path}; check the path"
    return f"{path} is not a raster GDAL can open: {error}"


def _grid(src: Any) -> Grid:
    gcps, gcp_crs = src.gcps
    crs = gcp_crs if gcps else src.crs
    return Grid(src.height, src.width, crs or None, src.transform, tuple(gcps), src.rpcs)
