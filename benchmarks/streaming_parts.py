"""Parts of streaming.py: contenders, ratios and bars."""

from __future__ import annotations

import filecmp
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from streaming_run import Bench, DiedError, Facts, Outcome, Runs, run_command, run_script, take_turns
from streaming_tables import Row, Spread, Work, floor_s, ratios, seconds_table, work_table

TILE = 512
MOST_LONG_ROUNDS = 3  # for parts that take many minutes a round
STARTS = 9
NAIVE = ("naive", "naive-blend")
BESIDE = "square, beside geodeep"
PEERS = (*NAIVE, "geodeep")
MIB = 2**20
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
RSEDGE = Path(sys.executable).with_name("rsedge")


def speed(bench: Bench) -> Outcome:
    """Compare the 1x1 convolution with lower bounds and peers, and the student with its model."""
    raster = bench.raster(bench.size or 6000, bench.size or 6000)
    bundle = bench.models["bundle"]
    bench.segment(raster, bundle)  # the mask that "write" writes; also fills per-machine compile caches
    pointwise = take_turns(_contenders(bench, raster, bundle), bench.rounds, raster)
    student = take_turns(
        {
            "b0, gtiff": lambda: bench.segment(raster, None),
            "b0, model": lambda: run_script("own", "model", raster=str(raster)),
        },
        bench.rounds,
        raster,
    )
    agreed = {
        name: run_script(
            "peers",
            "agreement",
            one=str(bench.mask_of(raster, "gtiff")),
            other=str(bench.mask_of(raster, name)),
        )["agreement"]
        for name in ("cog", *NAIVE, *(["geodeep"] * bool(bench.geodeep)))
    }
    notes = [f"agreement with the gtiff mask: {', '.join(f'{n} {a:.4%}' for n, a in agreed.items())}"]
    if not bench.geodeep:
        notes.append(f"geodeep is left out: --geodeep-python is {bench.geodeep_python}")
    runs = {**pointwise, **student}
    facts = {"raster": raster.stem, "runs": runs, "agreement": agreed}
    return Outcome(_speed_rows(runs), [seconds_table(runs)], notes, facts)


def _contenders(bench: Bench, raster: Path, bundle: str) -> dict[str, Callable[[], Facts]]:
    mask, path = bench.mask_of, str(raster)
    found: dict[str, Callable[[], Facts]] = {
        "gtiff": lambda: bench.segment(raster, bundle),
        "cog": lambda: bench.segment(raster, bundle, "cog"),
        "read": partial(run_script, "peers", "read", raster=path),
        "read, 2 threads": partial(run_script, "peers", "read", raster=path, gdal_threads=2),
        "write": partial(
            run_script, "peers", "write", mask=str(mask(raster, "gtiff")), out=str(mask(raster, "write"))
        ),
        "model": partial(run_script, "own", "model", raster=path, model=bundle),
    }  # fmt: skip
    for name in NAIVE:
        found[name] = partial(
            run_script,
            "peers",
            name,
            raster=path,
            out=str(mask(raster, name)),
            model=bench.models["onnx"],
            tile=TILE,
        )
    if bench.geodeep:
        found["geodeep"] = lambda: bench.run_geodeep(raster)
    return found


def _speed_rows(runs: Runs) -> list[Row]:
    wall = {name: quantities["wall_s"] for name, quantities in runs.items()}
    gtiff, floor = wall["gtiff"], floor_s(wall["read"], wall["write"], wall["model"])
    return [
        Row("1x1, gtiff over the floor", ratios(gtiff, floor), 1.6),
        Row(
            "1x1, gtiff over the floor, read by 2 threads",
            ratios(gtiff, floor_s(wall["read, 2 threads"], wall["write"], wall["model"])),
        ),
        Row("1x1, cog over gtiff", ratios(wall["cog"], gtiff), 1.35),
        Row("1x1, naive over gtiff", ratios(wall["naive"], gtiff), 4, "at least"),
        Row("1x1, naive-blend over gtiff", ratios(wall["naive-blend"], gtiff)),
        *_geodeep_rows(runs, gtiff, "1x1"),
        *(Row(f"1x1, {peer} over the floor", ratios(wall[peer], floor)) for peer in PEERS if peer in wall),
        Row("b0, gtiff over model", ratios(wall["b0, gtiff"], wall["b0, model"]), 1.10),
    ]


def _geodeep_rows(runs: Runs, own: list[float], what: str) -> list[Row]:
    if "geodeep" not in runs:
        return []
    found = runs["geodeep"]
    note = "its filter by scipy" if all(found["scipy"]) else "its filter by numpy, as installed"
    return [
        Row(f"{what}, geodeep over gtiff", ratios(found["wall_s"], own), 7, "at least", note=note),
        Row(f"{what}, geodeep's loop over gtiff", ratios(found["loop_s"], own), note="without its filter"),
    ]


def memory(bench: Bench) -> Outcome:
    """Measure peak memory for a large raster and one four times as high, and geodeep's time for the former."""
    side = bench.size or 20000
    bundle = bench.models["bundle"]
    square, tall = bench.raster(side, side), bench.raster(side, 4 * side)
    rounds = min(bench.rounds, MOST_LONG_ROUNDS)
    runs = take_turns(
        {"square": lambda: bench.segment(square, bundle), "tall": lambda: bench.segment(tall, bundle)},
        rounds,
        square,
        tall,
    )
    notes = list[str]()
    try:
        if bench.geodeep:
            beside = {
                BESIDE: lambda: bench.segment(square, bundle),
                "geodeep": lambda: bench.run_geodeep(square),
            }
            runs |= take_turns(beside, 1, square)
    except DiedError as error:
        notes.append(f"geodeep did not finish {square.stem}: {error}")
    own, higher = (runs[name]["peak_rss_bytes"] for name in ("square", "tall"))
    rows = [
        Row(f"peak memory, {square.stem}", Spread.of([b / MIB for b in own]), 400, unit=" MiB"),
        Row(f"peak memory, {tall.stem} over {square.stem}", ratios(higher, own), 1.05),
        *(_geodeep_rows(runs, runs[BESIDE]["wall_s"], square.stem) if BESIDE in runs else []),
    ]
    facts = {"square": square.stem, "tall": tall.stem, "runs": runs}
    return Outcome(rows, [seconds_table(runs)], notes, facts)


def reference(bench: Bench) -> Outcome:
    """Compare masks with a whole-array float64 blend."""
    width = bench.size or 3000
    raster = bench.raster(width, width * 5 // 6)
    rows, found = list[Row](), dict[str, Any]()
    for name, model in (("1x1", bench.models["bundle"]), ("b0", None)):
        bench.segment(raster, model)
        mask = bench.mask_of(raster, "gtiff" if model else "b0")
        facts = run_script("own", "reference", raster=str(raster), mask=str(mask), model=model)
        rows.append(
            Row(f"{name}, share of pixels unlike the reference blend", Spread.of([facts["share"]]), 1e-4)
        )
        found[name] = facts
    notes = [
        f"{name}: {f['differ']} of {f['pixels']} pixels, weights differ by {f['weights_off']:.0e} at most"
        for name, f in found.items()
    ]
    return Outcome(rows, [], notes, {"raster": raster.stem, "found": found})


def resume(bench: Bench) -> Outcome:
    """Compare the total time of a run killed half-way and resumed with an uninterrupted run's."""
    _, usage = run_command([RSEDGE, "infer", "--help"])
    if "--resume" not in usage:
        return Outcome(notes=["not measured: this rsedge has no `infer --resume`"])
    side = bench.size or 10000
    raster, tiny = bench.raster(side, side), bench.raster(TILE, TILE)
    whole_out, resumed_out = bench.mask_of(raster, "whole"), bench.mask_of(raster, "resumed")

    def infer(raster: Path, out: Path, *more: str, kill_after_s: float | None = None) -> float:
        command: list[str | Path] = [RSEDGE, "infer", raster, "--quiet", "--out", out, *more]
        return float(run_command(command, kill_after_s)[0]["process_s"])

    def infer_whole() -> float:
        whole_out.unlink(missing_ok=True)
        return infer(raster, whole_out)

    infer(tiny, bench.mask_of(tiny, "first"), "--overwrite")  # fills per-machine compile caches
    whole, killed, resumed, same = [infer_whole()], list[float](), list[float](), list[bool]()
    for _ in range(min(bench.rounds, MOST_LONG_ROUNDS)):
        resumed_out.unlink(missing_ok=True)
        killed.append(infer(raster, resumed_out, kill_after_s=whole[-1] / 2))
        resumed.append(infer(raster, resumed_out, "--resume"))
        whole.append(infer_whole())
        same.append(filecmp.cmp(whole_out, resumed_out, shallow=False))
    total = [k + r for k, r in zip(killed, resumed, strict=True)]
    around = [(before + after) / 2 for before, after in pairwise(whole)]  # the mean cancels a growing load
    agreed = run_script("peers", "agreement", one=str(whole_out), other=str(resumed_out))["agreement"]
    row = Row("killed half-way and resumed, over not killed", ratios(total, around), 1.03)
    notes = [f"masks of the same bytes in {sum(same)} of {len(same)} rounds; pixels agree on {agreed:.6%}"]
    seconds = {"whole_s": whole, "killed_s": killed, "resumed_s": resumed}
    return Outcome(
        [row], [], notes, {"raster": raster.stem, **seconds, "same_bytes": same, "agreement": agreed}
    )


def startup(bench: Bench) -> Outcome:
    """Measure seconds until the help text appears, and until the model first runs."""
    raster = bench.raster(TILE, TILE)
    out = bench.mask_of(raster, "first")
    helped, first, whole = list[float](), list[float](), list[float]()
    for _ in range(STARTS):
        helped.append(run_command([RSEDGE, "--help"])[0]["process_s"])
        facts = run_script("own", "first-window", begin=time.monotonic(), raster=str(raster), out=str(out))
        first.append(facts["first_window_s"])
        out.unlink(missing_ok=True)
        whole.append(run_command([RSEDGE, "infer", raster, "--out", out, "--quiet"])[0]["process_s"])
    rows = [
        Row("rsedge --help", Spread.of(helped), 0.5, unit=" s"),
        Row("rsedge infer, before the first window", Spread.of(first), 2, unit=" s"),
        Row("rsedge infer, the whole of one window", Spread.of(whole), unit=" s"),
    ]
    return Outcome(rows, facts={"help_s": helped, "first_window_s": first, "one_window_s": whole})


def profile(bench: Bench) -> Outcome:
    """Measure bytes and operations of every stage, and its distance from the machine's best."""
    raster = bench.raster(bench.size or 6000, bench.size or 6000)
    tables, found = list[str](), dict[str, Any]()
    for model in (bench.models["bundle"], None):
        facts = run_script(
            "profile", "profile", env=ONE_THREAD, raster=str(raster), folder=str(bench.work), model=model
        )
        works = [Work(**stage) for stage in facts["stages"]]
        tables.append(f"{facts['model']}, {raster.stem}: {work_table(works, facts['machine'])}")
        found[facts["model"]] = facts
    return Outcome(tables=tables, facts={"raster": raster.stem, "found": found})


PARTS: dict[str, Callable[[Bench], Outcome]] = {
    "speed": speed,
    "memory": memory,
    "reference": reference,
    "resume": resume,
    "startup": startup,
    "profile": profile,
}
