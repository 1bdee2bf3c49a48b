"""What a folder of labelled imagery holds, before any pixel is read, and how scenes go on sides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rsedge.errors import InputError
from rsedge.raster.band_plan import AS_TAGGED, Masking
from rsedge.score.labels import ClassTable
from rsedge_train.data.base import BandChoice, SceneFiles

NO_VAL = "none"  # as the only name of a validation scene: train without validation
ONE_IN = 6  # scenes that validate where nobody says which
LISTED = 20  # names a message lists at most


@dataclass(frozen=True)
class Asked:
    """The bands the user asks for, None where the layout decides; see ``BandChoice``."""

    names: tuple[str, str, str] | None = None
    indexes: tuple[int, ...] | None = None
    scale: tuple[float, float] | None = None
    masking: Masking = AS_TAGGED

    def plain(self) -> BandChoice:
        """The choice where the layout says nothing."""
        return BandChoice(self.names or BandChoice().names, self.indexes, self.scale, self.masking)


@dataclass(frozen=True)
class Found:
    """The labelled rasters of a folder on their sides."""

    layout: str  # for people, e.g. "ISPRS Vaihingen"
    train: tuple[SceneFiles, ...]
    val: tuple[SceneFiles, ...]
    test: tuple[SceneFiles, ...]
    bands: BandChoice
    table: ClassTable | None = None  # where the layout says it
    uncounted: tuple[str, ...] = ()
    gsd_m: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()  # each forbids training

    @property
    def files(self) -> tuple[SceneFiles, ...]:
        """All of them: train, val, test."""
        return (*self.train, *self.val, *self.test)


@dataclass(frozen=True)
class Sides:
    """Scene names by side, each sorted."""

    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]
    notes: tuple[str, ...] = ()


def choose_sides(scenes: Sequence[str], val: Sequence[str] = (), test: Sequence[str] = ()) -> Sides:
    """Put scenes on sides: those named; without ``val``, one in six, the last by name.

    Raises InputError for unknown names, a scene on two sides, or nothing left to train or validate on.
    """
    without_val = tuple(val) == (NO_VAL,)
    check_names(scenes, () if without_val else val, test)
    rest = sorted(set(scenes) - set(val) - set(test))
    notes = list[str]()
    if without_val:
        notes.append("no scene validates, as asked: the last weights are kept, and no score is known")
        chosen = list[str]()
    elif val:
        chosen = sorted(set(val))
    else:
        if len(rest) < 2:
            raise InputError(
                f"only {', '.join(rest) or 'no scene'} is there to train on, and a second scene is needed for "
                f"validation; add one, or say --val {NO_VAL} to train without validation"
            )
        count = max(1, round(len(rest) / ONE_IN))
        chosen, rest = rest[-count:], rest[:-count]
        notes.append(f"no validation scene was named: taking the last, {listed(chosen)} (choose with --val)")
    if not rest:
        raise InputError("all scenes are in val or test, none is left to train on; name fewer")
    return Sides(tuple(rest), tuple(chosen), tuple(sorted(set(test))), tuple(notes))


def check_names(scenes: Sequence[str], val: Sequence[str], test: Sequence[str]) -> None:
    """Raise InputError unless all names are scenes and none is asked for twice."""
    for option, names in (("--val", val), ("--test", test)):
        if unknown := sorted(set(names) - set(scenes)):
            raise InputError(
                f"{option} asks for {listed(unknown)}, which is no scene here; the scenes are "
                f"{listed(sorted(set(scenes)))}"
            )
    if both := sorted(set(val) & set(test)):
        raise InputError(f"scene {both[0]} is asked for by --val and by --test; a scene belongs to one side")


def listed(names: Sequence[str]) -> str:
    """Names with commas, the later ones of many as a count."""
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more
