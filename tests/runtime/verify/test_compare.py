"""Which artifacts are compared on which device."""

from __future__ import annotations

from pathlib import Path

import pytest

from artifacts import graph_of, make_artifacts
from rsedge.model.bundle import Bundle
from rsedge.verify.compare import candidates
from toys import pointwise_manifest

MANIFEST = pointwise_manifest()


def test_what_is_laid_out_for_tensorrt_is_not_run_in_openvino(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("fp32", "int8", "int8-trt8", "int8-trt10")
    folder = make_artifacts(tmp_path / "b", MANIFEST, {p: graph_of(MANIFEST, p) for p in names})
    monkeypatch.setattr("rsedge.verify.compare.find_spec", lambda name: name == "openvino" or None)
    bundle = Bundle.open(folder)
    assert [str(c) for c in candidates(bundle) if not c.missing] == [
        "int8 on cpu", "int8-trt8 on cpu", "int8-trt10 on cpu", "fp32 on openvino", "int8 on openvino",
    ]  # fmt: skip
    (asked,) = candidates(bundle, "openvino", "int8-trt8")
    assert "quantized for TensorRT" in str(asked.missing)
