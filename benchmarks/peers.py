"""Tiled inference end to end: rsedge compared with geodeep, MONAI, torchgeo and the common loops.

    python benchmarks/peers.py [--size 6000] [--rounds 5] [--models 1x1 b0] [--env FOLDER] [--fresh]
        [--work FOLDER] [--json out.json]

Needs only Python: it creates an environment with the peers' current releases and this
checkout of rsedge (6 GB because of torch and its CUDA libraries), keeps it in --env, and runs everything there.
An existing environment is used unchanged; --fresh recreates it. The results name all versions.

Every contender is a separate process, with the same ONNX file, the same ONNX Runtime settings (rsedge's: as many
threads as cores, no spinning), tiles of 512 with 25 % overlap, batch 1. They take turns for --rounds rounds, each round
starting with another, the raster in the page cache. Figures are medians of the rounds with their 10th and 90th
percentile. Two models: a 1x1 convolution to six classes, which costs almost nothing, and the default student (b0).

rsedge      `rsedge.segment`, a GeoTIFF of zstd level 1, as all write (geodeep's has its source's compression)
geodeep     `geodeep.segment` and its writer; its graph takes float32 / 255, as geodeep feeds, and for b0 undoes that.
            It puts a 5x5 median filter over the mask; "without its filter" is the same runs without the filter's time
monai       the whole raster as float32, `sliding_window_inference`, gaussian, argmax by torch
torchgeo    RasterDataset, GridGeoSampler, DataLoader in this process; tiles' masks are joined, the last one wins:
            the library leaves joining to its users, who write this
naive       the whole raster in memory, tiles side by side without overlap, so half as many
naive-blend the same with overlap: all scores of the raster in memory, added with ramps, divided, argmax

seconds     of the work, after the imports, with the model open (geodeep opens its own: milliseconds)
over rsedge seconds over rsedge's of the same round
peak        highest resident memory; "a further Mpx": its growth from the small raster to the large one
agrees      share of the large raster's pixels with rsedge's class
unlike      share of the small raster's pixels that differ from a whole-array float64 blend with rsedge's weights
nodata      on a raster whose right third is nodata: share of its nodata pixels that the mask marks as nodata / share of
            other pixels marked so, by the mask's own nodata value
grid        whether the mask of that raster has its CRS, transform and size, and the writer: the library, or these
            scripts if the library ends at an array
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
RESULTS = HERE / "results" / "peers.json"
# geodeep filters faster with scipy; torchgeo 0.8.1 imports requests without requiring it.
PACKAGES = ("geodeep", "monai", "onnx", "onnxruntime", "rasterio", "requests", "scipy", "torch", "torchgeo")
MARK = "rsedge-peers.json"  # in a finished environment: the requested packages, and when
MODELS = ("1x1", "b0")
TILE = 512


def main() -> None:
    args = _parse()
    try:
        python = environment(args.env, args.fresh)
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"error: no environment in {args.env}: {error}")
    job = {
        "size": args.size, "rounds": args.rounds, "models": args.models, "json": str(args.json.absolute()),
        "work": None if args.work is None else str(args.work.absolute()), "mark": str(args.env / MARK),
    }  # fmt: skip
    os.execv(python, [str(python), str(HERE / "peers_measure.py"), json.dumps(job)])


def environment(folder: Path, fresh: bool) -> Path:
    """Return the interpreter of the environment, creating it if needed.

    Raises OSError if the folder holds something else, CalledProcessError if pip fails.
    """
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not fresh and asked_for(folder) == list(PACKAGES):
        return python
    if folder.exists() and any(folder.iterdir()) and not (folder / "pyvenv.cfg").exists():
        raise FileExistsError("the folder is neither empty nor an environment. Name another with --env")
    print(f"installing {', '.join(PACKAGES)} into {folder}", file=sys.stderr)
    subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
    pip: list[str | Path] = [
        python,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--upgrade",
        *PACKAGES,
        "--editable",
        f"{ROOT}[cpu]",
    ]
    subprocess.run(pip, check=True)
    made = {"packages": PACKAGES, "date": datetime.now(timezone.utc).isoformat(timespec="seconds")}
    (folder / MARK).write_text(json.dumps(made), encoding="utf-8")
    return python


def asked_for(folder: Path) -> list[str]:
    """Return the packages of a finished environment; none if unfinished."""
    try:
        return list(json.loads((folder / MARK).read_text(encoding="utf-8"))["packages"])
    except (OSError, ValueError, KeyError):
        return []


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rsedge" / "peers"


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=6000, help="pixels per side of the large raster")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), metavar="MODEL")
    parser.add_argument("--env", type=Path, default=_cache(), help="folder of the environment (%(default)s)")
    parser.add_argument("--fresh", action="store_true", help="recreate the environment with today's releases")
    parser.add_argument("--work", type=Path, help="folder for rasters and masks, kept; temporary by default")
    parser.add_argument("--json", type=Path, default=RESULTS, help="where to write the results")
    args = parser.parse_args()
    if args.rounds < 1:
        parser.error("--rounds must be at least 1")
    if args.size < 2 * TILE:
        parser.error(f"--size must be at least two tiles, {2 * TILE}")
    return args


if __name__ == "__main__":
    main()
