"""The ``rsedge export`` command."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rsedge.cli import common, flags
from rsedge.cli.export_options import ALL, RUN, ExportOptions
from rsedge.cli.settings import with_options
from rsedge.errors import InputError, ModelError, RsedgeError
from rsedge.model.engines import PlanFacts


@with_options(ExportOptions)
def export(asked: ExportOptions, given: frozenset[str]) -> None:
    """Turn a trained network into a bundle that runs without torch, every precision tested; or build an engine."""
    told: dict[str, Any] = {}
    bundle = asked.bundle
    if asked.targets is not None and not asked.trt:
        raise InputError(f"--for {asked.targets} is what --trt builds engines for; add --trt")
    if bundle is not None and not asked.trt:
        raise InputError(f"--bundle {bundle} is what --trt builds an engine from; add --trt")
    if asked.trt and bundle is None and asked.onnx is None and asked.run is None and not RUN.exists():
        bundle = common.own_default(common.OWN_MODEL, "--bundle")  # an edge device has no run
    if bundle is None:
        told = _bundle(asked)
        if not asked.quiet:
            _show(told)
        _say_notes(told, asked.quiet)
    if asked.targets is not None:
        told["engines"] = _cross(bundle or asked.out, asked.targets, asked, is_new=bundle is None)
    elif asked.trt:
        told["engine"] = _engine(bundle or asked.out, asked.precision, asked.force, asked.quiet)
    if asked.as_json:
        common.say_json(told)


def _bundle(asked: ExportOptions) -> dict[str, Any]:
    """Make the bundle of a run or of an ONNX file; return its facts."""
    with common.needs_extra("export"):
        from rsedge.raster.band_plan import Masking
        from rsedge_export.bundle.assemble import Calibration, Plan
        from rsedge_export.bundle.build import adopt_bundle, build_bundle
        from rsedge_export.precision.variants import Wanted
        from rsedge_export.proof.gate import Limits

        wanted = Wanted(
            precisions=tuple(p for p in _precisions(asked.precision) if p != "fp32"),
            limits=Limits(miou_drop=asked.max_miou_drop, class_drop=asked.max_class_drop),
            gate=asked.gate,
            gate_classes=asked.classes,
            gate_tiles=asked.gate_tiles,
            force=asked.force,
        )
        calibration = Calibration(
            tuple(asked.calibration or ()),
            asked.calibration_tiles,
            flags.parse_bands(asked.bands),
            flags.parse_scale(asked.scale),
            Masking(flags.parse_nodata(asked.nodata), flags.parse_alpha(asked.alpha)),
        )
        progress = functools.partial(common.progress_bar, quiet=asked.quiet)
        plan = Plan(asked.out, wanted, calibration, progress)
        if asked.onnx is not None:
            return dict(adopt_bundle(asked.onnx, _foreign(asked), plan))
        run = asked.run or common.own_default(RUN, "--run")
        return dict(build_bundle(run, plan, name=asked.name, weights=asked.weights))


def _precisions(text: str | None) -> list[str]:
    return [part.strip() for part in (text or ALL).split(",")]


def _foreign(asked: ExportOptions) -> Any:
    from rsedge.score.labels import ClassTable, unpack_color
    from rsedge_export.graph.foreign import ForeignFacts

    if asked.classes is None or asked.mean is None or asked.std is None:
        raise InputError(
            "an ONNX file does not say its classes and preprocessing; give --classes FILE, --mean M,M,M and "
            "--std S,S,S (of values / --max-value)"
        )
    table = ClassTable.read(asked.classes)
    return ForeignFacts(
        classes=table.classes,
        mean=_numbers("--mean", asked.mean),
        std=_numbers("--std", asked.std),
        max_value=asked.max_value,
        bands=tuple(part.strip() for part in asked.band_names.split(",")),
        gsd_m=_pair("--gsd", asked.gsd),
        name=asked.name,
        tile=asked.tile,
        output=asked.output,
        unlabelled=tuple(map(unpack_color, sorted(table.ignore))),
    )


def _numbers(option: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"{option} {text!r} is not a list of numbers such as 0.485,0.456,0.406") from None


def _pair(option: str, text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    values = _numbers(option, text)
    if len(values) != 2:
        raise InputError(f"{option} {text!r} is not two numbers such as 0.25,1")
    return values[0], values[1]


def _engine(path: Path, precision: str | None, force: bool, quiet: bool) -> dict[str, Any]:
    """Build an engine into the bundle; return its facts for ``--json``."""
    from dataclasses import asdict

    from rsedge.model.bundle import Bundle
    from rsedge.model.engines import plan_path
    from rsedge_export.engines.build import TrtOptions, build_engine

    if not path.exists():
        raise ModelError(f"{path} not found; copy a bundle to it, or name one with --bundle")
    named = _precisions(precision)
    wanted, why = named[0] if len(named) == 1 else "fp16", Bundle.open(path).why_not("int8-trt")
    if wanted == "int8" and why:
        common.note(f"{path} has no INT8 for TensorRT ({why}): building FP16", quiet)
        wanted = "fp16"
    try:
        with common.progress_bar("building the engine", quiet) as progress:
            facts = build_engine(path, wanted, TrtOptions(force=force), progress)
    except RsedgeError as error:
        # The bundle is valid without the engine, so it can be copied to the device.
        again = f"on the device: rsedge export --trt --bundle {path}"
        raise type(error)(f"{error}. The bundle {path} stays as it is; build the engine {again}") from error
    if facts.problem:
        common.note(f"kept by force: {facts.problem}", quiet)
    if not quiet:
        layers = ", ".join(f"{count} {kind}" for kind, count in facts.convolutions.items())
        common.say(f"engine     {plan_path(path, facts)}, {facts.size_bytes / 1e6:.1f} MB")
        common.say(f"for        {facts.device.name}, SM {facts.device.sm}, TensorRT {facts.device.tensorrt}")
        common.say(f"layers     convolutions by the engine's own account: {layers}")
        common.say(f"use it     rsedge infer RASTER --out MASK --model {path} --device tensorrt")
    return asdict(facts)


def _cross(path: Path, targets: str, asked: ExportOptions, is_new: bool) -> list[dict[str, Any]]:
    """Build engines of TensorRT for RTX into the bundle; return their facts for ``--json``."""
    from dataclasses import asdict

    from rsedge_export.engines.build import TrtOptions
    from rsedge_export.engines.cross import cross_compile, note_in_report

    if not path.exists():
        raise ModelError(f"{path} not found; copy a bundle to it, or name one with --bundle")
    precisions = _precisions(asked.precision) if asked.precision else ["fp16"]
    with common.progress_bar("building engines", asked.quiet) as progress:
        built, advice = cross_compile(path, targets, precisions, TrtOptions(force=asked.force), progress)
    if is_new:
        note_in_report(path, built)
    for facts in built:
        if facts.problem:
            common.note(f"{facts.file} kept by force: {facts.problem}", asked.quiet)
    if not asked.quiet:
        common.say(
            f"engines    {path}/engines, built by TensorRT-RTX {built[0].device.tensorrt} for GPUs, not on one"
        )
        _show_engines(built)
        for found in advice:
            common.say(f"for sm{found.sm:7} --precision {found.precision}: {found.why} (not a speed)")
        common.say(f"use it     rsedge infer RASTER --out MASK --model {path} --device tensorrt-rtx")
    return [asdict(facts) for facts in built]


def _show_engines(built: Sequence[PlanFacts]) -> None:
    common.say(f"{'engine':32} {'MB':>6} {'kernels':>7} {'MB a tile':>9}  {'at least':24} convolutions")
    for facts in built:
        moved, convolutions = (
            facts.traffic,
            ", ".join(f"{n} {kind}" for kind, n in facts.convolutions.items()),
        )
        if moved is not None:
            least = f"{moved.least_ms:.2f} ms on {moved.on}" if moved.least_ms is not None else "-"
            common.say(
                f"{facts.file:32} {facts.size_bytes / 1e6:6.1f} {moved.kernels:7} {moved.moved_bytes / 1e6:9.0f}  "
                f"{least:24} {convolutions}"
            )


def _said(rung: Mapping[str, Any]) -> str:
    """Describe a failed attempt, with its precisions: others of the same name may have passed."""
    if rung["name"].endswith("not possible"):
        return f"{rung['name']} for {', '.join(rung['precisions'])}"
    return f"{rung['name']} did not pass"


def _say_notes(told: Mapping[str, Any], quiet: bool) -> None:
    report = told["report"]
    notes = list(report["notes"])
    failed = (rung for rung in report["ladder"] if not rung["passed"])
    notes += [f"{_said(rung)}: {'; '.join(rung['why'])}" for rung in failed]
    if told["rehearsal"]:
        notes.append("this is a rehearsal: its weights show that the commands work, not what a model can do")
    for note in notes:
        common.note(note, quiet)


def _show(told: Mapping[str, Any]) -> None:
    counts, tile, report = told["complexity"], told["tile"], told["report"]
    common.say(f"bundle     {told['out']}, {told['size_bytes'] / 1e6:.1f} MB on disk")
    common.say(f"model      {told['name']}: {told['network']}")
    common.say(f"weights    {told['weights']}")
    deployed = f", {counts['params_deployed'] / 1e6:.3f} M as exported"
    common.say(f"params     {counts['params'] / 1e6:.3f} M{deployed}")
    if "macs" in counts:
        deployed = f", {counts['macs_deployed'] / 1e9:.2f} G as exported"
        common.say(f"MACs       {counts['macs'] / 1e9:.2f} G a {tile} px tile{deployed}")
    if teacher := counts.get("teacher"):
        common.say(
            f"teacher    {teacher['network']}: {teacher['params'] / 1e6:.3f} M parameters, "
            f"{teacher['macs'] / 1e9:.2f} G MACs"
        )
    fp32 = report["artifacts"]["model.fp32.onnx"]
    if "argmax_agreement" in fp32:
        common.say(
            f"fp32       equals torch on {fp32['tiles']} sample tiles: {fp32['argmax_agreement']:.3%} of the pixels, "
            f"largest error {fp32['worst_error']:.1e} of the scores' range"
        )
    _show_gate(told)
    common.say(f"use it     rsedge infer RASTER --out MASK --model {told['out']}")


def _show_gate(told: Mapping[str, Any]) -> None:
    """Print the reduced precisions compared with fp32."""
    records = {k: r for k, r in told["report"]["artifacts"].items() if r["precision"] != "fp32"}
    if not records:
        return
    sizes = told["artifacts"]
    judged = next(iter(records.values()))
    common.say(
        f"gate       {judged['tiles']} {judged['tiles_from']}; calibrated on {told['report']['calibration']}"
    )
    common.say(
        f"{'artifact':22} {'MB':>6} {'of fp32':>7}  {'pixels':>7} {'worst tile':>10} {'mIoU drop':>9} "
        f"{'worst class':>20}  {'float layers':>12}  result"
    )
    for file, r in sorted(records.items(), key=lambda item: -sizes[item[0]]):
        drop = "-" if r["miou_drop"] is None else f"{r['miou_drop']:+.2f}"
        worst = "-"
        if r["class_drops"]:
            name, lost = max(r["class_drops"].items(), key=lambda item: item[1])
            worst = f"{name} {lost:+.2f}"
        left = str(len(r["left_float"])) if "left_float" in r else "-"
        result = "kept by force" if r["forced"] else "passed"
        common.say(
            f"{file:22} {sizes[file] / 1e6:6.2f} {sizes[file] / sizes['model.fp32.onnx']:7.2f}  "
            f"{r['agreement']:7.2%} {r['worst_tile']:10.2%} {drop:>9} {worst:>20}  {left:>12}  {result}, {r['backend']}"
        )
