"""Options as a dataclass, and their defaults from rsedge.toml."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from rsedge.cli.settings import read_settings, with_options
from rsedge.errors import InputError


@dataclass(frozen=True)
class Base:
    """What both commands take."""

    steps: Annotated[int | None, typer.Option(help="How many.")] = None
    val: Annotated[str | None, typer.Option(help="Scenes.")] = None


@dataclass(frozen=True)
class More(Base):
    """And one more."""

    lr_encoder: Annotated[float, typer.Option(help="A rate.")] = 0.5


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs a small application with a rsedge.toml; returns the options that arrived and which were given."""
    monkeypatch.chdir(tmp_path)
    seen = {}
    app = typer.Typer()

    @app.callback()
    def start(context: typer.Context) -> None:
        read_settings(context)

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
            r"\[trian\] is no table of settings; allowed are distill, train, train-teacher",
        ),
        ("steps = 1", r"\[steps\] is no table"),
        ("[distill]\nstep = 1", r"\[distill\] has no 'step'; allowed are .*steps"),
        ("[distill", "cannot be read"),
    ],
)
def test_mistakes_in_the_file_are_named(call, text, message) -> None:
    with pytest.raises(InputError, match=message):
        call(text, "distill")
