"""GDAL settings of a whole process that limit its drivers. This module does not import GDAL, which takes time."""

from __future__ import annotations

import os

# Drivers that are never used, because they fetch what their file names; users can download a file themselves.
REMOTE = (
    "WMS", "WCS", "WMTS", "HTTP", "STACIT", "STACTA", "EEDA", "EEDAI", "PLMOSAIC", "PLSCENES", "DAAS", "GTI", "ESRIC",
    "KMLSUPEROVERLAY", "OGCAPI", "RASTERLITE2", "PostGISRaster", "NGW", "CSW", "WFS", "OAPIF", "Elasticsearch", "CARTO",
    "AmigoCloud", "DERIVED", "OGR_VRT", "PostgreSQL", "MySQL", "MSSQLSpatial", "ODBC",
)  # fmt: skip
NO_RAW_BANDS = {
    "GDAL_VRT_ENABLE_RAWRASTERBAND": "NO",
    "GDAL_VRT_RAWRASTERBAND_ALLOWED_SOURCE": "NO",
    "GDAL_VRT_ENABLE_PYTHON": "NO",  # a pixel function is a program; only the user may enable Python, for own VRTs
}


def restrict_process() -> None:
    """Disable drivers that read from servers, and raw bands of VRTs. For commands, before GDAL is imported."""
    skipped = os.environ.get("GDAL_SKIP", "")
    names = [*filter(None, skipped.split("," if "," in skipped else None)), *REMOTE]
    os.environ["GDAL_SKIP"] = ",".join(dict.fromkeys(names))
    for key, value in NO_RAW_BANDS.items():
        os.environ.setdefault(key, value)
