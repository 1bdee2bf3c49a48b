"""What is missing for TensorRT is said clearly; streams and classes of every backend; the engine's use of them.

No engine runs here. Modules that stand for TensorRT and pycuda serve the error paths only; that the real bindings
take our calls is shown in tests/bindings.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from hashlib import sha256
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from artifacts import graph_of, make_artifacts
from rsedge import Options, open_model, segment
from rsedge.backends import Backend, gpu
from rsedge.backends.base import TensorSpec
from rsedge.backends.gpu import Gpu, import_tensorrt
from rsedge.backends.ort import OrtBackend
from rsedge.backends.tensorrt import TensorRtBackend
from rsedge.errors import BackendError, ModelError
from rsedge.infer.inputs import artifact_notes
from rsedge.machine import l4t_release
from rsedge.model.bundle import Bundle
from rsedge.model.engines import Batch, Device, PlanFacts, plan_name, write_plan
from rsedge.verify.compare import Candidate, check
from rsedge.verify.tiles import SampleTiles
from toys import TILE, make_bundle, pointwise_graph, pointwise_manifest, read

Write = Callable[..., Path]
DEVICE = Device("Orin", "87", "10.3.0", "12.6", "12.6", "36.4.0")


def tiles(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (1, 3, TILE, TILE)).astype(np.uint8) for _ in range(count)]


def test_a_missing_tensorrt_prints_the_pip_command(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(BackendError, match=r'not installed; run `pip install "rsedge\[trt\]"`'):
        open_model(bundle, "tensorrt")


def test_on_a_jetson_it_comes_with_jetpack(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setattr(gpu, "l4t_release", lambda: "36.4.0")
    with pytest.raises(BackendError, match=r"apt install nvidia-jetpack.*--system-site-packages"):
        import_tensorrt()


def test_a_tensorrt_that_does_not_load_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> None:
        raise ImportError("libnvinfer.so.10: cannot open shared object file")

    monkeypatch.setattr(gpu.importlib, "import_module", broken)
    with pytest.raises(BackendError, match=r"does not load \(libnvinfer"):
        import_tensorrt()


def test_an_old_tensorrt_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(__version__="8.4.1.5"))
    with pytest.raises(BackendError, match=r"8\.4\.1\.5 is too old; rsedge needs 8\.5"):
        import_tensorrt()


def test_a_missing_pycuda_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycuda", None)
    monkeypatch.setitem(sys.modules, "pycuda.driver", None)
    with pytest.raises(BackendError, match="run `pip install pycuda`"):
        Gpu()


def test_no_gpu_is_said_with_the_ways_out(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def init() -> None:
        raise RuntimeError("cuInit failed: no CUDA-capable device is detected")

    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(__version__="10.3.0"))
    monkeypatch.setitem(sys.modules, "pycuda", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "pycuda.driver", SimpleNamespace(init=init))
    with pytest.raises(BackendError, match=r"no CUDA-capable device.*nvidia-smi.*run the model on the CPU"):
        open_model(bundle, "tensorrt")


def test_a_lone_file_has_no_engines(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "b", pointwise_manifest(), pointwise_graph(pointwise_manifest()))
    with pytest.raises(ModelError, match="a file, but TensorRT engines are kept in a bundle"):
        TensorRtBackend(Bundle.open(folder / "model.fp32.onnx"))


@pytest.mark.parametrize(
    ("text", "release"),
    [
        ("# R36 (release), REVISION: 4.0, GCID: 37537400, BOARD: generic, EABI: aarch64\n", "36.4.0"),
        ("# R35 (release), REVISION: 3.1, GCID: 1, BOARD: t186ref", "35.3.1"),
        ("something else", "unknown"),
    ],
)
def test_the_jetsons_release_is_read(tmp_path: Path, text: str, release: str) -> None:
    path = tmp_path / "nv_tegra_release"
    path.write_text(text)
    assert l4t_release(path) == release
    assert l4t_release(tmp_path / "none") is None


def test_boards_with_the_same_gpu_name_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = tmp_path / "model"
    monkeypatch.setattr(gpu, "BOARD", board)
    assert gpu.device_name("NVIDIA L4") == "NVIDIA L4"
    board.write_bytes(b"NVIDIA Jetson Orin Nano Developer Kit\0")
    assert gpu.device_name("Orin") == "Orin (NVIDIA Jetson Orin Nano Developer Kit)"
    board.write_bytes(b"Raspberry Pi 5\0")
    assert gpu.device_name("Orin") == "Orin"


@pytest.fixture
def engine_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Makes a bundle with an int8 engine; TensorRtBackend opens it, with numpy in place of the device."""
    manifest = pointwise_manifest()

    class NoGpu(ExitStack):
        def facts(self, trt: object) -> Device:
            return DEVICE

        def current(self) -> ExitStack:
            return ExitStack()

    def load(self: TensorRtBackend, trt: object, facts: object, here: object) -> None:
        shape = (None, 3, TILE, TILE)
        self._specs = {"pixels": TensorSpec(shape, "uint8"), "scores": TensorSpec(shape, "float32")}

    monkeypatch.setattr("rsedge.backends.tensorrt.import_tensorrt", lambda: None)
    monkeypatch.setattr("rsedge.backends.tensorrt.Gpu", NoGpu)
    monkeypatch.setattr(TensorRtBackend, "_load", load)
    monkeypatch.setattr(TensorRtBackend, "_run", lambda self, batch: batch.astype(np.float32))
    monkeypatch.setattr(TensorRtBackend, "_answers", lambda self, batches: map(self._run, batches))

    def make(
        report: object, problem: str | None = None, source: str = "int8-trt10", folder: str = "a"
    ) -> Path:
        graphs = {p: graph_of(manifest, p) for p in ("fp32", "int8", source)}
        bundle = make_artifacts(tmp_path / folder, manifest, graphs, report)
        onnx = f"model.{source}.onnx"
        facts = PlanFacts(
            plan_name("int8", DEVICE), sha256(b"plan").hexdigest(), 4, "int8", onnx,
            Bundle.open(bundle).artifacts[onnx], DEVICE, Batch(), 1 << 28, {"INT8": 1}, {"INT8": 1}, problem, "0.1.0",
            "2026-11-20",
        )  # fmt: skip
        write_plan(bundle, b"plan", facts)
        return bundle

    return make


@pytest.mark.parametrize("source", ["int8-trt8", "int8-trt10"])
def test_an_engines_record_is_that_of_the_onnx_it_was_built_from(
    engine_of: Callable[..., Path], source: str
) -> None:
    forced, fine = {"forced": True, "passed": False}, {"forced": False, "passed": True}
    names = ("model.int8.onnx", f"model.{source}.onnx")
    told = engine_of({"artifacts": dict(zip(names, (fine, forced), strict=True))}, source=source)
    with open_model(told, "tensorrt") as model:
        (note,) = artifact_notes(model)
        assert note.startswith("this int8 artifact failed its exporter's check and was kept by force")
    untold = engine_of(
        {"artifacts": dict(zip(names, (forced, fine), strict=True))}, source=source, folder="b"
    )
    with open_model(untold, "tensorrt") as model:
        assert artifact_notes(model) == ()


def test_an_engine_kept_by_force_says_so_when_it_runs(engine_of: Callable[..., Path]) -> None:
    folder = engine_of({}, "int8 was asked for, but 9 convolutions run in FP32")
    with open_model(folder, "tensorrt") as model:
        (note,) = artifact_notes(model)
    assert note == "this int8 engine was kept by force: int8 was asked for, but 9 convolutions run in FP32"


def test_verify_judges_an_engine_by_its_own_record(engine_of: Callable[..., Path]) -> None:
    report = {
        "artifacts": {"model.int8.onnx": {"agreement": 0.5}, "model.int8-trt10.onnx": {"agreement": 0.98}}
    }
    folder = engine_of(report, "9 convolutions run in FP32")
    with open_model(folder, "cpu", 1) as reference:
        tiles_ = SampleTiles(reference.bundle.manifest, 1, None)
        found = check(reference, Candidate("int8", "tensorrt"), tiles_, 1, lambda: None)
    assert (found.state, found.recorded) == ("passed", 0.98)
    assert found.note == "int8 on tensorrt: kept by force: 9 convolutions run in FP32"


def test_streams_and_classes_of_a_backend_that_has_only_scores(model: Backend) -> None:
    batches = tiles(3)
    expected = [model.infer(batch) for batch in batches]
    for found, scores in zip(model.stream(iter(batches)), expected, strict=True):
        np.testing.assert_array_equal(found, scores)
    for found, scores in zip(model.stream_classes(batches), expected, strict=True):
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, scores.argmax(1))
    np.testing.assert_array_equal(model.classify(np.concatenate(batches)), np.concatenate(expected).argmax(1))
    assert list(model.stream([])) == []
    assert not model.classes_on_device


class OnDevice(OrtBackend):
    """As a device does: classes ready, one batch read ahead, one array used again and again."""

    classes_on_device = True
    kept = 1
    asked = 0

    def stream(self, batches: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        return self._ahead(batches, self.infer)

    def stream_classes(self, batches: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        self.asked += 1
        return self._ahead(batches, self.classify)

    def _ahead(
        self, batches: Iterable[np.ndarray], answer: Callable[[np.ndarray], np.ndarray]
    ) -> Iterator[Any]:
        buffer, waiting = None, None
        for batch in chain((batch.copy() for batch in batches), [None]):  # as on its way to the device
            if waiting is not None:
                found = answer(waiting)
                buffer = np.empty_like(found) if buffer is None else buffer
                buffer[...] = found
                yield buffer
            waiting = batch


@pytest.mark.parametrize("seam", ["blend", "crop"])
@pytest.mark.parametrize("shape", [(150, 230), (64, 64), (40, 300)])
def test_masks_are_the_same_with_a_device_that_reads_ahead(
    bundle: Path,
    write_raster: Write,
    noise: Callable[..., np.ndarray],
    tmp_path: Path,
    seam: str,
    shape: tuple[int, int],
) -> None:
    pixels = noise(*shape)
    pixels[:, : shape[0] // 2, 70:200] = 0  # windows without data between others
    raster, progress = write_raster(pixels, nodata=0), ([], [])
    with open_model(bundle, "cpu", 1) as plain:
        expected = segment(
            plain, raster, tmp_path / "a.tif", Options(seam=seam), lambda *p: progress[0].append(p)
        )
    with OnDevice(Bundle.open(bundle), "cpu", 1) as device:
        found = segment(
            device, raster, tmp_path / "b.tif", Options(seam=seam), lambda *p: progress[1].append(p)
        )
        assert bool(device.asked) == (seam == "crop")
    np.testing.assert_array_equal(read(tmp_path / "a.tif"), read(tmp_path / "b.tif"))
    assert (found.windows, found.windows_skipped) == (expected.windows, expected.windows_skipped)
    for told in progress:  # the model is ahead of who tells, by one answer or two
        assert told == sorted(told)
        assert told[-1] == (found.windows, found.windows)


def test_nan_is_an_error_but_in_a_stream_of_scores(
    tmp_path: Path, write_raster: Write, noise: Callable[..., np.ndarray]
) -> None:
    """Whoever blends those reads every number anyway, and must then say so."""
    graph = pointwise_graph(pointwise_manifest())
    graph.graph.initializer[0].raw_data = np.full((3, 3), np.nan, np.float32).tobytes()
    folder = make_bundle(tmp_path / "nan.rsedge", pointwise_manifest(), graph)
    with open_model(folder, "cpu") as broken:
        assert np.isnan(next(broken.stream(tiles(1)))).all()
        for answer in (broken.infer, broken.classify, lambda batch: next(broken.stream_classes([batch]))):
            with pytest.raises(BackendError, match="NaN"):
                answer(tiles(1)[0])
        with pytest.raises(BackendError, match="NaN"):
            segment(broken, write_raster(noise(70, 70)), tmp_path / "m.tif")
