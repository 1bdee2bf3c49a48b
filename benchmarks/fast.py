"""Two tiles in work at once over one, and ``--fast`` over the plain fp32 run, file to file.

    python benchmarks/fast.py [--size 6000] [--rounds 5] [--threads 2] [--before /tmp/before/bin/python]
        [--work FOLDER] [--json out.json]

Every contender is a separate process with its model open before the clock starts; they take turns for --rounds
rounds, each round starting with another, so that load affects all alike. A figure is the median of the rounds' ratios
with their 10th and 90th percentile, beside its target. The raster is a scene of ``rsedge sample``, the mask a
cloud-optimised GeoTIFF, the model the default one. ``--fast`` measures what is fastest before the first round.

fp32, 1; fp32, 2    fp32 in ONNX Runtime on --threads threads, with one stream and with two
int8, 1; int8, 2    INT8 in OpenVINO on the same threads, with one stream and with two
fast                what ``--fast`` takes on these threads
before              the default (fp32 in ONNX Runtime, all cores) of another version of rsedge, in an environment of its
                    own; such as ``pip install --target`` of a worktree at the commit before
differ              share of the pixels whose class is not that of "fp32, 1"
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from streaming_run import Bench, Facts, run_file, take_turns
from streaming_tables import Row, bars_table, ratios, seconds_table

from rsedge.errors import RsedgeError

RESULTS = Path(__file__).parent / "results" / "fast.json"
FAST_BAR, BEFORE_BAR = 1.9, 6.0
STREAMS_BARS = {"fp32": 1.08, "int8": 1.10}
DEVICES = {"fp32": "cpu", "int8": "openvino"}
OWN_PACKAGE = {"PYTHONPATH": ""}  # another version must not find this one


def main() -> None:
    args = _parse()
    work = args.work or Path(tempfile.mkdtemp(prefix="rsedge-fast-"))
    work.mkdir(parents=True, exist_ok=True)
    try:
        facts = measure(Bench(work, args.rounds, args.size, None), args.threads, args.before)
    finally:
        if args.work is None:
            shutil.rmtree(work, ignore_errors=True)
    args.json.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def measure(bench: Bench, threads: int, before: Path | None) -> Facts:
    """Take the turns, print the tables and return all facts."""
    conditions = bench.conditions  # before measuring, because a benchmark adds load
    size = bench.size or 6000
    raster = bench.raster(size, size)
    contenders = _contenders(bench, raster, threads, before)
    taken = contenders["fast"]()  # measures what is fastest, if nobody has
    runs = take_turns(contenders, bench.rounds, raster)
    rows = bars(runs)
    masks = {name: bench.mask_of(raster, name) for name in contenders}
    differ = {name: _differ(masks["fp32, 1"], path) for name, path in masks.items()}
    print(bars_table(rows), seconds_table(runs), sep="\n\n")
    print(
        f"\n--fast took {taken['precision']} on {taken['provider']}, {taken['streams']} streams: {taken['why']}"
    )
    print("differ: " + ", ".join(f"{name} {share:.3%}" for name, share in differ.items()))
    return {
        "method": {"rounds": bench.rounds, "size": size, "threads": threads, "format": "cog"},
        "conditions": conditions,
        "bars": [row.to_dict() for row in rows],
        "fast": taken,
        "differ": differ,
        "runs": runs,
    }


def _contenders(
    bench: Bench, raster: Path, threads: int, before: Path | None
) -> dict[str, Callable[[], Facts]]:
    def run(name: str, python: Path | None = None, **how: Any) -> Callable[[], Facts]:
        told = {"raster": str(raster), "out": str(bench.mask_of(raster, name)), **how}
        env = None if python is None else OWN_PACKAGE
        return partial(run_file, Path(__file__), "segment", python, env, **told)

    found = {
        f"{precision}, {streams}": run(
            f"{precision}, {streams}", device=device, precision=precision, threads=threads, streams=streams
        )
        for precision, device in DEVICES.items()
        if device != "openvino" or find_spec("openvino")
        for streams in (1, 2)
    }
    found["fast"] = run("fast", threads=threads, fast=True)
    if before is not None:
        found["before"] = run("before", before, device="cpu")
    return found


def bars(runs: dict[str, dict[str, list[float]]]) -> list[Row]:
    """Return the figures: how many times as long the first of each pair takes."""
    wall = {name: quantities["wall_s"] for name, quantities in runs.items()}
    rows = [
        Row(
            f"{precision} in {DEVICES[precision]}, one stream over two",
            ratios(wall[one], wall[two]),
            bar,
            "at least",
        )
        for precision, bar in STREAMS_BARS.items()
        if (one := f"{precision}, 1") in wall and (two := f"{precision}, 2") in wall
    ]
    rows.append(
        Row("fp32 in ONNX Runtime over --fast", ratios(wall["fp32, 1"], wall["fast"]), FAST_BAR, "at least")
    )
    if "before" in wall:
        rows.append(
            Row(
                "the version of before over --fast",
                ratios(wall["before"], wall["fast"]),
                BEFORE_BAR,
                "at least",
            )
        )
    return rows


def _differ(one: Path, other: Path) -> float:
    import rasterio  # noqa: PLC0415 - a process that segments imports it when its clock does not run

    with rasterio.open(one) as a, rasterio.open(other) as b:
        same = sum(int((a.read(1, window=w) == b.read(1, window=w)).sum()) for _, w in a.block_windows(1))
        return float(1 - same / (a.width * a.height))


def segment(raster: str, out: str, fast: bool = False, **how: Any) -> Facts:
    """Segment once with the model already open; ``how``: arguments of ``open_model``, or of ``open_fastest``."""
    from rsedge import Options, open_model  # noqa: PLC0415 - of the version that this interpreter has
    from rsedge import segment as run_segment  # noqa: PLC0415

    opener: Callable[..., Any] = open_model
    if fast:
        from rsedge import open_fastest  # noqa: PLC0415 - unknown to the version of before

        opener = open_fastest
    with opener(**how) as backend:
        begin = time.perf_counter()
        result = run_segment(backend, raster, out, Options(format="cog", overwrite=True))
        return {
            "wall_s": time.perf_counter() - begin,
            "stages_s": result.seconds,
            "precision": result.precision,
            "provider": result.provider,
            "why": result.why,
            "streams": getattr(backend, "streams", 1),
            "mpx_per_s": result.mpx_per_s,
        }


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=6000, help="pixels per side")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--before", type=Path, help="interpreter with the version of before")
    parser.add_argument("--work", type=Path, help="folder for rasters and masks, kept; temporary by default")
    parser.add_argument("--json", type=Path, default=RESULTS, help="where to write the results")
    args = parser.parse_args()
    if args.rounds < 1 or args.size < 512 or args.threads < 2:
        parser.error("--rounds must be at least 1, --size at least one tile (512), --threads at least 2")
    return args


if __name__ == "__main__":
    if sys.argv[1:2] == ["segment"]:
        from streaming_peers import report

        report({"segment": segment})
    else:
        try:
            main()
        except RsedgeError as error:
            sys.exit(f"error: {error}")
