"""Contents of a folder of labelled imagery, and the assignment of scenes to splits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rsedge.errors import InputError
from rsedge.raster.band_plan import AS_TAGGED, Masking
from rsedge.score.labels import ClassTable
from rsedge_train.data.base import BandChoice, SceneFiles

NO_VAL = "none"  # --val none: train without validation
ONE_IN = 6  # one scene in this many is for validation by default
LISTED = 20  # names listed in a message at most


@dataclass(frozen=True)
class Asked:
    """Bands requested by the user, None if the layout decides; see ``BandChoice``."""

    names: tuple[str, str, str] | None = None
    indexes: tuple[int, ...] | None = None
    scale: tuple[float, float] | None = None
    masking: Masking = AS_TAGGED

    def plain(self) -> BandChoice:
        """Return the choice for a layout without band names."""
        return BandChoice(self.names or BandChoice().names, self.indexes, self.scale, self.masking)


@dataclass(frozen=True)
class Found:
    """Labelled rasters of a folder, by split."""

    layout: str  # for people, e.g. "ISPRS Vaihingen"
    train: tuple[SceneFiles, ...]
    val: tuple[SceneFiles, ...]
    test: tuple[SceneFiles, ...]
    bands: BandChoice
    table: ClassTable | None = None  # None if the layout defines no classes
    uncounted: tuple[str, ...] = ()
    gsd_m: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()  # each forbids training

    @property
    def files(self) -> tuple[SceneFiles, ...]:
        """Return all rasters: train, val, test."""
        return (*self.train, *self.val, *self.test)


@dataclass(frozen=True)
class Sides:
    """Scene names by split, each sorted."""

    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]
    notes: tuple[str, ...] = ()


def choose_sides(scenes: Sequence[str], val: Sequence[str] = (), test: Sequence[str] = ()) -> Sides:
    """Assign scenes to splits as named; without ``val``, one in six, the last by name, are for validation.

    Raises InputError for unknown names, a scene in two splits, or no scene left to train or validate on.
    """
    without_val = tuple(val) == (NO_VAL,)
    check_names(scenes, () if without_val else val, test)
    rest = sorted(set(scenes) - set(val) - set(test))
    notes = list[str]()
    if without_val:
        notes.append("training without validation as requested: the last weights are kept, without a score")
        chosen = list[str]()
    elif val:
        chosen = sorted(set(val))
    else:
        if len(rest) < 2:
            raise InputError(
                f"only {', '.join(rest) or 'no scene'} left to train on, but validation needs a second scene. "
                f"Add one, or use --val {NO_VAL} to train without validation"
            )
        count = max(1, round(len(rest) / ONE_IN))
        chosen, rest = rest[-count:], rest[:-count]
        notes.append(f"no validation scene was named; using the last, {listed(chosen)} (choose with --val)")
    if not rest:
        raise InputError("all scenes are in val or test, so none is left to train on. Name fewer")
    return Sides(tuple(rest), tuple(chosen), tuple(sorted(set(test))), tuple(notes))


def check_names(scenes: Sequence[str], val: Sequence[str], test: Sequence[str]) -> None:
    """Raise InputError if a name is not a scene or is in both lists."""
    for option, names in (("--val", val), ("--test", test)):
        if unknown := sorted(set(names) - set(scenes)):
            raise InputError(
                f"{option} {listed(unknown)}: no such scene. The scenes are {listed(sorted(set(scenes)))}"
            )
    if both := sorted(set(val) & set(test)):
        raise InputError(f"scene {both[0]} is in both --val and --test. Assign each scene to one split")


def listed(names: Sequence[str]) -> str:
    """Join names with commas, shortening long lists to a count."""
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more
