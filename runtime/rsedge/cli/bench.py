"""``rsedge bench``."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from rsedge.cli import common

if TYPE_CHECKING:
    from rsedge.bench import BenchResult

UNKNOWN = "not measured"


def bench(
    model: common.Model = None,
    tile_count: Annotated[int, typer.Option(help="Least runs of one tile.")] = 20,
    seconds: Annotated[float, typer.Option(help="Least seconds of running one tile.")] = 5.0,
    size: Annotated[int, typer.Option(help="Side of the end-to-end raster, pixels.")] = 2048,
    threads: common.Threads = None,
    device: common.Device = "auto",
    precision: common.Precision = None,
    as_json: common.Json = False,
    quiet: common.Quiet = False,
) -> None:
    """Measure a model on this machine: latency of a tile, whole raster, memory; its teacher beside it."""
    from rsedge.bench import BenchOptions
    from rsedge.bench import bench as measure
    from rsedge.prepare import artifact_notes
    from rsedge.segmentation import open_model

    options = BenchOptions(tile_count, seconds, size)
    model = common.model_or_default(model, quiet)
    with (
        open_model(model, device, threads, precision) as backend,
        common.progress_bar("windows", quiet) as progress,
    ):
        result = measure(backend, options, progress)
        notes = (*artifact_notes(backend), *result.notes)
    if not quiet:
        for note in notes:
            print(f"note: {note}", file=sys.stderr)
        _show(result)
    if as_json:
        common.say(json.dumps(result.to_dict()))


def _show(result: BenchResult) -> None:
    on = result.conditions
    load = "" if on.load_1min_before is None else f", load {on.load_1min_before:.1f} before"
    common.say(f"model    {result.model} ({result.path}), {on.precision}")
    common.say(f"runs on  {on.backend} {on.backend_version} {on.provider}, {on.threads} threads")
    common.say(f"machine  {on.cpu}, {on.cores} cores{load}; {on.date}, rsedge {on.rsedge_version}\n")
    table = [("", "model", "teacher", "teacher / model"), *_counts(result), *_measured(result)]
    widths = [max(len(row[i]) for row in table) for i in range(4)]
    for row in table:
        common.say("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())
    common.say("")
    for line in _method(result):
        common.say(line)


def _counts(result: BenchResult) -> list[tuple[str, str, str, str]]:
    mine, out, teacher = result.cost, result.cost_exported, result.teacher
    there = (teacher.network, teacher.params, teacher.macs, teacher.flops) if teacher else (None,) * 4
    params_ratio, macs_ratio = (
        UNKNOWN if r is None else f"{r:.1f}" for r in (result.params_ratio, result.macs_ratio)
    )
    tile = f", {mine.macs_tile} px tile" if mine.macs_tile else ""
    other = (
        f" ({teacher.macs_tile} px)" if teacher and teacher.macs_tile not in {None, mine.macs_tile} else ""
    )
    return [
        ("network", mine.network or result.model, there[0] or UNKNOWN, ""),
        ("parameters", _millions(mine.params), _millions(there[1]), params_ratio),
        ("  as exported", _millions(out.params), UNKNOWN, UNKNOWN),
        (f"MACs{tile}", _billions(mine.macs), _billions(there[2]) + other, macs_ratio),
        ("  as exported", _billions(out.macs), UNKNOWN, UNKNOWN),
        ("FLOPs = 2 x MACs", _billions(mine.flops), _billions(there[3]) + other, macs_ratio),
    ]


def _measured(result: BenchResult) -> list[tuple[str, str, str, str]]:
    took, whole = result.latency, result.end_to_end
    speed = f"{took.tiles_per_s:.1f} tiles/s, {took.mpx_per_s:.2f} Mpx/s"
    rows = [
        ("size on disk", f"{result.artifact_bytes / 1e6:.1f} MB"),
        ("latency p50", f"{1e3 * took.p50_s:.1f} ms"),
        ("latency p90", f"{1e3 * took.p90_s:.1f} ms"),
        ("latency mean", f"{1e3 * took.mean_s:.1f} ms"),
        ("CPU time, mean", f"{1e3 * took.cpu_mean_s:.1f} ms"),
        ("model alone", speed),
        ("end to end", f"{whole.mpx_per_s:.2f} Mpx/s" if whole else UNKNOWN),
        ("peak memory, tile", f"{result.model_peak_rss_bytes / 2**20:.0f} MiB"),
        ("peak memory, raster", f"{result.peak_rss_bytes / 2**20:.0f} MiB" if whole else UNKNOWN),
    ]
    return [(what, value, UNKNOWN, UNKNOWN) for what, value in rows]


def _method(result: BenchResult) -> list[str]:
    took, whole = result.latency, result.end_to_end
    lines = [
        f"latency: {took.runs} runs of one {result.tile} px tile ({took.pixels}) at batch 1 after "
        f"{took.warmup_runs} to warm up; pixels in, scores out; CPU time is of all threads together"
    ]
    if whole:
        lines.append(
            f"end to end: one `infer` of a sample scene of {whole.width} x {whole.height} px, file to file: "
            f"reading, {whole.windows} windows with {whole.overlap:.0%} overlap, blending, writing a COG; "
            f"{whole.seconds['total']:.1f} s"
        )
    else:
        lines.append(
            "end to end: not measured, the sample scene is 8-bit RGB and this model takes other bands"
        )
    lines.append("peak memory: highest of this process, Python and libraries included")
    return lines


def _millions(count: int | None) -> str:
    return UNKNOWN if count is None else f"{count / 1e6:.3f} M"


def _billions(count: int | None) -> str:
    return UNKNOWN if count is None else f"{count / 1e9:.2f} G"
