"""Assembly of a bundle around its fp32 master: reduced precisions, report, manifest."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from rsedge.machine import cpu_name
from rsedge.model.bundle import REPORT_NAME, write_bundle_manifest
from rsedge.model.manifest import Manifest
from rsedge.raster.band_plan import AS_TAGGED, Masking
from rsedge.version import __version__
from rsedge_export.bundle.folder import check_out, replaced_when_whole
from rsedge_export.engines.cross import ask_parser
from rsedge_export.precision.calibration import (
    LEAST_TILES,
    CalibrationTiles,
    Imagery,
    TooFewTilesError,
    imagery_of,
)
from rsedge_export.precision.ladder import Stages, no_stages
from rsedge_export.precision.variants import Wanted, make_variants
from rsedge_train.run.folder import Run

ARTIFACT = "model.fp32.onnx"
NO_IMAGERY = (
    "INT8 was skipped: the model's training images were not found on this machine; name similar images "
    "with --calibration"
)
NO_SAMPLES = (
    "FP16 was skipped: it is measured on sample scenes, which are 8-bit RGB; name imagery with --calibration"
)


@dataclass(frozen=True)
class Calibration:
    """Imagery for the reduced precisions: rasters, folders or "samples"; if empty, the run's training data."""

    paths: tuple[str, ...] = ()
    tiles: int = 64
    bands: tuple[int, ...] | None = None  # 1-based
    scale: tuple[float, float] | None = None
    masking: Masking = AS_TAGGED


@dataclass(frozen=True)
class Plan:
    """Destination of a bundle, its reduced precisions and their calibration."""

    out: Path
    wanted: Wanted = field(default_factory=Wanted)
    calibration: Calibration = field(default_factory=Calibration)
    stages: Stages = no_stages

    def __post_init__(self) -> None:
        check_out(self.out)

    def imagery(self, run: Run | None) -> Imagery | None:
        """Return the calibration imagery, before any work. Raises InputError if it cannot be used."""
        c = self.calibration
        return (
            imagery_of(c.paths, run, c.tiles, c.bands, c.scale, c.masking) if self.wanted.precisions else None
        )


def assemble(
    plan: Plan,
    manifest: Manifest,
    imagery: Imagery | None,
    write_master: Callable[[Path], Mapping[str, Any]],
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """Build the bundle, move it into place once complete, and return what was written.

    ``write_master`` puts ARTIFACT into the given folder and returns its part of the report. ``notes``: further
    notes for the report.
    """
    _check(plan, manifest, imagery)
    with replaced_when_whole(plan.out) as folder:
        with plan.stages("fp32"):
            master = write_master(folder)
        report = _reduce(folder, manifest, imagery, plan)
        report["notes"] += notes
        # Only artifacts that passed their proof get this far.
        said, _ = ask_parser(folder / ARTIFACT)
        facts = {"precision": "fp32", "passed": True, "forced": False, "parser": said, **master}
        report["artifacts"][ARTIFACT] = facts
        (folder / REPORT_NAME).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        write_bundle_manifest(folder, manifest)
    out = plan.out
    return {
        "out": str(out),
        "name": manifest.name,
        "tile": manifest.tile,
        "artifacts": {p.name: p.stat().st_size for p in sorted(out.glob("*.onnx"))},
        "size_bytes": sum(p.stat().st_size for p in out.rglob("*") if p.is_file()),
        "complexity": dict(manifest.complexity),
        "report": report,
    }


def _check(plan: Plan, manifest: Manifest, imagery: Imagery | None) -> None:
    """Raise InputError before minutes of work if imagery named by the user cannot be used."""
    if imagery is not None and plan.calibration.paths:
        with CalibrationTiles(imagery, manifest):
            pass


def _reduce(folder: Path, manifest: Manifest, imagery: Imagery | None, plan: Plan) -> dict[str, Any]:
    """Write the reduced precisions and return their report."""
    wanted, notes = plan.wanted, list[str]()
    made: dict[str, Any] = {"calibration": None, "artifacts": {}, "ladder": []}
    write_bundle_manifest(
        folder, manifest
    )  # the runtime needs the manifest to open the artifacts being judged

    def make() -> dict[str, Any]:
        if not wanted.precisions or imagery is None:
            return made
        publish = functools.partial(write_bundle_manifest, folder, manifest)
        return make_variants(folder, manifest, imagery, wanted, publish, plan.stages)

    try:
        made, why = make(), NO_IMAGERY
    except TooFewTilesError as error:
        if plan.calibration.paths:
            raise  # explicitly requested
        imagery, why = None, f"INT8 was skipped: {error}"
    if imagery is None and wanted.precisions:
        notes += [why] * ("int8" in wanted.precisions)
        wanted = replace(wanted, precisions=tuple(p for p in wanted.precisions if p != "int8"))
        if manifest.takes_rgb8:
            imagery = Imagery((), LEAST_TILES, LEAST_TILES)
        else:
            notes += [NO_SAMPLES] * bool(wanted.precisions)
        made = make()
    return {
        "rsedge": __version__,
        "made_on": {"cpu": cpu_name(), "date": datetime.now(timezone.utc).isoformat(timespec="seconds")},
        "limits": asdict(wanted.limits),
        **made,
        "notes": notes,
    }
