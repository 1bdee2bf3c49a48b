"""The tables of a bench: what each network costs, how fast it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from rsedge.report.facts import Facts
from rsedge.report.figures import NONE, around, middle, number
from rsedge.report.markup import el
from rsedge.report.records import Bench, Row, Spread

MEGA, GIGA, MIB = 1e6, 1e9, 2**20
WHOLE_CHARS = 18  # what is shorter is not broken across lines, so no spread is


@dataclass(frozen=True)
class Cell:
    """What stands in a cell: a figure, and smaller below it what belongs to it. ``kind``: a class for the style sheet.

    ``tells``: whether it is a reason to show its column.
    """

    figure: str = NONE
    below: tuple[str, ...] = ()
    kind: str = ""
    tells: bool = True

    @property
    def is_empty(self) -> bool:
        """Whether it says nothing."""
        return self.figure == NONE and not self.below


@dataclass(frozen=True)
class Column:
    """A head, with its unit, and how to fill a cell."""

    head: str
    unit: str
    fill: Callable[[Row], Cell]


def row_head(tags: Sequence[str], row: Row, said: str) -> Element:
    """The head of a table's row: its tags, what runs where, and below it the network."""
    marks = [el("span", tag, class_="tag") for tag in tags]
    return el(
        "th",
        *marks,
        " ",
        said,
        el("small", f"{row.name}, teacher" if row.is_teacher else row.name),
        scope="row",
        role="rowheader",
    )


def _own_head(row: Row) -> Element:
    said = f"{row.place}, not measured" if row.why_not and row.place else row.place or "not measured"
    return row_head([row.label], row, said)


def table(
    caption: str, columns: Sequence[Column], rows: Sequence[Row], head: Callable[[Row], Element] = _own_head
) -> Element | None:
    """A table with a row a network, as cards on a narrow screen. Columns of which nothing is known are left out.

    None where nothing is left.
    """
    cells = [(c, [c.fill(row) for row in rows]) for c in columns]
    kept = [(c, filled) for c, filled in cells if any(cell.tells and not cell.is_empty for cell in filled)]
    if not kept:
        return None
    heads = [
        el("th", c.head, el("small", c.unit) if c.unit else None, scope="col", role="columnheader")
        for c, _ in kept
    ]
    body = [
        el("tr", head(row), *(_cell(c, filled[i]) for c, filled in kept), role="row")
        for i, row in enumerate(rows)
    ]
    first = el("th", "network", scope="col", role="columnheader")
    return el(
        "div",
        # Roles are said since cards are made by `display`, which takes a table's meaning away.
        el(
            "table",
            el("caption", caption),
            el("thead", el("tr", first, *heads, role="row"), role="rowgroup"),
            el("tbody", *body, role="rowgroup"),
            class_="cards",
            role="table",
        ),
        class_="scroll",
        tabindex=0,
        role="region",
        aria_label=caption,
    )


def _cell(column: Column, cell: Cell) -> Element:
    below = [el("small", text, class_="whole" if len(text) < WHOLE_CHARS else None) for text in cell.below]
    label = f"{column.head}, {column.unit}" if column.unit else column.head
    # The label is read by the style sheet, for cards.
    kind = "none" if cell.is_empty else cell.kind or None
    return el("td", el("div", el("b", cell.figure), *below), data_label=label, role="cell", class_=kind)


def results(bench: Bench, scores: Callable[[Row], Cell]) -> Element | None:
    """The columns of ARAFNet's Table 4, and what was measured here."""
    base = bench.base
    over = "teacher" if base is None or base.is_teacher else f"row {base.label}"
    columns = [
        Column("parameters", "M", lambda r: _counted(r, "params", MEGA)),
        Column("MACs", _macs_unit(bench), lambda r: _counted(r, "macs", GIGA)),
        Column("paper’s “FLOPs”", "G, 8 tiles", lambda r: _of(r.cost.paper_flops, GIGA)),
        Column("size", "MB", lambda r: _of(r.size_bytes, MEGA, _less(r, "size"))),
    ]
    times = f"×\N{NO-BREAK SPACE}{over}"
    for batch in bench.batches:
        columns += [
            Column("tiles/s", f"batch {batch}", _at_batch(batch)),
            Column(times, f"batch {batch}", _ratio_at_batch(bench, batch)),
        ]
    columns += [
        Column("end to end", "Mpx/s", lambda r: _spread(r.end_to_end.mpx_per_s if r.end_to_end else None)),
        Column(times, "end to end", lambda r: _end_to_end_ratio(bench, r)),
        Column("peak memory", "MiB", _memory),
        Column("mIoU", "", scores),
    ]
    caption = "Cost, speed and accuracy. Below a median is its 10th to 90th percentile"
    if any(_less(row, key) for row in bench.rows for key in row.smaller):
        first = bench.rows[0]
        caption += f"; “less” is than {'the teacher' if first.is_teacher else f'row {first.label}'}’s"
    return table(caption, columns, bench.rows)


def details(bench: Bench) -> Element | None:
    """Latency, memory, power and clocks in full."""

    def held(key: str) -> Callable[[Row], Cell]:
        return lambda r: _of(r.memory.number(key) if r.memory else None, MIB)

    def part(name: str, key: str) -> Callable[[Row], Cell]:
        def fill(row: Row) -> Cell:
            of: Facts | None = getattr(row, name)
            return _spread(Spread.read(of, key)) if of else Cell()

        return fill

    columns = [
        Column("one tile", "ms", _latency),
        Column("95th, 99th percentile", "ms", _percentiles),
        Column(
            "CPU time",
            "ms, all threads",
            lambda r: _of(r.latency.number("cpu_mean_s") if r.latency else None, 1e-3),
        ),
        Column("whole raster", "s", lambda r: _spread(r.end_to_end.total_s if r.end_to_end else None)),
        Column("tile’s peak memory", "MiB", held("tile_peak_rss_bytes")),
        Column("raster’s peak memory", "MiB", held("raster_peak_rss_bytes")),
        Column("device memory", "MiB", held("device_bytes")),
        Column("energy", "J/Mpx", part("power", "j_per_mpx")),
        Column("power", "W", part("power", "watts")),
        Column("CPU clock", "MHz", part("clocks", "cpu_mhz")),
        Column("GPU clock", "MHz", part("clocks", "gpu_mhz")),
        Column("throttled", "", lambda r: _said(r.clocks.flag("throttled") if r.clocks else None)),
        Column("as exported", "M parameters, G MACs", _exported),
        Column("runs on", "", _runtime),
    ]
    measured = [row for row in bench.rows if row.latency or row.end_to_end or row.memory]
    caption = (
        "Medians, with the 10th to 90th percentile, of a tile at batch 1 and of a raster from file to file"
    )
    for what, part_of, key in (
        ("tile", "latency", "pixels"),
        ("power", "power", "source"),
        ("clocks", "clocks", "source"),
    ):
        caption += _sources(what, (getattr(row, part_of) for row in measured), key)
    return table(caption, columns, measured)


def _of(value: float | None, unit: float, below: str | None = None) -> Cell:
    return Cell() if value is None else Cell(number(value / unit), (below,) if below else ())


def _spread(spread: Spread | None, below: str | None = None) -> Cell:
    if spread is None:
        return Cell()
    return Cell(middle(spread), (around(spread), *([below] if below else ())))


def _macs_unit(bench: Bench) -> str:
    tiles = {row.cost.macs_tile for row in bench.rows if row.cost.macs is not None}
    return f"G, {tiles.pop()} px tile" if len(tiles) == 1 and None not in tiles else "G a tile"


def _counted(row: Row, key: str, unit: float) -> Cell:
    return _of(getattr(row.cost, key), unit, _less(row, key))


def _less(row: Row, key: str) -> str | None:
    times = row.smaller.get(key)
    return f"{number(times)} × less" if times is not None and abs(times - 1) > 0.005 else None


def _at_batch(batch: int) -> Callable[[Row], Cell]:
    return lambda row: _spread(row.fps.get(batch))


def _ratio_at_batch(bench: Bench, batch: int) -> Callable[[Row], Cell]:
    return lambda row: _ratio(bench, row, row.fps.get(batch), row.fps_ratio.get(batch))


def _end_to_end_ratio(bench: Bench, row: Row) -> Cell:
    run = row.end_to_end
    return _ratio(bench, row, run.mpx_per_s, run.ratio) if run else Cell()


def _ratio(bench: Bench, row: Row, measured: Spread | None, ratio: Spread | None) -> Cell:
    return Cell("1", tells=False) if row is bench.base and measured else _spread(ratio)


def _memory(row: Row) -> Cell:
    if row.memory is None:
        return Cell()
    tile, raster = (row.memory.number(k) for k in ("tile_peak_rss_bytes", "raster_peak_rss_bytes"))
    return _of(raster, MIB, "raster") if raster is not None else _of(tile, MIB, "one tile")


def _latency(row: Row) -> Cell:
    if row.latency_s is None:
        return Cell()
    return _spread(row.latency_s.times(1e3), f"{row.latency_s.n:,} runs")


def _percentiles(row: Row) -> Cell:
    p95, p99 = (row.latency.number(k) if row.latency else None for k in ("p95_s", "p99_s"))
    return Cell() if p95 is None or p99 is None else Cell(f"{number(p95 * 1e3)}, {number(p99 * 1e3)}")


def _sources(what: str, parts: Iterable[Facts | None], key: str) -> str:
    """``; power: RAPL``, of all rows together; empty where none says it."""
    said = ", ".join(dict.fromkeys(text for part in parts if part and (text := part.text(key))))
    return f"; {what}: {said}" if said else ""


def _exported(row: Row) -> Cell:
    counts = (row.exported.params, MEGA), (row.exported.macs, GIGA)
    return Cell(", ".join(number(count / unit) for count, unit in counts if count is not None) or NONE)


def _runtime(row: Row) -> Cell:
    named = " ".join(t for t in (row.backend, row.version) if t)
    provider = row.provider.removesuffix("ExecutionProvider") if row.provider else None
    threads = f"{row.threads} threads" if row.threads else None
    tile = f"tile {row.tile} px" if row.tile else None
    return Cell(named or NONE, tuple(t for t in (provider, threads, tile) if t))


def _said(value: bool | None) -> Cell:
    return Cell() if value is None else Cell("yes" if value else "no")
