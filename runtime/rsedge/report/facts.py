"""Reading JSON that somebody may have edited: what is missing is None, what is wrong is an error that says where."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rsedge.documents import parse_json, read_bytes
from rsedge.errors import InputError

LEAST, MOST = 1e-30, 1e18  # sizes of numbers; of others no axis can be drawn


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object of a file, or on the last line of what a command printed.

    Raises InputError when there is no file, no JSON, or JSON of anything but an object.
    """
    try:
        text = read_bytes(path).decode("utf-8-sig").strip()
    except FileNotFoundError:
        raise InputError(f"no file at {path}; check the path") from None
    except UnicodeDecodeError:
        raise InputError(
            f"{path} is not text; give what `rsedge bench --json` or `rsedge eval --json` printed"
        ) from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise InputError(f"{path} is no result of rsedge: {error}") from error
    for part in (text, text.rpartition("\n")[2]):
        try:
            found = parse_json(part)
        except ValueError:
            continue
        if isinstance(found, dict):
            return found
        break
    raise InputError(
        f"{path} holds no JSON object; give what `rsedge bench --json` or `rsedge eval --json` printed"
    )


class Facts:
    """A JSON object whose values are asked for by key and kind. ``where`` names it in messages.

    A key that is not there and null are the same: None, or empty. Methods raise InputError where a value is of
    another kind.
    """

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self.values, self.where = values, where

    def number(self, key: str) -> float | None:
        """A number of a size that can be measured; NaN and infinity, which Python's JSON allows, are None."""
        value = self.values.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.wrong(key, "a number")
        if isinstance(value, float) and not math.isfinite(value):
            return None
        if value and not LEAST <= abs(value) <= MOST:
            raise self.wrong(key, "a number that can be measured")
        return float(value)

    def count(self, key: str) -> int | None:
        """A whole number, not negative."""
        value = self.number(key)
        if value is None:
            return None
        if value < 0 or value != math.floor(value):
            raise self.wrong(key, "a count")
        return int(value)

    def text(self, key: str) -> str | None:
        """A string."""
        found: str | None = self._of_kind(key, str, "a text")
        return found

    def flag(self, key: str) -> bool | None:
        """True or false."""
        found: bool | None = self._of_kind(key, bool, "true or false")
        return found

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of strings."""
        values: list[Any] = self._of_kind(key, list, "a list") or []
        if not all(isinstance(v, str) for v in values):
            raise self.wrong(key, "a list of texts")
        return tuple(values)

    def part(self, key: str) -> Facts | None:
        """An object in the object."""
        values = self._of_kind(key, dict, "an object")
        return None if values is None else Facts(values, f"{self.where}: {key}")

    def parts(self, key: str) -> tuple[Facts, ...]:
        """A list of objects."""
        values: list[Any] = self._of_kind(key, list, "a list") or []
        if not all(isinstance(v, dict) for v in values):
            raise self.wrong(key, "a list of objects")
        return tuple(Facts(v, f"{self.where}: {key}[{i}]") for i, v in enumerate(values))

    def numbers(self, key: str) -> dict[str, float | None]:
        """An object of numbers."""
        part = self.part(key)
        return {} if part is None else {k: part.number(k) for k in part.values}

    def wrong(self, key: str, wanted: str) -> InputError:
        """The error that says what is at a key and what should be."""
        said = json.dumps(self.values.get(key))
        return InputError(f"{self.where}: {key} is {said[:60]}{'...' * (len(said) > 60)}, not {wanted}")

    def _of_kind(self, key: str, kind: type, wanted: str) -> Any:
        value = self.values.get(key)
        if value is not None and not isinstance(value, kind):
            raise self.wrong(key, wanted)
        return value
