"""Map of where on a raster two models agree, as a GeoTIFF."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from rsedge.backends import Backend
from rsedge.engine import sliding_window as engine
from rsedge.engine.sliding_window import Strip
from rsedge.infer.inputs import check_outputs, plan_run
from rsedge.infer.options import Options
from rsedge.infer.segmentation import segment
from rsedge.model.manifest import NODATA, ClassInfo
from rsedge.raster import RasterReader, RasterWriter, bounded_cache, check_target
from rsedge.tiling.window import Window
from rsedge.version import __version__

CLASSES = (ClassInfo("disagree", (215, 48, 39)), ClassInfo("agree", (230, 230, 230)))  # values 0 and 1


@dataclass(frozen=True)
class AgreementMap:
    """A written map: uint8 on the raster's grid, 1 agree, 0 disagree, 255 nodata."""

    out: str
    candidate: str
    pixels: int  # with data
    agreement: float | None  # share of those pixels with the same class; None without pixels


class _AgreementSink:
    """Consumer that compares strips with an existing mask and writes where they agree."""

    def __init__(self, writer: RasterWriter, mask: RasterReader) -> None:
        self._writer, self._mask = writer, mask
        self.pixels = self.same = 0

    def take(self, strip: Strip) -> None:
        """Compare and append the strip's rows."""
        rows, width = strip.mask.shape
        expected = self._mask.read_raw(Window(strip.row, 0, rows, width))[0]
        answer = (expected == strip.mask).astype(np.uint8)
        answer[expected == NODATA] = NODATA
        self.pixels += int(np.count_nonzero(answer != NODATA))
        self.same += int(np.count_nonzero(answer == 1))
        self._writer.write(answer[None])


def map_agreement(
    reference: Backend,
    candidate: Backend,
    raster: Path | str,
    out: Path | str,
    options: Options,
    progress: engine.Progress | None = None,
) -> AgreementMap:
    """Segment all of ``raster`` with both models and write to ``out`` where their masks agree.

    The reference's mask is kept in a temporary folder beside ``out``, so memory is as for ``infer``. Raises
    InputError, BackendError or OutputError; an existing ``out`` is then untouched.
    """
    out, options = Path(out), replace(options, format="gtiff", preview=None)
    name = f"{candidate.bundle.precision} {candidate.provider}"
    tags = {
        "RSEDGE_VERSION": __version__,
        "RSEDGE_MODEL": reference.bundle.manifest.name,
        "RSEDGE_AGREEMENT": f"{name} with {reference.bundle.precision} {reference.provider}",
        "TIFFTAG_SOFTWARE": f"rsedge {__version__}",
    }
    with RasterReader(raster) as reader:
        check_target(out, options.overwrite)
        check_outputs(reader, out, options)
        plan, tiling = plan_run(reader, candidate.bundle.manifest, options)
        with TemporaryDirectory(prefix=".rsedge-verify-", dir=out.absolute().parent) as folder:
            mask = Path(folder) / "reference.tif"
            segment(reference, raster, mask, options, progress)
            with (
                RasterReader(mask) as expected,
                bounded_cache(reader.row_of_blocks_bytes + 2 * RasterWriter.row_of_blocks_bytes(reader.grid)),
                RasterWriter(out, reader.grid, 1, CLASSES, tags, options.overwrite) as writer,
            ):
                sink = _AgreementSink(writer, expected)
                engine.run(candidate, engine.Source(reader, plan, tiling), [sink], progress)
    return AgreementMap(str(out), name, sink.pixels, sink.same / sink.pixels if sink.pixels else None)
