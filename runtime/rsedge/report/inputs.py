"""The files a report is made from, recognised by what is in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rsedge.errors import InputError
from rsedge.report.evals import CONFUSION_KEY, Eval
from rsedge.report.facts import read_json
from rsedge.report.records import SCHEMA_KEY, Bench


@dataclass(frozen=True)
class Inputs:
    """Benches and evals, each in the order given. Raises InputError where there is neither."""

    benches: tuple[Bench, ...]
    evals: tuple[Eval, ...]

    def __post_init__(self) -> None:
        if not self.benches and not self.evals:
            raise InputError(
                "give at least one file that `rsedge bench --json` or `rsedge eval --json` printed"
            )

    @classmethod
    def read(cls, paths: Sequence[Path]) -> Inputs:
        """Read each file as what it is. Raises InputError when one is neither."""
        benches, evals = list[Bench](), list[Eval]()
        for path in paths:
            facts = read_json(path)
            if SCHEMA_KEY in facts:
                benches.append(Bench.read(facts, str(path)))
            elif CONFUSION_KEY in facts:
                evals.append(Eval.read(facts, str(path)))
            else:
                raise InputError(
                    f"{path} is JSON, but not what `rsedge bench --json` or `rsedge eval --json` prints: it has "
                    f"neither {SCHEMA_KEY} nor {CONFUSION_KEY}"
                )
        return cls(tuple(benches), tuple(evals))
