"""mIoU of each row, with its data source: scores on different data cannot be compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rsedge.bench.facts import Row
from rsedge.report.figures import plural
from rsedge.report.inputs import Bench, Eval

MARKS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Scores:
    """mIoU by row label, each with the index of its source in ``sources``."""

    of_row: Mapping[str, tuple[float, int]]
    sources: tuple[str, ...]

    @classmethod
    def of(cls, bench: Bench, evals: Sequence[Eval]) -> Scores:
        """Collect each row's own score, else the score of an eval of the same file (by SHA-256)."""
        by_hash = {e.sha256: e for e in evals if e.sha256 and e.miou is not None}
        of_row, sources = dict[str, tuple[float, int]](), list[str]()
        for row in bench.rows:
            found = row.accuracy.miou if row.accuracy else None
            source = row.accuracy.source if row.accuracy else ""
            scored = by_hash.get(row.sha256 or "")
            if found is None and scored is not None:
                rasters = "" if scored.rasters is None else f" on {plural(scored.rasters, 'raster')}"
                found, source = scored.miou, f"{scored.source}: `rsedge eval`{rasters}"
            if found is not None:
                if source not in sources:
                    sources.append(source)
                of_row[row.label] = found, sources.index(source)
        return cls(of_row, tuple(sources))

    def mark(self, row: Row) -> str:
        """Return the letter of the source of a row's score, or "" if there are fewer than two sources."""
        if row.label not in self.of_row or len(self.sources) < 2:
            return ""
        return MARKS[self.of_row[row.label][1] % len(MARKS)]

    def said(self) -> str | None:
        """Return a sentence about the sources, or None if there is no score."""
        if len(self.sources) < 2:
            return (
                f"mIoU: {self.sources[0]}. It is counted once, so it has no spread." if self.sources else None
            )
        listed = "; ".join(f"{MARKS[i % len(MARKS)]}, {s}" for i, s in enumerate(self.sources))
        return f"mIoU was counted on different data, which cannot be compared with one another: {listed}."
