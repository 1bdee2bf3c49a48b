"""Options as a dataclass, and their defaults from rsedge.toml."""

import inspect
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, get_type_hints

import pytest
import typer
from typer.testing import CliRunner

from rsedge.cli import common, flags
from rsedge.cli.main import app as whole
from rsedge.cli.settings import OUTPUTS, read_settings, with_options
from rsedge.errors import InputError
from rsedge.infer.options import Options as RunOptions


@dataclass(frozen=True)
class Base:
    """What both commands take."""

    steps: Annotated[int | None, typer.Option(help="How many.")] = None
    val: Annotated[str | None, typer.Option(help="Scenes.")] = None


@dataclass(frozen=True)
class More(Base):
    """And one more."""

    lr_encoder: Annotated[float, typer.Option(help="A rate.")] = 0.5
    out: Annotated[Path, typer.Option(help="A file to write.")] = Path("out")
    dask: Annotated[str | None, typer.Option(help="A peer.")] = None
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace.")] = False
    allow: Annotated[list[str] | None, typer.Option(help="Consent.")] = None
    pattern: Annotated[list[str] | None, typer.Option(help="Several.")] = None
    bundle: Annotated[Path | None, typer.Option(help="A folder to write into.")] = None
    quiet: flags.Quiet = False


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Run a small application with a rsedge.toml; return the options that arrived and which were given."""
    monkeypatch.chdir(tmp_path)
    seen = {}
    app = typer.Typer()

    @app.callback()
    def start(context: typer.Context, settings: Annotated[Path | None, typer.Option()] = None) -> None:
        read_settings(context, settings)

    @app.command("train-teacher")
    @with_options(Base)
    def teacher(options: Base, given: frozenset[str]) -> None:
        """Train."""
        seen["options"], seen["given"] = options, given

    @app.command("distill")
    @with_options(More)
    def distill(options: More, given: frozenset[str]) -> None:
        """Distil."""
        seen["options"], seen["given"] = options, given

    def run(text: str | None, *arguments: str) -> dict:
        if text is not None:
            Path("rsedge.toml").write_text(text)
        result = CliRunner().invoke(app, arguments)
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return {**seen, "code": result.exit_code, "output": result.output}

    return run


def test_fields_become_options_and_help(call) -> None:
    assert call(None, "distill", "--steps", "3", "--lr-encoder", "2")["options"] == More(3, None, 2.0)
    assert call(None, "distill")["given"] == set()
    output = call(None, "distill", "--help")["output"]
    assert "--lr-encoder" in output
    assert "Distil." in output
    assert call(None, "distill", "--steps", "x")["code"] == 2


def test_the_file_gives_defaults_and_the_command_line_wins(call) -> None:
    text = '[train]\nsteps = 5\nval = ["a", "b"]\n[distill]\nlr-encoder = 0.1\n'
    found = call(text, "distill", "--val", "c")
    assert found["options"] == More(5, "c", 0.1)
    assert found["given"] == {"steps", "val", "lr_encoder"}
    assert call(text, "train-teacher")["options"] == Base(5, "a,b")


@pytest.mark.parametrize("order", [("train", "distill"), ("distill", "train")])
def test_a_commands_own_table_wins_over_the_shared_one(call, order) -> None:
    tables = {"train": "[train]\nsteps = 5\n", "distill": "[distill]\nsteps = 6\n"}
    text = "".join(tables[name] for name in order)
    assert call(text, "distill")["options"].steps == 6
    assert call(text, "train-teacher")["options"].steps == 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[trian]\nsteps = 1",
            r"\[trian\] is not a table of settings; allowed are distill, train, train-teacher",
        ),
        ("steps = 1", r"\[steps\] is not a table"),
        ("[distill]\nstep = 1", r"\[distill\] has no 'step'; allowed are .*steps"),
        ("[distill", "cannot be read"),
    ],
)
def test_mistakes_in_the_file_are_named(call, text, message) -> None:
    with pytest.raises(InputError, match=message):
        call(text, "distill")


STRANGERS = [
    'out = "/home/me/.bashrc"',
    'dask = "tcp://attacker:8786"',
    "overwrite = true",
    'val = "http://inner/metadata"',
    'val = ["a", "/vsicurl/http://inner/x"]',
    'val = "hf-hub:attacker/net"',
    'allow = ["outside"]',
    'bundle = "/home/me/other.rsedge"',
]


@pytest.mark.parametrize("entry", STRANGERS)
def test_the_current_folder_names_no_file_to_write_and_no_peer(call, entry, tmp_path) -> None:
    with pytest.raises(
        InputError, match=r"rsedge.toml: \[distill\] .* which a file in the current folder must not do"
    ):
        call(f"[distill]\n{entry}\n", "distill")
    assert call(f"[distill]\n{entry}\n[train]\nsteps = 3\n", "train-teacher")["options"] == Base(3)
    (tmp_path / "mine.toml").write_text(f"[distill]\n{entry}\n")
    Path("rsedge.toml").write_text("[distill]\nsteps = 9\n")
    found = call(None, "--settings", "mine.toml", "distill")
    assert found["options"] != More()
    assert found["options"].steps is None  # in its place, not besides


@pytest.mark.parametrize("entry", ['["*.tif", "*.png"]', '"*.tif"'])
def test_an_option_that_is_given_several_times_is_a_list(call, entry) -> None:
    found = call(f"[distill]\npattern = {entry}\n", "distill")
    assert found["options"].pattern == (["*.tif", "*.png"] if entry.startswith("[") else ["*.tif"])


def test_what_is_taken_is_told(call) -> None:
    text = '[train]\nsteps = 5\nval = "a"\n[distill]\nlr-encoder = 0.1\n'
    output = call(text, "distill")["output"]
    assert output == "note: defaults from rsedge.toml (in this folder): steps, val, lr-encoder\n"
    assert call(text, "distill", "--quiet")["output"] == ""
    assert call("[distill]\nquiet = true\n", "distill")["output"].endswith(
        "folder): quiet\n"
    )  # the user's to say
    assert "steps, val" in call(text, "train-teacher")["output"]  # which has no --quiet
    assert call("[train-teacher]\nsteps = 1\n", "distill")["output"] == ""


@pytest.mark.parametrize("mode", [0o666, 0o646])
def test_what_others_can_write_is_left_alone(call, mode) -> None:
    Path("rsedge.toml").write_text("[distill]\nsteps = 9\n")
    Path("rsedge.toml").chmod(mode)
    found = call(None, "distill")
    assert found["options"] == More()
    assert "can be written by others, so it is ignored; use it with --settings rsedge.toml" in found["output"]
    assert call(None, "distill", "--quiet")["output"] == ""
    assert call(None, "--settings", "rsedge.toml", "distill")["options"].steps == 9


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="no owners there")
def test_another_users_file_is_left_alone(call, monkeypatch) -> None:
    Path("rsedge.toml").write_text("[distill]\nsteps = 9\n")
    real, theirs = os.fstat, Path("rsedge.toml").stat()

    def strangers(handle):
        facts = real(handle)
        return os.stat_result((*facts[:4], 54321, *facts[5:])) if os.path.samestat(facts, theirs) else facts

    monkeypatch.setattr(os, "fstat", strangers)  # of what was opened, whatever has its name by then
    found = call(None, "distill")
    assert found["options"] == More()
    assert "another user" in found["output"]


def test_a_settings_file_without_end_is_refused(call) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        call("[distill]\nsteps = " + "[" * 5000, "distill")
    with pytest.raises(InputError, match="at most 262144 are allowed"):
        call("#" * (1 << 20), "distill")


READ = {  # options that name what is read
    "aoi", "classes", "compare", "data", "gate", "mask", "onnx", "quantize", "raster", "run", "seams", "settings",
    "start", "teacher", "truth", "unlabelled",
}  # fmt: skip


def test_each_option_that_is_a_path_is_known_to_be_read_or_written() -> None:
    """A new one must be put where it belongs."""
    commands = typer.main.get_command(whole).commands
    paths = set()
    for command in commands.values():
        if command.callback is None:  # a group
            continue
        function = inspect.unwrap(command.callback)
        kinds, hints = inspect.signature(function).parameters, get_type_hints(function)
        for parameter in command.params:
            if "Path" in f"{hints.get(parameter.name)} {kinds[parameter.name].annotation}":
                paths |= {o.removeprefix("--") for o in parameter.opts if o.startswith("--")}
    assert paths <= READ | OUTPUTS
    assert {"out", "csv", "preview", "map", "polygons"} <= paths


def test_a_strangers_folder_writes_nothing_and_speaks_to_nobody(tmp_path) -> None:
    """As a field engineer would meet it: the command line, somebody's folder."""
    (tmp_path / ".bashrc").write_text("mine")
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "rsedge.toml").write_text(f'[bench]\ncsv = "{tmp_path}/.bashrc"\n')
    call = [sys.executable, "-m", "rsedge", "bench", "--quiet"]
    done = subprocess.run(call, cwd=tmp_path / "there", capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "[bench] csv sets an output file" in done.stderr
    assert (tmp_path / ".bashrc").read_text() == "mine"


@pytest.mark.parametrize("name", ["student.rsedge", "runs"])
def test_a_model_that_others_can_write_is_not_taken_unasked(tmp_path, monkeypatch, name) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).mkdir()
    monkeypatch.setattr(common, "OWN_MODEL", Path(name))
    assert common.model_or_default(None, quiet=True) == name
    Path(name).chmod(0o777)
    with pytest.raises(InputError, match="Name it with --model"):
        common.model_or_default(None, quiet=True)
    assert common.model_or_default(name) == name


def test_each_output_of_infer_is_known_to_be_written(tmp_path: Path) -> None:
    asked = RunOptions(confidence=True, probabilities=True, preview="p.png", polygons="g.gpkg")
    outputs = asked.outputs(tmp_path / "mask.tif")
    assert list(outputs) == ["mask", "confidence", "probabilities", "preview", "polygons"]
    assert {
        name for name, path in outputs.items() if path.parent != tmp_path
    } <= OUTPUTS  # named by an option


def test_an_unreadable_file_of_another_user_stops_nothing(call, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path, *more, real=os.open):
        if Path(path).name == "rsedge.toml":
            raise PermissionError(13, "Permission denied")
        return real(path, *more)

    monkeypatch.setattr("rsedge.cli.settings.os.open", refused)
    with pytest.raises(InputError, match="cannot be read"):  # one's own
        call("[distill]\nsteps = 5", "distill")
    monkeypatch.setattr("rsedge.cli.settings.is_trusted", lambda *_: False)
    found = call("[distill]\nsteps = 5", "distill")
    assert found["options"] == More()
    assert "another user" in found["output"]
