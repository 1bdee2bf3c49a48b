"""A probe in a process of its own, so that a library that crashes takes no one with it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from dataclasses import dataclass
from typing import Any

from rsedge.own_python import module_command

LIMIT_S = 120.0  # a cold CUDA start takes tens of seconds
MARK = "rsedge-probe:"  # libraries print on standard output too
MOST_CHARACTERS = 300


@dataclass(frozen=True)
class Answer:
    """What a probe found, or (``failed``) why it found nothing."""

    facts: dict[str, Any]
    failed: str | None = None


def ask(probe: str, *arguments: str, limit_s: float = LIMIT_S) -> Answer:
    """Run a function of `probes` in a child process and return what it found."""
    command = [*module_command("rsedge.doctor.probes"), probe, *arguments]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=limit_s,
            check=False,
            text=True,
            errors="replace",
            env={**os.environ, "PYTHONFAULTHANDLER": "0"},
        )
    except subprocess.TimeoutExpired:
        return Answer({}, f"does not answer within {limit_s:g} s")
    except OSError as error:
        return Answer({}, f"its process does not start ({error.strerror})")
    for line in reversed(done.stdout.splitlines()):
        if line.startswith(MARK):
            facts: dict[str, Any] = json.loads(line.removeprefix(MARK))
            return Answer({}, _short(facts["failed"])) if "failed" in facts else Answer(facts)
    return Answer({}, _death(done.returncode, done.stderr))


def _death(code: int, said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    last = f"; it last said: {lines[-1]}" if lines else ""
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        return _short(f"crashes the process ({name}){last}")
    return _short(f"ends the process with exit code {code}{last}")


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= MOST_CHARACTERS else f"{text[: MOST_CHARACTERS - 3]}..."
