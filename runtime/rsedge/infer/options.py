"""Options and results of `segment`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from rsedge.errors import InputError
from rsedge.raster.band_plan import Masking
from rsedge.raster.cells import Side
from rsedge.raster.parts import COMPRESSIONS
from rsedge.raster.trust import NAMED, Trust
from rsedge.raster.writer import Format
from rsedge.tiling.axes import Seam


@dataclass(frozen=True)
class Options:
    """Options of ``segment``. ``bands`` are 1-based; ``scale`` maps raster values to the model's range."""

    overlap: float = 0.25  # least share of a tile that neighbours have in common, 0..0.75
    seam: Seam = "blend"
    bands: tuple[int, ...] | None = None
    scale: tuple[float, float] | None = None
    nodata: tuple[float, ...] | None = None  # one value, or one per band; None: as the raster declares
    alpha: int | Literal["none"] | None = None  # the band that is 0 where data are missing; None: as tagged
    resample: bool = False  # read at the model's GSD if the raster's differs; write on the raster's grid
    bbox: tuple[float, float, float, float] | None = None  # west, south, east, north in ``bbox_crs``
    bbox_crs: str | None = None  # None: the raster's
    aoi: Path | str | None = None  # polygons; pixels outside are nodata
    aoi_layer: str | None = None  # of ``aoi``, if that has several layers
    crop: bool = False  # write only the extent of bbox or aoi
    format: Format = "cog"
    compress: str = "zstd"
    confidence: bool = False  # MASK_confidence.tif beside the mask: percent of the class that won
    probabilities: bool = False  # MASK_probabilities.tif: percent of each class
    polygons: Path | str | None = None  # GeoPackage of the classes' areas
    min_area_m2: float = 0.0  # of a polygon
    min_pixels: int = 0  # of a polygon, for grids whose areas are unknown
    preview: Path | str | None = None  # PNG of image and mask
    summary: Path | str | None = None  # JSON of class shares by cell, a few kB
    summary_cell: str | None = None  # side of a cell, such as 1km or 256px; None: a round one
    max_ram_bytes: int | None = None  # the area is split into columns if full rows of windows need more
    resume: bool = False  # continue an earlier run with the same options
    overwrite: bool = False  # replace an unfinished run, or a raster that rsedge did not write
    trust: Trust = NAMED  # files that the raster may open beside itself

    def __post_init__(self) -> None:
        if self.format not in get_args(Format):
            raise InputError(
                f"format {self.format!r} is unknown; choose one of {', '.join(get_args(Format))}"
            )
        if self.compress not in COMPRESSIONS:
            raise InputError(
                f"compress {self.compress!r} is unknown; choose one of {', '.join(COMPRESSIONS)}"
            )
        if self.bands is not None and not all(isinstance(b, int) for b in self.bands):
            raise InputError(f"bands {self.bands!r} are not 1-based integers such as (4, 3, 2)")
        if self.scale is not None and not (
            len(self.scale) == 2 and all(isinstance(v, float | int) for v in self.scale)
        ):
            raise InputError(f"scale {self.scale!r} is not two numbers such as (0, 3000)")
        _ = self.masking  # raises InputError
        if self.max_ram_bytes is not None and self.max_ram_bytes < 1:
            raise InputError(f"max_ram_bytes {self.max_ram_bytes} is below 1")
        self._check_area()
        self._check_polygons()
        if self.summary_cell is not None:
            if self.summary is None:
                raise InputError("a summary cell was given without summary; give --summary FILE.json")
            _ = self.cell_side  # raises InputError

    def _check_area(self) -> None:
        if self.bbox is not None and self.aoi is not None:
            raise InputError("bbox and aoi were both given; give one")
        if self.bbox_crs is not None and self.bbox is None:
            raise InputError("bbox_crs was given without bbox; polygons carry their own CRS")
        if self.aoi_layer is not None and self.aoi is None:
            raise InputError("aoi_layer was given without aoi; give the file of that layer")
        if self.crop and self.bbox is None and self.aoi is None:
            raise InputError("crop was given without bbox or aoi; give the area to crop to")
        if self.crop and self.resample:
            raise InputError("crop and resample cannot be combined; leave one out")

    def _check_polygons(self) -> None:
        if (self.min_area_m2 or self.min_pixels) and self.polygons is None:
            raise InputError("a minimum polygon size was given without polygons; give --polygons OUT.gpkg")
        if self.min_area_m2 < 0 or self.min_pixels < 0:
            raise InputError(f"a polygon's minimum size {min(self.min_area_m2, self.min_pixels)} is below 0")

    @property
    def masking(self) -> Masking:
        """Return ``nodata`` and ``alpha`` as one value."""
        return Masking(self.nodata, self.alpha)

    @property
    def cell_side(self) -> Side | None:
        """Return the side of a summary's cells; None for a round one that fits the raster."""
        return None if self.summary_cell is None else Side.parse(self.summary_cell)

    def beside(self, out: Path) -> dict[str, Path]:
        """Return the paths of the additional rasters beside the mask, by layer."""
        names = [n for n in ("confidence", "probabilities") if getattr(self, n)]
        return {n: out.with_name(f"{out.stem}_{n}{out.suffix}") for n in names}

    def outputs(self, out: Path) -> dict[str, Path]:
        """Return the paths of all files that a run writes, by what they are; the mask comes first."""
        named = {"preview": self.preview, "polygons": self.polygons, "summary": self.summary}
        return {"mask": out, **self.beside(out), **{n: Path(path) for n, path in named.items() if path}}


@dataclass(frozen=True)
class ClassArea:
    """One class of a result: its mask value and how much of the raster it covers."""

    value: int
    name: str
    pixels: int
    share: float  # of the valid pixels, 0..1
    area_m2: float | None  # None if the grid's areas are unknown


@dataclass(frozen=True)
class Result:
    """Result of ``segment``.

    ``seconds``: time of each stage in order (``prepare``: opening and planning; ``engine.stages.STAGES``; ``write``:
    assembling the files); ``busy``: work of all threads together, measured apart from the stages; ``total``: from
    call to return. Stages overlap, so they add up to ``busy`` and not to ``total``.
    """

    raster: str
    out: str
    preview: str | None
    confidence: str | None
    probabilities: str | None
    polygons: str | None
    polygon_count: int | None
    summary: str | None
    grid: dict[str, Any]
    nodata_value: int
    nodata_pixels: int
    classes: tuple[ClassArea, ...]
    windows: int
    windows_skipped: int
    resumed_pixels: int  # of the result, finished by an earlier run
    tile: int
    overlap: float
    seam: str
    bands: tuple[int, ...]
    scale: tuple[float, float] | None
    seconds: dict[str, float]
    mpx_per_s: float  # raster pixels over total seconds, including reading and writing
    peak_rss_bytes: int
    bound_bytes: int  # the plan's upper bound on the peak
    model: str
    model_sha256: str
    precision: str
    backend: str
    provider: str
    streams: int  # tiles that were in work at once
    why: str  # reason for this provider
    rsedge_version: str
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain JSON values."""
        return asdict(self)
