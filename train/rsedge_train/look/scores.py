"""Validations of a run, in a separate file so that a resumed run knows the earlier ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rsedge.documents import parse_json, read_bytes
from rsedge.errors import InputError
from rsedge.files import whole_or_nothing

SCORES_NAME = "scores.json"


class Scores:
    """``folder/scores.json``: a list, in order of steps. With ``resume_at``, entries up to that step are kept.

    Raises InputError if the file is damaged.
    """

    def __init__(self, folder: Path, resume_at: int | None) -> None:
        self.path = folder / SCORES_NAME
        self.all: list[Mapping[str, Any]] = []
        if resume_at is not None and self.path.is_file():
            try:
                earlier = parse_json(read_bytes(self.path))
                self.all = [facts for facts in earlier if facts["step"] <= resume_at]
            except (OSError, KeyError, TypeError, ValueError) as error:
                raise InputError(
                    f"{self.path} cannot be read: {error}. Start over without --resume"
                ) from error

    def add(self, facts: Mapping[str, Any]) -> None:
        """Append one validation, writing the file atomically."""
        self.all.append(facts)
        with whole_or_nothing(self.path) as partial:
            partial.write_text(json.dumps(self.all, indent=1) + "\n", encoding="utf-8")

    def best(self) -> Mapping[str, Any]:
        """Return the validation with the highest mIoU."""
        return max(self.all, key=lambda facts: facts["miou"])
