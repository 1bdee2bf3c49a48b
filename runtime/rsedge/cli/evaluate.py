"""``rsedge eval``."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from rsedge.cli import common, flags

if TYPE_CHECKING:
    from rsedge.score.evaluation import Evaluation
    from rsedge.tiling.axes import Seam


def evaluate_command(
    data: Annotated[
        Path,
        typer.Argument(
            help="Folder of images/X.* with masks/X.*, or X.tif with X_labels.tif.", show_default=False
        ),
    ],
    classes: Annotated[
        Path | None,
        typer.Option(
            help="TOML table of label colours or indices.",
            show_default="classes.toml in the folder, else the model's own colours",
        ),
    ] = None,
    allow_missing: flags.AllowMissing = False,
    model: flags.Model = None,
    overlap: flags.Overlap = 0.25,
    seam: flags.Seam = "blend",
    bands: flags.Bands = None,
    scale: flags.Scale = None,
    nodata: flags.Nodata = None,
    alpha: flags.Alpha = None,
    device: flags.Device = "auto",
    precision: flags.Precision = None,
    threads: flags.Threads = None,
    streams: flags.Streams = None,
    fast: flags.Fast = False,
    as_json: flags.Json = False,
    quiet: flags.Quiet = False,
) -> None:
    """Score a model on labelled rasters, through the same engine as infer."""
    from rsedge.cli.opening import open_asked
    from rsedge.infer.options import Options
    from rsedge.score.evaluation import evaluate
    from rsedge.score.labels import LabelColors

    options = Options(
        overlap=overlap,
        seam=cast("Seam", seam),
        bands=flags.parse_bands(bands),
        scale=flags.parse_scale(scale),
        nodata=flags.parse_nodata(nodata),
        alpha=flags.parse_alpha(alpha),
    )
    model = common.model_or_default(model, quiet)
    with (
        open_asked(model, device, precision, threads, streams, fast, quiet) as backend,
        common.progress_bar("rasters", quiet) as progress,
    ):
        if fast:
            common.note(
                f"{backend.bundle.precision}, {backend.name} {backend.provider} ({backend.why})", quiet
            )
        names = tuple(c.name for c in backend.bundle.manifest.classes)
        colors = LabelColors.read(classes, names) if classes else None
        result = evaluate(backend, data, options, colors, progress, allow_missing=allow_missing)
    for note in result.notes:
        common.note(note, quiet)
    if not quiet:
        _show(result)
    if as_json:
        common.say_json(result.to_dict())


def _show(result: Evaluation) -> None:
    scores = result.confusion
    share = scores.counts.sum(1) / scores.counts.sum()
    width = max(len(n) for n in (*result.class_names, "class"))
    common.say(
        f"{result.model} on {result.rasters} rasters, {scores.counts.sum() / 1e6:.2f} Mpx labelled, "
        f"{result.uncounted_share:.1%} not counted{_why_not(result)}"
    )
    edges = result.boundaries
    common.say(f"  {'class':{width}}    IoU     F1  edges  share")
    for name, *row, part in zip(result.class_names, scores.iou, scores.f1, edges.f, share, strict=True):
        common.say(f"  {name:{width}}  {'  '.join(f'{v:.3f}' for v in row)}  {part:5.1%}")
    base = scores.majority
    means = "  ".join(f"{v:.3f}" for v in (scores.miou, scores.mean_f1, edges.mean_f))
    common.say(f"  {'mean':{width}}  {means}  OA {scores.oa:.3f}")
    common.say(f"  always {result.class_names[int(share.argmax())]}: mIoU {base.miou:.3f}, OA {base.oa:.3f}")


def _why_not(result: Evaluation) -> str:
    """List the kinds of uncounted pixels, most frequent first."""
    pixels = Counter({f"labelled {value}": n for value, n in result.unlabelled.items()})
    pixels["image without data"] = result.no_data
    total = max(1, result.uncounted + int(result.confusion.counts.sum()))
    listed = ", ".join(f"{what} {n / total:.1%}" for what, n in pixels.most_common(5) if n)
    return f" ({listed})" if listed else ""
