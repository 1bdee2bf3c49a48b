"""``--fast``: which artifact is taken, on which device, and what is said of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest

from artifacts import graph_of, make_artifacts, nan_graph
from rsedge import BackendError, InputError, Options, open_fastest, open_model, segment
from rsedge.backends.speeds import Speed, keep_speeds, load_speeds
from rsedge.model.bundle import Bundle
from rsedge.verify import fastest
from rsedge.verify.fastest import gate_cost, may_be_used
from toys import pointwise_manifest, read

MANIFEST = pointwise_manifest()
SAME, OTHER = graph_of(MANIFEST, "int8"), graph_of(MANIFEST, "int8", (1.0, 2.0, 0.5))
PASSED = {
    "passed": True,
    "forced": False,
    "miou_fp32": 0.6,
    "miou": 0.595,
    "miou_drop": 0.5,
    "tiles_from": "t",
}


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Neither OpenVINO nor TensorRT, whatever is installed; the user's cache is not touched."""
    monkeypatch.setattr("rsedge.verify.compare.find_spec", lambda _: None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """Set what the clock would say, and count how often it was looked at."""

    def times(**times_ms: float) -> list[int]:
        calls, real = list[int](), fastest.speeds_of

        def speeds_of(*args: Any) -> tuple[Speed, ...]:
            calls.append(len(args[1]))
            return tuple(
                replace(s, tile_ms=times_ms[s.precision], reference_ms=10.0) if s.passed else s
                for s in real(*args)
            )

        monkeypatch.setattr(fastest, "speeds_of", speeds_of)
        return calls

    return times


def made(folder: Path, int8: onnx.ModelProto = SAME, record: object = PASSED) -> Path:
    report = {"artifacts": {"model.int8.onnx": record}}
    return make_artifacts(folder, MANIFEST, {"fp32": graph_of(MANIFEST), "int8": int8}, report)


def test_the_faster_one_is_taken_and_remembered_and_its_price_is_said(
    tmp_path: Path, measured: Callable[..., list[int]]
) -> None:
    folder, calls = made(tmp_path / "b"), measured(fp32=10, int8=4)
    seen: list[tuple[int, int]] = []
    with open_fastest(folder, threads=1, progress=lambda *told: seen.append(told)) as model:
        assert (model.bundle.precision, model.provider) == ("int8", "CPUExecutionProvider")
        assert str(model.why).startswith(
            "--fast: 2.5 times as fast as fp32 in ONNX Runtime, fastest of 2 measured here"
        )
        assert str(model.why).endswith(
            "; 100.0% of the pixels as in fp32; costs 0.50 points of mIoU by the gate, 0.600 to 0.595"
        )
    assert seen[-1] == (4, 4)
    with open_fastest(folder, threads=1) as model:
        assert model.bundle.precision == "int8"
    assert calls == [1]  # once
    with open_model(folder, threads=1) as model:
        assert model.bundle.precision == "fp32"  # never without being asked for


def test_fp32_where_that_is_faster(tmp_path: Path, measured: Callable[..., list[int]]) -> None:
    measured(fp32=10, int8=30)
    with open_fastest(made(tmp_path / "b"), threads=1) as model:
        assert model.bundle.precision == "fp32"
        assert str(model.why).startswith("--fast: 1.0 times as fast as fp32")
        assert str(model.why).endswith("; full accuracy")


@pytest.mark.parametrize("int8", [OTHER, nan_graph(MANIFEST, "int8")])
def test_what_answers_otherwise_here_is_not_taken_however_fast_nor_tried_again(
    tmp_path: Path, measured: Callable[..., list[int]], int8: onnx.ModelProto
) -> None:
    calls = measured(fp32=10, int8=1)
    folder = made(tmp_path / "b", int8)
    for _ in range(2):
        with open_fastest(folder, threads=1) as model:
            assert model.bundle.precision == "fp32"
    assert len(calls) == 1


@pytest.mark.parametrize(
    "record", [{}, {"passed": False}, {"passed": True, "forced": True}, {"passed": "yes"}, "damaged"]
)
def test_what_did_not_pass_its_gate_is_not_even_tried(
    tmp_path: Path, measured: Callable[..., list[int]], record: object
) -> None:
    calls = measured(fp32=10, int8=1)
    with open_fastest(made(tmp_path / "b", record=record), threads=1) as model:
        assert model.bundle.precision == "fp32"
        assert "--fast has no choice: fp32 is the only artifact that may be used here" in str(model.why)
        assert 'pip install "rsedge[openvino]"' in str(model.why)
    assert calls == []


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_lone_artifact_is_taken_and_that_is_said(
    tmp_path: Path, measured: Callable[..., list[int]], precision: str
) -> None:
    calls, folder = measured(), made(tmp_path / "b")
    with open_fastest(folder / f"model.{precision}.onnx", threads=1) as model:
        assert model.bundle.precision == precision
        assert f"--fast has no choice: {precision} is the only artifact;" in str(model.why)
    assert calls == []


def test_another_version_of_the_library_is_measured_again(
    tmp_path: Path, measured: Callable[..., list[int]]
) -> None:
    folder, calls = made(tmp_path / "b"), measured(fp32=10, int8=4)
    open_fastest(folder, threads=1).close()
    bundle = Bundle.open(folder)
    keep_speeds(bundle, [replace(s, version="0.1") for s in load_speeds(bundle)[0]])
    with open_fastest(folder, threads=1) as model:
        assert model.bundle.precision == "int8"
    assert len(calls) == 2
    assert {s.version for s in load_speeds(bundle)[0]} == {model.version}


def test_what_verify_measured_need_not_be_measured_again(
    tmp_path: Path, measured: Callable[..., list[int]]
) -> None:
    from rsedge.verify.verify import VerifyOptions, verify

    folder, calls = made(tmp_path / "b"), measured(fp32=10, int8=4)
    verify(folder, VerifyOptions(2, "cpu", threads=1))
    open_fastest(folder, threads=1).close()
    assert calls == []


def test_streams_are_tried_and_may_be_given(tmp_path: Path, measured: Callable[..., list[int]]) -> None:
    folder = made(tmp_path / "b")
    open_fastest(folder, threads=2).close()
    kept, _ = load_speeds(Bundle.open(folder))
    assert 2 in {s.streams for s in kept}
    with open_fastest(folder, threads=2, streams=2) as model:
        assert model.streams == 2
    with pytest.raises(InputError, match="3 streams need a thread each"):
        open_fastest(folder, threads=2, streams=3)


def test_a_device_by_name_is_the_only_one(tmp_path: Path, measured: Callable[..., list[int]]) -> None:
    measured(fp32=10, int8=4)
    folder = made(tmp_path / "b")
    with open_fastest(folder, "cpu", 1) as model:
        assert model.bundle.precision == "int8"
    with pytest.raises(BackendError, match="openvino"):
        import sys

        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(sys.modules, "openvino", None)
            open_fastest(folder, "openvino", 1)


def test_a_model_without_tiles_to_measure_on_stays_at_fp32(
    tmp_path: Path, measured: Callable[..., list[int]]
) -> None:
    manifest = pointwise_manifest(dtype="uint16")
    graphs = {}
    for precision in ("fp32", "int8"):
        graphs[precision] = graph_of(manifest, precision)
        graphs[precision].graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.UINT16
    report = {"artifacts": {"model.int8.onnx": PASSED}}
    calls = measured()
    with open_fastest(make_artifacts(tmp_path / "b", manifest, graphs, report), threads=1) as model:
        assert model.bundle.precision == "fp32"
        assert "--fast found nothing faster than fp32; nothing can be measured" in str(model.why)
        assert "--raster" in str(model.why)
    assert calls == []


def test_where_nothing_can_be_remembered_it_works_all_the_same(
    tmp_path: Path, measured: Callable[..., list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "read-only")

    monkeypatch.setattr(fastest, "keep_speeds", refuse)
    calls = measured(fp32=10, int8=4)
    for _ in range(2):
        with open_fastest(made(tmp_path / str(len(calls))), threads=1) as model:
            assert model.bundle.precision == "int8"
    assert len(calls) == 2


def test_a_mask_names_what_made_it(
    tmp_path: Path, measured: Callable[..., list[int]], write_raster: Callable[..., Path]
) -> None:
    import numpy as np
    import rasterio

    measured(fp32=10, int8=4)
    raster = write_raster(np.random.default_rng(0).integers(1, 256, (3, 90, 90)).astype(np.uint8))
    with open_fastest(made(tmp_path / "b"), threads=1) as model:
        result = segment(model, raster, tmp_path / "mask.tif", Options())
    assert result.why == model.why
    with rasterio.open(tmp_path / "mask.tif") as src:
        assert src.tags()["RSEDGE_PRECISION"] == "int8"
    assert (read(tmp_path / "mask.tif") < 3).all()


def test_what_the_gate_says_in_words() -> None:
    assert gate_cost({}, "fp32") == "full accuracy"
    assert gate_cost(PASSED, "int8") == "costs 0.50 points of mIoU by the gate, 0.600 to 0.595"
    better = {**PASSED, "miou": 0.602, "miou_drop": -0.2}
    assert gate_cost(better, "int8") == "gains 0.20 points of mIoU by the gate, 0.600 to 0.602"
    for odd in ({}, {"miou_drop": None}, {"miou_drop": "much"}, {"miou_drop": 1.0}):
        assert gate_cost(odd, "int8") == "its cost in mIoU is unknown: the gate had no labels"
    assert not may_be_used({}, "int8")
    assert may_be_used({}, "fp32")
