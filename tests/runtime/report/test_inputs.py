from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from report_inputs import NAMES, evaluation, full_bench, save, sparse_bench, spread
from rsedge import InputError
from rsedge.bench.facts import Spread
from rsedge.report.accuracy import Scores
from rsedge.report.inputs import Bench, Inputs
from rsedge.report.tables import results


def test_files_are_recognised_by_what_is_in_them(tmp_path: Path) -> None:
    bench = save(tmp_path / "a", full_bench(), before="model    b0\n{not json}\n")
    other = save(tmp_path / "b", sparse_bench())
    scores = save(tmp_path / "c", evaluation())
    found = Inputs.read([scores, other, bench])
    assert [b.source for b in found.benches] == [str(other), str(bench)]
    assert [e.source for e in found.evals] == [str(scores)]


def test_a_file_that_was_laid_out_by_hand_is_read(tmp_path: Path) -> None:
    path = tmp_path / "pretty.json"
    path.write_text("\ufeff" + json.dumps(evaluation(), indent=2), encoding="utf-8")
    assert Inputs.read([path]).evals[0].counted == 1572864


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no JSON object"),
        ("model  b0\nno result\n", "holds no JSON object"),
        ("[1, 2]", "holds no JSON object"),
        ("[" * 100_000, "holds no JSON object"),
        ('{"a":' * 200 + "1" + "}" * 200, "holds no JSON object"),
        ('{"windows": 9, "classes": []}', "neither rsedge_bench_schema nor confusion_truth_by_row"),
        ('{"rsedge_bench_schema": 2, "rows": []}', "is 2, this rsedge reads 1"),
        ('{"rsedge_bench_schema": 1, "rows": []}', "machine: is missing"),
        (
            '{"rsedge_bench_schema": 1, "machine": {}, "method": {}, "base": "1", "rows": []}',
            "it has no rows",
        ),
        ('{"confusion_truth_by_row": [[1]], "classes": []}', "model: is missing"),
    ],
)
def test_other_files_are_refused_with_a_reason(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(InputError, match=f"x.json.*{said}"):
        Inputs.read([path])


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not found"):
        Inputs.read([tmp_path / "none.json"])
    with pytest.raises(InputError, match="cannot be read"):
        Inputs.read([tmp_path])
    (tmp_path / "mask.tif").write_bytes(b"II*\0\xff\xfe")
    with pytest.raises(InputError, match="is not text"):
        Inputs.read([tmp_path / "mask.tif"])
    with pytest.raises(InputError, match="at least one file"):
        Inputs.read([])


def _set(facts: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split(".")
    held: Any = facts
    for key in parents:
        held = held[int(key) if key.isdecimal() and isinstance(held, list) else key]
    held[last] = value


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("base", "9", "base '9' is not the label of a row"),
        ("base", None, "base: expected a text, not null"),
        ("rows.1.label", "T", "two rows have one label"),
        ("rows.1.label", None, r"rows\[1\].label: expected a text, not null"),
        ("rows.1.role", "pupil", r"rows\[1\]: role 'pupil' is neither teacher nor student"),
        ("rows.1.size_bytes", "24 MB", r'rows\[1\].size_bytes: expected a whole number, not "24 MB"'),
        ("rows.1.size_bytes", -1, "size_bytes: expected a whole number from 0 on, not -1"),
        ("rows.1.size_bytes", True, "size_bytes: expected a whole number, not true"),
        ("rows.1.size_bytes", 10**400, "size_bytes: 10000.* is beyond what can be measured"),
        ("rows.1.name", 5, "name: expected a text, not 5"),
        ("rows.1.latency", [], r"latency: expected an object, not \[\]"),
        (
            "rows.1.fps.1",
            {"p50": 1.0, "p10": 2.0, "p90": 3.0, "n": 5},
            "fps.1: not 0 <= p10 <= p50 <= p90: 2, 1, 3",
        ),
        ("rows.1.fps.1", {"p50": 1.0, "n": 5}, "fps.1.p10: is missing"),
        ("rows.1.fps.one", spread(1), "fps.one: expected whole numbers as keys"),
        ("rows", [[]], r"rows\[0\]: expected an object, not \[\]"),
        ("notes", [1], r"notes\[0\]: expected a text, not 1"),
        ("machine.cores", "two", 'machine.cores: expected a whole number, not "two"'),
        ("rows.1.gate.passed", "yes", r'rows\[1\].gate: passed: expected true or false, not "yes"'),
    ],
)
def test_a_value_of_another_kind_is_named_with_its_place(path: str, value: Any, said: str) -> None:
    facts = full_bench()
    _set(facts, path, value)
    with pytest.raises(InputError, match=f"b.json: (.*[.])?{said}"):
        Bench.read(facts, "b.json")


@pytest.mark.parametrize(
    "confusion", [[[1, 2]] * 5, [[1] * 5] * 4, "none", [[-1] * 5] * 5, [[0.5] * 5] * 5, 7]
)
def test_a_confusion_that_is_no_square_of_counts_is_refused(tmp_path: Path, confusion: Any) -> None:
    path = save(tmp_path / "e.json", {**evaluation(), "confusion_truth_by_row": confusion})
    with pytest.raises(
        InputError, match=r"e.json: confusion_truth_by_row( is not a square of 5|(\[0\]\[0\])?: expected)"
    ):
        Inputs.read([path])


def test_nan_counts_as_unknown_and_the_last_digit_does_not_matter(tmp_path: Path) -> None:
    facts = full_bench()
    facts["rows"][1]["accuracy"]["miou"] = float("nan")
    facts["rows"][1]["fps"]["1"] = {"p50": 0.3, "p10": 0.30000000000000004, "p90": 0.3, "n": 5}
    row = Inputs.read([save(tmp_path / "b.json", facts)]).benches[0].rows[1]
    assert row.accuracy is not None
    assert row.accuracy.miou is None
    assert row.fps[1] == Spread(0.3, 0.30000000000000004, 0.3, 5)


def test_an_eval_gives_its_score_to_the_very_file_it_scored(tmp_path: Path) -> None:
    facts = full_bench()
    for row in facts["rows"]:
        row["accuracy"] = None
    inputs = Inputs.read([save(tmp_path / "b.json", facts), save(tmp_path / "e.json", evaluation())])
    scores = Scores.of(inputs.benches[0], inputs.evals)
    assert {label: miou for label, (miou, _) in scores.of_row.items()} == {"3": 0.8361, "4": 0.8361}
    assert "e.json" in scores.sources[0]
    old = {key: value for key, value in evaluation().items() if key != "sha256"}
    inputs = Inputs.read([save(tmp_path / "b.json", facts), save(tmp_path / "e.json", old)])
    assert not Scores.of(inputs.benches[0], inputs.evals).of_row


def test_scores_of_different_data_are_marked() -> None:
    facts = full_bench()
    facts["rows"][0]["accuracy"]["source"] = "run.json: tile2"
    bench = Bench.read(facts, "b.json")
    scores = Scores.of(bench, ())
    assert [scores.mark(row) for row in bench.rows] == ["a", "b", "b", "b", "b"]
    assert "cannot be compared" in (scores.said() or "")
    table = results(bench, scores)
    assert table is not None
    assert table.lines[0].cells[-1].below == ("data a",)


def test_the_made_up_eval_adds_up() -> None:
    facts = evaluation()
    assert [c["pixels"] for c in facts["classes"]] == [sum(r) for r in facts["confusion_truth_by_row"]]
    assert len(NAMES) == 5


def test_what_has_no_end_or_no_file_is_refused(tmp_path: Path) -> None:
    (large := tmp_path / "large.json").touch()
    os.truncate(large, 65 << 20)
    with pytest.raises(InputError, match="not a result of rsedge: it has 68157440 bytes"):
        Inputs.read([large])
    os.mkfifo(pipe := tmp_path / "pipe")
    with pytest.raises(InputError, match="not a regular file"):
        Inputs.read([pipe])
    (deep := tmp_path / "deep.json").write_text('{"a": ' + "[" * 150 + "]" * 150 + "}")
    with pytest.raises(InputError, match="holds no JSON object"):
        Inputs.read([deep])
