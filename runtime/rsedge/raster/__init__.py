"""Read rasters by window and write finished GeoTIFFs; with `vector`, the only package that uses GDAL."""

from rsedge.raster.band_plan import BandPlan
from rsedge.raster.bands import plan_bands
from rsedge.raster.cache import bounded_cache, exact_cache
from rsedge.raster.grid import Grid
from rsedge.raster.orientation import describe_orientation
from rsedge.raster.place import pixels_apart
from rsedge.raster.reader import RasterReader
from rsedge.raster.resample import Resampled, open_resampled, resample_factor, upsample_index
from rsedge.raster.scaling import survey_scale
from rsedge.raster.thin import thinned, thinned_rgb
from rsedge.raster.writer import Format, RasterWriter, check_replaceable, check_target

__all__ = [
    "BandPlan",
    "Format",
    "Grid",
    "RasterReader",
    "RasterWriter",
    "Resampled",
    "bounded_cache",
    "check_replaceable",
    "check_target",
    "describe_orientation",
    "exact_cache",
    "open_resampled",
    "pixels_apart",
    "plan_bands",
    "resample_factor",
    "survey_scale",
    "thinned",
    "thinned_rgb",
    "upsample_index",
]
