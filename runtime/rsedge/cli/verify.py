"""``rsedge verify``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rsedge.cli import common, flags
from rsedge.errors import BackendError
from rsedge.text import columns

if TYPE_CHECKING:
    from rsedge.verify.compare import Check
    from rsedge.verify.seams import Seams
    from rsedge.verify.verify import Verification

BUNDLE = "`rsedge verify BUNDLE`"
HEADINGS = (
    "artifact",
    "device",
    "streams",
    "pixels",
    "clear",
    "worst tile",
    "max error",
    "mean",
    "ms",
    "fp32 ms",
    "x",
    "",
)


def verify(
    bundle: Annotated[
        str | None,
        typer.Argument(
            help="Bundle folder or rsedge .onnx.",
            show_default="./student.rsedge if it exists, else the default model",
        ),
    ] = None,
    raster: Annotated[
        Path | None, typer.Option(help="Raster to compare on.", show_default="sample scenes")
    ] = None,
    tiles: Annotated[int, typer.Option(help="Number of tiles to compare on.")] = 16,
    bands: flags.Bands = None,
    scale: flags.Scale = None,
    nodata: flags.Nodata = None,
    alpha: flags.Alpha = None,
    device: Annotated[
        str,
        typer.Option(
            help="Compare on this device only; auto: on every available one.",
            metavar="auto|cpu|cuda|openvino|tensorrt|tensorrt-rtx|ort-tensorrt",
        ),
    ] = "auto",
    precision: Annotated[
        str | None,
        typer.Option(help="Compare only this artifact.", show_default="all", metavar="fp32|fp16|int8"),
    ] = None,
    threads: flags.Threads = None,
    map: Annotated[
        Path | None,
        typer.Option(help="GeoTIFF to write: 1 where --precision on --device agrees with fp32, else 0."),
    ] = None,
    seams: Annotated[
        Path | None,
        typer.Option(help="Raster to check for visible tile borders (takes six fp32 runs)."),
    ] = None,
    overwrite: flags.Overwrite = False,
    as_json: flags.Json = False,
    quiet: flags.Quiet = False,
) -> None:
    """Compare every artifact that this machine can run with fp32: classes, scores and speed."""
    from rsedge.raster.band_plan import Masking
    from rsedge.verify.verify import VerifyOptions
    from rsedge.verify.verify import verify as compare

    options = VerifyOptions(
        tiles=tiles,
        device=device,
        precision=precision,
        threads=threads,
        raster=raster,
        bands=flags.parse_bands(bands),
        scale=flags.parse_scale(scale),
        masking=Masking(flags.parse_nodata(nodata), flags.parse_alpha(alpha)),
        map=map,
        overwrite=overwrite,
        seams=seams,
    )
    path = common.model_or_default(bundle, quiet, BUNDLE)
    with common.progress_bar("tiles", quiet) as progress:
        result = compare(path, options, progress)
    for note in result.notes:
        common.note(note, quiet)
    if not quiet:
        _show(result)
    if as_json:
        common.say_json(result.to_dict())
    if result.failures:
        raise BackendError("; ".join(result.failures))


def _show(result: Verification) -> None:
    on = result.conditions
    load = "" if on.load_1min_before is None else f", load {on.load_1min_before:.1f} before"
    common.say(f"model      {result.model} ({result.path})")
    common.say(f"reference  fp32, {result.reference}, {on.threads} threads")
    common.say(f"machine    {on.cpu}, {on.cores} cores{load}; {on.date}, rsedge {on.rsedge_version}")
    common.say(f"tiles      {result.tiles_from}")
    common.say(f"exporter   {_exporter(result)}")
    common.say("")
    for line in columns([HEADINGS, *(_row(c) for c in (*result.checks, *result.streams) if c.found)]):
        common.say(line)
    for c in (*result.checks, *result.streams):
        if not c.found:
            common.say(
                f"{c.precision} on {c.device}: {c.state if c.state != 'failed' else 'FAILED'}: {c.why}"
            )
    common.say("")
    common.say(
        "pixels, clear, worst tile: share of pixels with the reference's class: of all, of those whose two best "
        "scores differ clearly, and in the worst tile; errors: difference of scores, as a share of their range; "
        "ms: median per tile with so many tiles in work at once (streams), and of fp32 with one, measured in turns"
    )
    common.say(f"speeds     {result.speeds}")
    for found in result.seams:
        common.say(f"seams      {_seam(found)}")
    if result.map:
        share = "no pixel with data" if result.map.agreement is None else f"{result.map.agreement:.3%} agree"
        common.say(f"map        {result.map.out}: {result.map.candidate}, {share}")


def _seam(found: Seams) -> str:
    way = f"{found.seam} {found.overlap:.0%}" if found.overlap else "no overlap"
    shares = ["none" if s is None else f"{s:.3%}" for s in (found.near_share, found.elsewhere_share)]
    return (
        f"{way}: shifting tiles by half changes the class of {shares[0]} of pixels within {found.border_px} px of "
        f"tile borders, of {shares[1]} elsewhere: {found.verdict}"
    )


def _exporter(result: Verification) -> str:
    found = result.fingerprint
    if found is None:
        return "the bundle lacks the exporter's answer (reference.npz), so fp32 was not checked against it"
    return (
        f"fp32 {'equals' if found.passed else 'DIFFERS from'} the exporter's answer on "
        f"{found.agreement:.3%} of pixels of {found.tiles} tiles, scores within {found.worst_error:.1e} of the range"
    )


def _row(c: Check) -> tuple[str, ...]:
    assert c.found is not None
    assert c.p50_s is not None
    assert c.reference_p50_s is not None
    f = c.found
    return (
        c.precision,
        c.provider or c.device,
        str(c.streams),
        f"{f.agreement:.3%}",
        "none" if f.clear_agreement is None else f"{f.clear_agreement:.3%}",
        f"{f.worst_tile:.2%}",
        f"{f.worst_error:.1e}",
        f"{f.mean_error:.1e}",
        f"{1e3 * c.p50_s:.1f}",
        f"{1e3 * c.reference_p50_s:.1f}",
        f"{c.speedup:.2f}",
        c.state if c.state != "failed" else "FAILED",
    )
