from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest

from rsedge.errors import InputError, OutputError
from rsedge_train.look.logbook import COLUMNS, Logbook, read_log


def write(folder: Path, steps: range, resume_at: int | None = None) -> None:
    with Logbook(folder, resume_at) as book:
        for step in steps:
            book.log(step, {"loss": 1 / step, "lr": 1e-3})


def steps(path: Path) -> list[float]:
    return [row["step"] for row in read_log(path)]


def scalars(folder: Path, tag: str) -> list[tuple[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(folder / "tensorboard"))
    board.Reload()
    return [(event.step, pytest.approx(event.value)) for event in board.Scalars(tag)]


def test_a_row_has_all_columns_and_empty_cells_where_nothing_was_measured(tmp_path: Path) -> None:
    with Logbook(tmp_path / "run") as book:
        book.log(10, {"loss": 0.123456789, "lr": 2})
        book.log(20, {"val_miou": float("nan"), "val_oa": 0.5})
        with (tmp_path / "run" / "log.csv").open(newline="") as file:  # written before the book is closed
            first, second = csv.DictReader(file)
    assert tuple(first) == COLUMNS
    assert {k: v for k, v in first.items() if v} == {"step": "10", "loss": "0.123457", "lr": "2"}
    assert {k: v for k, v in second.items() if v} == {"step": "20", "val_miou": "nan", "val_oa": "0.5"}
    assert read_log(book.path)[0] == {"step": 10, "loss": 0.123457, "lr": 2}


def test_tensorboard_shows_the_same_numbers_grouped(tmp_path: Path) -> None:
    with Logbook(tmp_path) as book:
        book.log(1, {"loss": 2.5, "ce": 1.5, "lr": 0.01, "val_miou": 0.25})
    assert scalars(tmp_path, "loss/total") == [(1, 2.5)]
    assert scalars(tmp_path, "loss/ce") == [(1, 1.5)]
    assert scalars(tmp_path, "train/lr") == [(1, 0.01)]
    assert scalars(tmp_path, "val/miou") == [(1, 0.25)]


def test_a_resumed_log_forgets_what_is_trained_again(tmp_path: Path) -> None:
    write(tmp_path, range(1, 9))
    write(tmp_path, range(6, 8), resume_at=5)
    assert steps(tmp_path / "log.csv") == [1, 2, 3, 4, 5, 6, 7]
    assert [step for step, _ in scalars(tmp_path, "loss/total")] == [1, 2, 3, 4, 5, 6, 7]


def test_a_new_log_replaces_the_old(tmp_path: Path) -> None:
    write(tmp_path, range(1, 9))
    write(tmp_path, range(1, 3))
    assert steps(tmp_path / "log.csv") == [1, 2]
    assert [step for step, _ in scalars(tmp_path, "loss/total")] == [1, 2]


def test_resuming_without_a_log_begins_one(tmp_path: Path) -> None:
    write(tmp_path, range(6, 8), resume_at=5)
    assert steps(tmp_path / "log.csv") == [6, 7]


@pytest.mark.parametrize("cut", [1, 7, 40])
def test_a_partial_last_line_is_dropped(tmp_path: Path, cut: int) -> None:
    write(tmp_path, range(1, 4))
    path = tmp_path / "log.csv"
    os.truncate(path, path.stat().st_size - cut)
    kept = 2 if cut < 40 else 1
    assert len(read_log(path)) == kept
    write(tmp_path, range(3, 5), resume_at=kept)
    assert steps(path) == [*range(1, kept + 1), 3, 4]


def test_a_partial_header_is_an_empty_log(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("step,epo")
    assert read_log(tmp_path / "log.csv") == []
    write(tmp_path, range(6, 7), resume_at=5)
    assert steps(tmp_path / "log.csv") == [6]


def test_an_unknown_column_is_an_error_and_leaves_no_row(tmp_path: Path) -> None:
    with (
        Logbook(tmp_path) as book,
        pytest.raises(InputError, match="unknown log column 'losss'. Choose from loss"),
    ):
        book.log(1, {"losss": 1.0})
    assert read_log(book.path) == []


def test_a_closed_book_takes_no_rows(tmp_path: Path) -> None:
    with Logbook(tmp_path) as book:
        pass
    with pytest.raises(RuntimeError, match="closed"):
        book.log(1, {"loss": 1.0})


def test_a_log_with_fewer_columns_is_gone_on_with(tmp_path: Path) -> None:
    """As written before there was unlabelled imagery."""
    (tmp_path / "log.csv").write_text("step,loss,lr,val_oa\n1,0.50,0.001,\n2,0.25,0.001,0.125\n3,9,9,9\n")
    assert read_log(tmp_path / "log.csv")[1] == {"step": 2, "loss": 0.25, "lr": 0.001, "val_oa": 0.125}
    with Logbook(tmp_path, 2) as book:
        book.log(3, {"loss": 1.0, "unlabelled": 0.5, "confidence": 0.75})
    with (tmp_path / "log.csv").open(newline="") as file:
        rows = [{k: v for k, v in row.items() if v} for row in csv.DictReader(file)]
    assert rows == [
        {"step": "1", "loss": "0.50", "lr": "0.001"},
        {"step": "2", "loss": "0.25", "lr": "0.001", "val_oa": "0.125"},
        {"step": "3", "loss": "1", "unlabelled": "0.5", "confidence": "0.75"},
    ]


def test_what_is_no_log_is_not_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    with pytest.raises(InputError, match="not found"):
        read_log(path)
    path.write_text("time,loss\n1,2\n")
    with pytest.raises(InputError, match="not a log of this version"):
        write(tmp_path, range(1, 2), resume_at=0)
    assert path.read_text() == "time,loss\n1,2\n"


@pytest.mark.parametrize(
    ("row", "message"), [("1,2", "line 2 is damaged"), ("," * (len(COLUMNS) - 1), "line 2 has no step")]
)
def test_a_damaged_row_is_named(tmp_path: Path, row: str, message: str) -> None:
    path = tmp_path / "log.csv"
    path.write_text(f"{','.join(COLUMNS)}\n{row}\n")
    with pytest.raises(InputError, match=message):
        read_log(path)


def test_a_folder_that_cannot_be_made_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"), Logbook(tmp_path / "file" / "run"):
        pass
