"""What messages and help promise: every option that they name is there, where it is named, and does what it says."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from rsedge.cli.main import app
from rsedge.errors import InputError

ROOT = Path(__file__).parents[3]
PACKAGES = ("runtime/rsedge", "runtime/rsedge_sample", "train/rsedge_train", "export/rsedge_export")
OPTION = re.compile(r"(?<![\w-])--[a-z][\w-]*(?![\w:-])")  # a colon follows in CSS
COMMAND = re.compile(r"(?:`|use it +)rsedge ((?:data check|[a-z][a-z-]*)\b[^`]*)")
OF_OTHERS = {  # options of pip, docker, nvidia-smi, dask, torchrun, tf2onnx
    "--system-site-packages", "--runtime", "--gpus", "--query-compute-apps", "--query-gpu", "--memory-limit",
    "--nproc_per_node", "--inputs-as-nchw", "--outputs-as-nchw", "--format", "--force-reinstall", "--no-cache-dir",
    "--verbose",
}  # fmt: skip
RUN = ("infer", "watch", "eval", "bench", "verify")
TRAIN = ("train-teacher", "distill")
LABELS = (*TRAIN, "data check", "eval", "bench", "export")
# Which commands may show the messages of a module, or of a package: each must have what they name.
SHOWN_BY = {
    "rsedge/vector/aoi.py": ("infer",),
    "rsedge/backends": RUN,
    "rsedge/bench": ("bench",),
    "rsedge/verify/tiles.py": ("verify",),
    "rsedge/infer/journal.py": ("infer",),
    "rsedge/score/labels.py": LABELS,
    "rsedge/infer/options.py": ("infer",),
    "rsedge/infer/memory_plan.py": ("infer",),
    "rsedge/vector/polygons.py": ("infer",),
    "rsedge/raster/bands.py": (*RUN, *LABELS),
    "rsedge/raster/scaling.py": (*RUN, *LABELS),
    "rsedge/raster/values.py": (*RUN, *LABELS),
    "rsedge/raster/resample.py": ("infer", "watch"),
    "rsedge/raster/writer.py": ("infer", "sample", "verify"),
    "rsedge/report": ("report",),
    "rsedge/cluster/client.py": ("infer",),
    "rsedge/cluster/worker.py": ("infer",),
    "rsedge/infer/segmentation.py": ("infer",),
    "rsedge/score/truth.py": LABELS,
    "rsedge/vector/file.py": ("infer",),
    "rsedge/verify/verify.py": ("verify",),
    "rsedge/watch/folder.py": ("watch",),
    "rsedge/watch/ledger.py": ("watch",),
    "rsedge_export": ("export",),
    "rsedge_train/data/unlabelled.py": ("distill",),
    "rsedge_train/data": (*TRAIN, "data check"),
    "rsedge_train/run/bench_teacher.py": ("bench",),
    "rsedge_train/fit/loop.py": TRAIN,
    "rsedge_train/run/setup.py": TRAIN,
    "rsedge_train/fit/processes.py": TRAIN,
    "rsedge_train/run/train.py": TRAIN,
    "rsedge_train/run/folder.py": (*TRAIN, "export", "bench"),
    "rsedge_train/fit/state.py": TRAIN,
    "rsedge/cli/bench.py": ("bench",),
    "rsedge/cli/data.py": ("data check",),
    "rsedge/cli/evaluate.py": ("eval",),
    "rsedge/cli/export.py": ("export",),
    "rsedge/cli/infer.py": ("infer",),
    "rsedge/cli/models.py": ("models",),
    "rsedge/cli/report.py": ("report",),
    "rsedge/cli/sample.py": ("sample",),
    "rsedge/cli/verify.py": ("verify",),
    "rsedge/cli/watch.py": ("watch",),
}
LABEL_ONLY = {"--quick"}  # says what a run was, not what to do
# Named by code that both training commands share, for one of them.
FROM_DISTILL = {"--teacher", "--alone", "--unlabelled", "--quantize"}
NOT_IN_EXPORT = {"--allow-missing-classes"}  # its gate goes on without them unasked
QUOTED = ("rsedge/report/repeat.py", "rsedge/cli/report.py")  # commands put together of parts


@cache
def commands() -> dict[str, Any]:
    """Every command by its full name."""

    def walk(command: Any, names: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
        inner = getattr(command, "commands", None)
        if inner is None:
            yield " ".join(names), command
        for name, one in (inner or {}).items():
            yield from walk(one, (*names, name))

    return dict(walk(get_command(app), ()))


def options_of(command: str) -> set[str]:
    return {o for p in commands()[command].params for o in (*p.opts, *p.secondary_opts)} | {"--help"}


@cache
def every_option() -> frozenset[str]:
    return frozenset().union(*map(options_of, commands())) | {"--version", "--settings"}


def messages() -> Iterator[tuple[str, int, str]]:
    """Yield module, line and text of every string that is not a docstring; replacement fields become {}."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            module = str(path.relative_to(ROOT)).split("/", 1)[1]
            tree = ast.parse(path.read_text(encoding="utf-8"))
            inside = {
                id(v)
                for n in ast.walk(tree)
                if isinstance(n, ast.JoinedStr)
                for v in ast.walk(n)
                if v is not n
            }
            docs = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr)}
            for n in ast.walk(tree):
                if id(n) in inside or id(n) in docs:
                    continue
                if isinstance(n, ast.JoinedStr):
                    text = "".join(str(v.value) if isinstance(v, ast.Constant) else "{}" for v in n.values)
                    yield module, n.lineno, text
                elif isinstance(n, ast.Constant) and isinstance(n.value, str):
                    yield module, n.lineno, n.value


def shown_by(module: str) -> tuple[str, ...]:
    return next((by for name, by in SHOWN_BY.items() if module == name or module.startswith(f"{name}/")), ())


def test_every_option_that_a_message_names_is_there() -> None:
    found = list(messages())
    assert sum(bool(OPTION.search(text)) for _, _, text in found) > 150
    for module, line, text in found:
        unknown = {*OPTION.findall(text)} - every_option() - OF_OTHERS
        assert not unknown, f"{module}:{line}: {text!r} names {unknown}"


def test_every_command_that_a_message_names_takes_the_options_named_with_it() -> None:
    count = 0
    for module, line, text in messages():
        for said in COMMAND.findall(text):
            name = next((c for c in commands() if said == c or said.startswith(f"{c} ")), None)
            if said.split()[0] == "data" and name is None:
                name = "data check"
            assert name is not None, f"{module}:{line}: no command in {said!r}"
            unknown = {*OPTION.findall(said)} - options_of(name)
            assert not unknown, f"{module}:{line}: `rsedge {said}` does not take {unknown}"
            count += 1
    assert count > 20


def test_every_option_that_a_message_names_is_in_the_commands_that_show_it() -> None:
    for module, line, text in messages():
        if module in QUOTED:
            continue
        named = {*OPTION.findall(COMMAND.sub("", text))} - OF_OTHERS - LABEL_ONLY
        for command in shown_by(module):
            missing = named - options_of(command)
            if command in TRAIN:
                missing -= FROM_DISTILL
            if command == "export":
                missing -= NOT_IN_EXPORT
            assert not missing, f"{module}:{line}: {text!r} is shown by {command}, which has no {missing}"


def test_help_names_options_of_its_own_command_only() -> None:
    for name, command in commands().items():
        for text in (command.help or "", *(getattr(p, "help", None) or "" for p in command.params)):
            missing = {*OPTION.findall(COMMAND.sub("", text))} - options_of(name)
            assert not missing, f"{name}: {text!r} names {missing}"


def parameter(command: str, option: str) -> Any:
    return next((p for p in commands()[command].params if option in p.opts), None)


# --- what is shared works wherever it is shown


def test_a_survey_scale_is_offered_where_there_is_a_survey() -> None:
    offers = {c: p for c in commands() if (p := parameter(c, "--scale")) is not None}
    assert [c for c, p in offers.items() if "auto" in f"{p.metavar} {p.help}"] == ["infer"]


@pytest.mark.parametrize(
    "args",
    [
        ("eval", "DATA"),
        ("verify", "--raster", "x.tif"),
        ("export", "--onnx", "x.onnx", "--classes", "c.toml", "--mean", "0", "--std", "1"),
        ("data", "check", "DATA"),
        ("watch", "DATA", "--out-dir", "OUT"),
        ("bench", "--data", "DATA"),
        ("train-teacher", "--data", "DATA", "--encoder-weights", "none"),
    ],
)
def test_elsewhere_a_survey_scale_is_refused_with_what_to_do(
    args: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if args[0] in {"export", "data", "train-teacher"}:
        pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"--scale auto is for `rsedge infer`.*LOW,HIGH"):
        get_command(app).main([*args, "--scale", "auto"], standalone_mode=False)


def test_only_one_place_prints_notes() -> None:
    """And that one knows of --quiet."""
    for module, line, text in messages():
        if module.startswith("rsedge/cli/") and module != "rsedge/cli/common.py":
            assert not text.startswith("note: "), f"{module}:{line} prints a note by itself"


def test_every_command_that_is_quiet_says_so_alike() -> None:
    helps = {parameter(c, "--quiet").help for c in commands() if parameter(c, "--quiet")}
    assert helps == {"Print errors only."}
