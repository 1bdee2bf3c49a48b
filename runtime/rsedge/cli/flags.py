"""Options shared by several commands, and parsers of their texts."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

import typer

from rsedge.cli.common import note
from rsedge.errors import InputError


def option(*names: str, help: str, panel: str | None = None, **more: Any) -> Any:
    """Return a typer option under a heading of --help, ``panel``."""
    return typer.Option(*names, help=help, rich_help_panel=panel, **more)


# Headings of --help, for options that several commands share.
READING, TILES, MACHINE, PRINTING = (
    "Reading the raster",
    "Tiling",
    "Running the model",
    "Output",
)

Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="Bundle folder or rsedge .onnx.",
        show_default="./student.rsedge if it exists, else the default model",
        metavar="PATH",
    ),
]
Overlap = Annotated[
    float,
    typer.Option(
        help="Minimum overlap of neighbouring tiles, as a share of a tile, 0 to 0.75.", rich_help_panel=TILES
    ),
]
Seam = Annotated[
    str,
    typer.Option(
        help="blend: smooth weights; crop: keep tile centres.", metavar="blend|crop", rich_help_panel=TILES
    ),
]
Bands = Annotated[
    str | None,
    typer.Option(
        help="1-based bands to feed to the model, e.g. 4,3,2.",
        metavar="I,J,K",
        show_default="by colour",
        rich_help_panel=READING,
    ),
]
Scale = Annotated[
    str | None,
    typer.Option(
        help="Raster values mapped to the model's range; needed if the raster is not uint8.",
        metavar="LOW,HIGH",
        rich_help_panel=READING,
    ),
]
Nodata = Annotated[
    str | None,
    typer.Option(
        help="Value that marks missing data, or one per band.",
        metavar="VALUE[,...]",
        show_default="as in the file",
        rich_help_panel=READING,
    ),
]
Alpha = Annotated[
    str | None,
    typer.Option(
        help="Band that is 0 where data are missing.",
        metavar="BAND|none",
        show_default="as tagged in the file",
        rich_help_panel=READING,
    ),
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Also replace a raster that rsedge did not write.")
]
Device = Annotated[
    str,
    typer.Option(
        help="Device or backend for the model.",
        metavar="auto|cpu|cuda|openvino|tensorrt|tensorrt-rtx|ort-tensorrt",
        rich_help_panel=MACHINE,
    ),
]
Precision = Annotated[
    str | None,
    typer.Option(
        help="Which artifact of the bundle to run.",
        show_default="fp32; a TensorRT engine's own",
        metavar="fp32|fp16|int8",
        rich_help_panel=MACHINE,
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(help="CPU threads for the model.", show_default="all cores", rich_help_panel=MACHINE),
]
Streams = Annotated[
    int | None,
    typer.Option(
        help="Tiles in work at once on the CPU, sharing --threads.",
        show_default="fastest measured by verify, else 1",
        rich_help_panel=MACHINE,
    ),
]
Fast = Annotated[
    bool,
    typer.Option(
        "--fast",
        help="Run the fastest artifact that passed its accuracy gate, where it is fastest here; measures once.",
        rich_help_panel=MACHINE,
    ),
]
AllowMissing = Annotated[
    bool, typer.Option("--allow-missing-classes", help="Continue if the labels lack a class of the table.")
]
Json = Annotated[
    bool,
    typer.Option(
        "--json", help="Print the result as one JSON object on the last line.", rich_help_panel=PRINTING
    ),
]
SETTINGS_NOTES = "rsedge.settings"  # context key of the notes on rsedge.toml, printed once --quiet is known


def tell_settings(context: typer.Context, quiet: bool) -> bool:
    """Print the notes on ``rsedge.toml`` unless the user, not that file, asked for errors only."""
    source = context.get_parameter_source("quiet")
    by_user = quiet and source is not None and source.name == "COMMANDLINE"
    for text in context.meta.pop(SETTINGS_NOTES, ()):
        note(text, by_user)
    return quiet


Quiet = Annotated[
    bool,
    typer.Option(
        "--quiet",
        "-q",
        help="Print errors only.",
        callback=tell_settings,
        is_eager=True,
        rich_help_panel=PRINTING,
    ),
]


def parse_bands(text: str | None) -> tuple[int, ...] | None:
    """Parse ``"4,3,2"`` into (4, 3, 2)."""
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--bands {text!r} is not a list of band numbers such as 4,3,2") from None


def parse_nodata(text: str | None) -> tuple[float, ...] | None:
    """Parse ``"0"`` into (0.0,), ``"255,255,0"`` into (255.0, 255.0, 0.0)."""
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise InputError(
            f"--nodata {text!r} is not a number, or one per band, such as 0 or 255,255,255"
        ) from None


def parse_alpha(text: str | None) -> int | Literal["none"] | None:
    """Parse ``"4"`` into 4; keep ``"none"``."""
    if text is None:
        return None
    if text == "none":
        return "none"
    if not text.isdecimal() or not int(text):
        raise InputError(f"--alpha {text!r} is neither a band number, such as 4, nor none")
    return int(text)


def parse_scale(text: str | None) -> tuple[float, float] | None:
    """Parse ``"0,3000"`` into (0.0, 3000.0)."""
    if text is None:
        return None
    if text == "auto":
        raise InputError(
            "--scale auto is for `rsedge infer`, which scans its rasters and prints the range found. Give those two "
            "numbers, LOW,HIGH."
        )
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--scale {text!r} is not LOW,HIGH such as 0,3000") from None
    return low, high


def parse_bytes(text: str | None) -> int | None:
    """Parse ``"800M"`` or ``"1.5G"`` into bytes, in units of 1024."""
    if text is None:
        return None
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMG])(?:i?B)?\s*", text, re.IGNORECASE)
    if not found or not float(found[1]):
        raise InputError(f"--max-ram {text!r} is not a size such as 800M or 1.5G")
    return round(float(found[1]) * {"K": 2**10, "M": 2**20, "G": 2**30}[found[2].upper()])


def parse_number(text: str, option: str) -> float:
    """Parse ``"20G"`` or ``"1e9"`` into a number, in units of 1000."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?(?:e\d{1,2})?)\s*([KMG]?)\s*", text, re.IGNORECASE)
    if not found or not float(found[1]):
        raise InputError(f"{option} {text!r} is not a number such as 500M or 20G")
    return float(found[1]) * {"": 1, "K": 1e3, "M": 1e6, "G": 1e9}[found[2].upper()]
