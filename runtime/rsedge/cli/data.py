"""``rsedge data``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rsedge.cli import common, flags
from rsedge.errors import InputError
from rsedge.text import block

app = typer.Typer(
    help="Inspect labelled data.", no_args_is_help=True, add_completion=False, rich_markup_mode=None
)


@app.callback()
def _group() -> None:
    """Keep the only command a subcommand."""


@app.command("check")
def check_command(
    path: Annotated[
        Path,
        typer.Argument(
            help="Folder of images/X.* with masks/X.*, X.tif with X_labels.tif, ISPRS or LoveDA.",
            show_default=False,
        ),
    ],
    val: Annotated[
        str | None, typer.Option(help="Scenes for validation, or none.", metavar="SCENE,...")
    ] = None,
    test: Annotated[str | None, typer.Option(help="Scenes kept for testing.", metavar="SCENE,...")] = None,
    classes: Annotated[
        Path | None,
        typer.Option(
            help="TOML table of label colours or indices.", show_default="classes.toml, or detected"
        ),
    ] = None,
    allow_missing: flags.AllowMissing = False,
    bands: flags.Bands = None,
    band_names: Annotated[
        str | None, typer.Option(help="Names of these bands.", metavar="A,B,C", show_default="red,green,blue")
    ] = None,
    scale: flags.Scale = None,
    nodata: flags.Nodata = None,
    alpha: flags.Alpha = None,
    eroded: Annotated[bool, typer.Option("--eroded", help="Score with ISPRS's eroded labels.")] = False,
    full: Annotated[
        bool, typer.Option("--full/--labels-only", help="Read images and labels, or labels only.")
    ] = True,
    as_json: flags.Json = False,
    quiet: flags.Quiet = False,
) -> None:
    """Read all labelled data once and list every problem found.

    Exit codes: 0 no problem, 2 problems found.
    """
    with common.needs_extra("train"):
        from rsedge_train.data import check
    from rsedge.raster.band_plan import Masking

    with common.progress_bar("rasters", quiet) as progress:
        report = check(
            path,
            val=parse_names(val),
            test=parse_names(test),
            classes=classes,
            bands=flags.parse_bands(bands),
            band_names=parse_band_names(band_names),
            scale=flags.parse_scale(scale),
            masking=Masking(flags.parse_nodata(nodata), flags.parse_alpha(alpha)),
            eroded=eroded,
            images=full,
            allow_missing=allow_missing,
            progress=progress,
        )
    if not quiet:
        common.say_lines(report.to_text())
    else:
        for problem in report.problems:
            for line in block(f"error: {problem}"):
                common.complain(line)
    if as_json:
        common.say_json(report.to_dict())
    if not report.ok:
        raise typer.Exit(2)


def parse_names(text: str | None) -> tuple[str, ...]:
    """Parse ``"tile3,tile7"`` into ("tile3", "tile7")."""
    return tuple(name for part in (text or "").split(",") if (name := part.strip()))


def parse_band_names(text: str | None) -> tuple[str, str, str] | None:
    """Parse ``"nir,red,green"`` into ("nir", "red", "green")."""
    if text is None:
        return None
    names = parse_names(text)
    if len(names) != 3:
        raise InputError(f"--band-names {text!r} is not three names such as nir,red,green")
    return names[0], names[1], names[2]
