"""ARAFNet's Table 4 on this machine: the teacher and its nine students, FPS as a ratio to the teacher.

    python benchmarks/table4.py [--ways eager compile onnx] [--dtypes fp32 ...] [--networks arafnet-t ...]
        [--rounds 5] [--batch 8] [--tile 512] [--threads N] [--device auto] [--json out.json]

The paper prints FPS on a TITAN RTX, at batch 8 and 512 x 512, without its method of timing; its ratios to the
teacher can be compared with another machine's. One table per way and dtype; weights are random, since speed does
not depend on weights, so the mIoU column is omitted. Six classes, no auxiliary head (used only in training).

eager       plain torch
compile     torch.compile, default mode, shapes fixed
onnx        ONNX Runtime, the CPU's provider or CUDA's, with the graph of rsedge's exporter; an fp32 graph is
            compared with torch first. The only option set is the number of threads
...-deployed  students after rsedge's exact rewrites for this tile (folded BN, dilations, upsampling); the teacher
            unchanged. Not among the default ways
dtypes      weights and input both of that type, no autocast. Default: fp32 on a CPU, all three on a GPU
FPS         batch / seconds of one forward pass: input already on the device, scores left there, the device
            synchronised before and after. A turn's figure is the median of its passes; a table's that of the turns,
            with their 10th and 90th percentile. "x teacher" is of each round, then the median
turn        a separate process, since ten networks together do not fit a small GPU, and a crash must not stop
            the others. It opens the network, runs --warmup uncounted passes, then as many as fit --seconds, one
            at least. All networks take one turn per round, each round starting with another, so that load, clocks and
            heat affect all alike. Before the first round each has one uncounted turn: it fills
            torch.compile's cache, and networks that cannot run are listed with their error
FLOPs, ...  paper: as printed; ours: of our networks, counted as the authors did (thop: MACs of eight tiles, its
            rules), whatever --batch and --tile are
peak        highest memory of all turns: host (VmHWM, torch and its libraries included), or on a GPU
            torch.cuda.max_memory_allocated; for onnx on a GPU, by how much the free memory fell
GPU         TF32 is off unless --tf32, in torch and in ONNX Runtime; cudnn.benchmark is on, as ONNX Runtime's search
            for convolutions is by default
threads     spin while they wait for each other, so other work on the machine can multiply the seconds of
            eager by tens: measure on an idle machine
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from streaming_run import DiedError, Facts, run_file, take_turns, tolerated
from table4_tables import DEPLOYED, TEACHER, Row, left_out_lines, table

from rsedge.errors import RsedgeError
from rsedge.files import whole_or_nothing
from rsedge_train.nets.authors import TABLE_4

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "table4.json"
WORKER = HERE / "table4_worker.py"
WAYS = ("eager", "compile", "onnx")
DTYPES = ("fp32", "fp16", "bf16")
WARMUP = {"cpu": 1, "cuda": 10}


def main() -> None:
    args = _parse()
    work = args.work or Path(tempfile.mkdtemp(prefix="rsedge-table4-"))
    work.mkdir(parents=True, exist_ok=True)
    try:
        found = _ask("conditions", device=args.device, threads=args.threads)
        device = str(found["device"])
        counts = _ask("counts", networks=sorted({TEACHER, *args.networks}))["counts"]
        method = {
            "batch": args.batch, "tile": args.tile, "rounds": args.rounds, "seconds_a_turn": args.seconds,
            "warmup_passes": WARMUP[device] if args.warmup is None else args.warmup, "tf32": args.tf32,
            "cudnn_benchmark": device == "cuda", "weights": "random", "low_precision": "weights and input, no autocast",
        }  # fmt: skip
        facts: Facts = {"method": method, "counts": counts, "tables": []}
        print(
            f"{_machine(found)}\nbatch {args.batch}, {args.tile} x {args.tile}, {args.rounds} rounds",
            flush=True,
        )
        for way in args.ways:
            for dtype in args.dtypes or (DTYPES if device == "cuda" else DTYPES[:1]):
                facts["tables"].append(_measure(way, dtype, args, method, counts, device, work))
                with whole_or_nothing(
                    args.json
                ) as partial_file:  # after each table, since a table takes long
                    partial_file.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    finally:
        if args.work is None:
            shutil.rmtree(work, ignore_errors=True)


def _measure(
    way: str, dtype: str, args: argparse.Namespace, method: Facts, counts: Facts, device: str, work: Path
) -> Facts:
    """Measure one table, print it, and return it for the JSON."""
    before = _ask("conditions", device=device, threads=args.threads)
    opened, left_out = dict[str, Facts](), dict[str, str]()
    common = {
        "way": way, "dtype": dtype, "device": device, "batch": args.batch, "tile": args.tile,
        "threads": before["threads"], "tf32": args.tf32,
    }  # fmt: skip
    turns = {
        name: partial(
            _ask, "turn", work, network=name, graph=str(_graph(work, name, way, dtype)), **common,
            warmup=method["warmup_passes"], seconds=args.seconds,
        )
        for name in args.networks
    }  # fmt: skip
    for name in args.networks:
        print(f"{way}, {dtype}: {name} opens", file=sys.stderr)
        try:
            exported = _export(work, name, way, dtype, args.tile) if way.startswith("onnx") else {}
            opened[name] = {"export": exported, **turns[name](warmup=1, seconds=0)}
        except DiedError as error:
            left_out[name] = error.said.replace(f"{work}/", "")
    runs = take_turns(tolerated({n: turns[n] for n in opened}, left_out), args.rounds) if opened else {}
    runs = {name: found for name, found in runs.items() if name not in left_out}
    rows = [Row.of(name, counts, runs, args.batch) for name in runs]
    said = [
        f"**{way}, {dtype}**",
        table(rows, "host" if device == "cpu" else "GPU"),
        left_out_lines(left_out),
    ]
    print("\n" + "\n\n".join(part for part in said if part), flush=True)
    return {
        "way": way, "dtype": dtype, "conditions": before, "rows": [row.to_dict() for row in rows],
        "left_out": left_out, "first_turns": opened, "runs": runs,
    }  # fmt: skip


def _export(work: Path, network: str, way: str, dtype: str, tile: int) -> Facts:
    """Export the graph to a file, even if a kept folder has one, which may be for another tile or network."""
    out = str(_graph(work, network, way, dtype))
    return _ask("export", work, network=network, way=way, dtype=dtype, tile=tile, out=out)


def _graph(work: Path, network: str, way: str, dtype: str) -> Path:
    return work / f"{network}-{way}-{dtype}.onnx"


def _ask(what: str, work: Path | None = None, **args: Any) -> Facts:
    """Run one process of the worker; torch.compile's cache is kept in ``work``."""
    env = {} if work is None else {"TORCHINDUCTOR_CACHE_DIR": str(work / "inductor")}
    return run_file(WORKER, what, env=env, **args)


def _machine(found: Facts) -> str:
    """Return the conditions in a line."""
    gpu = ""
    if "gpu" in found:
        gpu = f"{found['gpu']} (CUDA {found['cuda']}, cuDNN {found['cudnn']}; {found['nvidia_smi']}), "
    return (
        f"{gpu}{found['cpu']}, {found['threads']} threads of {found['cores']} cores, load before "
        f"{found['load_1min_before']}, torch {found['torch']}, onnxruntime {found['onnxruntime']}, {found['date']}"
    )


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    ways = [*WAYS, *(way + DEPLOYED for way in WAYS)]
    parser.add_argument("--ways", nargs="+", choices=ways, default=list(WAYS), metavar="WAY")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, metavar="DTYPE")
    parser.add_argument("--networks", nargs="+", choices=TABLE_4, default=list(TABLE_4), metavar="NAME")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--tile", type=int, default=512)
    parser.add_argument(
        "--threads", type=int, help="of the CPU; all cores available to this process by default"
    )
    parser.add_argument("--warmup", type=int, help="uncounted passes; 1 on a CPU, 10 on a GPU")
    parser.add_argument("--seconds", type=float, default=1.0, help="of counted passes per turn")
    parser.add_argument("--tf32", action="store_true", help="let a GPU round fp32 factors to 10 bits")
    parser.add_argument(
        "--work",
        type=Path,
        help="folder for graphs and torch.compile's cache, kept; temporary by default",
    )
    parser.add_argument("--json", type=Path, default=RESULTS, help="where to write the results")
    args = parser.parse_args()
    if min(args.rounds, args.batch, args.threads or 1, 1 if args.warmup is None else args.warmup) < 1:
        parser.error("--rounds, --batch, --threads and --warmup must be at least 1")
    if args.tile < 32 or args.tile % 32:
        parser.error("--tile must be a positive multiple of 32")
    return args


if __name__ == "__main__":
    try:
        main()
    except RsedgeError as error:
        sys.exit(f"error: {error}")
