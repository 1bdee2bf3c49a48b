"""The edge family, and what ships, before NVIDIA's own parser and compiler."""

from __future__ import annotations

from pathlib import Path

import pytest

from rsedge.backends.rtx import import_tensorrt_rtx
from rsedge.model.bundle import Bundle
from rsedge_export.engines.check import GraphFacts, problem
from rsedge_export.engines.cross import ask_parser, compile_onnx
from rsedge_train.nets.registry import names
from rtx import needs_rtx
from rtx_students import SM, check_student

SHIPPED = sorted((Path(__file__).resolve().parents[3] / "runtime/models").glob("*.rsedge"))
FILES = [
    (bundle, precision)
    for bundle in SHIPPED
    for precision in Bundle.open(bundle).precisions
    if precision != "int8"  # for CPUs
]


@needs_rtx
@pytest.mark.slow
@pytest.mark.parametrize("name", names("edge"))
def test_an_edge_student_is_parsed_and_compiled(name: str, tmp_path: Path) -> None:
    check_student(name, tmp_path)


@needs_rtx
@pytest.mark.slow
@pytest.mark.parametrize(("bundle", "stored"), FILES, ids=[f"{b.name}:{p}" for b, p in FILES])
def test_the_shipped_model_is_parsed_and_compiled(bundle: Path, stored: str) -> None:
    path, precision = Bundle.open(bundle, stored).artifact, stored.partition("-")[0]
    said, refused = ask_parser(path)
    assert refused is None, said
    made = compile_onnx(import_tensorrt_rtx(), path, precision, SM)
    assert problem(precision, GraphFacts.read(path), made.engine) is None


@needs_rtx
@pytest.mark.parametrize("bundle", SHIPPED, ids=lambda path: path.name)
def test_the_shipped_file_for_cpus_is_refused_for_its_zero_points(bundle: Path) -> None:
    _, refused = ask_parser(Bundle.open(bundle, "int8").artifact)
    assert refused is not None
    assert "zero point" in refused
