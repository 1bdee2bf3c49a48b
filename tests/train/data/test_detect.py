"""Classes guessed from masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from labelled import indices, paint, save, save_palette, save_tif
from rsedge.errors import InputError
from rsedge.model.manifest import NODATA, ClassInfo
from rsedge.score.labels import ClassTable, distinct_color
from rsedge_train.data.detect import KNOWN, MASKS_READ, count_runs, detect_table

OWN = ClassTable(
    (ClassInfo("#010203", (1, 2, 3)), ClassInfo("#0A0B0C", (10, 11, 12)), ClassInfo("#FF0000", (255, 0, 0)))
)


def test_runs_are_counted_as_by_numpy() -> None:
    values = np.random.default_rng(0).integers(0, 4, (30, 41)) ** 2
    found, counts = np.unique(values, return_counts=True)
    assert count_runs(values) == dict(zip(found.tolist(), counts.tolist(), strict=True))


@pytest.mark.parametrize("name", KNOWN)
def test_known_colours_are_recognised(tmp_path: Path, name: str) -> None:
    table = KNOWN[name]
    labels = indices(32, 32, len(table.classes))
    if table.ignore:
        labels[:3] = NODATA
    path = save(tmp_path / "m.png", paint(labels, table, table.ignore[0] if table.ignore else 0))
    found, (note,) = detect_table([path])
    assert found == table
    assert name in note
    assert "1 of 1 masks" in note


def test_a_few_stray_pixels_do_not_change_the_classes(tmp_path: Path) -> None:
    table = KNOWN["dubai"]
    mask = paint(indices(40, 40, len(table.classes)), table)
    mask[:, :3, :3] = np.array([1, 2, 3])[:, None, None]
    found, (note,) = detect_table([save(tmp_path / "m.png", mask)])
    assert found == table
    assert "colours outside the table: #010203 (9 px)" in note
    mask[:, :20] = np.array([1, 2, 3])[:, None, None]  # no stray pixels: another table
    assert detect_table([save(tmp_path / "m.png", mask)])[0] != table


def test_palettes_of_parts_are_put_together(tmp_path: Path) -> None:
    colors = [c.color[0] << 16 | c.color[1] << 8 | c.color[2] for c in KNOWN["dubai"].classes]
    paths = [save_palette(tmp_path / f"{i}.png", indices(16, 16, 2, i), colors[i : i + 2]) for i in range(4)]
    assert detect_table(paths)[0] == KNOWN["dubai"]


def test_black_and_white_is_not_isprs(tmp_path: Path) -> None:
    mask = np.repeat(indices(16, 16, 2)[None] * 255, 3, 0)
    table, _ = detect_table([save(tmp_path / "m.png", mask)])
    assert table.names == ("#000000", "#FFFFFF")


def test_unknown_colours_become_classes_and_the_note_is_a_table(tmp_path: Path) -> None:
    path = save(tmp_path / "m.png", paint(indices(32, 32, 3), OWN))
    table, (note,) = detect_table([path])
    assert table == OWN
    (tmp_path / "classes.toml").write_text(note.split("\n", 1)[1])
    assert ClassTable.read(tmp_path / "classes.toml") == OWN


def test_indices_become_numbered_classes(tmp_path: Path) -> None:
    labels = indices(32, 32, 3)
    labels[labels == 1] = 4
    labels[0] = NODATA
    own = labels.astype(np.int16)
    own[1] = -9
    table, _ = detect_table(
        [save(tmp_path / "m.png", labels), save_tif(tmp_path / "n.tif", own[None], nodata=-9)]
    )
    assert table.names == ("class0", "class1", "class2", "class3", "class4")
    assert len({distinct_color(i) for i in range(64)}) == 64


def test_few_of_many_masks_are_read(tmp_path: Path) -> None:
    paths = [save(tmp_path / "m.png", indices(16, 16, 3))] * (5 * MASKS_READ)
    _, (note,) = detect_table(paths)
    assert f"in {MASKS_READ} of {5 * MASKS_READ} masks" in note


def test_a_large_mask_is_read_in_strips_from_top_to_bottom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rsedge_train.data.detect.PIXELS_READ", 64 * 64 * 4)
    labels = np.zeros((64 * 16, 64), np.uint8)
    labels[64 * 12 : 64 * 13] = 2  # a strip that is read
    labels[64 * 13 : 64 * 14] = 5  # one that is not
    table, _ = detect_table([save(tmp_path / "m.png", labels)])
    assert len(table.classes) == 3


REFUSED = {
    "one colour": (np.full((3, 16, 16), 9, np.uint8), "only the colour #090909 occurs"),
    "zero and 255": (indices(16, 16, 2) * 255, "store the mask as 0 and 1"),
    "nothing labelled": (np.full((16, 16), 255, np.uint8), "no pixel is labelled"),
    "not indices": (indices(64, 64, 40) * 3, "values 0 to 117 .* are not class indices"),
    "many colours": (
        np.arange(3 * 900).reshape(3, 30, 30).astype(np.uint8),
        r"colours .* must be stored without lossy .* most frequent",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_masks_that_cannot_be_classes_are_refused(tmp_path: Path, case: str) -> None:
    mask, message = REFUSED[case]
    with pytest.raises(InputError, match=message):
        detect_table([save(tmp_path / "m.png", mask)])


def test_smoothed_edges_are_recognised(tmp_path: Path) -> None:
    mask = paint(indices(400, 400, 3), OWN)
    mask[:, 0, :12] = np.arange(100, 112)
    with pytest.raises(InputError, match="15 colours .* 12 of them rare"):
        detect_table([save(tmp_path / "m.png", mask)])


def test_colours_and_indices_do_not_mix(tmp_path: Path) -> None:
    labels = indices(16, 16, 3)
    paths = [save(tmp_path / "a.png", labels), save(tmp_path / "b.png", paint(labels, OWN))]
    with pytest.raises(InputError, match="some hold colours and some class indices"):
        detect_table(paths)


def test_a_broken_mask_is_passed_over(tmp_path: Path) -> None:
    good, bad = save(tmp_path / "a.png", indices(16, 16, 3)), tmp_path / "b.png"
    bad.write_bytes(b"")
    assert "1 of 2 masks" in detect_table([good, bad])[1][0]
    with pytest.raises(InputError, match="and 1 cannot be read"):
        detect_table([bad])


def test_a_palette_that_says_nothing_leaves_indices(tmp_path: Path) -> None:
    for palette in ([0] * 256, [v * 0x010101 for v in range(256)]):
        path = save_palette(tmp_path / "m.png", indices(32, 32, 3), palette)
        assert detect_table([path])[0].names == ("class0", "class1", "class2")


def test_transparent_colours_are_no_classes(tmp_path: Path) -> None:
    labels = indices(32, 32, 3)
    rgba = np.concatenate([paint(labels, OWN), np.where(labels == 1, 0, 255).astype(np.uint8)[None]])
    assert len(detect_table([save(tmp_path / "m.png", rgba)])[0].classes) == 2
