"""Options that several commands have, and their texts as values."""

from __future__ import annotations

import re
from typing import Annotated, Literal

import typer

from rsedge.cli.common import note
from rsedge.errors import InputError

# Headings of --help, for options that several commands share.
READING, TILES, MACHINE, PRINTING = (
    "How the raster is read",
    "How tiles are put together",
    "Where the model runs",
    "What is printed",
)

Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="Bundle folder or rsedge .onnx.",
        show_default="./student.rsedge where there is one, else the default model",
        metavar="PATH",
    ),
]
Overlap = Annotated[
    float, typer.Option(help="Least share of a tile common to neighbours, 0 to 0.75.", rich_help_panel=TILES)
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
        help="1-based bands that feed the model, e.g. 4,3,2.",
        metavar="I,J,K",
        show_default="by colour",
        rich_help_panel=READING,
    ),
]
Scale = Annotated[
    str | None,
    typer.Option(
        help="Raster values mapped to the model's range; needed where rasters are not uint8.",
        metavar="LOW,HIGH",
        rich_help_panel=READING,
    ),
]
Nodata = Annotated[
    str | None,
    typer.Option(
        help="Stored value that is no data, or one a band.",
        metavar="VALUE[,...]",
        show_default="as in the file",
        rich_help_panel=READING,
    ),
]
Alpha = Annotated[
    str | None,
    typer.Option(
        help="Band that is 0 where there is no data.",
        metavar="BAND|none",
        show_default="as tagged in the file",
        rich_help_panel=READING,
    ),
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace also a raster that rsedge did not write.")
]
Device = Annotated[
    str,
    typer.Option(
        help="Where the model runs.",
        metavar="auto|cpu|cuda|openvino|tensorrt|ort-tensorrt",
        rich_help_panel=MACHINE,
    ),
]
Precision = Annotated[
    str | None,
    typer.Option(
        help="Which of the bundle's artifacts.",
        show_default="fp32; of a TensorRT engine, its own",
        metavar="fp32|fp16|int8",
        rich_help_panel=MACHINE,
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(help="CPU threads of the model.", show_default="all cores", rich_help_panel=MACHINE),
]
AllowMissing = Annotated[
    bool, typer.Option("--allow-missing-classes", help="Go on where labels lack a class of the table.")
]
Json = Annotated[
    bool,
    typer.Option(
        "--json", help="Print the result as one JSON object on the last line.", rich_help_panel=PRINTING
    ),
]
SETTINGS_NOTES = "rsedge.settings"  # key of the context's notes on rsedge.toml, told once --quiet is known


def tell_settings(context: typer.Context, quiet: bool) -> bool:
    """Say what ``rsedge.toml`` has set, once it is known whether the user (not that file) wants errors only."""
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
    """``"4,3,2"`` to (4, 3, 2)."""
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--bands {text!r} is not a list of band numbers such as 4,3,2") from None


def parse_nodata(text: str | None) -> tuple[float, ...] | None:
    """``"0"`` to (0.0,), ``"255,255,0"`` to (255.0, 255.0, 0.0)."""
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise InputError(
            f"--nodata {text!r} is not a number, or one a band, such as 0 or 255,255,255"
        ) from None


def parse_alpha(text: str | None) -> int | Literal["none"] | None:
    """``"4"`` to 4; ``"none"`` as it is."""
    if text is None:
        return None
    if text == "none":
        return "none"
    if not text.isdecimal() or not int(text):
        raise InputError(f"--alpha {text!r} is neither the number of a band, such as 4, nor none")
    return int(text)


def parse_scale(text: str | None) -> tuple[float, float] | None:
    """``"0,3000"`` to (0.0, 3000.0)."""
    if text is None:
        return None
    if text == "auto":
        raise InputError(
            "--scale auto is for `rsedge infer`, which looks at all its rasters and prints what it found; give these "
            "two numbers, LOW,HIGH"
        )
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--scale {text!r} is not LOW,HIGH such as 0,3000") from None
    return low, high


def parse_bytes(text: str | None) -> int | None:
    """``"800M"`` or ``"1.5G"`` to bytes; units of 1024."""
    if text is None:
        return None
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMG])(?:i?B)?\s*", text, re.IGNORECASE)
    if not found or not float(found[1]):
        raise InputError(f"--max-ram {text!r} is not a size such as 800M or 1.5G")
    return round(float(found[1]) * {"K": 2**10, "M": 2**20, "G": 2**30}[found[2].upper()])


def parse_number(text: str, option: str) -> float:
    """``"20G"`` or ``"1e9"`` to a number; units of 1000."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?(?:e\d{1,2})?)\s*([KMG]?)\s*", text, re.IGNORECASE)
    if not found or not float(found[1]):
        raise InputError(f"{option} {text!r} is not a number such as 500M or 20G")
    return float(found[1]) * {"": 1, "K": 1e3, "M": 1e6, "G": 1e9}[found[2].upper()]
