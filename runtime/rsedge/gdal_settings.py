"""GDAL's settings for a whole process: what its drivers may do. GDAL itself is not imported here, which takes time."""

from __future__ import annotations

import os

# Never asked, whoever names them: they fetch what their file says, and a download is one command away.
REMOTE = (
    "WMS", "WCS", "WMTS", "HTTP", "STACIT", "STACTA", "EEDA", "EEDAI", "PLMOSAIC", "PLSCENES", "DAAS", "GTI", "ESRIC",
    "KMLSUPEROVERLAY", "OGCAPI", "RASTERLITE2", "PostGISRaster", "NGW", "CSW", "WFS", "OAPIF", "Elasticsearch", "CARTO",
    "AmigoCloud", "DERIVED", "OGR_VRT", "PostgreSQL", "MySQL", "MSSQLSpatial", "ODBC",
)  # fmt: skip
NO_RAW_BANDS = {
    "GDAL_VRT_ENABLE_RAWRASTERBAND": "NO",
    "GDAL_VRT_RAWRASTERBAND_ALLOWED_SOURCE": "NO",
    "GDAL_VRT_ENABLE_PYTHON": "NO",  # a pixel function is a program; the user's setting is for the user's own VRTs
}


def restrict_process() -> None:
    """Leave out drivers that read from servers, and a VRT's raw bands. For commands, before GDAL is used."""
    skipped = os.environ.get("GDAL_SKIP", "")
    names = [*filter(None, skipped.split("," if "," in skipped else None)), *REMOTE]
    os.environ["GDAL_SKIP"] = ",".join(dict.fromkeys(names))
    for key, value in NO_RAW_BANDS.items():
        os.environ.setdefault(key, value)
