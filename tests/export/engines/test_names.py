"""The names of TensorRT's API that rsedge uses exist in all of its versions, or stand behind a guard.

Needs no TensorRT: it reads our sources' syntax tree and a table made from the real bindings.
"""

from __future__ import annotations

import pytest

from trt_names import ROOT, SOURCES, VERSIONS, Walk, exists, missing


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("source", SOURCES)
def test_every_name_is_there_or_guarded(source: str, version: str) -> None:
    assert missing((ROOT / source).read_text(encoding="utf-8"), version) == []


def test_the_sources_are_really_read() -> None:
    import ast

    found = set()
    for source in SOURCES:
        tree = ast.parse((ROOT / source).read_text(encoding="utf-8"))
        found |= {name for name, _ in Walk(tree, "10.3").names()}
    assert {"Builder.create_network", "NetworkDefinitionCreationFlag.STRONGLY_TYPED", "OnnxParser"} <= found
    assert {"IProgressMonitor.step_complete", "IExecutionContext.execute_async_v3", "ITensor.name"} <= found
    assert "BuilderFlag.FP16" not in found  # the other branch


@pytest.mark.parametrize(
    ("code", "lacking"),
    [
        ("config.int8_calibrator = x", ["11.4"]),
        ("config.set_flag(trt.BuilderFlag.FP16)", ["11.4"]),
        ("if fast:\n    config.set_flag(trt.BuilderFlag.INT8)", ["11.4"]),
        ("for i in range(engine.num_bindings): pass", ["10.3", "10.13", "11.4"]),
        ("self._context.execute_async_v2(b, s)", ["10.3", "10.13", "11.4"]),
        ("size = engine.device_memory_size", ["11.4"]),
        ("size = engine.device_memory_size_v2", ["8.6"]),
        ("flag = trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH", ["11.4"]),
        ("class M(trt.IProgressMonitor):\n    def step_complete(self): ...", ["8.6"]),
        ("config.max_workspace_size = 1", ["10.3", "10.13", "11.4"]),
        ("if hasattr(engine, 'device_memory_size'):\n    engine.device_memory_size", []),
        ("if strongly_typed(trt):\n    pass\nelse:\n    config.set_flag(trt.BuilderFlag.FP16)", []),
        ("if not strongly_typed(trt) and a:\n    config.set_flag(trt.BuilderFlag.FP16)", []),
        ("if not strongly_typed(trt) or a:\n    config.set_flag(trt.BuilderFlag.FP16)", ["11.4"]),
        ("def _old(config):\n    config.int8_calibrator\nif hasattr(config, 'int8_calibrator'):\n    _old(config)", []),
        ("def _old(config):\n    config.int8_calibrator\n_old(config)", ["11.4"]),
        ("builder.create_netwerk(0)", list(VERSIONS)),
    ],
)  # fmt: skip
def test_it_finds_names_that_a_version_lacks(code: str, lacking: list[str]) -> None:
    assert [version for version in VERSIONS if missing(code, version)] == lacking


def test_what_is_gone_is_known_to_be_gone() -> None:
    gone = (
        "BuilderFlag.FP16",
        "IBuilderConfig.int8_calibrator",
        "ITensor.set_dynamic_range",
        "ILayer.precision",
    )
    assert [exists(name, "11.4") for name in gone] == [False] * len(gone)
    assert exists("ICudaEngine.num_bindings", "8.6")
