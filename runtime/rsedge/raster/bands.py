"""Choose the bands of a raster that feed a model, and how their values are mapped."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
from rasterio.enums import ColorInterp

from rsedge.errors import InputError
from rsedge.model.manifest import Manifest
from rsedge.raster.band_plan import AS_TAGGED, PALETTE_BANDS, SCALED_MAX, BandPlan, Masking, Rgba
from rsedge.raster.look import seems_alpha
from rsedge.raster.reader import RasterReader


def plan_bands(
    reader: RasterReader,
    manifest: Manifest,
    bands: tuple[int, ...] | None = None,
    scale: tuple[float, float] | None = None,
    masking: Masking = AS_TAGGED,
) -> BandPlan:
    """Choose the bands of ``reader`` that feed the model.

    ``bands``: 1-based indexes; None takes the bands whose colour interpretation matches the model's
    band names, else the first ones; a palette is expanded for a model of red, green, blue in uint8.
    ``scale``: raster values that map to 0 and the maximum of the model's dtype, required if the raster
    is stored in another dtype. ``masking``: nodata values and alpha that override the raster's own.

    Raises InputError if there are too few bands, a band does not exist, or the dtype does not fit.
    """
    if bands is None and (palette := _palette(reader, manifest)):
        note = "the raster is a palette image; its values are read as the palette's colours"
        plan = _without_scale(BandPlan((1,), manifest.dtype, None, (note,), palette), scale)
    else:
        chosen, notes = choose_bands(reader, manifest, bands, masking)
        plan = BandPlan(chosen, manifest.dtype, scale, notes)
        _check_dtype({reader.dtypes[b - 1] for b in chosen}, manifest, scale, reader.path)
    return masked(reader, plan, masking, named=bands is not None)


def masked(reader: RasterReader, plan: BandPlan, masking: Masking, *, named: bool) -> BandPlan:
    """Return the plan with the user's nodata values and alpha, and with the raster's own notes.

    ``named``: the user chose the bands. Bands left out are then alpha only if their values look like alpha, because
    many files tag near infrared as alpha. Raises InputError if a value or band is impossible.
    """
    alphas, notes = _choose_alphas(reader, plan.indexes, masking.alpha, named)
    nodata = _fit_nodata(reader, plan.indexes, masking.nodata)
    return replace(plan, nodata=nodata, alphas=alphas, notes=(*reader.notes, *plan.notes, *notes))


def _choose_alphas(
    reader: RasterReader, indexes: tuple[int, ...], alpha: int | Literal["none"] | None, named: bool
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Return the alpha bands, and notes on bands that are ignored."""
    if isinstance(alpha, int):
        if alpha > len(reader.dtypes):
            raise InputError(
                f"--alpha {alpha}: {reader.path} has bands 1 to {len(reader.dtypes)}. Give one of them, or none"
            )
        if alpha in indexes:
            raise InputError(
                f"--alpha {alpha}: this band feeds the model. Give another, or choose bands with --bands"
            )
        return (alpha,), ()
    if alpha is not None:
        return (), ()
    tagged = tuple(
        i for i, c in enumerate(reader.color_interp, 1) if c == ColorInterp.alpha and i not in indexes
    )
    if not named or not tagged:
        return tagged, ()
    used = tuple(i for i in tagged if seems_alpha(reader, i))
    notes = tuple(
        f"band {i} is tagged as alpha but does not look like alpha, and --bands leaves it out, so it is ignored; "
        f"give --alpha {i} to use it"
        for i in tagged
        if i not in used
    )
    return used, notes


def _fit_nodata(
    reader: RasterReader, indexes: tuple[int, ...], nodata: tuple[float, ...] | None
) -> tuple[float, ...] | None:
    """Return a nodata value for each band. Raises InputError if one cannot be stored in its band."""
    if nodata is None:
        return None
    if len(nodata) not in {1, len(indexes)}:
        raise InputError(
            f"--nodata has {len(nodata)} values for {len(indexes)} bands. Give one value, or one for each model band"
        )
    values = tuple(map(float, nodata * len(indexes) if len(nodata) == 1 else nodata))
    if np.isnan(values).all() and all(reader.dtypes[i - 1].startswith("float") for i in indexes):
        return None  # NaN is nodata anyway
    for index, value in zip(indexes, values, strict=True):
        dtype = np.dtype(reader.dtypes[index - 1])
        if dtype.kind in "iu":
            limits = np.iinfo(dtype)
            if not (value.is_integer() and limits.min <= value <= limits.max):
                raise InputError(
                    f"--nodata {value:g} cannot occur in band {index} of {reader.path}, which is stored as {dtype}. "
                    f"Give a whole number from {limits.min} to {limits.max}"
                )
    return values


def choose_bands(
    reader: RasterReader,
    manifest: Manifest,
    bands: tuple[int, ...] | None = None,
    masking: Masking = AS_TAGGED,
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Return the 1-based bands that `plan_bands` takes if no palette is expanded, and notes on them.

    Raises InputError if there are too few bands or a band does not exist.
    """
    notes: tuple[str, ...] = ()
    if bands is None:
        bands, notes = _default_bands(reader, manifest, masking)
    count = len(reader.dtypes)
    if len(bands) != len(manifest.bands):
        raise InputError(
            f"--bands gives {len(bands)} bands but the model needs {len(manifest.bands)}: {', '.join(manifest.bands)}"
        )
    if outside := [b for b in bands if not 1 <= b <= count]:
        raise InputError(f"{reader.path} has no band {outside[0]}. Choose from bands 1 to {count}")
    return tuple(bands), notes


def _palette(reader: RasterReader, manifest: Manifest) -> tuple[Rgba, ...]:
    """Return the palette of the raster's only usable band if the model can take its colours, else ()."""
    usable = [c for c in reader.color_interp if c != ColorInterp.alpha]
    if usable != [ColorInterp.palette] or reader.color_interp[0] != ColorInterp.palette:
        return ()
    if manifest.bands != PALETTE_BANDS or manifest.dtype != "uint8":
        return ()
    colors = reader.colormap()
    if not colors or reader.dtypes[0] not in {"uint8", "uint16"}:
        return ()
    # Values that the palette does not list are black and transparent, as in GDAL.
    return tuple(_rgba(colors.get(value, (0, 0, 0, 0))) for value in range(max(colors) + 1))


def _rgba(color: tuple[int, ...]) -> Rgba:
    red, green, blue, alpha = (*color, 255)[:4]
    return red, green, blue, alpha


def _without_scale(plan: BandPlan, scale: tuple[float, float] | None) -> BandPlan:
    if scale is not None:
        raise InputError(
            f"--scale {scale[0]:g},{scale[1]:g} cannot be used with a palette image, whose values are numbers of "
            "colours. Leave --scale out"
        )
    return plan


def _default_bands(
    reader: RasterReader, manifest: Manifest, masking: Masking
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    wanted = manifest.bands
    by_name = {c.name.lower(): i for i, c in reversed(list(enumerate(reader.color_interp, 1)))}
    if all(name in by_name and by_name[name] != masking.alpha for name in wanted):
        return tuple(by_name[name] for name in wanted), ()
    usable = [
        i
        for i, c in enumerate(reader.color_interp, 1)
        if (c != ColorInterp.alpha if masking.alpha is None else i != masking.alpha)
    ]
    if len(usable) < len(wanted):
        palette = (
            " (a palette image; expand it with `gdal_translate -expand rgb`)" if reader.colormap() else ""
        )
        more = "".join(f"; {note}" for note in reader.notes)
        raise InputError(
            f"{reader.path} has {len(usable)} usable band{'s' * (len(usable) != 1)}{palette} but the model needs "
            f"{len(wanted)}: {', '.join(wanted)}{more}"
        )
    chosen = tuple(usable[: len(wanted)])
    said = {reader.color_interp[i - 1] for i in usable}
    if len(usable) == len(wanted) and said <= {ColorInterp.gray, ColorInterp.undefined}:
        return chosen, ()  # there is no other choice, and no tag speaks against this one
    listed = ",".join(map(str, chosen))
    note = (
        f"the raster does not tag {', '.join(wanted)}, so bands {listed} are used; choose others with --bands"
    )
    return chosen, (note,)


def _check_dtype(found: set[str], manifest: Manifest, scale: tuple[float, float] | None, path: str) -> None:
    if odd := sorted(d for d in found if d.startswith("complex")):
        raise InputError(f"{path} is stored as {odd[0]}, but a model reads real numbers only")
    if found == {manifest.dtype} or scale is not None:
        return
    raise InputError(
        f"{path} is stored as {', '.join(sorted(found))}, but the model was trained on {manifest.dtype}. Give the "
        f"values that map to 0 and {SCALED_MAX[manifest.dtype]:g} with --scale LOW,HIGH (often 0,1 for floats, "
        "0,3000 for reflectance in integers), the same for every raster of a survey"
    )
