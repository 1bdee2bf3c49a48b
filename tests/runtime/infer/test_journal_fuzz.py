"""Unfinished runs with whatever in their journal: resumed to the same mask and figures, or refused in words.

Seeded. The long run: ``pytest -m fuzz tests/runtime/infer``.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from traceback import format_tb
from typing import Any

import numpy as np
import pytest

import rsedge
from fuzzing import ODD, damaged, places, retold, reworded
from rsedge import Options, open_model, segment
from rsedge.backends import Backend
from rsedge.errors import RsedgeError
from rsedge.files import with_crc, without_crc
from rsedge.infer.journal import LINES, LOCK, SETTINGS, folder_of
from rsedge.infer.options import Result
from rsedge.raster import parts
from toys import make_bundle, pointwise_graph, pointwise_manifest

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="a run is killed, and a hang ended by an alarm"
)
LIMIT_S, HEIGHT = 60, 1700
PLAIN, FULL = {}, {"confidence": True, "probabilities": True, "preview": "preview.png"}
WIDTHS: list[Any] = [
    [35, 35],
    [70, 0],
    [0, 70],
    [-70, 140],
    [140, -70],
    [True, 69],
    [70.0],
    [10**30, 70 - 10**30],
    [1] * 70,
    [64, 6],
    [],
    70,
]
# Killed as the third part is noted.
KILLED = """
import json, os, signal, sys
import rsedge.raster.parts as parts
from rsedge import Options, open_model, segment
from rsedge.infer.journal import Journal
parts.PART_PIXELS, add = 1, Journal.add
def add_some(self, part):
    add(self, part)
    if len(self.parts) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
Journal.add = add_some
bundle, raster, out, options = sys.argv[1:]
segment(open_model(bundle, "cpu", 1), raster, out, Options(**json.loads(options)))
"""


class Runs:
    """A raster, its whole result and an unfinished run to it, for some options."""

    def __init__(
        self, folder: Path, raster: Path, bundle: Path, model: Backend, options: dict[str, Any]
    ) -> None:
        self.folder, self.raster, self.model, self._options = folder, raster, model, options
        self.result, self.files = self.segment(folder / "whole", resume=False)
        out = folder / "killed" / "mask.tif"
        out.parent.mkdir()
        code = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", KILLED, bundle, raster, out, json.dumps(self.options(out.parent))],
            check=False, env={**os.environ, "PYTHONPATH": str(Path(rsedge.__file__).parents[1])},
        ).returncode  # fmt: skip
        assert code == -signal.SIGKILL
        self.unfinished = folder_of(out)

    def options(self, folder: Path) -> dict[str, Any]:
        preview = self._options.get("preview")
        return {**self._options, "preview": preview and str(folder / preview)}

    def segment(self, folder: Path, **more: bool) -> tuple[Result, dict[str, bytes]]:
        """The result, and the bytes of each of its files."""
        folder.mkdir(exist_ok=True)
        options = Options(**self.options(folder), **more)  # type: ignore[arg-type]
        result = segment(self.model, self.raster, folder / "mask.tif", options)
        return result, {p.name: p.read_bytes() for p in folder.iterdir()}


@pytest.fixture(scope="module")
def all_runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Runs]]:
    from odd_rasters import GRID, rasterio

    folder, manifest = tmp_path_factory.mktemp("journals"), pointwise_manifest()
    pixels = np.random.default_rng(3).integers(1, 256, (3, HEIGHT, 70)).astype(np.uint8)
    pixels[:, 600:900, :40] = 0
    raster = folder / "raster.tif"
    facts = {
        "driver": "GTiff",
        "count": 3,
        "dtype": "uint8",
        "height": HEIGHT,
        "width": 70,
        "nodata": 0,
        **GRID,
    }
    with rasterio.open(raster, "w", **facts) as dst:
        dst.write(pixels)
    bundle = make_bundle(folder / "b.rsedge", manifest, pointwise_graph(manifest))
    with pytest.MonkeyPatch.context() as patch, open_model(bundle, "cpu", 1) as model:
        patch.setattr(parts, "PART_PIXELS", 1)
        patch.setattr(os, "fsync", lambda _: None)  # thousands of runs: no power fails between them
        runs = []
        for name, options in (("plain", PLAIN), ("full", FULL)):
            (folder / name).mkdir()
            runs.append(Runs(folder / name, raster, bundle, model, options))
        yield runs


def lines_of(data: bytes) -> list[bytes]:
    return [line for line in data.splitlines() if line.strip()]


def moved(rng: random.Random, data: bytes) -> bytes:
    """Lines doubled, gone, swapped, joined or made of two."""
    lines = lines_of(data)
    for _ in range(rng.randint(1, 3)):
        a, b = rng.randrange(len(lines)), rng.randrange(len(lines))
        way = rng.randrange(5)
        if way == 0:
            lines.insert(a, lines[b])
        elif way == 1 and len(lines) > 1:
            del lines[a]
        elif way == 2:
            lines[a], lines[b] = lines[b], lines[a]
        elif way == 3:
            at = rng.randrange(len(lines[a]))
            lines[a] = lines[a][:at] + lines[b][at:]
        else:
            lines[a] += rng.choice((b"", b" ", b"\x85", b"\0")) + lines[b]
    return rng.choice((b"\n", b"\r\n", b"\n\n")).join(lines) + rng.choice((b"\n", b""))


def deep(rng: random.Random, data: bytes) -> bytes:
    """Nested beyond any parser, or a number without end."""
    odd = rng.choice((b"[" * 100_000, b'{"a":' * 50_000, b"9" * 100_000, b"1e" + b"9" * 50, b"\xff" * 1000))
    return rng.choice(
        (odd, data + odd, odd + b"\n" + data, with_crc(odd.decode("latin-1")).encode() + b"\n" + data)
    )


def resealed(rng: random.Random, data: bytes) -> bytes:
    """Lines with other values and a checksum that is right: nobody's accident."""
    lines = lines_of(data)
    at = rng.randrange(len(lines))
    text = without_crc(lines[at].decode()).encode()
    text = (reworded if rng.random() < 0.7 else retold)(rng, text)
    lines[at] = with_crc(text.decode("utf-8", "replace")).encode()
    return b"\n".join(lines) + b"\n"


def resettled(rng: random.Random, data: bytes) -> bytes:
    """Settings with one of them other."""
    facts = json.loads(data)
    if rng.random() < 0.4:
        facts["column_blocks"] = rng.choice(WIDTHS)
    else:
        *_, key = rng.choice(places(facts))
        facts[key if isinstance(key, str) else "bands"] = rng.choice(ODD)
    return json.dumps(facts).encode()


def mutate(rng: random.Random, folder: Path) -> str:
    """Change some files of an unfinished run; how."""
    done = []
    for _ in range(rng.randint(1, 2)):
        way: Callable[[random.Random, bytes], bytes]
        part_files = sorted(p for p in folder.iterdir() if p.name not in {LINES, SETTINGS, LOCK})
        chance = rng.random()
        if chance < 0.5:
            file, way = (
                folder / LINES,
                rng.choice((damaged, damaged, moved, moved, retold, deep, resealed, resealed)),
            )
        elif chance < 0.7:
            file, way = (
                folder / SETTINGS,
                rng.choice((damaged, resettled, resettled, resettled, reworded, deep)),
            )
        elif chance < 0.9 or not part_files:
            file, way = (
                rng.choice(part_files or [folder / LINES]),
                rng.choice((damaged, damaged, other(part_files))),
            )
        else:
            done.append(
                replaced(rng, rng.choice([folder / LINES, folder / SETTINGS, folder / LOCK, *part_files]))
            )
            continue
        if file.is_file() and not file.is_symlink():
            try:
                file.write_bytes(way(rng, file.read_bytes()))
            except (ValueError, IndexError, RecursionError, OverflowError):
                continue  # what was done before left nothing that this could be done to
            done.append(f"{file.name} {way.__name__}")
    return ", ".join(done)


def other(files: list[Path]) -> Callable[[random.Random, bytes], bytes]:
    def swapped(rng: random.Random, data: bytes) -> bytes:
        file = rng.choice(files)
        return file.read_bytes() if file.is_file() else data

    return swapped


def replaced(rng: random.Random, file: Path) -> str:
    """Something else in a file's place, or beside it."""
    way = rng.choice(("gone", "folder", "pipe", "link", "loop", "more"))
    if way == "more":
        (file.parent / rng.choice(("whole.mask.tif", "scratch.mask.whole.vrt", "x.tmp"))).write_bytes(b"old")
        (file.parent / "a folder").mkdir(exist_ok=True)
        return way
    shutil.rmtree(file) if file.is_dir() and not file.is_symlink() else file.unlink(missing_ok=True)
    if way == "folder":
        file.mkdir()
    elif way == "pipe":
        os.mkfifo(file)
    elif way == "link":
        file.symlink_to(rng.choice((file.parent / LINES, "/etc/passwd", "/dev/zero")))
    elif way == "loop":
        file.symlink_to(file.name)
    return f"{file.name} {way}"


def attempt(runs: Runs, seed: int) -> str:
    """Resume what a seed has made of an unfinished run. Raises what is no answer."""
    rng, folder = random.Random(seed), runs.folder / f"seed{seed}"
    folder.mkdir()
    unfinished = folder_of(folder / "mask.tif")
    shutil.copytree(runs.unfinished, unfinished)
    how, refused = mutate(rng, unfinished), None
    try:
        result, files = runs.segment(folder, resume=True, overwrite=rng.random() < 0.25)
    except RsedgeError as error:
        refused = error
    except Exception as error:
        raise AssertionError(
            f"{how}: {type(error).__name__}: {error} {format_tb(error.__traceback__)[-3:]}"
        ) from error
    appeared = (folder / "mask.tif").exists()
    shutil.rmtree(folder, ignore_errors=True)
    if refused is not None:
        assert str(refused), how
        assert not appeared, how
        return "refused"
    assert files == runs.files, (
        f"{how}: other files: {[n for n in files if files[n] != runs.files.get(n)]}, {list(files)}"
    )
    if "resealed" not in how:  # who can forge a sum here can write the mask itself
        check_figures(result, runs.result, how)
    return "resumed" if result.resumed_pixels else "begun anew"


def check_figures(found: Result, meant: Result, how: str) -> None:
    for name in ("nodata_pixels", "grid", "notes"):
        assert getattr(found, name) == getattr(meant, name), f"{how}: {name} {getattr(found, name)}"
    for one, other in zip(found.classes, meant.classes, strict=True):
        assert replace(one, area_m2=None) == replace(other, area_m2=None), how
        assert one.area_m2 == pytest.approx(other.area_m2, rel=1e-12), (
            how
        )  # of columns it is summed otherwise
    assert found.resumed_pixels <= HEIGHT * 70, how


def run(all_runs: list[Runs], seeds: range) -> Counter[str]:
    """How often each end came. Fails with what reproduces each fault."""
    ends, faults = Counter[str](), list[str]()

    def ring(*_: object) -> None:
        raise TimeoutError(f"nothing came in {LIMIT_S} s")

    before = signal.signal(signal.SIGALRM, ring)
    try:
        for seed in seeds:
            signal.alarm(LIMIT_S)
            try:
                ends[attempt(all_runs[seed % 8 == 0], seed)] += 1
            except AssertionError as error:
                faults.append(f"seed {seed}: {error}")
                sys.stdout.write(f"{faults[-1][:600]}\n")
            signal.alarm(0)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    sys.stdout.write(f"{dict(ends)}\n")
    assert not faults, "\n".join(faults)
    return ends


def unfinished_copy(runs: Runs, folder: Path) -> Path:
    folder.mkdir()
    shutil.copytree(runs.unfinished, folder_of(folder / "mask.tif"))
    return folder_of(folder / "mask.tif")


@pytest.mark.parametrize("widths", WIDTHS, ids=str)
def test_parts_of_other_columns_are_not_those_of_this_run(
    all_runs: list[Runs], tmp_path: Path, widths: Any
) -> None:
    """Settings that fit the area, but not the parts: files of one name hold other columns then."""
    settings = unfinished_copy(all_runs[1], tmp_path / "here") / SETTINGS
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "column_blocks": widths}))
    try:
        result, files = all_runs[1].segment(tmp_path / "here", resume=True)
    except RsedgeError as error:
        said = str(error)
    else:
        assert files == all_runs[1].files
        check_figures(result, all_runs[1].result, str(widths))
        return
    assert "column_blocks" in said


@pytest.mark.parametrize(
    "change",
    [
        {"pixels": [1]},
        {"area_m2": None},
        {"pixels": [1] * 4, "area_m2": [1.0] * 4},
        {"layer": "x"},
        {"height": 5},
    ],
    ids=str,
)
def test_a_part_that_is_none_of_this_run_is_done_again(
    all_runs: list[Runs], tmp_path: Path, change: dict[str, Any]
) -> None:
    lines = unfinished_copy(all_runs[0], tmp_path / "here") / LINES
    texts = []
    for line in lines_of(lines.read_bytes()):
        facts = json.loads(without_crc(line.decode()))
        inside = facts["files"][0] if "layer" in change else facts["area"] if "height" in change else facts
        inside.update(change)
        texts.append(with_crc(json.dumps(facts)))
    lines.write_text("\n".join(texts) + "\n")
    result, files = all_runs[0].segment(tmp_path / "here", resume=True, overwrite=True)
    assert files == all_runs[0].files
    check_figures(result, all_runs[0].result, str(change))


def test_some_odd_journals(all_runs: list[Runs]) -> None:
    ends = run(all_runs, range(60))
    assert ends["resumed"] > 10
    assert ends["refused"] > 5


@pytest.mark.fuzz
def test_many_odd_journals(all_runs: list[Runs]) -> None:
    ends = run(all_runs, range(1000, 3000))
    assert sum(ends.values()) == 2000
    assert ends["resumed"] > 500
    assert ends["refused"] > 100
