"""The ``rsedge bench`` command."""

from __future__ import annotations

import csv
import io
import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rsedge.cli import common, flags
from rsedge.errors import BackendError, InputError
from rsedge.text import csv_cell

if TYPE_CHECKING:
    from rsedge.bench import BenchOptions, BenchResult, Contender

OWN_TEACHER = Path("runs/teacher")  # default output of `rsedge train-teacher`, in the current folder
NONE = "none"
CSV_HEAD = "label,role,name,path,"  # start of the first line of --csv
OPENER = "rsedge_train.run.bench_teacher:open_teacher"  # a name: importing torch would take memory


def bench(
    bundles: Annotated[
        list[str] | None,
        typer.Argument(
            help="Bundle folders or rsedge .onnx files.",
            show_default="./student.rsedge if it exists, else the default model",
        ),
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            help="Teacher to measure too (needs torch): a run folder, or a network of `rsedge models` with random "
            "weights; none: only the facts in the bundle.",
            metavar="RUN|NAME|none",
            show_default="runs/teacher if it has the same classes",
        ),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Labelled folder, as for eval, to measure accuracy on.")
    ] = None,
    classes: Annotated[Path | None, typer.Option(help="TOML table of the label colours of --data.")] = None,
    bands: flags.Bands = None,
    scale: flags.Scale = None,
    nodata: flags.Nodata = None,
    alpha: flags.Alpha = None,
    allow_missing: flags.AllowMissing = False,
    rounds: Annotated[int, typer.Option(help="Rounds in which the models take turns.")] = 5,
    seconds: Annotated[float, typer.Option(help="Seconds of single tiles per model, over all rounds.")] = 5.0,
    size: Annotated[int, typer.Option(help="Side of the end-to-end raster, pixels.")] = 2048,
    device: flags.Device = "auto",
    precision: flags.Precision = None,
    threads: flags.Threads = None,
    streams: Annotated[
        int,
        typer.Option(
            help="Tiles of the raster in work at once on the CPU, sharing --threads.",
            rich_help_panel=flags.MACHINE,
        ),
    ] = 1,
    csv_file: Annotated[
        Path | None, typer.Option("--csv", help="Write one line per model.", metavar="FILE")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace also a --csv file that `rsedge bench` did not write.")
    ] = False,
    as_json: flags.Json = False,
    quiet: flags.Quiet = False,
) -> None:
    """Measure every artifact this machine can run, and the teacher: latency, a raster by stage, memory, power."""
    from rsedge.bench import BenchOptions
    from rsedge.bench import bench as measure
    from rsedge.cli.bench_tables import show
    from rsedge.files import whole_or_nothing
    from rsedge.raster import check_replaceable

    options = BenchOptions(
        rounds,
        seconds,
        size,
        device,
        precision,
        threads,
        streams,
        data=str(data) if data else None,
        classes=str(classes) if classes else None,
        bands=flags.parse_bands(bands),
        scale=flags.parse_scale(scale),
        nodata=flags.parse_nodata(nodata),
        alpha=flags.parse_alpha(alpha),
        allow_missing=allow_missing,
    )
    paths: list[str | None] = (
        [*bundles] if bundles else [common.model_or_default(None, quiet, "`rsedge bench BUNDLE`")]
    )
    if csv_file and csv_file.is_file():
        check_replaceable(csv_file, overwrite, _is_bench)
    if csv_file and (csv_file.is_dir() or not os.access(csv_file.absolute().parent, os.W_OK)):
        raise InputError(
            f"--csv {csv_file} cannot be written; name a file in a folder that exists and is writable"
        )
    beside = _teacher(teacher, paths[0], options, quiet)
    with common.progress_bar("turns", quiet) as progress:
        result = measure(paths, options, beside, progress)
    for note in result.notes:
        common.note(note, quiet)
    if not quiet:
        show(result)
    if as_json:
        common.say_json(result.to_dict())
    if csv_file:
        with whole_or_nothing(csv_file) as partial:
            partial.write_text(to_csv(result), encoding="utf-8")


def _is_bench(path: Path) -> bool:
    """Return True if a file begins like the output of `to_csv`."""
    head = CSV_HEAD.encode()
    with path.open("rb") as file:
        return file.read(len(head)) == head


def _teacher(asked: str | None, like: str | None, options: BenchOptions, quiet: bool) -> Contender | None:
    """Return the requested teacher, else the one in the current folder if it matches the model; else None."""
    from rsedge.bench import Contender
    from rsedge.bench.facts import TEACHER

    if asked == NONE or (asked is None and not _fits(OWN_TEACHER, like)):
        return None
    if asked is None:
        common.own_default(OWN_TEACHER, "--teacher")
        common.note(f"teacher {OWN_TEACHER} (in this folder); --teacher none leaves it out", quiet)
    if missing := _missing_packages():
        raise BackendError(
            f'--teacher needs {missing[0]}, which is not installed; run `pip install "rsedge[train]"`'
        )
    return Contender(
        path=asked or str(OWN_TEACHER),
        device=options.device,
        threads=options.threads,
        role=TEACHER,
        opener=OPENER,
        like=str(like) if like else None,
        optional=asked is None,
    )


def _fits(run: Path, like: str | None) -> bool:
    """Return True if ``run`` is finished, has the model's classes, and can be opened on this machine."""
    from rsedge.documents import parse_json, read_bytes
    from rsedge.model.bundle import Bundle

    try:
        facts = parse_json(read_bytes(run / "run.json"))
        own = [c["name"] for c in facts["classes"]]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    if not (run / "weights.safetensors").is_file() or _missing_packages():
        return False
    return own == [c.name for c in Bundle.open(like).manifest.classes]


def _missing_packages() -> list[str]:
    return [name for name in ("torch", "timm", "sam2", "safetensors") if find_spec(name) is None]


def to_csv(result: BenchResult) -> str:
    """Return one CSV line per row; columns are named by their JSON path: ``end_to_end.mpx_per_s.p50``."""
    rows = [_flat(row.to_dict()) for row in result.rows]
    every = list(dict.fromkeys(key for row in rows for key in row))
    # A value that is None in one row and has parts in another would make a column that is always empty.
    columns = [key for key in every if not any(other.startswith(f"{key}.") for other in every)]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: csv_cell(value) for key, value in row.items()} for row in rows)
    return text.getvalue()


def _flat(facts: object, name: str = "") -> dict[str, object]:
    if not isinstance(facts, dict):
        return {name: facts}
    found: dict[str, object] = {}
    for key, value in facts.items():
        found.update(_flat(value, f"{name}.{key}" if name else str(key)))
    return found
