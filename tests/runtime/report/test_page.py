from __future__ import annotations

import base64
import hashlib
import math
import random
import re
import sys
from contextlib import suppress
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from report_inputs import evaluation, full_bench, save, sparse_bench
from rsedge import BackendError, InputError
from rsedge.report import write_report
from rsedge.report.inputs import Inputs
from rsedge.report.page import page, template

VOID = {"meta", "link", "img", "input", "br"}
EVIL = "<script>alert(1)</script>"


class Parsed(HTMLParser):
    """Elements with attributes, and text outside style and script. Asserts that elements are closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.raw = "", {"script": "", "style": ""}
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] in self.raw:
            self.raw[self._open[-1]] += data
        else:
            self.text += data + " "

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def parse(tmp_path: Path, *facts: dict, **more: str) -> Parsed:
    files = [save(tmp_path / f"{i}.json", f) for i, f in enumerate(facts)]
    return Parsed(page(Inputs.read(files), **more))


def test_a_full_page_says_what_the_files_say(tmp_path: Path) -> None:
    found = parse(tmp_path, full_bench(), evaluation())
    for said in (
        "landcover5-b0 in int8 (openvino 2026.4.1) runs 9.31 (9.03 to 9.45) tiles of 512 px a second at batch 1",
        "44.3 (42.1 to 45.4) times as fast as its teacher SAM2-ARAFNet (fp32, torch)",
        "Its mIoU is 0.589, its teacher’s 0.612 (report.json: 32 labelled tiles of tile7).",
        "It has 36.3 times fewer parameters and takes 28.2 times fewer MACs than its teacher.",
        "scores mIoU 0.836 and overall accuracy 0.907 over 5 classes on 1 raster (1.57 Mpx labelled).",
        "medians of 5 measurements",
        "paper’s “FLOPs”",
        "failed, forced",
        "building lost 2.10 points of IoU",
        "no NVIDIA GPU here",
        "other work was running (load 1.3)",
        "RAPL, package 0",
        "rsedge bench models/landcover5-b0.rsedge --teacher runs/teacher --device cpu --threads 2 --rounds 5 "
        "--seconds 5 --size 2048 --json",
    ):
        assert said in found.text
    assert {"title": "building taken for land: 30,802 of 193,956 px"}.items() <= _cell(
        found, "taken for land"
    ).items()


def _cell(found: Parsed, part: str) -> dict[str, str | None]:
    return next(a for a in found.all("td") if part in (a.get("title") or ""))


def test_a_page_asks_the_network_for_nothing_and_runs_nothing_else(tmp_path: Path) -> None:
    found = parse(tmp_path, full_bench(), evaluation())
    for _, attributes in found.elements:
        for name in ("src", "href", "action", "srcset", "data"):
            assert (attributes.get(name) or "data:").startswith("data:")
        assert not any(name.startswith("on") for name in attributes)
    assert "http" not in found.raw["style"]
    assert "url(" not in found.raw["style"]
    assert "@import" not in found.raw["style"]
    (policy,) = (a["content"] for a in found.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy == (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    )
    assert found.raw["script"] == ""  # only the slider needs a script


def test_a_sparse_page_says_what_is_missing_and_draws_bars(tmp_path: Path) -> None:
    found = parse(tmp_path, sparse_bench())
    assert (
        "SAM2-ARAFNet was not measured: only its counts are in the bundle; give its run folder." in found.text
    )
    assert "landcover5-b0 (int8, tensorrt) was not measured: no TensorRT here." in found.text
    assert "No row has a known accuracy" in found.text
    assert "3.64 (3.53 to 3.69) tiles/s" in found.text
    assert "times as fast" not in found.text
    heads = [a["data-label"] for a in found.all("td")]
    assert "mIoU" not in heads
    assert not any("end to end" in (head or "") for head in heads)
    assert not any((head or "").startswith("×") for head in heads)  # only the base has a ratio, which is 1
    assert "None" not in found.text
    assert "nan" not in found.text.lower().split()


def test_a_bench_in_which_nothing_ran_is_reported(tmp_path: Path) -> None:
    facts = sparse_bench()
    facts["rows"], facts["base"] = [facts["rows"][2]], "2"
    found = parse(tmp_path, facts)
    assert "Nothing was measured on ARMv8, 6 cores: no TensorRT here." in found.text


def test_what_its_gate_refused_is_not_praised(tmp_path: Path) -> None:
    facts = full_bench()
    facts["rows"][4]["gate"] |= {"passed": False, "forced": True}
    assert "in fp32 (openvino 2026.4.1) runs 4.98" in parse(tmp_path, facts).text
    for row in facts["rows"][1:]:
        row["gate"]["passed"] = False
    assert "Its gate failed." in parse(tmp_path, facts).text


def test_an_artifact_has_one_verdict_however_often_it_ran(tmp_path: Path) -> None:
    assert parse(tmp_path, full_bench()).text.count("torch, fp32, before deployment's rewrites") == 1


def test_several_machines_and_scores_each_have_their_section(tmp_path: Path) -> None:
    other = full_bench()
    other["machine"] = {"board": "NVIDIA Jetson Orin Nano", "cores": 6, "gpus": ["Orin"]}
    found = parse(tmp_path, full_bench(), other, evaluation(), evaluation(("a", "b", "c", "d", "e")))
    assert "Measured on AMD EPYC 9V74 80-Core Processor, 2 cores" in found.text
    assert "Measured on NVIDIA Jetson Orin Nano, 6 cores, Orin" in found.text
    assert found.text.count("Scores of landcover5-b0 int8") == 2
    ids = [a["id"] for _, a in found.elements if a.get("id")]
    assert len(ids) == len(set(ids))


def test_texts_from_outside_are_text(tmp_path: Path) -> None:
    facts, scores = full_bench(), evaluation((EVIL, '" onload="x', "&amp;", "a\x00b\ud800", "]]>"))
    facts["machine"]["cpu"] = facts["notes"][0] = facts["rows"][1]["name"] = EVIL
    facts["not_run"][0] = {"what": EVIL, "why": EVIL}
    facts["rows"][3]["gate"]["reasons"] = [EVIL]
    found = parse(tmp_path, facts, scores, heading=EVIL, command=EVIL)
    assert not found.all("script")
    assert found.text.count(EVIL) >= 12
    assert '" onload="x' in found.text
    assert "&amp;" in found.text
    assert "a\ufffdb\ufffd" in found.text
    assert any(EVIL in (a.get("title") or "") for a in found.all("td"))


def test_stages_are_as_wide_as_they_are_long(tmp_path: Path) -> None:
    facts = full_bench()
    for row, stages in zip(
        facts["rows"][1:], ({"read": 1.0, "infer": 3.0}, {"infer": 8.0}, {}, {}), strict=True
    ):
        row["end_to_end"]["stages_s"] = {"write": -1.0, "odd": 9.0, **stages}
    rects = [a for a in parse(tmp_path, facts).all("rect") if "stage" in (a["class"] or "")]
    drawn = [(a["class"], a["x"], a["width"]) for a in rects]
    assert drawn == [
        ("stage read", "0.00%", "12.50%"),
        ("stage infer", "12.50%", "37.50%"),
        ("stage infer", "0.00%", "100.00%"),
    ]


def test_a_plot_is_drawn_as_it_was_laid_out(tmp_path: Path) -> None:
    found = parse(tmp_path, full_bench())
    kinds = [a["class"] for a in found.all("circle")]
    assert kinds == ["dot hollow", "dot", "dot", "dot", "dot"] * 2
    assert len([a for a in found.all("path") if a["class"] == "whisker"]) == 5  # speeds only
    assert [a["class"] for a in found.all("text")].count("label") == 10


def test_without_jinja2_it_is_said_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    template.cache_clear()
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(BackendError, match=r'needs jinja2.*`pip install "rsedge\[report\]"`'):
        write_report(tmp_path / "r.html", [save(tmp_path / "e.json", evaluation())])
    assert not (tmp_path / "r.html").exists()


def test_every_table_has_a_caption_and_every_plot_a_title(tmp_path: Path) -> None:
    found = parse(tmp_path, full_bench(), evaluation())
    assert len(found.all("caption")) == len(found.all("table")) == 5
    plots = [a for a in found.all("svg") if a.get("role") == "img"]
    assert len(plots) == 2 + 4  # two plots, four bars of stages
    assert found.all("html") == [{"lang": "en"}]
    assert len(found.all("h1")) == 1


def test_a_matrix_too_large_to_read_is_left_out(tmp_path: Path) -> None:
    names = [f"c{i}" for i in range(41)]
    classes = [{"name": n, "iou": None, "f1": None, "pixels": 0} for n in names]
    facts = {**evaluation(), "classes": classes, "confusion_truth_by_row": [[0] * 41] * 41}
    found = parse(tmp_path, facts)
    assert "The confusion matrix of 41 classes is too large for this page" in found.text
    assert found.text.count("c40") == 1


def test_a_wrong_value_that_only_a_table_reads_is_an_error_too(tmp_path: Path) -> None:
    facts = full_bench()
    facts["rows"][1]["gate"]["passed"] = "yes"
    with pytest.raises(InputError, match='gate: passed: expected true or false, not "yes"'):
        parse(tmp_path, facts)


def test_the_policy_allows_the_script_that_is_there(tmp_path: Path) -> None:
    from rsedge.report.pictures import Pane, Preview

    preview = Preview((Pane("image", "data:,"), Pane("mask", "data:,")), 4, 2, (), (), "said")
    found = Parsed(page(Inputs.read([save(tmp_path / "e.json", evaluation())]), preview))
    allowed = re.search(r"script-src 'sha256-([^']+)'", str(found.all("meta")))
    assert allowed
    digest = hashlib.sha256(found.raw["script"].encode()).digest()
    assert base64.b64decode(allowed[1]) == digest


ODD = (
    0, -1, 1e308, -1e308, 5e-324, 10**400, 10**30, True, "x", "", [], {}, None, math.nan, math.inf, 1e18, 1e-29, 2,
    0.5, -0.0, "\ud800", "\x1b[31m",
)  # fmt: skip


def _places(facts: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = facts.items() if isinstance(facts, dict) else enumerate(facts) if isinstance(facts, list) else ()
    return [*([at] if at else []), *(place for key, value in inner for place in _places(value, (*at, key)))]


@pytest.mark.parametrize("seed", range(60))
def test_a_file_that_somebody_edited_is_a_page_or_an_error(tmp_path: Path, seed: int) -> None:
    """Test that no OverflowError or `math domain error` ends in a traceback."""
    rng = random.Random(seed)
    for made in (full_bench(), sparse_bench(), evaluation()):
        for _ in range(rng.choice((1, 1, 2, 3))):
            *parents, last = rng.choice(_places(made))
            held: Any = made
            for key in parents:
                held = held[key]
            held[last] = rng.choice(ODD)
        with suppress(InputError):
            page(Inputs.read([save(tmp_path / "a.json", made)])).encode()


def test_counts_beyond_all_rasters_and_scores_above_one(tmp_path: Path) -> None:
    found = evaluation()
    found["confusion_truth_by_row"][0][0] = 10**400
    with pytest.raises(InputError, match=r"confusion_truth_by_row\[0\]\[0\]: 10000.* is beyond what can be"):
        Inputs.read([save(tmp_path / "a.json", found)])
    made = full_bench()
    for one in made["rows"]:
        if one["accuracy"]:
            one["accuracy"]["miou"] = 5.0
    assert "<svg" in page(Inputs.read([save(tmp_path / "a.json", made)]))
