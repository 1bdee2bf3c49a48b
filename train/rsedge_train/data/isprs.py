"""ISPRS Vaihingen and Potsdam as downloaded, split as in both papers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rsedge.errors import InputError
from rsedge.score.labels import ClassTable
from rsedge_train.data.base import BandChoice, SceneFiles
from rsedge_train.data.found import NO_VAL, Asked, Found, Sides, check_names, listed

TABLE = ClassTable.read(Path(__file__).with_name("isprs.toml"))
UNCOUNTED = ("clutter",)
IRRG = ("nir", "red", "green")
Kinds = dict[str, dict[str, Path]]  # kind of file -> scene -> file


@dataclass(frozen=True)
class Campaign:
    """One of the two data sets: its file names and its split."""

    name: str
    gsd_m: float
    prefix: str  # of a scene's name
    kinds: dict[str, tuple[str, ...]]  # of images, the preferred first, with all their bands
    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]


def _numbers(*groups: str) -> tuple[str, ...]:
    return tuple(name for group in groups for name in group.split())


# Table 1 of the paper. Potsdam's "7_7,8,7_9" is read as 7_8.
VAIHINGEN = Campaign(
    "ISPRS Vaihingen",
    0.09,
    "area",
    {"IRRG": IRRG},
    _numbers("1 3 5 7 11 13 15 17 21 23 26 28 32 34 37"),
    _numbers("30"),
    _numbers("2 4 6 8 10 12 14 16 20 22 24 27 29 31 33 35 38"),
)
POTSDAM = Campaign(
    "ISPRS Potsdam",
    0.05,
    "",
    {"RGB": ("red", "green", "blue"), "RGBIR": ("red", "green", "blue", "nir"), "IRRG": IRRG},
    _numbers(
        "2_11 2_12 3_10 3_11 3_12 4_10 4_11 4_12 5_10 5_11 5_12",
        "6_7 6_8 6_9 6_10 6_11 6_12 7_7 7_8 7_9 7_11 7_12",
    ),
    _numbers("2_10"),
    _numbers("2_13 2_14 3_13 3_14 4_13 4_14 4_15 5_13 5_14 5_15 6_13 6_14 6_15 7_13"),
)
VAIHINGEN_FILE = re.compile(r"top_mosaic_09cm_area(\d+)(_noBoundary)?\.(tiff?|png)", re.IGNORECASE)
POTSDAM_FILE = re.compile(
    r"top_potsdam_(\d+)_(\d+)_(RGBIR|IRRG|RGB|label|label_noBoundary)\.(tiff?|png)", re.IGNORECASE
)
# In Vaihingen, an image and its label share a name and only the folder differs.
LABEL_FOLDER = re.compile(r"gts|ground_?truth|(^|_)(labels?|masks?|annotations?)($|_)", re.IGNORECASE)
POTSDAM_KINDS = {k.lower(): k for k in (*POTSDAM.kinds, "label")} | {"label_noboundary": "eroded"}


def find_isprs(
    root: Path, val: Sequence[str], test: Sequence[str], asked: Asked, *, eroded: bool
) -> Found | None:
    """Return the scenes of one campaign, recognised by file names at any depth, or None if not found.

    Scenes named by ``val`` and ``test`` replace the papers' choice for that split.

    Raises InputError if no scene is left to train or validate on, or if both campaigns are found.
    """
    kinds = {campaign.name: index for campaign, index in _index(root) if index}
    if not kinds:
        return None
    if len(kinds) == 2:
        raise InputError(f"{root} contains both ISPRS data sets. Give the folder of one of them")
    campaign = VAIHINGEN if VAIHINGEN.name in kinds else POTSDAM
    index = kinds[campaign.name]
    kind, chosen, notes = _choose_image(campaign, index, asked)
    labels, scoring = index.get("label", {}), index.get("eroded", {})
    there = sorted(set(index[kind]) & set(labels), key=_natural)
    sides = _sides(campaign, there, val, test)

    def files(scenes: Sequence[str]) -> tuple[SceneFiles, ...]:
        return tuple(
            SceneFiles(s, s, index[kind][s], labels[s], scoring.get(s) if eroded else None) for s in scenes
        )

    problems = list[str]()
    if eroded and (bare := [s for s in (*sides.val, *sides.test) if s not in scoring]):
        problems.append(
            f"--eroded needs labels named *_noBoundary: {listed(bare)} has none. Add them or leave out --eroded"
        )
    if not eroded and scoring:
        notes.append("scores use the full labels; use --eroded to score with eroded boundaries")
    return Found(
        campaign.name,
        files(sides.train),
        files(sides.val),
        files(sides.test),
        bands=chosen,
        table=TABLE,
        uncounted=UNCOUNTED,
        gsd_m=(campaign.gsd_m, campaign.gsd_m),
        notes=(*notes, *sides.notes),
        problems=tuple(problems),
    )


def _index(root: Path) -> tuple[tuple[Campaign, Kinds], ...]:
    vaihingen, potsdam = Kinds(), Kinds()
    for path in sorted(root.rglob("*")):
        if match := VAIHINGEN_FILE.fullmatch(path.name):
            is_label = any(LABEL_FOLDER.search(p) for p in path.relative_to(root).parent.parts)
            kind = "eroded" if match[2] else "label" if is_label else "IRRG"
            vaihingen.setdefault(kind, {}).setdefault(f"area{int(match[1])}", path)
        elif match := POTSDAM_FILE.fullmatch(path.name):
            kind = POTSDAM_KINDS[match[3].lower()]
            potsdam.setdefault(kind, {}).setdefault(f"{int(match[1])}_{int(match[2])}", path)
    return (VAIHINGEN, vaihingen), (POTSDAM, potsdam)


def _choose_image(campaign: Campaign, index: Kinds, asked: Asked) -> tuple[str, BandChoice, list[str]]:
    """Return the kind of image, its bands, and notes."""
    present = {kind: bands for kind, bands in campaign.kinds.items() if kind in index}
    if not present:
        raise InputError(f"{campaign.name} has labels but no images. Add {', '.join(campaign.kinds)} images")
    able = {kind: found for kind, bands in present.items() if (found := _bands(bands, asked))}
    if not able:
        wanted = asked.names if asked.indexes is None else asked.indexes
        has = "; ".join(f"{kind}: {', '.join(bands)}" for kind, bands in present.items())
        raise InputError(f"bands {wanted}: found in no image of {campaign.name}. Choose among {has}")
    kind = max(able, key=lambda k: len(index[k]))  # the first of the kinds with most scenes
    others = [k for k in present if k != kind]
    note = f"reading the {kind} images; {', '.join(others)} images were found too (see --bands)"
    return kind, able[kind], [note] if others else []


def _bands(there: tuple[str, ...], asked: Asked) -> BandChoice | None:
    """Return the three requested bands of an image with the bands ``there``, or None if one is missing."""
    if asked.indexes is not None:
        if not all(1 <= i <= len(there) for i in asked.indexes):
            return None
        indexes = asked.indexes
    elif asked.names is not None:
        if not set(asked.names) <= set(there):
            return None
        indexes = tuple(there.index(name) + 1 for name in asked.names)
    else:
        indexes = (1, 2, 3)
    first, second, third = (there[i - 1] for i in indexes)
    return BandChoice(asked.names or (first, second, third), indexes, asked.scale, asked.masking)


def _sides(campaign: Campaign, there: Sequence[str], val: Sequence[str], test: Sequence[str]) -> Sides:
    own = {
        side: [campaign.prefix + s for s in names]
        for side, names in (("train", campaign.train), ("val", campaign.val), ("test", campaign.test))
    }
    without_val = tuple(val) == (NO_VAL,)
    val_names, test_names = _full(campaign, () if without_val else val), _full(campaign, test)
    check_names(there, val_names, test_names)
    spare = [*own["train"], *(own["val"] if val else []), *(own["test"] if test else [])]
    new_val = [] if without_val else val_names or [s for s in own["val"] if s not in test_names]
    new_test = test_names or [s for s in own["test"] if s not in new_val]
    new_train = sorted(
        (s for s in {*spare, *there} if s in spare and s not in {*new_val, *new_test}), key=_natural
    )
    train, held, tested = (tuple(s for s in part if s in there) for part in (new_train, new_val, new_test))
    wanted = {*new_train, *new_val, *new_test}
    notes = list[str]()
    if missing := sorted(wanted - set(there), key=_natural):
        notes.append(f"{len(missing)} scenes lack image or label and are skipped: {listed(missing)}")
    if extra := [s for s in there if s not in wanted]:
        notes.append(f"scenes in no split are skipped: {listed(extra)}")
    notes.append(
        "split as requested, not as in the papers" if val or test else "split as in Table 1 of the paper"
    )
    if not train or not (held or without_val):
        empty = "val" if train else "train"
        raise InputError(
            f"{campaign.name}: no scene of the {empty} split has image and label "
            f"({listed(new_train if empty == 'train' else new_val)}); found {listed(there) or 'none'}. "
            "Choose others with --val"
        )
    return Sides(train, held, tested, tuple(notes))


def _full(campaign: Campaign, names: Sequence[str]) -> list[str]:
    """Return full scene names, expanding those given by number only."""
    return [campaign.prefix + n if n.isdigit() else n for n in names]


def _natural(scene: str) -> tuple[int, ...]:
    return tuple(int(n) for n in re.findall(r"\d+", scene))
