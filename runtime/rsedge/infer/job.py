"""One raster to be segmented: opened, checked and planned first, then run part by part."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

from rsedge.backends import Backend
from rsedge.engine import sliding_window as engine
from rsedge.engine.sliding_window import Inside, Source
from rsedge.engine.stages import Stats
from rsedge.errors import BusyError, InputError
from rsedge.infer.inputs import area_of_interest, check_outputs, open_reader, plan_run, run_notes
from rsedge.infer.journal import Journal, Part, settings_of
from rsedge.infer.memory_plan import Plan, Work, free_bytes, make_plan, time_tile
from rsedge.infer.options import Options
from rsedge.infer.part_sink import CONFIDENCE, MASK, PREVIEW, PROBABILITIES, PartSink, Thumbnail, Wanted
from rsedge.machine import return_freed_memory
from rsedge.raster import Grid, RasterReader
from rsedge.raster.cells import Cells
from rsedge.raster.look import look
from rsedge.raster.parts import Layer, of_grid
from rsedge.raster.scaling import check_scale
from rsedge.raster.writer import BLOCK
from rsedge.tiling.window import Window
from rsedge.version import __version__

BLOCKS = "column_blocks"
RUN_TAG = "RSEDGE_RUN"  # digest of the settings, in the mask
# Computes the parts that the journal of a job lacks and reports the windows done.
Runner: TypeAlias = "Callable[[Job, Plan, Journal, engine.Progress | None], Stats]"


class Job:
    """One raster to be segmented, opened and checked before anything runs.

    A context manager. Raises InputError, BackendError or OutputError as ``segment`` does.
    """

    def __init__(self, model: Backend, raster: Path | str, out: Path, options: Options) -> None:
        self.model, self.raster, self.out, self.options = model, raster, out, options
        self._stack = ExitStack()
        try:
            self.reader = self._stack.enter_context(open_reader(raster, model.bundle.manifest, options))
            self._raster_state = identity(self.reader)
            self.source_grid: Grid = getattr(self.reader, "source_grid", self.reader.grid)
            check_outputs(self.reader, out, options)
            self.bands, self.tiling = plan_run(self.reader, model.bundle.manifest, options)
            self.inside = area_of_interest(self.reader.grid, options)
            self.area = of_grid(self.reader.grid) if self.inside is None else self.inside.extent
            if options.polygons:
                self._check_polygons()
            self.cells = self._cells()
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> Job:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @cached_property
    def scale_note(self) -> str | None:
        """Return a note if a sample of the raster hardly fits the scale. Raises InputError if it cannot fit."""
        return check_scale(self.reader, self.bands)

    @property
    def out_grid(self) -> Grid:
        """Return the grid of the result."""
        if not self.options.crop:
            return self.source_grid
        from rsedge.raster.areas import cropped_grid  # noqa: PLC0415 - seldom needed

        return cropped_grid(self.reader.grid, self.area)

    def facts(self, plan: Plan) -> dict[str, Any]:
        """Return the dry run's facts as plain JSON values."""
        grid, m = self.out_grid, self.model.bundle.manifest
        macs = m.complexity.get("macs_deployed")
        layer_bytes = sum(layer.bands for layer in self.layers()) * grid.height * grid.width
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
            "streams": self.model.streams,
            "why": self.model.why or "as asked",
            "tile": m.tile,
            "windows": plan.windows,
            "column_blocks": len(plan.blocks),
            "bound_bytes": plan.bound_bytes,
            "bytes_by_part": {"model and libraries": plan.base_bytes, **plan.bytes_by_part},
            "most_disk_bytes": 2 * layer_bytes,
            "free_disk_bytes": free_bytes(self.out.absolute().parent),
            "seconds_guess": plan.windows * time_tile(self.model),
            "macs": macs * plan.windows if isinstance(macs, int) else None,
        }

    def layers(self) -> tuple[Layer, ...]:
        """Return the rasters to write."""
        classes = self.model.bundle.manifest.classes
        layers = [Layer(MASK, 1, classes)]
        if self.options.confidence:
            layers.append(Layer(CONFIDENCE, 1, descriptions=("confidence",), unit="percent"))
        if self.options.probabilities:
            names = tuple(c.name for c in classes)
            layers.append(Layer(PROBABILITIES, len(classes), descriptions=names, unit="percent"))
        return tuple(layers)

    def plan(self) -> Plan:
        """Plan column blocks and memory. Raises InputError if the memory is too little or the scale wrong."""
        percent = self.options.confidence or self.options.probabilities
        bands = sum(layer.bands for layer in self.layers())
        # A resumed run keeps its blocks, because the free memory that decided on them may have changed.
        begun = settings_of(Path(os.path.realpath(self.out))) if self.options.resume else {}
        later_bytes = 0
        if self.options.polygons:
            from rsedge.vector.polygons import MOST_BYTES as later_bytes  # noqa: N811, PLC0415 - seldom needed
        work = Work(self.reader, self.bands, self.tiling, self.area, self.inside, bands, percent, later_bytes)
        widths = begun.get(BLOCKS)
        fit = (
            isinstance(widths, list)
            and all(type(w) is int and w > 0 for w in widths)
            # As plans are made, because blocks one pixel wide would take for ever.
            and all(w % BLOCK == 0 for w in widths[:-1])
            and sum(widths) == self.area.width
        )
        plan = make_plan(self.model, work, self.options.max_ram_bytes, widths if fit else None)
        _ = self.scale_note  # raises before hours of work, but after the plan has found enough memory
        return_freed_memory()  # because another thread could not use it
        return plan

    def settings(self, plan: Plan) -> Mapping[str, Any]:
        """Return the settings that must be equal for a run to be resumed."""
        return {**self._asked(), BLOCKS: [block.width for block in plan.blocks]}

    def own_parts(self, plan: Plan) -> Callable[[Part], bool]:
        """Return a function that tells this run's parts by place, layers, classes and areas."""
        places = {area for block in plan.parts for area in block}
        layers = {layer.name for layer in self.layers()} | ({PREVIEW} if self.options.preview else set())
        classes, known = len(self.model.bundle.manifest.classes), self.reader.grid.pixel_areas() is not None

        def fits(part: Part) -> bool:
            return (
                part.area in places
                and {file.layer for file in part.files} == layers
                and len(part.pixels) == classes
                and (part.area_m2 is not None) == known
            )

        return fits

    def _asked(self) -> dict[str, Any]:
        """Return everything that the result's pixels depend on."""
        o, bundle = self.options, self.model.bundle
        return {
            "rsedge": __version__,
            "raster": absolute(self.reader.path),
            "raster_state": self._raster_state,
            "model_sha256": bundle.sha256,
            "precision": bundle.precision,
            "backend": f"{self.model.name} {self.model.version} {self.model.provider}",
            "overlap": o.overlap,
            "seam": o.seam,
            "bands": self.bands.indexes,
            "scale": self.bands.scale,
            "nodata": self.bands.nodata,
            "alphas": self.bands.alphas,
            "grid": (self.reader.grid.height, self.reader.grid.width),
            "area": None if self.inside is None else self.inside.digest,
            "crop": o.crop,
            "layers": [layer.name for layer in self.layers()],
            "preview": o.preview is not None,
        }

    def digest(self) -> str:
        """Return the SHA-256 of the requested result, regardless of its column blocks."""
        o = self.options
        # Made of the finished pixels: parts of a run stay valid if these change.
        made = [o.format, o.compress, o.polygons is not None, o.min_area_m2, o.min_pixels]
        made += [o.summary is not None, o.summary_cell]
        return hashlib.sha256(json.dumps([self._asked(), made], sort_keys=True).encode()).hexdigest()

    def run(
        self,
        plan: Plan,
        journal: Journal,
        progress: engine.Progress | None,
        runner: Runner | None = None,
    ) -> Stats:
        """Run the model over the parts that the journal lacks, or have ``runner`` do it.

        Raises BusyError if the raster changed during the run.
        """
        try:
            stats = (runner or run_here)(self, plan, journal, progress)
        except InputError as error:
            self.check_unchanged(error)  # damaged, or still being written
            raise
        self.check_unchanged()
        return stats

    def check_unchanged(self, cause: Exception | None = None) -> None:
        """Raise BusyError if the raster changed after it was opened."""
        if identity(self.reader) != self._raster_state:
            raise BusyError(
                f"{self.raster} changed or disappeared while it was read; nothing was written. Run again when the "
                "file is complete."
            ) from cause

    def run_parts(
        self,
        parts: Sequence[Window],
        path: Callable[[Window, str], Path],
        done: Callable[[Part], None],
        progress: engine.Progress | None = None,
    ) -> Stats:
        """Run the model over consecutive parts; ``path`` names their files, ``done`` receives each part."""
        thumbnail = self.thumbnail()
        watch = thumbnail.watch if thumbnail else None
        source = Source(self.reader, self.bands, self.tiling, united(parts), self.inside, watch)
        sink = PartSink(parts, self._wanted(path), done, thumbnail)
        percent = self.options.confidence or self.options.probabilities
        return engine.run(self.model, source, [sink], progress, percent)

    def raster_notes(self) -> tuple[str, ...]:
        """Return notes on the raster and how it is read, before it is read."""
        scale = (self.scale_note,) if self.scale_note else ()
        return (*self.bands.notes, *look(self.reader, self.bands), *scale)

    def notes(self, journal: Journal) -> tuple[str, ...]:
        """Return the notes of a finished run."""
        return_freed_memory()  # of the reader's thread, before this thread decodes
        valid_pixels = sum(sum(part.pixels) for part in journal.parts.values())
        notes = (
            *run_notes(self.reader, self.bands, self.model, valid_pixels, may_resample=True),
            *look(self.reader, self.bands),
        )
        if self.scale_note:
            notes = (*notes, self.scale_note)
        fine = self.fine
        if fine is not None:
            notes = (
                f"read at a GSD of {self.reader.grid.gsd_m:.2f} m instead of the raster's {fine.gsd_m:.2f} m",
                *notes,
            )
        if not self.source_grid.is_referenced:
            notes = (*notes, "the raster has no CRS, so the mask has none and areas are unknown")
        elif self.source_grid.pixel_areas() is None:
            notes = (*notes, f"areas are unknown: the raster {self.source_grid.why_no_areas}")
        if self.cells is not None and self.cells.note:
            notes = (*notes, f"summary: {self.cells.note}")
        return notes

    @property
    def fine(self) -> Grid | None:
        """Return the source grid if the raster is read on another grid, else None."""
        return self.source_grid if self.source_grid is not self.reader.grid else None

    def fine_inside(self) -> Inside | None:
        """Return the pixels of `fine` to keep; None for all."""
        if self.fine is None or self.inside is None:
            return None
        return area_of_interest(self.source_grid, self.options)  # type: ignore[no-any-return]

    def moved(self, area: Window) -> Window:
        """Return the position of a part in the result."""
        if not self.options.crop:
            return area
        return Window(area.row - self.area.row, area.col - self.area.col, area.height, area.width)

    def _wanted(self, path: Callable[[Window, str], Path]) -> Wanted:
        names = tuple(layer.name for layer in self.layers())
        return Wanted(path, names, len(self.model.bundle.manifest.classes), self.reader.grid.pixel_areas())

    def thumbnail(self) -> Thumbnail | None:
        """Return an empty thumbnail if a preview is requested."""
        m = self.model.bundle.manifest
        return Thumbnail(self.reader.grid, len(m.bands), m.dtype) if self.options.preview else None

    def _cells(self) -> Cells | None:
        """Return the cells of a summary, if one is requested. Raises InputError if it would be too large."""
        if self.options.summary is None:
            return None
        from rsedge.infer.summary import most_cells  # noqa: PLC0415 - seldom needed
        from rsedge.raster.cells import cells_of  # noqa: PLC0415

        most = most_cells(len(self.model.bundle.manifest.classes))
        return cells_of(self.out_grid, self.options.cell_side, most)

    def _check_polygons(self) -> None:
        from rsedge.vector.outlines import Minimum  # noqa: PLC0415
        from rsedge.vector.polygons import check_polygons_possible  # noqa: PLC0415

        o = self.options
        if self.reader.misplaced:
            raise InputError(
                f"{self.reader.misplaced[0]}, and polygons need map coordinates. Leave --polygons out, or "
                "georeference the raster with `gdal_edit.py -a_ullr`."
            )
        check_polygons_possible(
            Path(str(o.polygons)), self.out_grid, Minimum(o.min_area_m2, o.min_pixels), o.overwrite
        )


def run_here(job: Job, plan: Plan, journal: Journal, progress: engine.Progress | None = None) -> Stats:
    """Compute the parts that the journal lacks in this process: the default runner."""
    stats = Stats()
    for parts in plan.parts:
        for missing in runs_of_missing(parts, journal.parts):
            report = _shifted(progress, stats.windows, plan.windows)
            stats.add(job.run_parts(missing, journal.path, journal.add, report))
    return stats


def runs_of_missing(parts: Sequence[Window], there: Mapping[Window, Part]) -> list[list[Window]]:
    """Return the parts missing from ``there``, consecutive ones together."""
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
    """Return the rectangle that covers consecutive parts, given from the top down."""
    first, last = parts[0], parts[-1]
    return Window(first.row, first.col, last.row_end - first.row, first.width)


def identity(reader: RasterReader) -> str:
    """Return a hash of the raster's grid, bands, file sizes and modification times."""
    grid = reader.grid
    facts: list[Any] = [grid.facts(), reader.dtypes, str(reader.nodata)]
    for path in reader.files:
        if path.name.endswith(".aux.xml"):
            continue  # QGIS writes statistics into it; its grid and nodata values are in ``facts``
        try:
            state = path.stat()
            # Not the inode: on some file systems it changes with each mount, and a run could not be resumed.
            facts.append([absolute(str(path)), state.st_size, state.st_mtime_ns, state.st_ctime_ns])
        except OSError:
            facts.append(str(path))  # a URL or archive member: GDAL's grid and bands must do
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def absolute(path: str) -> str:
    """Return the absolute path of a file; a name that only GDAL understands (URL, /vsi...) is unchanged."""
    return os.path.abspath(path) if os.path.exists(path) else path


def _shifted(progress: engine.Progress | None, done: int, total: int) -> engine.Progress | None:
    return None if progress is None else lambda now, _: progress(done + now, total)
