"""The Python API: open a model, segment a raster. The command line stands on this."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rsedge import engine
from rsedge.backends import Backend, open_backend
from rsedge.bundle import Bundle
from rsedge.conditions import usable_cores
from rsedge.engine import Source, Stats, Timed
from rsedge.errors import InputError
from rsedge.journal import Journal, Part, folder_of, settings_of
from rsedge.manifest import NODATA, Manifest
from rsedge.options import ClassArea, Options, Result
from rsedge.plan import Plan, Work, free_bytes, make_plan, of_grid, peak_rss_bytes, return_large_arrays
from rsedge.raster import (
    BandPlan,
    Grid,
    RasterReader,
    check_target,
    exact_cache,
    plan_bands,
)
from rsedge.raster.parts import Finish, Layer, assemble
from rsedge.raster.writer import failure, publish, tag_of
from rsedge.sinks import CONFIDENCE, MASK, PREVIEW, PROBABILITIES, PartSink, Thumbnail, Wanted
from rsedge.tiling import Tiling
from rsedge.version import __version__
from rsedge.window import Window

BLOCKS = "column_blocks"
LARGE_BYTES = 192 << 20  # of a run: from here on memory counts more than a few page faults
RUN_TAG = "RSEDGE_RUN"  # digest of the settings, in the mask
MOST_READ_THREADS = 4  # decode a strip's blocks; more would be ahead of any model


def open_model(
    path: Path | str | None = None,
    device: str = "auto",
    threads: int | None = None,
    precision: str | None = None,
) -> Backend:
    """Open a bundle folder or an rsedge ``.onnx`` (None: the default model) on a device.

    ``precision`` None: a bundle's fp32, never quietly less; a lone file's own; on "tensorrt" that of the
    engine that is there. Use it as a context manager; ``backend.bundle.manifest`` says what it expects.

    Raises ModelError, BackendError or InputError.
    """
    # An engine need not have an ONNX file of its precision beside it.
    bundle = Bundle.open(path, None if device == "tensorrt" else precision)
    bundle.record()  # an edited report is an error now rather than after hours of work
    return open_backend(bundle, device, threads, precision)


def segment(
    model: Backend,
    raster: Path | str,
    out: Path | str,
    options: Options | None = None,
    progress: engine.Progress | None = None,
) -> Result:
    """Segment ``raster`` into a class mask ``out`` on the same grid.

    The mask is uint8: a class's place in the manifest, 255 where the raster holds no data. It appears
    under its name only when whole; what is finished before that is kept in a hidden folder beside it, from which
    ``Options(resume=True)`` goes on. ``progress`` is called with (windows done, windows in all).

    Raises InputError, BackendError or OutputError; whatever stood at ``out`` is then untouched.
    """
    options, out = options or Options(), Path(out)
    begin = time.perf_counter()
    with ExitStack() as stack:
        job = stack.enter_context(Job(model, raster, out, options))
        plan = job.plan()
        if sum(plan.bytes_by_part.values()) > LARGE_BYTES:
            return_large_arrays()
        stack.enter_context(exact_cache(plan.bytes_by_part["GDAL"]))
        journal = stack.enter_context(
            Journal(Path(os.path.realpath(out)), job.settings(plan), options.resume, options.overwrite)
        )
        resumed_pixels = sum(area.height * area.width for area in journal.parts)
        stats = job.run(plan, journal, progress)
        notes = job.notes(journal)
        with Timed(stats, "write"):
            finished = job.finish(plan, journal)
        journal.remove()
    total_s = time.perf_counter() - begin
    grid = job.out_grid
    return Result(
        raster=str(raster),
        out=str(out),
        preview=str(options.preview) if options.preview else None,
        confidence=_name(options.beside(out).get(CONFIDENCE)),
        probabilities=_name(options.beside(out).get(PROBABILITIES)),
        polygons=_name(options.polygons),
        polygon_count=finished.polygon_count,
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
        seconds={**stats.seconds, "total": total_s},
        mpx_per_s=grid.height * grid.width / 1e6 / total_s,
        peak_rss_bytes=peak_rss_bytes(),
        bound_bytes=plan.bound_bytes,
        model=model.bundle.manifest.name,
        model_sha256=model.bundle.sha256,
        precision=model.bundle.precision,
        backend=model.name,
        provider=model.provider,
        why=getattr(model, "why", "as asked"),
        rsedge_version=__version__,
        notes=(*notes, *finished.notes),
    )


@dataclass(frozen=True)
class Finished:
    """What came of the parts."""

    classes: tuple[ClassArea, ...]
    polygon_count: int | None
    notes: tuple[str, ...]


class Job:
    """One raster to be segmented: opened, checked and planned before anything is run.

    A context manager. Raises InputError, BackendError or OutputError as ``segment`` does.
    """

    def __init__(self, model: Backend, raster: Path | str, out: Path, options: Options) -> None:
        self.model, self.raster, self.out, self.options = model, raster, out, options
        self._stack = ExitStack()
        try:
            self.reader = self._stack.enter_context(open_reader(raster, model.bundle.manifest, options))
            self.source_grid: Grid = getattr(self.reader, "source_grid", self.reader.grid)
            check_outputs(self.reader, out, options)
            self.bands, self.tiling = plan_run(self.reader, model.bundle.manifest, options)
            self.inside = _area_of_interest(self.reader.grid, options)
            self.area = of_grid(self.reader.grid) if self.inside is None else self.inside.extent
            if options.polygons:
                self._check_polygons()
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> Job:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def out_grid(self) -> Grid:
        """The grid that is written."""
        if not self.options.crop:
            return self.source_grid
        from rsedge.raster.areas import cropped_grid  # noqa: PLC0415 - wanted seldom

        return cropped_grid(self.reader.grid, self.area)

    def facts(self, plan: Plan) -> dict[str, Any]:
        """What would be done, as plain JSON values."""
        grid, m = self.out_grid, self.model.bundle.manifest
        macs = m.complexity.get("macs_deployed")
        layer_bytes = sum(layer.bands for layer in self.layers()) * self.area.height * self.area.width
        return {
            "raster": str(self.raster),
            "width": self.source_grid.width,
            "height": self.source_grid.height,
            "bands": list(self.bands.indexes),
            "out": str(self.out),
            "out_width": grid.width,
            "out_height": grid.height,
            "model": m.name,
            "precision": self.model.bundle.precision,
            "backend": f"{self.model.name} {self.model.provider}",
            "tile": m.tile,
            "windows": plan.windows,
            "column_blocks": len(plan.blocks),
            "bound_bytes": plan.bound_bytes,
            "bytes_by_part": {"model and libraries": plan.base_bytes, **plan.bytes_by_part},
            "most_disk_bytes": 2 * layer_bytes,
            "free_disk_bytes": free_bytes(self.out.absolute().parent),
            "seconds_guess": plan.windows * plan.tile_s,
            "macs": macs * plan.windows if isinstance(macs, int) else None,
        }

    def layers(self) -> tuple[Layer, ...]:
        """The rasters that are written."""
        classes, layers = (
            self.model.bundle.manifest.classes,
            [Layer(MASK, 1, self.model.bundle.manifest.classes)],
        )
        if self.options.confidence:
            layers.append(Layer(CONFIDENCE, 1, descriptions=("confidence",), unit="percent"))
        if self.options.probabilities:
            names = tuple(c.name for c in classes)
            layers.append(Layer(PROBABILITIES, len(classes), descriptions=names, unit="percent"))
        return tuple(layers)

    def plan(self) -> Plan:
        """Column blocks and memory. Raises InputError where ``max_ram_bytes`` is too little."""
        percent = self.options.confidence or self.options.probabilities
        bands = sum(layer.bands for layer in self.layers())
        # Whether it is cut into columns depends on memory measured just now; a run goes on as it began.
        begun = settings_of(Path(os.path.realpath(self.out))) if self.options.resume else {}
        later_bytes = 0
        if self.options.polygons:
            from rsedge.polygons import MOST_BYTES as later_bytes  # noqa: N811, PLC0415 - wanted seldom
        work = Work(self.reader, self.bands, self.tiling, self.area, self.inside, bands, percent, later_bytes)
        return make_plan(self.model, work, self.options.max_ram_bytes, begun.get(BLOCKS))

    def settings(self, plan: Plan) -> Mapping[str, Any]:
        """What must be the same for a run to go on: all that the result's bytes depend on."""
        o, bundle = self.options, self.model.bundle
        return {
            "rsedge": __version__,
            "raster": self.reader.path,
            "raster_state": identity(self.reader),
            "model_sha256": bundle.sha256,
            "precision": bundle.precision,
            "backend": f"{self.model.name} {self.model.version} {self.model.provider}",
            "overlap": o.overlap,
            "seam": o.seam,
            "bands": self.bands.indexes,
            "scale": self.bands.scale,
            "grid": (self.reader.grid.height, self.reader.grid.width),
            "area": None if self.inside is None else self.inside.digest,
            "crop": o.crop,
            "layers": [layer.name for layer in self.layers()],
            "preview": o.preview is not None,
            BLOCKS: [block.width for block in plan.blocks],
        }

    def run(self, plan: Plan, journal: Journal, progress: engine.Progress | None) -> Stats:
        """Run the model over the parts that the journal does not have."""
        if self.options.dask:
            from rsedge.scale_out import run_on_cluster  # noqa: PLC0415 - stands on this module

            return run_on_cluster(self, plan, journal, progress)
        stats = Stats()
        for parts in plan.parts:
            for missing in runs_of_missing(parts, journal.parts):
                report = _shifted(progress, stats.windows, plan.windows)
                stats.add(self.run_parts(missing, journal.path, journal.add, report))
        return stats

    def run_parts(
        self,
        parts: Sequence[Window],
        path: Callable[[Window, str], Path],
        done: Callable[[Part], None],
        progress: engine.Progress | None = None,
    ) -> Stats:
        """Run the model over parts that follow each other; ``path`` names their files, ``done`` hears of each."""
        thumbnail = self._thumbnail()
        watch = thumbnail.watch if thumbnail else None
        source = Source(self.reader, self.bands, self.tiling, united(parts), self.inside, watch)
        sink = PartSink(parts, self._wanted(path), done, thumbnail)
        percent = self.options.confidence or self.options.probabilities
        return engine.run(self.model, source, [sink], progress, percent)

    def notes(self, journal: Journal) -> tuple[str, ...]:
        """What the user should know. Raises InputError where the declared scale cannot be right."""
        valid_pixels = sum(sum(part.pixels) for part in journal.parts.values())
        try:
            notes = run_notes(self.reader, self.bands, self.model, valid_pixels)
        except InputError:
            journal.remove()  # of the wrong scale: nothing to go on from
            raise
        fine = self._fine()
        if fine is not None:
            notes = (
                f"read at a GSD of {self.reader.grid.gsd_m:.2f} m, the raster's is {fine.gsd_m:.2f} m",
                *notes,
            )
        if not self.source_grid.is_referenced:
            notes = (*notes, "the raster has no CRS: the mask has none either, and areas are unknown")
        return notes

    def finish(self, plan: Plan, journal: Journal) -> Finished:
        """Make the result's files of the parts; the mask takes its name last."""
        classes, o = self.class_areas(journal), self.options
        parts = [journal.parts[area] for block in plan.parts for area in block]
        targets = {MASK: self.out, **o.beside(self.out)}
        whole: dict[str, Path] = {}
        for layer in self.layers():
            whole[layer.name] = journal.folder / f"whole.{layer.name}.tif"
            tags = {**_provenance(self.model, classes), RUN_TAG: digest(self.settings(plan))}
            finish = Finish(o.format, o.compress, tags, self._fine())
            placed = [
                (self._moved(p.area), journal.path(p.area, layer.name), _file(p, layer.name)) for p in parts
            ]
            grid = self.out_grid if finish.fine is None else self.reader.grid
            assemble(whole[layer.name], grid, layer, placed, finish)
        notes, count = self._polygons(whole[MASK])
        if o.preview:
            self._draw(journal, classes)
        for name in reversed(whole):
            try:
                publish(whole[name], Path(os.path.realpath(targets[name])))
            except OSError as error:
                raise failure(targets[name], error) from error
        return Finished(classes, count, notes)

    def class_areas(self, journal: Journal) -> tuple[ClassArea, ...]:
        """Pixels, shares and areas of the classes over all parts."""
        parts = [journal.parts[area] for area in sorted(journal.parts, key=lambda a: (a.col, a.row))]
        infos = self.model.bundle.manifest.classes
        pixels = [sum(part.pixels[k] for part in parts) for k in range(len(infos))]
        total, fine = max(1, sum(pixels)), self._fine()
        growth = (
            1.0
            if fine is None
            else fine.height * fine.width / (self.reader.grid.height * self.reader.grid.width)
        )
        return tuple(
            ClassArea(
                k,
                info.name,
                round(pixels[k] * growth),
                pixels[k] / total,
                None if parts[0].area_m2 is None else sum(p.area_m2[k] for p in parts if p.area_m2),
            )
            for k, info in enumerate(infos)
        )

    def _fine(self) -> Grid | None:
        return self.source_grid if self.source_grid is not self.reader.grid else None

    def _moved(self, area: Window) -> Window:
        if not self.options.crop:
            return area
        return Window(area.row - self.area.row, area.col - self.area.col, area.height, area.width)

    def _wanted(self, path: Callable[[Window, str], Path]) -> Wanted:
        names = tuple(layer.name for layer in self.layers())
        return Wanted(path, names, len(self.model.bundle.manifest.classes), self.reader.grid.row_area_m2())

    def _thumbnail(self) -> Thumbnail | None:
        m = self.model.bundle.manifest
        return Thumbnail(self.reader.grid, len(m.bands), m.dtype) if self.options.preview else None

    def _draw(self, journal: Journal, classes: Sequence[ClassArea]) -> None:
        from rsedge.preview import draw  # noqa: PLC0415 - Pillow is wanted seldom

        thumbnail = self._thumbnail()
        if thumbnail is None or self.options.preview is None:
            return
        for area in journal.parts:
            thumbnail.load(journal.path(area, PREVIEW), area)
        infos = self.model.bundle.manifest.classes
        draw(Path(self.options.preview), thumbnail.picture(), infos, [c.share for c in classes])

    def _check_polygons(self) -> None:
        from rsedge.outlines import Minimum  # noqa: PLC0415
        from rsedge.polygons import check_polygons_possible  # noqa: PLC0415

        o = self.options
        check_polygons_possible(
            Path(str(o.polygons)), self.out_grid, Minimum(o.min_area_m2, o.min_pixels), o.overwrite
        )

    def _polygons(self, mask: Path) -> tuple[tuple[str, ...], int | None]:
        o = self.options
        if o.polygons is None:
            return (), None
        from rsedge.polygons import write_polygons  # noqa: PLC0415

        summary = write_polygons(
            mask,
            Path(o.polygons),
            self.model.bundle.manifest.classes,
            min_area_m2=o.min_area_m2,
            min_pixels=o.min_pixels,
            overwrite=o.overwrite,
        )
        return summary.notes, summary.polygons


def open_reader(raster: Path | str, manifest: Manifest, options: Options) -> RasterReader:
    """The raster, resampled to the model's GSD where that was asked for and is known to differ."""
    reader = RasterReader(raster, threads=read_threads())
    if not options.resample:
        return reader
    try:
        gsd_m, trained = reader.grid.gsd_m, manifest.gsd_m
        if gsd_m is None or trained is None:
            which = "raster" if gsd_m is None else "model"
            raise InputError(f"resample was asked for, but the GSD of the {which} is unknown; leave it out")
    finally:
        reader.__exit__(None, None, None)
    if trained[0] <= gsd_m <= trained[1]:
        return RasterReader(raster, threads=read_threads())
    from rsedge.raster.resample import Resampled  # noqa: PLC0415 - wanted seldom

    wanted_m = trained[0] if gsd_m < trained[0] else trained[1]
    return Resampled(raster, wanted_m / gsd_m, threads=read_threads())


def read_threads() -> int:
    """Threads that decode; on two cores the reader's own does as much, and holds less of the file in memory."""
    return max(1, min(usable_cores() // 2, MOST_READ_THREADS))


def _area_of_interest(grid: Grid, options: Options) -> Any:
    if options.bbox is None and options.aoi is None:
        return None
    from rsedge.aoi import Aoi  # noqa: PLC0415 - wanted seldom

    if options.aoi is not None:
        return Aoi.from_file(Path(options.aoi), grid)
    assert options.bbox is not None
    return Aoi.from_bbox(options.bbox, grid, options.bbox_crs)


def is_done(model: Backend, raster: Path | str, out: Path | str, options: Options) -> bool:
    """Whether ``out`` is what a run with these options has written, so that nothing is left to do."""
    out = Path(out)
    targets = [
        out,
        *options.beside(out).values(),
        *(Path(p) for p in (options.preview, options.polygons) if p),
    ]
    if folder_of(Path(os.path.realpath(out))).exists() or not all(t.is_file() for t in targets):
        return False
    with Job(model, raster, out, options) as job:
        return tag_of(out, RUN_TAG) == digest(job.settings(job.plan()))


def digest(settings: Mapping[str, Any]) -> str:
    """SHA-256 of a run's settings."""
    asked = {k: v for k, v in settings.items() if k != BLOCKS}  # columns change no pixel
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def runs_of_missing(parts: Sequence[Window], there: Mapping[Window, Part]) -> list[list[Window]]:
    """The parts that are not there, those that follow each other together."""
    runs: list[list[Window]] = []
    follows = False
    for part in parts:
        if part not in there:
            if follows:
                runs[-1].append(part)
            else:
                runs.append([part])
        follows = part not in there
    return runs


def united(parts: Sequence[Window]) -> Window:
    """The rectangle of parts that follow each other from the top down."""
    first, last = parts[0], parts[-1]
    return Window(first.row, first.col, last.row_end - first.row, first.width)


def identity(reader: RasterReader) -> str:
    """A digest that changes when the raster does: of what it says of itself, of its files' sizes and times."""
    grid = reader.grid
    facts: list[Any] = [grid.facts(), reader.dtypes, str(reader.nodata)]
    for path in reader.files:
        try:
            state = path.stat()
            facts.append([str(path), state.st_size, state.st_mtime_ns])
        except OSError:
            facts.append(str(path))  # a URL or an archive's member: GDAL's grid and bands must do
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _shifted(progress: engine.Progress | None, done: int, total: int) -> engine.Progress | None:
    return None if progress is None else lambda now, _: progress(done + now, total)


def _file(part: Part, layer: str) -> Any:
    return next(f for f in part.files if f.layer == layer)


def _name(path: Path | str | None) -> str | None:
    return None if path is None else str(path)


def check_outputs(reader: RasterReader, out: Path, options: Options) -> None:
    """Raise InputError where a result cannot be written, or would replace the raster itself or a part of it."""
    rasters = [out, *options.beside(out).values()]
    pictures = [Path(options.preview)] if options.preview else []
    for target in (*rasters, *pictures):
        if target.exists() and any(f.exists() and f.samefile(target) for f in reader.files):
            raise InputError(
                f"{target} is the input raster or a part of it; choose another name for the result"
            )
    for target in rasters:
        check_target(target, options.overwrite)
    for target in pictures:
        check_target(target, suffixes=(".png",))


def _provenance(model: Backend, classes: Sequence[ClassArea]) -> dict[str, str]:
    bundle = model.bundle
    return {
        "RSEDGE_VERSION": __version__,
        "RSEDGE_MODEL": bundle.manifest.name,
        "RSEDGE_MODEL_SHA256": bundle.sha256,
        "RSEDGE_PRECISION": bundle.precision,
        "RSEDGE_BACKEND": f"{model.name} {model.provider}",
        "RSEDGE_CLASS_PIXELS": json.dumps({c.name: c.pixels for c in classes}),
        "TIFFTAG_SOFTWARE": f"rsedge {__version__}",
    }


def plan_run(reader: RasterReader, manifest: Manifest, options: Options) -> tuple[BandPlan, Tiling]:
    """Which bands feed the model and which windows cover the raster. Raises InputError where that cannot be."""
    plan = plan_bands(reader, manifest, options.bands, options.scale)
    grid = reader.grid
    return plan, Tiling.of(grid.height, grid.width, manifest.tile, options.overlap, options.seam)


def run_notes(reader: RasterReader, plan: BandPlan, model: Backend, valid_pixels: int) -> tuple[str, ...]:
    """What the user should know of a run. Raises InputError where the declared scale cannot be right."""
    grid, notes = reader.grid, list(plan.notes)
    if plan.scale is not None and (note := reader.check_scale(plan.scale)):
        notes.append(note)
    if valid_pixels == 0:
        notes.append("the raster holds no valid pixel: the mask is all nodata")
    training = model.bundle.manifest.provenance.get("training")
    if isinstance(training, dict) and training.get("rehearsal"):
        notes.append("the model comes from a rehearsal (--quick): its weights are not meant for use")
    notes += artifact_notes(model)
    gsd_m, trained = grid.gsd_m, model.bundle.manifest.gsd_m
    if gsd_m and trained and not trained[0] * 0.8 <= gsd_m <= trained[1] * 1.25:
        notes.append(
            f"the raster's GSD is {gsd_m:.2f} m, the model was trained at {trained[0]:g} to {trained[1]:g} m: "
            "expect a worse mask; --resample reads it at the model's GSD"
        )
    return tuple(notes)


def artifact_notes(model: Backend) -> tuple[str, ...]:
    """What the user should know of the artifact that runs, and of where it runs."""
    precision, record, notes = model.bundle.precision, model.record, list[str]()
    if record.get("forced") is True or record.get("passed") is False:
        notes.append(
            f"this {precision} artifact did not pass its exporter's check and was kept by force: expect a worse "
            "mask; compare with `rsedge verify`"
        )
    if model.trouble:
        notes.append(f"this {precision} engine was kept by force: {model.trouble}")
    if model.provider == "CPUExecutionProvider" and precision.startswith("int8"):
        notes.append(
            f"{precision} in onnxruntime on a CPU is slower than fp32; where it should be faster, "
            "take --device openvino"
        )
    elif model.provider == "CPUExecutionProvider" and precision == "fp16":
        notes.append(
            "fp16 in onnxruntime on a CPU is computed in fp32 and gains nothing; it is meant for GPUs"
        )
    return tuple(notes)
