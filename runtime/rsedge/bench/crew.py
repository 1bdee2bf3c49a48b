"""Worker processes, one a model, that are asked one at a time."""

from __future__ import annotations

import json
import subprocess
import tempfile
from contextlib import suppress
from typing import Any

from rsedge import errors
from rsedge.bench.contender import Contender
from rsedge.errors import BackendError, RsedgeError
from rsedge.own_python import module_command

LAST_LINES = 3  # of what a process said before it died
GRACE_S = 5.0  # for a process to end by itself


class Worker:
    """One model in a process of its own. A context manager; leaving it ends the process.

    Raises what opening the model raises, or BackendError where the process dies.
    """

    def __init__(self, contender: Contender) -> None:
        self.contender = contender
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed by ``close``
        command = [*module_command("rsedge.bench.worker"), contender.to_json()]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said, text=True
        )
        try:
            self.facts = self._answer()
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def ask(self, what: str, **how: Any) -> dict[str, Any]:
        """One method of ``worker.Server``. Raises what it raises there, or BackendError where the process dies."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # why it died is told by the answer that does not come
            self._process.stdin.write(json.dumps({"do": what, "how": how}) + "\n")
            self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """End the process."""
        if self._process.stdin is not None:
            with suppress(BrokenPipeError):
                self._process.stdin.close()
        try:
            self._process.wait(GRACE_S if self._process.poll() is None else 0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._said.close()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._death()
        facts: dict[str, Any] = json.loads(line)
        if "error" in facts:
            error: RsedgeError = getattr(errors, facts["error"])(facts["message"])
            raise error
        return facts

    def _death(self) -> BackendError:
        code = self._process.wait()
        self._said.seek(0)
        said = self._said.read().decode(errors="replace").strip().splitlines()[-LAST_LINES:]
        how = f"was ended by signal {-code} (out of memory?)" if code < 0 else f"ended with {code}"
        return BackendError(f"{self.contender}: its process {how}: {' / '.join(said) or 'it said nothing'}")

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._process.kill()  # it may be in the middle of something long
        self.close()
