"""FP16 and INT8 artifacts of a bundle, each made, judged, and kept only if it passes.

INT8 goes down a ladder: every worthwhile layer; as few layers left float as measured sensitivity requires; more of
them; none, with a report on the layers that prevent it. The layers are chosen on calibration tiles without
labels, by agreement with fp32; labelled tiles (``--gate``) only judge.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import onnx

from rsedge.errors import InputError, ModelError
from rsedge.model.manifest import Manifest
from rsedge.score.evaluation import find_labelled
from rsedge.score.pairs import find_pairs
from rsedge_export.engines.cross import ask_parser
from rsedge_export.graph.onnx_file import save
from rsedge_export.graph.rewrite import halve_stored_floats, set_opset, to_opset_17
from rsedge_export.precision.calibration import HELD_EVERY, CalibrationTiles, Imagery
from rsedge_export.precision.fp16 import keep_fp32, to_fp16
from rsedge_export.precision.ladder import Rungs, Sensitivity, Stages, no_stages
from rsedge_export.precision.qdq import quantize
from rsedge_export.precision.ranges import calibrate
from rsedge_export.precision.sensitivity import Choice, Progress
from rsedge_export.precision.sites import Join, Site, find_joins, find_sites
from rsedge_export.proof.gate import CALIBRATION, Judged, Limits, Verdict, judge, labelled, unlabelled
from rsedge_train.nets.grids import Histogram, Scale, asymmetric, symmetric

REDUCED = ("fp16", "int8")
TRT8, TRT10 = "int8-trt8", "int8-trt10"
FOR_TENSORRT = ("fp16", TRT8, TRT10)
TRT10_OPSET = 19  # the first opset whose Q/DQ accept fp16
RANGE_TILES = 8  # tiles on which fp16's range is measured


@dataclass(frozen=True)
class Wanted:
    """Requested reduced precisions, and how to judge them."""

    precisions: tuple[str, ...] = REDUCED
    limits: Limits = field(default_factory=Limits)
    gate: Path | None = None  # labelled images; None: agreement on held calibration tiles
    gate_classes: Path | None = None  # TOML table of the labels' colours; None: the model's own
    gate_tiles: int = 32
    force: bool = False  # keep artifacts that fail too

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.precisions) - set(REDUCED)):
            raise InputError(
                f"precision {unknown[0]!r}: unknown. Choose fp16 or int8 (fp32 is always included)"
            )
        if self.gate_tiles < 1:
            raise InputError(f"{self.gate_tiles} tiles for the gate: too few. Give at least 1")
        if self.gate is not None:
            find_pairs(self.gate)  # raises before minutes of work, not after


@dataclass(frozen=True)
class Rung:
    """Result of one step of the ladder."""

    name: str
    precisions: tuple[str, ...]
    passed: bool
    why: tuple[str, ...]
    held_agreement: float | None = None
    layers_left_float: int | None = None


class Variants:
    """Maker and judge of the artifacts of one bundle folder that already holds its fp32 master."""

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        tiles: CalibrationTiles,
        wanted: Wanted,
        publish: Callable[[], None],
        stages: Stages = no_stages,
    ) -> None:
        self._folder, self._manifest, self._tiles = folder, manifest, tiles
        self._wanted, self._publish, self._stages = wanted, publish, stages
        self._master = onnx.load(folder / "model.fp32.onnx")
        self.records: dict[str, dict[str, Any]] = {}  # file name -> entry in the report
        self.ladder: list[Rung] = []

    def make(self) -> None:
        """Write the requested artifacts that pass. Raises ModelError or InputError if data or graph cannot be used."""
        if self._wanted.gate is not None:
            for _ in self._judged()[0]:
                pass  # find an unreadable label before minutes of work
        with self._stages("fp16"):
            kept = keep_fp32(self._master, self._tiles.some(RANGE_TILES))
            half = to_fp16(self._master, kept)
        opset_17 = self._opset_17()
        if "int8" in self._wanted.precisions:
            self._int8(half, opset_17, kept)
        if "fp16" in self._wanted.precisions:
            self._save(half if opset_17 is None else to_opset_17(half), "fp16")
            verdict = self._judge("fp16")
            self.ladder.append(Rung("FP16", ("fp16",), verdict.passed, verdict.reasons))
            self._settle(verdict, {"kept_fp32": kept})

    def _opset_17(self) -> onnx.ModelProto | None:
        """Return the master for TensorRT 8, or None, with a rung saying why, if it needs a newer opset."""
        try:
            return to_opset_17(self._master)
        except ModelError as error:
            self.ladder.append(Rung("opset 17, for TensorRT 8", (TRT8,), False, (str(error),)))
            return None

    def _int8(self, half: onnx.ModelProto, opset_17: onnx.ModelProto | None, kept: dict[str, str]) -> None:
        sites = find_sites(self._master)
        if not sites:
            every = ("int8", "int8-trt8", "int8-trt10")
            self.ladder.append(Rung("INT8", every, False, ("no layer is worth quantizing",)))
            return
        joins = find_joins(self._master, sites)
        histograms = self._calibrate(sites, joins)
        full, base = self._master, opset_17 or self._master

        def cpu(choice: set[str], scales: dict[str, Scale], joined: bool) -> None:
            model = quantize(base, sites, choice, scales, unsigned=True, joins=joins if joined else ())
            halve_stored_floats(model)
            self._save(model, "int8")

        def tensorrt(choice: set[str], scales: dict[str, Scale], _: bool) -> None:
            if opset_17 is not None:
                model = quantize(opset_17, sites, choice, scales, unsigned=False, stored_float=True)
                self._save(model, TRT8)
            typed = quantize(half, sites, choice, scales, unsigned=False)
            set_opset(typed, TRT10_OPSET)
            self._save(typed, TRT10)

        sensitivity = Sensitivity(
            full, sites, {name: symmetric(h) for name, h in histograms.items()}, self._tiles, self._stages
        )
        for unsigned, write, names, joinable in (
            (True, cpu, ("int8",), bool(joins)),
            (False, tensorrt, (TRT8, TRT10) if opset_17 else (TRT10,), False),
        ):
            scale = asymmetric if unsigned else symmetric
            scales = {name: scale(h) for name, h in histograms.items()}
            least = self._wanted.limits.int8_agreement
            rungs = Rungs(full, sites, scales, self._tiles, unsigned, sensitivity, least)
            self._descend(rungs, write, names, kept, joinable)

    def _descend(
        self,
        rungs: Rungs,
        write: Callable[[set[str], dict[str, Scale], bool], None],
        names: tuple[str, ...],
        kept: dict[str, str],
        joinable: bool,
    ) -> None:
        """Go down the ladder for the artifacts ``names``, which share their choice of layers.

        ``joinable``: try each choice first with the sums between its layers in INT8, too.
        """
        last, verdicts = None, list[Verdict]()
        for choice, joined in ((c, j) for c in rungs for j in ((True, False) if joinable else (False,))):
            write(set(choice.int8), rungs.scales, joined)
            verdicts = [self._judge(name) for name in names]
            why = tuple(f"{v.precision}: {reason}" for v in verdicts for reason in v.reasons)
            left = len(choice.left_float)
            rung = "INT8" if not left else f"selective INT8, {left} layers float"
            rung += ", sums between layers float" if joinable and not joined else ""
            self.ladder.append(Rung(rung, names, not why, why, choice.agreement, left))
            last = choice
            if not why:
                break
        else:
            bad = tuple(v.precision for v in verdicts if not v.passed) or names
            self.ladder.append(Rung("INT8 is not possible", bad, False, (rungs.sensitivity.forbidden,)))
            if last is None and self._wanted.force:  # no choice deserved the gate's time
                last = rungs.everything
                write(set(last.int8), rungs.scales, False)
                verdicts = [self._judge(name) for name in names]
        for verdict in verdicts:
            layers = _layers(last) if last else {}
            self._settle(verdict, layers if verdict.precision == "int8" else {**layers, "kept_fp32": kept})

    def _calibrate(self, sites: Sequence[Site], joins: Sequence[Join]) -> dict[str, Histogram]:
        read = [*(site.tensor for site in sites), *(tensor for join in joins for tensor in join.tensors)]
        tensors = list(dict.fromkeys(read))
        found: dict[str, Histogram] = {}
        with self._stages("calibrating") as progress:
            growing = calibrate(self._master, tensors, self._tiles.scaling())
            for done, histograms in enumerate(growing, 1):
                found = histograms
                if progress:
                    progress(done, len(self._tiles) * (HELD_EVERY - 1) // HELD_EVERY)
        return found

    def _judge(self, precision: str) -> Verdict:
        self._publish()
        with self._stages(f"judging {precision}") as progress:
            tiles, what, total = self._judged()
            watched = _watched(tiles, progress, total)
            verdict = judge(self._folder, precision, watched, what, self._wanted.limits)
        return self._asked(verdict) if precision in FOR_TENSORRT else verdict

    def _asked(self, verdict: Verdict) -> Verdict:
        """Return the verdict with what NVIDIA's parser says of the file, if it is installed."""
        said, refused = ask_parser(self._path(verdict.precision))
        return replace(verdict, parser=said, reasons=(*verdict.reasons, *([refused] if refused else [])))

    def _judged(self) -> tuple[Iterator[Judged], str, int]:
        wanted = self._wanted
        if wanted.gate is None:
            total = (len(self._tiles) + HELD_EVERY - 1) // (2 * HELD_EVERY)
            return unlabelled(self._tiles.judging()), CALIBRATION, total
        found = find_labelled(self._manifest, wanted.gate, classes=wanted.gate_classes, allow_missing=True)
        imagery = self._tiles.imagery
        tiles = labelled(
            found.pairs,
            self._manifest,
            found.colors,
            wanted.gate_tiles,
            imagery.bands,
            imagery.scale,
            imagery.masking,
        )
        return tiles, f"labelled tiles of {wanted.gate.name}", wanted.gate_tiles

    def _settle(self, verdict: Verdict, more: dict[str, Any]) -> None:
        """Keep or delete the artifact together with its record."""
        path = self._path(verdict.precision)
        if not verdict.runs or not (verdict.passed or self._wanted.force):
            path.unlink()
            return
        forced = not verdict.passed
        self.records[path.name] = {**asdict(verdict), "passed": verdict.passed, "forced": forced, **more}

    def _save(self, model: onnx.ModelProto, precision: str) -> None:
        save(model, self._manifest, precision, self._path(precision))

    def _path(self, precision: str) -> Path:
        return self._folder / f"model.{precision}.onnx"


def make_variants(
    folder: Path,
    manifest: Manifest,
    imagery: Imagery,
    wanted: Wanted,
    publish: Callable[[], None],
    stages: Stages = no_stages,
) -> dict[str, Any]:
    """Add FP16 and INT8 artifacts to the bundle ``folder`` and return their part of the report.

    ``publish`` writes the folder's manifest, so that the runtime can open the artifacts. Raises InputError or
    ModelError.
    """
    with CalibrationTiles(imagery, manifest) as tiles:
        variants = Variants(folder, manifest, tiles, wanted, publish, stages)
        variants.make()
        return {
            "calibration": tiles.what,
            "artifacts": variants.records,
            "ladder": [asdict(rung) for rung in variants.ladder],
        }


def _layers(choice: Choice) -> dict[str, Any]:
    return {
        "quantized": list(choice.int8),
        "left_float": [
            {
                "layer": d.site.name,
                "op": d.site.op,
                "weights": list(d.site.shape),
                "pixels_changed_alone": d.changed,
                "score_error_alone": d.error,
                "share_of_work": d.site.share,
            }
            for d in choice.left_float
        ],
        "held_agreement": choice.agreement,
        "held_worst_tile": choice.worst_tile,
    }


def _watched(tiles: Iterator[Judged], progress: Progress | None, total: int) -> Iterator[Judged]:
    for done, tile in enumerate(tiles, 1):
        yield tile
        if progress:
            progress(done, total)
