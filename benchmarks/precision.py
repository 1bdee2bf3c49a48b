"""Cost and gain of lower precisions: every artifact of a bundle on every backend of this machine.

    python benchmarks/precision.py student.rsedge --data ../shared/data/dubai/tile7 [--json out.json]

One row per artifact and backend, each compared with fp32 in ONNX Runtime on the CPU:

MB          size of the file, and its ratio to fp32's
mIoU        on DATA by the whole engine, as in ``rsedge eval``, and the points below fp32
agreement   share of the pixels with fp32's class: on DATA's tiles without overlap, and on those of sample scenes
            that were not used for training or calibration. "verify" is the verdict of ``rsedge verify`` on both
ms          of one tile at batch 1, pixels in host memory in, scores out: the median of rounds in which fp32
            and the row take turns, so that load affects both alike. The speed-up is the median of the
            rounds' ratios, with their 10th and 90th percentile; fp32 against another fp32 shows the noise

Artifacts for TensorRT alone (int8-...) are scored in ONNX Runtime, never timed, as they are not meant for
CPUs. What cannot run on this machine is listed with the reason.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from rsedge import open_model
from rsedge.backends import Backend
from rsedge.bench import BUSY, WARMUP, example_tile
from rsedge.errors import BackendError, ModelError, RsedgeError
from rsedge.files import whole_or_nothing
from rsedge.infer.options import Options
from rsedge.model.manifest import Manifest
from rsedge.raster import RasterReader, bounded_cache, plan_bands
from rsedge.score.evaluation import evaluate
from rsedge.score.labels import LabelColors
from rsedge.score.pairs import find_pairs
from rsedge.verify.compare import TRT_ONLY, Candidate, candidates, check
from rsedge.verify.conditions import Conditions
from rsedge.verify.tiles import RasterTiles, Tile, Tiles
from rsedge_sample.files import write_sample

REFERENCE = Candidate("fp32", "cpu")


class RasterFiles:
    """Tiles of several rasters, one raster after the other, cut as by ``rsedge verify --raster``."""

    def __init__(self, paths: Sequence[Path], manifest: Manifest, what: str) -> None:
        self._paths, self._manifest, self.what = paths, manifest, what

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __iter__(self) -> Iterator[Tile]:
        for path in self._paths:
            with RasterReader(path) as reader, bounded_cache(reader.row_of_blocks_bytes):
                plan = plan_bands(reader, self._manifest, None, None)
                yield from RasterTiles(reader, plan, self._manifest, sys.maxsize)


def main() -> None:
    args = _parse()
    models = [_measure(path, args) for path in args.bundles]
    facts = {
        "method": {
            "data": args.data.name, "sample_seeds": args.seeds, "sample_side": args.side, "rounds": args.rounds,
            "batch": 1, "overlap_of_eval": Options().overlap, "reference": str(REFERENCE),
        },
        "models": models,
    }  # fmt: skip
    print("\n\n".join(table(model) for model in models))
    if args.json:
        with whole_or_nothing(args.json) as partial:
            partial.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def _measure(path: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Measure all rows of one bundle."""
    with ExitStack() as stack:
        reference = stack.enter_context(open_model(path, REFERENCE.device, args.threads, REFERENCE.precision))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rsedge-precision-")))
        manifest = reference.bundle.manifest
        conditions = Conditions.of(reference)
        scenes = [folder / f"sample{seed}.tif" for seed in args.seeds]
        for scene, seed in zip(scenes, args.seeds, strict=True):
            write_sample(scene, args.side, args.side, seed=seed)
        images = [image for image, _ in find_pairs(args.data)]
        tiles: dict[str, Tiles] = {"data": RasterFiles(images, manifest, "data")}
        if scenes:
            tiles["samples"] = RasterFiles(scenes, manifest, "sample scenes")
        rows, left_out = list[dict[str, Any]](), list[str]()
        for candidate in (REFERENCE, *candidates(reference.bundle)):
            if (
                candidate != REFERENCE
                and args.rows
                and f"{candidate.precision}:{candidate.device}" not in args.rows
            ):
                continue
            print(f"{manifest.name}: {candidate}", file=sys.stderr, flush=True)
            try:
                rows.append(_row(reference, candidate, tiles, args))
            except (BackendError, ModelError) as error:
                left_out.append(f"{candidate}: {error}")
    return {
        "model": manifest.name,
        "bundle": path.name,
        "sha256": reference.bundle.sha256,
        "tile": manifest.tile,
        "conditions": asdict(conditions),
        "classes": [c.name for c in manifest.classes],
        "rows": [_against(row, rows[0]) for row in rows],
        "left_out": left_out,
    }


def _row(
    reference: Backend, candidate: Candidate, tiles: Mapping[str, Tiles], args: argparse.Namespace
) -> dict[str, Any]:
    """Measure one artifact on one backend. Raises BackendError or ModelError if the artifact does not run."""
    if candidate.missing:
        raise BackendError(candidate.missing)
    with open_model(reference.bundle.path, candidate.device, args.threads, candidate.precision) as model:
        names = tuple(c.name for c in model.bundle.manifest.classes)
        colors = LabelColors.read(args.classes, names) if args.classes else None
        scores = evaluate(model, args.data, colors=colors).to_dict()
        is_timed = candidate.device == "tensorrt" or not candidate.precision.startswith(TRT_ONLY)
        row = {
            "precision": candidate.precision,
            "device": candidate.device,
            "provider": model.provider,
            "version": model.version,
            "bytes": model.bundle.artifact.stat().st_size,
            "miou": scores["miou"],
            "iou": {c["name"]: c["iou"] for c in scores["classes"]},
            "pixels": scores["pixels"],
            "latency": _take_turns(reference, model, args.rounds) if is_timed else None,
        }
    checks = {kind: check(reference, candidate, t, args.threads, lambda: None) for kind, t in tiles.items()}
    if broken := [c.why for c in checks.values() if c.found is None]:
        raise BackendError(str(broken[0]))
    row["agreement"] = {kind: asdict(c.found) for kind, c in checks.items() if c.found}
    row["verify"] = {kind: c.why or c.state for kind, c in checks.items()}
    return row


def _take_turns(reference: Backend, model: Backend, rounds: int) -> dict[str, Any]:
    """Return seconds of one tile of both models, which take turns and alternate the order."""
    pixels, what = example_tile(reference.bundle.manifest)
    conditions = Conditions.of(model)
    times_s = np.zeros((2, rounds))  # of the reference, of the model
    for number in range(-WARMUP, rounds):
        for who in (0, 1) if number % 2 == 0 else (1, 0):
            start = time.perf_counter()
            (reference, model)[who].infer(pixels)
            if number >= 0:
                times_s[who, number] = time.perf_counter() - start
    low, middle, high = (float(v) for v in np.percentile(times_s[0] / times_s[1], (10, 50, 90)))
    return {
        "tile": reference.bundle.manifest.tile,
        "batch": len(pixels),
        "pixels": what,
        "rounds": rounds,
        "p50_s": float(np.median(times_s[1])),
        "reference_p50_s": float(np.median(times_s[0])),
        "speedup": {"p10": low, "p50": middle, "p90": high},
        "conditions": asdict(conditions),
    }


def _against(row: Mapping[str, Any], fp32: Mapping[str, Any]) -> dict[str, Any]:
    """Add to ``row`` its difference from fp32: ratio of bytes, points of scores."""
    iou, of_fp32 = row["iou"], fp32["iou"]
    return {
        **row,
        "bytes_ratio": row["bytes"] / fp32["bytes"],
        "miou_drop_points": 100 * (fp32["miou"] - row["miou"]),
        "iou_drop_points": {
            n: None if iou[n] is None or of_fp32[n] is None else 100 * (of_fp32[n] - iou[n]) for n in iou
        },
    }


def table(model: Mapping[str, Any]) -> str:
    """Return one bundle's results as Markdown."""
    c, classes = model["conditions"], model["classes"]
    load = c["load_1min_before"]
    busy = " (busy: ms are too long, compare the speed-ups)" if load and load > BUSY * c["cores"] else ""
    lines = [
        f"{model['bundle']} ({model['model']}): tile {model['tile']}, batch 1, {c['threads']} threads of {c['cores']} "
        f"cores, {c['cpu']}, load before {load}{busy}",
        "",
        "| precision | backend | MB (of fp32) | mIoU | drop, points | agreement: data | samples | verify "
        "| ms a tile | speed-up (p10 to p90) |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    per_class = [f"| IoU | | {' | '.join(classes)} |", "|---" * (len(classes) + 2) + "|"]
    for row in model["rows"]:
        named = f"| {row['precision']} | {row['provider']} |"
        agreed = [
            f"{row['agreement'][k]['agreement']:.2%}" if k in row["agreement"] else "-"
            for k in ("data", "samples")
        ]
        passed = "passed" if set(row["verify"].values()) == {"passed"} else "failed"
        lines.append(
            f"{named} {row['bytes'] / 1e6:.2f} ({row['bytes_ratio']:.2f}) | {row['miou']:.4f} "
            f"| {row['miou_drop_points']:+.2f} | {' | '.join(agreed)} | {passed} | {_times(row['latency'])} |"
        )
        cells = ["-" if row["iou"][n] is None else f"{row['iou'][n]:.3f}" for n in classes]
        per_class.append(f"{named} {' | '.join(cells)} |")
    left_out = ["", *(f"not run: {why}" for why in model["left_out"])]
    return "\n".join([*lines, "", *per_class, *left_out]).rstrip()


def _times(latency: Mapping[str, Any] | None) -> str:
    if latency is None:
        return "- | -"
    ratio = latency["speedup"]
    return f"{1e3 * latency['p50_s']:.1f} | {ratio['p50']:.2f} ({ratio['p10']:.2f} to {ratio['p90']:.2f})"


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundles", type=Path, nargs="+", help="bundle folders")
    parser.add_argument("--data", type=Path, required=True, help="labelled folder, as for rsedge eval")
    parser.add_argument("--classes", type=Path, help="TOML table of label colours")
    parser.add_argument(
        "--seeds", type=int, nargs="*", default=[7, 8, 9], help="of sample scenes; none: skip"
    )
    parser.add_argument("--side", type=int, default=1024, help="pixels, of a sample scene")
    parser.add_argument("--rows", nargs="*", metavar="PRECISION:DEVICE", help="beside fp32; default: all")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, help="of the CPU; default: all cores")
    parser.add_argument("--json", type=Path, help="where to write the results")
    args = parser.parse_args()
    if args.rounds < 1:
        parser.error("--rounds must be at least 1")
    return args


if __name__ == "__main__":
    try:
        main()
    except RsedgeError as error:
        raise SystemExit(f"error: {error}") from error
