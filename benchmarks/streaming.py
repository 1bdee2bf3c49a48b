"""Speed and memory of streaming: rsedge compared with lower bounds, geodeep and the whole-array loop.

    python benchmarks/streaming.py [--part speed memory reference resume startup profile] [--size 6000]
        [--rounds 5] [--geodeep-python /tmp/peers/bin/python] [--work FOLDER] [--json out.json]

Every contender is a separate process; they take turns for --rounds rounds, each round starting with another,
so that load affects all alike. A figure is the median of the rounds' ratios with their 10th and 90th percentile,
beside its target. Rasters are scenes of ``rsedge sample`` (deflate, 512 px blocks), read once before
each round; above 6000 px they repeat one scene. Two models of tile 512: a 1x1 convolution to six classes, which costs
almost no time, and the default student (b0).

work        seconds after the imports, with the model open (geodeep opens its own: milliseconds)
process     seconds from start to exit; CPU: user and system seconds of all its threads
read        the raster decoded into one buffer by GDAL on one thread, used by the bar; "read, 2 threads" is beside it
write       the finished mask from memory as a tiled zstd GeoTIFF of level 1 (as rsedge writes), one thread
model       the session alone, once for every window, with the same pixels each time
floor       the slower of read + write and model, in each round
geodeep     as installed by `pip install geodeep`; only geodeep puts a 5x5 median filter over the mask.
            "loop" is without the filter. With scipy installed the filter is faster: the note says which
            Peers over the floor: the most by which anyone could be faster than they are
naive       the whole raster in memory, tiles without overlap, argmax, the whole mask; "naive-blend" overlaps
            and blends, as rsedge does, with all scores of the raster in memory
agreement   share of the pixels with rsedge's class: a check that all did the same work
resume      `rsedge infer`, killed by SIGKILL at half of its usual time, then again with --resume
stages      of the profile: decode by rsedge's reader; gather copies windows into the model's input; encode writes
            the mask in parts; GeoTIFF and COG each build one file from the parts and read it back
least       of the profile: bytes moved over memory speed, or operations over arithmetic speed, whichever is
            more; "times its least" is how far a stage on one thread is from it

At the default size --part memory needs 5 GB of disk; geodeep without scipy needs 20 GB of memory for its filter,
and on a smaller machine the system kills it first: the note says so.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

from streaming_parts import PARTS
from streaming_run import Bench, Outcome
from streaming_tables import bars_table

from rsedge.errors import RsedgeError
from rsedge.files import whole_or_nothing

RESULTS = Path(__file__).parent / "results" / "streaming.json"


def main() -> None:
    args = _parse()
    work = args.work or Path(tempfile.mkdtemp(prefix="rsedge-streaming-"))
    work.mkdir(parents=True, exist_ok=True)
    try:
        bench = Bench(work, args.rounds, args.size, args.geodeep_python)
        conditions = bench.conditions  # before measuring, because a benchmark adds load
        outcomes = {part: PARTS[part](bench) for part in args.part}
        facts = {
            "method": {"rounds": args.rounds, "size": args.size, "parts": args.part},
            "conditions": conditions,
            "versions": bench.versions(),
            "parts": {part: outcome.to_dict() for part, outcome in outcomes.items()},
        }
    finally:
        if args.work is None:
            shutil.rmtree(work, ignore_errors=True)
    print(_show(outcomes, conditions))
    with whole_or_nothing(args.json) as partial:
        partial.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def _show(outcomes: dict[str, Outcome], conditions: dict[str, object]) -> str:
    """Return all parts as Markdown: one table of bars, then each part's own."""
    machine = (
        f"{conditions['cpu']}, {conditions['cores']} cores, load before {conditions['load_1min_before']}, "
        f"rsedge {conditions['rsedge_version']}, {conditions['backend']} {conditions['backend_version']}, "
        f"GDAL {conditions['gdal']}, {conditions['date']}"
    )
    rows = [row for outcome in outcomes.values() for row in outcome.rows]
    parts = [machine, *([bars_table(rows)] if rows else [])]
    for part, outcome in outcomes.items():
        parts += [f"**{part}**: {note}" for note in outcome.notes]
        parts += outcome.tables
    return "\n\n".join(parts)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART")
    parser.add_argument("--size", type=int, help="pixels per side; by default each part's own")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--geodeep-python", type=Path, help="interpreter with geodeep; by default geodeep is skipped"
    )
    parser.add_argument("--work", type=Path, help="folder for rasters and masks, kept; temporary by default")
    parser.add_argument("--json", type=Path, default=RESULTS, help="where to write the results")
    args = parser.parse_args()
    if args.rounds < 1:
        parser.error("--rounds must be at least 1")
    if args.size is not None and args.size < 512:
        parser.error("--size must be at least one tile, 512")
    return args


if __name__ == "__main__":
    try:
        main()
    except RsedgeError as error:
        sys.exit(f"error: {error}")
