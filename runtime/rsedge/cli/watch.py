"""``rsedge watch``."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from rsedge.cli import common, flags, stopping
from rsedge.errors import InputError
from rsedge.text import printable

if TYPE_CHECKING:
    from rsedge.tiling.axes import Seam
    from rsedge.watch.folder import Event, Watch
    from rsedge.watch.ledger import Ledger

STOPPED = "interrupted; finished work is kept: run the same command to continue"


def watch(
    folder: Annotated[
        Path,
        typer.Argument(
            help="Folder that rasters are copied to; rsedge writes nothing into it.", metavar="DIR"
        ),
    ],
    out_dir: Annotated[
        Path, typer.Option(help="Folder for the masks, other than DIR; the mask of DIR/X.tif is X.tif.")
    ],
    pattern: Annotated[
        list[str] | None,
        typer.Option(help="File name pattern of rasters; can be repeated.", show_default="*.tif *.tiff"),
    ] = None,
    settle: Annotated[
        float, typer.Option(help="Seconds without change after which a file is complete.")
    ] = 10.0,
    every: Annotated[float, typer.Option(help="Seconds between two scans of the folder.")] = 5.0,
    allow: Annotated[
        list[str] | None,
        typer.Option(help="Further GDAL driver to allow, e.g. vrt, netcdf.", metavar="DRIVER"),
    ] = None,
    max_pixels: Annotated[
        str, typer.Option(help="Refuse rasters with more pixels, e.g. 20G.", metavar="NUMBER")
    ] = "100G",
    once: Annotated[bool, typer.Option("--once", help="Process what is complete now, then exit.")] = False,
    health: Annotated[
        bool,
        typer.Option("--health", help="Exit 0 if a watcher is running and healthy, else 1."),
    ] = False,
    model: flags.Model = None,
    overlap: flags.Overlap = 0.25,
    seam: flags.Seam = "blend",
    bands: flags.Bands = None,
    scale: flags.Scale = None,
    nodata: flags.Nodata = None,
    alpha: flags.Alpha = None,
    resample: Annotated[
        bool, typer.Option("--resample", help="Read at the model's GSD; write on the raster's grid.")
    ] = False,
    preview: Annotated[
        bool, typer.Option("--preview", help="Also write a PNG of image and mask, X.png.")
    ] = False,
    compress: Annotated[
        str, typer.Option(help="Compression of the masks.", metavar="zstd|deflate|lzw")
    ] = "zstd",
    max_ram: Annotated[str | None, typer.Option(help="Memory limit, e.g. 800M.", metavar="SIZE")] = None,
    device: flags.Device = "auto",
    precision: flags.Precision = None,
    threads: flags.Threads = None,
    streams: flags.Streams = None,
    fast: flags.Fast = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per raster.")] = False,
    quiet: flags.Quiet = False,
) -> None:
    """Segment each raster that lands in a folder once, also across restarts. Stop with Ctrl-C or SIGTERM."""
    from rsedge.watch.ledger import Ledger, check_pulse

    if health:
        check_pulse(out_dir)
        return
    from rsedge.cli.opening import open_asked
    from rsedge.infer.options import Options
    from rsedge.raster.quiet import hush_libtiff
    from rsedge.watch.folder import PATTERNS, Watch, check_folders

    if settle < 0 or every <= 0:
        raise InputError(f"--settle {settle:g} must not be below 0, and --every {every:g} must be above 0")
    most_pixels = flags.parse_number(max_pixels, "--max-pixels")
    hush_libtiff()
    options = Options(
        overlap=overlap,
        seam=cast("Seam", seam),
        bands=flags.parse_bands(bands),
        scale=flags.parse_scale(scale),
        nodata=flags.parse_nodata(nodata),
        alpha=flags.parse_alpha(alpha),
        resample=resample,
        compress=compress,
        max_ram_bytes=flags.parse_bytes(max_ram),
    )
    check_folders(folder, out_dir)
    common.make_out_dir(out_dir)
    with ExitStack() as stack:
        ledger = stack.enter_context(Ledger(out_dir))
        model = common.model_or_default(model, quiet)
        backend = stack.enter_context(open_asked(model, device, precision, threads, streams, fast, quiet))
        watcher = Watch(
            backend,
            folder,
            ledger,
            options,
            pattern or PATTERNS,
            preview,
            settle,
            every,
            most_pixels=most_pixels,
            allow=tuple(allow or ()),
        )
        net = (backend.bundle.manifest.tile * (1 - overlap)) ** 2  # pixels added by a window
        watcher.show = lambda source: common.progress_bar(source.name, quiet, net)
        _greet(watcher, fast, quiet)
        with stopping.stopping_says(lambda: _stopped(ledger)):
            refused = sum(_tell(event, quiet, as_json) == "refused" for event in watcher.run(once))
    if refused:
        raise InputError(f"{common.counted(refused, 'raster')} refused; see the messages above")


def _stopped(ledger: Ledger) -> str:
    ledger.leave()  # a stop is not a fault of the raster
    return STOPPED


def _greet(watcher: Watch, fast: bool, quiet: bool) -> None:
    backend = watcher.model
    common.note(
        f"watching {watcher.folder} for {' '.join(watcher.patterns)}; {backend.bundle.manifest.name} "
        f"({backend.bundle.precision}, {backend.name} {backend.provider}) writes masks to {watcher.ledger.folder}",
        quiet,
    )
    if fast:
        common.note(f"{backend.bundle.precision} because of {backend.why}", quiet)
    if others := watcher.of_other_models():
        common.note(
            f"{common.counted(others, 'raster')} {'were' if others > 1 else 'was'} done by another model and will not "
            "be done again; use another --out-dir to redo them",
            quiet,
        )


def _tell(event: Event, quiet: bool, as_json: bool) -> str:
    """Print the outcome of a raster and return the event's name."""
    from rsedge.watch.folder import Done, Refused

    what, name = type(event).__name__.lower(), printable(event.source.name)
    facts: dict[str, object] = {"event": what, "raster": str(event.source)}
    if not isinstance(event, Done):
        if isinstance(event, Refused) or not quiet:
            common.complain(f"{what}: {name}: {event.reason}")
        facts["reason"] = event.reason
    elif event.result is None:
        facts |= {"out": str(event.out), "finished_before": True}
        line = f"{name}: finished before the watcher was stopped"
    else:
        r = event.result
        pixels = r.nodata_pixels + sum(c.pixels for c in r.classes)
        facts |= r.to_dict()
        line = f"{name}: {r.seconds['total']:.1f} s, {r.mpx_per_s:.1f} Mpx/s, nodata {r.nodata_pixels / pixels:.1%}"
        for note in r.notes:
            common.note(f"{name}: {note}", quiet)
    if as_json:
        common.say_json(facts)
    elif isinstance(event, Done) and not quiet:
        common.say(line)
    return what
