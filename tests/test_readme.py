"""Every command and program of README.md and docs/ is run here, as it stands there and in its order, on tiny inputs.

One rehearsal shares one folder, one tiny model and one tiny data set; a command that stands on several pages runs once.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import json
import os
import re
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import typer
from PIL import Image

import readme
import readme_inputs
from readme import NOT_RUN, PAGES, ROOT
from rsedge.backends import rtx
from rsedge.cli.main import app
from rsedge.model.manifest import Manifest
from rsedge.score.labels import ClassTable

BLOCKS = [block for page in PAGES for block in readme.blocks(page)]
COMMANDS = [(block, command) for block in BLOCKS if block.language == "sh" for command in block.commands]

# What a machine without TensorRT answers; the page must say beside the command that it was not run.
WITHOUT_TENSORRT = {"rsedge export --trt --bundle student.rsedge": (1, "TensorRT is not installed")}
RTX = "rsedge export --trt --for sm86,sm89,sm120 --bundle student.rsedge"  # runs wherever its package is
RUN = {
    command: block
    for block, command in reversed(COMMANDS)  # the first place of each
    if not command.startswith("make ") and (NOT_RUN not in block.before or command in WITHOUT_TENSORRT)
}
PROGRAMS = {block.text: block for block in reversed(BLOCKS) if block.language == "python"}

# What must be there after a command, and what it must have said.
FILES = {
    "rsedge train-teacher --quick": ("runs/teacher/run.json", "big_tile.tif"),
    "rsedge distill --quick": ("runs/student/weights.safetensors",),
    "rsedge export": ("student.rsedge/manifest.json", "student.rsedge/model.fp32.onnx"),
    "rsedge infer big_tile.tif --out mask.tif": ("mask.tif", "mask.tif.aux.xml"),
    "rsedge watch incoming --out-dir watched --settle 1 --once": ("watched/town.tif",),
}
SAID = {
    "rsedge train-teacher --quick": r"rehearsal.*training on 6 procedural sample scenes",
    "rsedge data check DATA --val tile7": r"classes   5: .*\nok\n",
    "rsedge infer big_tile.tif --out mask.tif --resume": r"finished",
    "rsedge infer huge.tif --out huge_mask.tif --max-ram 1G --dry-run": r"MiB",
}
# Two commands run at a time. These need nothing of the others, and name their model if they take one ...
APART = re.compile(
    r"rsedge (models|data check|sample scenes|eval scenes|verify runtime|bench runtime|export --onnx)"
)
# ... and these need what was there before them, and nothing needs them but one another.
BESIDE = re.compile(r"torchrun|rsedge (verify|bench (student|--)|eval DATA --json|report)")
# It is made again on each page: after those that train, the model is another.
AGAIN = "rsedge infer big_tile.tif --out mask.tif"
# Options in prose that are other programs' own.
FOREIGN = {"--system-site-packages", "--read-only", "--cap-drop", "--security-opt", "--network"}
PROGRAMS_OF_OTHERS = {"make", "pytest", "kill", "pip", "dask", "mypy", "systemd-analyze"}
# Tables of options on a page are of these commands.
TABLES = {
    "train.md": ("train-teacher", "distill"),
    "segment.md": ("infer",),
    "watch.md": ("watch",),
    "data.md": ("data check", "train-teacher"),
}


@dataclass(frozen=True)
class Done:
    """What a command did."""

    code: int
    said: str


Results = dict[str, Done]  # by the command, or the program's text


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("readme")
    readme_inputs.prepare(folder)
    return folder


@pytest.fixture(scope="module")
def done(sandbox: Path) -> Results:
    """All that is run, in the pages' order: each finds what those before it left."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    # One thread of torch: with more, each step waits for whatever else runs on the machine.
    environment = {**os.environ, "PATH": path, "COLUMNS": "200", "OMP_NUM_THREADS": "1"}

    def call(*command: str) -> Done:
        ended = subprocess.run(
            command, cwd=sandbox, env=environment, text=True, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        return Done(ended.returncode, ended.stdout)

    def shell(command: str) -> Done:
        return call("bash", "-c", command)

    results: Results = {}
    with readme_inputs.serving(sandbox) as environment["http_proxy"], ThreadPoolExecutor(1) as other:
        apart = dict.fromkeys(command for _, command in COMMANDS if command in RUN and APART.match(command))
        beside = {command: other.submit(shell, command) for command in apart}
        for block in BLOCKS:
            if block.language == "python" and block.text not in results:
                results[block.text] = call(sys.executable, "-W", "error", "-c", block.text)
            for command in block.commands if block.language == "sh" else ():
                if command not in RUN or command in beside or (command in results and command != AGAIN):
                    continue
                if BESIDE.match(command):
                    beside[command] = other.submit(shell, command)
                else:
                    results[command] = shell(command)
        return results | {command: future.result() for command, future in beside.items()}


@pytest.mark.parametrize("command", RUN, ids=[f"{block.place}-{command}" for command, block in RUN.items()])
def test_a_command(sandbox: Path, done: Results, command: str) -> None:
    result = done[command]
    if command in WITHOUT_TENSORRT and importlib.util.find_spec("tensorrt") is None:
        code, message = WITHOUT_TENSORRT[command]
        assert (result.code, message in result.said) == (code, True), result.said
        return
    if command == RTX and not rtx.is_installed():
        assert (result.code, "TensorRT for RTX is not installed" in result.said) == (1, True), result.said
        return
    assert result.code == 0, result.said
    assert "Traceback" not in result.said
    assert re.search(SAID.get(command, ""), result.said, re.DOTALL), result.said
    for name in FILES.get(command, ()):
        assert (sandbox / name).is_file()


@pytest.mark.parametrize("text", PROGRAMS, ids=[block.place for block in PROGRAMS.values()])
def test_a_program(done: Results, text: str) -> None:
    result = done[text]
    assert result.code == 0, result.said
    assert result.said.strip()


def shown() -> list[tuple[readme.Block, readme.Block]]:
    """Blocks of commands and what the page shows of their output: the block that follows with nothing between."""
    pairs = itertools.pairwise(BLOCKS)
    return [
        (a, b)
        for a, b in pairs
        if (a.language, b.language, b.before, b.page) == ("sh", "text", "", a.page)
        and set(a.commands) <= set(RUN)
    ]


@pytest.mark.parametrize(("block", "output"), shown(), ids=[output.place for _, output in shown()])
def test_output_has_the_lines_that_a_page_shows(
    done: Results, block: readme.Block, output: readme.Block
) -> None:
    """By their first words: figures, numbered rows and what cannot run are another machine's and another run's."""
    said = "\n".join(done[command].said for command in block.commands)
    heads = {line.split()[0] for line in said.splitlines() if line.strip()}
    for line in output.text.splitlines():
        another = re.match(r"\s*$|\.\.\.|\s*\d+ |not run:|mIoU of \d", line)
        assert another or line.split()[0] in heads, (line, said)


def test_the_picture_is_what_the_commands_draw(sandbox: Path, done: Results) -> None:
    assert done
    with (
        Image.open(ROOT / "benchmarks/results/preview.png") as kept,
        Image.open(sandbox / "preview.png") as made,
    ):
        assert kept.size == made.size
        apart = np.abs(np.asarray(kept.convert("RGB"), float) - np.asarray(made.convert("RGB"), float))
    assert apart.mean() < 8  # its colours were reduced to 256
    assert (ROOT / "benchmarks/results/preview.png").stat().st_size < 300_000


def test_masks_lie_on_their_rasters_grids(sandbox: Path, done: Results) -> None:
    assert done
    pairs = {"big_tile.tif": "mask.tif", "survey/north.tif": "masks/north.tif"}
    for raster, mask in pairs.items():
        with rasterio.open(sandbox / raster) as a, rasterio.open(sandbox / mask) as b:
            assert (a.shape, a.transform, a.crs) == (b.shape, b.transform, b.crs)
            assert (b.count, b.dtypes[0], b.nodata) == (1, "uint8", 255)
            assert set(np.unique(b.read(1))) <= {0, 1, 2, 3, 4}
    with rasterio.open(sandbox / "cog_mask.tif") as cropped:
        assert cropped.shape == pytest.approx((257, 257), abs=4)  # parcels.geojson is the middle half


def test_make_targets_are_what_ci_runs() -> None:
    if not (ROOT / ".ci/run").is_file():
        pytest.skip("an sdist has no .ci")
    needs = dict(re.findall(r"^([\w-]+):(.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE))
    ran = set(re.findall(r"^make ([\w-]+)", (ROOT / ".ci/run").read_text(), re.MULTILINE))
    for target in tuple(ran):
        ran |= set(needs[target].split())
    ran |= {"test"} if "test-all" in ran else set()  # all of it and more
    asked = {command.split()[1] for _, command in COMMANDS if command.startswith("make ")}
    assert {"demo", "test"} <= asked <= ran
    assert "docs" in ran


def test_what_was_not_run_says_so() -> None:
    said = {command: block.before for block, command in COMMANDS if command in WITHOUT_TENSORRT}
    assert set(said) == set(WITHOUT_TENSORRT)
    assert all(NOT_RUN in before for before in said.values())


def options_of(command: Any) -> set[str]:
    return {option for p in command.params for option in (*p.opts, *p.secondary_opts)} | {"--help"}


def commands_of(group: Any, name: str = "") -> dict[str, set[str]]:
    """Options by command, "data check" being one."""
    found = {name.strip(): options_of(group)}
    for word, command in getattr(group, "commands", {}).items():
        found |= commands_of(command, f"{name} {word}")
    return found


CLI = commands_of(typer.main.get_command(app))


def command_in(words: list[str]) -> str:
    """The command that a line of rsedge's calls."""
    return " ".join(words[:2]) if " ".join(words[:2]) in CLI else words[0] if words[0] in CLI else ""


def test_commands_and_options_in_prose_exist() -> None:
    every = set().union(*CLI.values()) | FOREIGN
    seen = 0
    for span in (span for page in PAGES for span in readme.spans(page)):
        words = shlex.split(span.text)
        named = {word.partition("=")[0] for word in words if re.match(r"--[a-z]|-[a-z]$", word)}
        where = f"{span.page.name}:{span.line}: {span.text}"
        if words[0] == "rsedge" and len(words) > 1:
            command = command_in(words[1:])
            assert command or words[1].startswith("-"), where
            assert named <= CLI[command], where
            seen += 1
        elif words[0] in CLI:
            assert named <= CLI[words[0]], where
        elif words[0] == "make" and len(words) > 1:
            assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), where
        elif words[:1] == ["python"]:
            assert named <= set(re.findall(r"\"(--[\w-]+)\"", (ROOT / words[1]).read_text())), where
        elif words[0] not in PROGRAMS_OF_OTHERS:
            assert named <= every, where
    assert seen > 20


def test_tables_of_options_are_of_the_commands_of_their_page() -> None:
    rows = [(p.name, line) for p in PAGES if p.name in TABLES for _, line in readme.prose(p)]
    rows = [(name, line) for name, line in rows if line.startswith("| `--")]
    assert len(rows) > 30
    for name, line in rows:
        named = set(re.findall(r"`(--[a-z0-9-]+)", line.split("|")[1]))
        assert named
        assert named <= set().union(*(CLI[command] for command in TABLES[name])), line


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_links_lead_somewhere(page: Path) -> None:
    for link in readme.links(page):
        target, _, anchor = link.partition("#")
        path = (page.parent / target) if target else page
        assert path.exists(), link
        assert not anchor or anchor in readme.anchors(path), link


def test_every_page_is_on_the_site() -> None:
    assert set(PAGES) - {ROOT / "README.md"} == set((ROOT / "docs").rglob("*.md"))


def test_class_tables_are_class_tables(tmp_path: Path) -> None:
    (block,) = [block for block in BLOCKS if block.language == "toml" and "[classes]" in block.text]
    (tmp_path / "classes.toml").write_text(block.text)
    assert ClassTable.read(tmp_path / "classes.toml").names == ("building", "road")


def test_settings_are_settings(tmp_path: Path) -> None:
    tables = [block for block in BLOCKS if block.language == "toml" and "[classes]" not in block.text]
    assert tables
    for block in tables:
        (tmp_path / "rsedge.toml").write_text(block.text)
        call = [sys.executable, "-m", "rsedge", "sample", "--help"]
        result = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr


def test_every_block_says_what_it_is() -> None:
    assert {block.language for block in BLOCKS} <= {"sh", "python", "text", "toml"}


def test_readme_is_short_and_has_the_numbers_that_were_measured() -> None:
    """Run `python docs/hooks/results.py` for the table of a new measurement."""
    spec = importlib.util.spec_from_file_location("results", ROOT / "docs/hooks/results.py")
    assert spec
    assert spec.loader
    results = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(results)
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert results.headline() in text
    assert len(text.splitlines()) <= 200


def test_the_format_of_a_bundle(sandbox: Path, done: Results) -> None:
    assert done
    rows = [line for _, line in readme.prose(ROOT / "docs/bundle.md") if line.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`([\w.-]+)`", row.split("|")[1])}
    files = {path.name for path in (sandbox / "student.rsedge").iterdir()} - {"engines"}
    assert files <= named
    facts = json.loads((sandbox / "student.rsedge/manifest.json").read_text())
    fields = {field.name for field in dataclasses.fields(Manifest)}
    assert set(facts) == fields | {"rsedge_schema", "artifacts"}
    assert set(facts) <= named
