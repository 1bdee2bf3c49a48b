"""Result files of a report, recognised by their content and read into the records that wrote them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rsedge.bench.facts import SCHEMA, SCHEMA_KEY, BenchResult, Row
from rsedge.documents import Count, from_json, parse_json, read_bytes
from rsedge.errors import InputError
from rsedge.score.results import EvalResult

CONFUSION_KEY = "confusion_truth_by_row"
LEAST, MOST = 1e-30, 1e18  # range of absolute values for which an axis can be drawn
PRINTED = "the output of `rsedge bench --json` or `rsedge eval --json`"


@dataclass(frozen=True)
class Limits:
    """Limits that the exporter's gate applied to an artifact."""

    miou_drop: float | None = None
    class_drop: float | None = None
    fp16_agreement: float | None = None
    int8_agreement: float | None = None


@dataclass(frozen=True)
class Gate:
    """The exporter's gate result for an artifact; values that the exporter did not record are None."""

    passed: bool | None = None
    forced: bool = False  # kept although the gate failed
    reasons: tuple[str, ...] = ()
    tiles: Count | None = None
    tiles_from: str | None = None
    backend: str | None = None
    against: str | None = None
    agreement: float | None = None
    argmax_agreement: float | None = None
    clear_agreement: float | None = None
    worst_tile: float | None = None
    worst_error: float | None = None
    miou_fp32: float | None = None
    miou: float | None = None
    miou_drop: float | None = None
    class_drops: Mapping[str, float | None] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)

    @property
    def verdict(self) -> str:
        """Return ``passed``, ``failed``, ``failed, forced`` or ``not judged``."""
        if self.passed is None:
            return "not judged"
        return "passed" if self.passed else "failed, forced" if self.forced else "failed"


@dataclass(frozen=True)
class Bench(BenchResult):
    """A bench result of one machine, with the file it was read from and the gate results by row label."""

    source: str = ""
    gates: Mapping[str, Gate] = field(default_factory=dict)

    @classmethod
    def read(cls, facts: Mapping[str, Any], source: str) -> Bench:
        """Read a bench result. Raises InputError if the schema version differs or a value breaks the schema."""
        if facts.get(SCHEMA_KEY) != SCHEMA:
            raise InputError(
                f"{source}: {SCHEMA_KEY} is {facts.get(SCHEMA_KEY)!r:.60}, this rsedge reads {SCHEMA}; make report and "
                "bench with the same version"
            )
        found = _read(BenchResult, facts, source)
        gates = {
            row.label: _read(Gate, row.gate, f"{source}: rows[{i}].gate")
            for i, row in enumerate(found.rows)
            if row.gate is not None
        }
        return cls(**vars(found), source=source, gates=gates)

    def tag(self, row: Row) -> str:
        """Return a short text that identifies a row: ``3 int8, openvino``."""
        several = len({r.name for r in self.students}) > 1
        named = "teacher" if row.is_teacher else row.name if several else ""
        return " ".join(part for part in (row.label, named, row.place) if part)


@dataclass(frozen=True)
class Eval(EvalResult):
    """An eval result, with the file it was read from."""

    source: str = ""

    @classmethod
    def read(cls, facts: Mapping[str, Any], source: str) -> Eval:
        """Read an eval result. Raises InputError if it is not the output of ``rsedge eval --json``."""
        return cls(**vars(_read(EvalResult, facts, source)), source=source)


@dataclass(frozen=True)
class Inputs:
    """Bench and eval results, each in the order given. Raises InputError if both are empty."""

    benches: tuple[Bench, ...]
    evals: tuple[Eval, ...]

    def __post_init__(self) -> None:
        if not self.benches and not self.evals:
            raise InputError(
                "give at least one file with the output of `rsedge bench --json` or `rsedge eval --json`"
            )

    @classmethod
    def read(cls, paths: Sequence[Path]) -> Inputs:
        """Read each file as a bench or an eval result. Raises InputError if a file is neither."""
        benches, evals = list[Bench](), list[Eval]()
        for path in paths:
            facts = read_json(path)
            if SCHEMA_KEY in facts:
                benches.append(Bench.read(facts, str(path)))
            elif CONFUSION_KEY in facts:
                evals.append(Eval.read(facts, str(path)))
            else:
                raise InputError(
                    f"{path} is JSON, but not the output of `rsedge bench --json` or `rsedge eval --json`: it has "
                    f"neither {SCHEMA_KEY} nor {CONFUSION_KEY}"
                )
        return cls(tuple(benches), tuple(evals))


def read_json(path: Path) -> dict[str, Any]:
    """Read a file's JSON object: the whole file, or its last line if a command printed more before it.

    Raises InputError if the file is missing or unreadable, or holds no JSON object.
    """
    try:
        text = read_bytes(path).decode("utf-8-sig").strip()
    except FileNotFoundError:
        raise InputError(f"{path} not found; check the path") from None
    except UnicodeDecodeError:
        raise InputError(f"{path} is not text; give {PRINTED}") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise InputError(f"{path} is not a result of rsedge: {error}") from error
    for part in (text, text.rpartition("\n")[2]):
        with suppress(ValueError):
            if isinstance(found := parse_json(part), dict):
                return found
    raise InputError(f"{path} holds no JSON object; give {PRINTED}")


def _read(kind: type[Any], facts: Mapping[str, Any], source: str) -> Any:
    try:
        return from_json(kind, facts, least=LEAST, most=MOST)
    except ValueError as error:
        raise InputError(f"{source}: {error}") from error
