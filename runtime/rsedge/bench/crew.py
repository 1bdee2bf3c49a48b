"""Worker processes: one per model, asked one at a time."""

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

LAST_LINES = 3  # lines of a dead process's output to show
GRACE_S = 5.0  # time for a process to end by itself before it is killed


class Worker:
    """One model in its own process. A context manager; leaving it ends the process.

    Raises the errors of opening the model, or BackendError if the process dies.
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
        """Process id of the worker."""
        return self._process.pid

    def ask(self, what: str, **how: Any) -> dict[str, Any]:
        """Call a method of ``worker.Server``. Raises the method's errors, or BackendError if the process dies."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # ``_answer`` raises with the reason of the death
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
        how = f"was killed by signal {-code} (out of memory?)" if code < 0 else f"ended with exit code {code}"
        return BackendError(f"{self.contender}: its process {how}: {' / '.join(said) or 'no output'}")

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._process.kill()  # it may be in the middle of a long computation
        self.close()
