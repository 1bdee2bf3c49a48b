"""The Python API: open a model, segment a raster. The command line uses it."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from pathlib import Path

from rsedge.backends import Backend, open_backend
from rsedge.engine import sliding_window as engine
from rsedge.errors import InputError
from rsedge.infer.assemble import finish
from rsedge.infer.job import RUN_TAG, Job, Runner
from rsedge.infer.journal import Journal, folder_of
from rsedge.infer.options import Options, Result
from rsedge.infer.part_sink import CONFIDENCE, PROBABILITIES
from rsedge.machine import begin_peak, peak_rss_bytes, return_large_arrays
from rsedge.model.bundle import Bundle
from rsedge.model.engines import ENGINE_DEVICES
from rsedge.model.manifest import NODATA
from rsedge.raster import exact_cache
from rsedge.raster.writer import tag_of
from rsedge.version import __version__

LARGE_BYTES = 192 << 20  # of a run; above this, memory matters more than a few page faults


def open_model(
    path: Path | str | None = None,
    device: str = "auto",
    threads: int | None = None,
    precision: str | None = None,
    streams: int | None = None,
) -> Backend:
    """Open a bundle folder or an rsedge ``.onnx`` (None: the default model) on a device.

    ``precision`` None means: fp32 of a bundle, never silently less; the file's own of a lone ONNX file; the existing
    engine's on "tensorrt" and "tensorrt-rtx". On a CPU ``streams`` tiles are in work at once, sharing ``threads``;
    None: as many as `rsedge verify` found fastest here, else one. Masks do not depend on it. `open_fastest` chooses the
    precision, too. Use the result as a context manager; ``backend.bundle.manifest`` describes its input.

    Raises ModelError, BackendError or InputError.
    """
    # A TensorRT engine may lack an ONNX file of its precision.
    bundle = Bundle.open(path, None if device in ENGINE_DEVICES else precision)
    bundle.record()  # reports an edited file now rather than after hours of work
    return open_backend(bundle, device, threads, precision, streams)


def segment(
    model: Backend,
    raster: Path | str,
    out: Path | str,
    options: Options | None = None,
    progress: engine.Progress | None = None,
    runner: Runner | None = None,
) -> Result:
    """Segment ``raster`` into a class mask ``out`` on the same grid.

    The mask is uint8: a class's index in the manifest, 255 where the raster has no data. It is published only when
    complete; until then finished parts are kept in a hidden folder beside it, from which ``Options(resume=True)``
    continues. ``progress`` is called with (windows done, windows in total). ``runner`` computes the parts elsewhere,
    such as ``Cluster("tcp://host:8786").run`` of `rsedge.cluster` on a Dask cluster.

    Raises InputError, BackendError or OutputError; an existing ``out`` is then untouched.
    """
    options, out = options or Options(), Path(out)
    begin = time.perf_counter()
    begin_peak()
    with ExitStack() as stack:
        job = stack.enter_context(Job(model, raster, out, options))
        plan = job.plan()
        if sum(plan.bytes_by_part.values()) > LARGE_BYTES:
            return_large_arrays()
        stack.enter_context(exact_cache(plan.bytes_by_part["GDAL"]))
        journal = stack.enter_context(
            Journal(
                Path(os.path.realpath(out)),
                job.settings(plan),
                options.resume,
                options.overwrite,
                job.own_parts(plan),
            )
        )
        resumed_pixels = sum(area.height * area.width for area in journal.parts)
        started = time.perf_counter()
        stats = job.run(plan, journal, progress, runner)
        ran = time.perf_counter()
        notes = job.notes(journal)
        finished = finish(job, plan, journal)
        journal.remove()
    ended = time.perf_counter()
    seconds = {"prepare": started - begin, **stats.seconds, "write": ended - ran}
    seconds["busy"] = started - begin + stats.busy_s + ended - ran
    grid = job.out_grid
    return Result(
        raster=str(raster),
        out=str(out),
        preview=str(options.preview) if options.preview else None,
        confidence=_name(options.beside(out).get(CONFIDENCE)),
        probabilities=_name(options.beside(out).get(PROBABILITIES)),
        polygons=_name(options.polygons),
        polygon_count=finished.polygon_count,
        summary=_name(options.summary),
        grid=grid.facts(),
        nodata_value=NODATA,
        nodata_pixels=grid.height * grid.width - sum(c.pixels for c in finished.classes),
        classes=finished.classes,
        windows=stats.windows,
        windows_skipped=stats.windows_skipped,
        resumed_pixels=resumed_pixels,
        tile=model.bundle.manifest.tile,
        overlap=options.overlap,
        seam=options.seam,
        bands=job.bands.indexes,
        scale=job.bands.scale,
        seconds={**seconds, "total": ended - begin},
        mpx_per_s=grid.height * grid.width / 1e6 / (ended - begin),
        peak_rss_bytes=peak_rss_bytes(),
        bound_bytes=plan.bound_bytes,
        model=model.bundle.manifest.name,
        model_sha256=model.bundle.sha256,
        precision=model.bundle.precision,
        backend=model.name,
        provider=model.provider,
        streams=model.streams,
        why=model.why or "as asked",
        rsedge_version=__version__,
        notes=(*notes, *finished.notes),
    )


def is_done(model: Backend, raster: Path | str, out: Path | str, options: Options) -> bool:
    """Return True if ``out`` is the finished result of a run with these options.

    Raises InputError if ``out`` is the result of other options, which a resumed run does not replace.
    """
    out = Path(out)
    targets = options.outputs(out).values()
    if folder_of(Path(os.path.realpath(out))).exists() or not all(t.is_file() for t in targets):
        return False
    done = tag_of(out, RUN_TAG)
    if done is None:
        return False
    with Job(model, raster, out, options) as job:
        if done == job.digest():
            return True
    if options.overwrite:
        return False
    raise InputError(
        f"{out} was finished with other settings, raster or model. Leave out --resume to replace it."
    )


def _name(path: Path | str | None) -> str | None:
    return None if path is None else str(path)
