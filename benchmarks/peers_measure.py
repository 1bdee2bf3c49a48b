"""Measurements of peers.py, which starts this script with its environment's interpreter."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from peers_tables import KINDS, OWN, rows_of, table
from streaming_run import Bench, DiedError, Facts, run_file, run_script, take_turns, tolerated

from rsedge.errors import RsedgeError
from rsedge.files import whole_or_nothing

HERE = Path(__file__).parent
CONTENDERS, INPUTS = HERE / "peers_contenders.py", HERE / "peers_inputs.py"
TILE = 512
SMALL = (1500, 1300)  # width and height of the raster compared with the reference
VERSIONS = (
    "geodeep",
    "monai",
    "torchgeo",
    "torch",
    "onnxruntime",
    "numpy",
    "scipy",
    "rasterio",
    "onnx",
    "rsedge",
)


def main() -> None:
    job = json.loads(sys.argv[1])
    work = Path(job["work"] or tempfile.mkdtemp(prefix="rsedge-peers-"))
    work.mkdir(parents=True, exist_ok=True)
    try:
        bench = Bench(work, job["rounds"], job["size"], None)
        facts: Facts = {
            "method": {
                "rounds": job["rounds"],
                "size": job["size"],
                "small": SMALL,
                "tile": TILE,
                "overlap": 0.25,
            },
            "conditions": bench.conditions,
            "versions": {name: version(name) for name in VERSIONS},
            "installed": json.loads(Path(job["mark"]).read_text("utf-8"))["date"],
            "models": {name: _measure(bench, name) for name in job["models"]},
        }
    finally:
        if job["work"] is None:
            shutil.rmtree(work, ignore_errors=True)
    print(_show(facts))
    with whole_or_nothing(Path(job["json"])) as partial_file:
        partial_file.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def _measure(bench: Bench, model: str) -> Facts:
    """Measure all contenders with one model: on the small and the nodata raster, then in turns on the large one."""
    assert bench.size is not None
    files = bench.models if model == "1x1" else run_file(INPUTS, "b0", folder=str(bench.work))
    large, little = bench.raster(bench.size, bench.size), bench.raster(*SMALL)
    empty = bench.work / "nodata.tif"
    run_file(INPUTS, "nodata", raster=str(little), out=str(empty))

    def mask(raster: Path, name: str) -> Path:
        return bench.mask_of(raster, f"{model}-{name}")

    def contender(name: str, raster: Path) -> Facts:
        return _run(name, raster, mask(raster, name), files)

    small, left_out = dict[str, Facts](), dict[str, str]()
    for name in KINDS:
        print(f"{model}: {name} on the small rasters", file=sys.stderr)
        try:
            small[name] = contender(name, little) | {"unlike": _unlike(little, mask(little, name), files)}
            contender(name, empty)
            small[name]["kept"] = run_file(
                CONTENDERS, "inspect", raster=str(empty), mask=str(mask(empty, name))
            )
        except DiedError as error:
            small.pop(name, None)
            left_out[name] = error.said
    if OWN not in small:
        raise DiedError(f"{OWN} with {model}", left_out[OWN])
    turns: dict[str, Callable[[], Facts]] = {name: partial(contender, name, large) for name in small}
    runs = take_turns(tolerated(turns, left_out), bench.rounds, large)
    runs = {name: found for name, found in runs.items() if name not in left_out}
    if OWN not in runs:
        raise DiedError(f"{OWN} with {model}", left_out[OWN])
    agreed = {
        name: float(
            run_script("peers", "agreement", one=str(mask(large, OWN)), other=str(mask(large, name)))[
                "agreement"
            ]
        )
        for name in runs
    }
    rows = rows_of(runs, small, agreed, bench.size**2, SMALL[0] * SMALL[1])
    return {
        "rows": [r.to_dict() for r in rows],
        "table": table(rows),
        "left_out": left_out,
        "small": small,
        "runs": runs,
    }


def _run(name: str, raster: Path, out: Path, files: Facts) -> Facts:
    """Run one contender once; ``files``: its model in each form, rsedge's default without ``bundle``."""
    paths: dict[str, Any] = {"raster": str(raster), "out": str(out)}
    if name == OWN:
        return run_script("own", "segment", model=files.get("bundle"), **paths)
    if name == "geodeep":
        return run_file(CONTENDERS, name, model=files["geodeep"], **paths)
    return run_file(CONTENDERS, name, model=files["onnx"], tile=TILE, **paths)


def _unlike(raster: Path, mask: Path, files: Facts) -> float:
    """Return the share of pixels that differ from a whole-array float64 blend."""
    found = run_script("own", "reference", raster=str(raster), mask=str(mask), model=files.get("bundle"))
    return float(found["share"])


def _show(facts: Facts) -> str:
    """Return all results as Markdown."""
    c, size = facts["conditions"], facts["method"]["size"]
    versions = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    parts = [
        f"{c['cpu']}, {c['threads']} threads of {c['cores']} cores, load before {c['load_1min_before']}, {c['date']}; "
        f"{size} x {size}, {facts['method']['rounds']} rounds; {versions}, GDAL {c['gdal']}"
    ]
    for name, found in facts["models"].items():
        parts += [f"**{name}**", found["table"]]
        parts += [f"- {contender} did not finish, it {why}" for contender, why in found["left_out"].items()]
    return "\n\n".join(parts)


if __name__ == "__main__":
    try:
        main()
    except RsedgeError as error:
        sys.exit(f"error: {error}")
