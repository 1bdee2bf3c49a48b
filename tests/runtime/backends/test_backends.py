from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from artifacts import graph_of, make_artifacts
from rsedge import BackendError, InputError, ModelError, open_model
from rsedge.backends.ort import CPU, CUDA, TENSORRT, OrtBackend
from rsedge.model.bundle import Bundle
from toys import CLASSES, TILE, make_bundle, pointwise_graph, pointwise_manifest


def test_scores_are_the_graphs_output(bundle: Path) -> None:
    batch = np.random.default_rng(0).integers(0, 256, (2, 3, TILE, TILE)).astype(np.uint8)
    with open_model(bundle, "cpu") as model:
        np.testing.assert_array_equal(model.infer(batch), batch.astype(np.float32))
        assert (model.name, model.provider) == ("onnxruntime", "CPUExecutionProvider")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tile": 32}, "input is uint8 Nx3x64x64, but its manifest says uint8 Nx3x32x32"),
        ({"dtype": "uint16"}, "its manifest says uint16"),
        ({"classes": CLASSES[:2]}, "output is float32 Nx3x64x64, but its manifest says float32 Nx2x64x64"),
    ],
)
def test_a_graph_other_than_its_manifest_is_refused(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    folder = make_bundle(
        tmp_path / "b", pointwise_manifest(**changes), pointwise_graph(pointwise_manifest(), metadata=False)
    )
    with pytest.raises(ModelError, match=message):
        open_model(folder)


DEVICES = ["cpu", "openvino"]


def moody_graph(claims: list[object] | None, height: int = 5) -> onnx.ModelProto:
    """Answers one tile's scores by the pixels: where the first is not 0, (1, 5, 12, ``height``)."""
    manifest = pointwise_manifest()
    model = pointwise_graph(manifest)
    del model.graph.node[1:], model.graph.output[:], model.graph.initializer[:]
    ints = {
        "zeros": [0, 0, 0, 0],
        "ones": [1, 1, 1, 1],
        "four": [4],
        "right": [1, 3, TILE, TILE],
        "apart": [0, 2, 12 - TILE, height - TILE],
    }
    ints["axes"] = [0, 1, 2, 3]
    for name, values in ints.items():
        model.graph.initializer.append(numpy_helper.from_array(np.array(values, np.int64), name))
    zero = numpy_helper.from_array(np.zeros(1, np.float32), "zero")
    model.graph.initializer.append(zero)
    model.graph.node.extend([
        helper.make_node("Slice", ["real", "zeros", "ones", "axes"], ["first"]),
        helper.make_node("Cast", ["first"], ["odd"], to=TensorProto.BOOL),
        helper.make_node("Cast", ["odd"], ["mood"], to=TensorProto.INT64),
        helper.make_node("Reshape", ["mood", "minus"], ["flat"]),
        helper.make_node("Mul", ["flat", "apart"], ["more"]),
        helper.make_node("Add", ["right", "more"], ["shape"]),
        helper.make_node("Expand", ["zero", "shape"], ["scores"]),
    ])  # fmt: skip
    model.graph.initializer.append(numpy_helper.from_array(np.array([-1], np.int64), "minus"))
    model.graph.output.append(helper.make_tensor_value_info("scores", TensorProto.FLOAT, claims))
    return model


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("claims", [None, ["n", "c", "h", "w"], ["n", 3, "h", "w"], ["batch", 3, TILE, TILE]])
def test_an_answer_whose_shape_only_the_pixels_know_is_refused(
    tmp_path: Path, device: str, claims: list[object] | None
) -> None:
    pytest.importorskip(device if device == "openvino" else "onnxruntime")
    folder = make_bundle(tmp_path / "b", pointwise_manifest(), moody_graph(claims, 100_004))
    odd = np.full((1, 3, TILE, TILE), 7, np.uint8)
    try:
        model = open_model(folder, device, 1)
    except ModelError as error:
        assert "its output is" in str(error)  # noqa: PT017
        return
    with model:  # it said what was asked for
        for answer in (model.infer, lambda batch: list(model.stream([batch]))):
            with pytest.raises((ModelError, BackendError), match="answered|failed"):
                answer(odd)


class Moody(OrtBackend):
    """Answers what it is told to, whatever its graph says."""

    answer: np.ndarray

    def _run(self, batch: np.ndarray) -> np.ndarray:
        return self.answer

    def _answers(self, batches: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        return (self.answer for _ in batches)

    def _classes(self, batches: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        return (self.answer[:, 0].astype(np.float64) for _ in batches)


@pytest.mark.parametrize(
    "answer",
    [np.zeros(s, np.float32) for s in ((1, 5, 12, 5), (1, 3, TILE, TILE - 1), (1, 1, TILE, TILE), (1, 4, TILE, TILE),
                                       (3, TILE, TILE), (2, 3, TILE, TILE), (0, 3, TILE, TILE))]
    + [np.zeros((1, 3, TILE, TILE), kind) for kind in ("float64", "float16", "uint8")],
    ids=lambda answer: f"{answer.dtype}{answer.shape}",
)  # fmt: skip
def test_every_answer_is_what_the_manifest_promises(bundle: Path, answer: np.ndarray) -> None:
    with Moody(Bundle.open(bundle), "cpu", 1) as model:
        model.answer = answer
        ways = (model.infer, lambda b: list(model.stream([b])), lambda b: list(model.stream_classes([b])))
        for way in ways:
            with pytest.raises(ModelError, match="its manifest says"):
                way(tiles(1))


def test_without_a_precision_it_is_fp32(tmp_path: Path) -> None:
    manifest = pointwise_manifest()
    graphs = {"int8": graph_of(manifest, "int8", (2, 2, 2)), "fp32": graph_of(manifest)}
    folder = make_artifacts(tmp_path / "b", manifest, graphs)
    batch = np.full((1, 3, TILE, TILE), 7, np.uint8)
    for device in ("auto", "cpu"):
        with open_model(folder, device, 1) as model:
            assert (model.bundle.precision, model.infer(batch).max()) == ("fp32", 7)
        with open_model(folder, device, 1, "int8") as model:
            assert (model.bundle.precision, model.infer(batch).max()) == ("int8", 14)
    with open_model(folder / "model.int8.onnx", "cpu", 1) as model:
        assert model.bundle.precision == "int8"
    with pytest.raises(ModelError, match=r"has no model\.fp16\.onnx.*precisions: fp32, int8.*rsedge export"):
        open_model(folder, "cpu", 1, "fp16")


def test_tensorrt_gets_the_precision_that_was_asked_for(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None stays None: the engine that is there. An ONNX file of its precision need not be."""
    asked: list[tuple[str, str | None]] = []

    class Engine(OrtBackend):
        def __init__(self, bundle: Bundle, precision: str | None, device: str) -> None:
            asked.append((bundle.precision, precision))
            super().__init__(bundle, "cpu", 1)

    module = ModuleType("rsedge.backends.tensorrt")
    module.TensorRtBackend = Engine  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "rsedge.backends.tensorrt", module)
    for precision in (None, "int8"):
        open_model(bundle, "tensorrt", precision=precision).close()
    assert asked == [("fp32", None), ("fp32", "int8")]


def test_a_damaged_graph_is_a_model_error(tmp_path: Path) -> None:
    graph = pointwise_graph(pointwise_manifest())
    graph.graph.node[1].op_type = "Konv"
    with pytest.raises(ModelError, match="does not load in onnxruntime"):
        open_model(make_bundle(tmp_path / "b", pointwise_manifest(), graph))


@pytest.mark.skipif("CUDAExecutionProvider" in ort.get_available_providers(), reason="CUDA is here")
def test_a_device_that_is_not_there_is_an_error_unless_auto(bundle: Path) -> None:
    with pytest.raises(BackendError, match=r"cuda was asked for.*pip install"):
        open_model(bundle, "cuda")
    with open_model(bundle, "auto") as model:
        assert model.provider == "CPUExecutionProvider"


@pytest.mark.parametrize(("device", "threads"), [("tpu", None), ("cpu", 0)])
def test_impossible_options_are_refused(bundle: Path, device: str, threads: int | None) -> None:
    with pytest.raises(InputError):
        open_model(bundle, device, threads)


def test_a_missing_onnxruntime_prints_the_pip_command(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BackendError, match=r'pip install "rsedge\[cpu\]"'):
        open_model(bundle)


def tiles(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 3, TILE, TILE)).astype(np.uint8)


@pytest.mark.parametrize("device", ["cpu", "openvino"])
class TestStreams:
    @pytest.fixture(autouse=True)
    def _installed(self, device: str) -> None:
        if device == "openvino":
            pytest.importorskip("openvino")

    def test_as_many_answers_as_promised_stay_valid_and_pixels_may_be_overwritten(
        self, bundle: Path, device: str
    ) -> None:
        counts, memory = (2, 1, 2, 2, 1, 1, 2, 2, 2, 2, 2, 1, 1, 1, 1), np.empty((2, 3, TILE, TILE), np.uint8)

        def batches(seed: int) -> Iterator[np.ndarray]:
            for number, count in enumerate(counts):
                memory[:] = 0  # the one before is no longer looked at
                memory[:count] = tiles(count, seed + number)
                yield memory[:count]

        with open_model(bundle, device, 1) as model:
            assert model.kept == 3
            held: deque[tuple[int, int, np.ndarray]] = deque(maxlen=model.kept)
            for seed in (0, 100):  # the second stream leaves the first's last answers alone
                for number, scores in enumerate(model.stream(batches(seed))):
                    held.append((seed + number, counts[number], scores))
                    right = [np.array_equal(s, tiles(n, at)) for at, n, s in held]
                    assert right == [True] * len(held)

    def test_no_tile_takes_memory_of_its_own(self, bundle: Path, device: str) -> None:
        with open_model(bundle, device, 1) as model:
            places = [scores.ctypes.data for scores in model.stream([tiles(1)] * 20)]
        assert len(set(places)) <= 4

    def test_leaving_early_does_no_harm(self, bundle: Path, device: str) -> None:
        with open_model(bundle, device, 1) as model:
            stream = model.stream([tiles(1, n) for n in range(5)])
            next(stream)
            stream.close()
            np.testing.assert_array_equal(model.infer(tiles(1, 9)), tiles(1, 9))
            (answer,) = model.stream([tiles(1, 8)])
            np.testing.assert_array_equal(answer, tiles(1, 8))

    def test_other_pixels_than_the_model_takes_are_refused(self, bundle: Path, device: str) -> None:
        with open_model(bundle, device, 1) as model:
            for wrong in (tiles(1).astype(np.float64), tiles(1)[:, :2], tiles(1)[..., :32]):
                for answer in (model.infer, lambda batch: list(model.stream([batch]))):
                    with pytest.raises(BackendError):
                        answer(wrong)


@pytest.mark.parametrize("device", ["cpu", "openvino"])
def test_streams_change_neither_scores_nor_their_order(bundle: Path, device: str) -> None:
    """A few tiles of a model with context would do as well: each answer is one call's, whichever thread makes it."""
    if device == "openvino":
        pytest.importorskip("openvino")
    asked = [tiles(1, seed) for seed in range(20)]
    for streams in (1, 2, 4, 8):
        with open_model(bundle, device, 8, streams=streams) as model:
            assert (model.streams, model.threads) == (streams, 8)
            for tile, scores in zip(asked, model.stream(asked), strict=True):
                np.testing.assert_array_equal(scores, tile)
            stream = model.stream(asked)
            next(stream)
            stream.close()
            np.testing.assert_array_equal(model.infer(asked[3]), asked[3])


def test_all_threads_are_used_by_the_streams_together(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given, real = list[int](), ort.InferenceSession

    def session(model: bytes, options: ort.SessionOptions, **more: Any) -> ort.InferenceSession:
        given.append(options.intra_op_num_threads)
        return real(model, options, **more)

    monkeypatch.setattr(ort, "InferenceSession", session)
    for streams in (1, 2, 4, 8):
        open_model(bundle, "cpu", 8, streams=streams).close()
    assert given == [8, 7, 5, 1]  # a pool of one thread less, and each call's own


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"streams": 0}, "streams 0 must be at least 1"),
        ({"threads": 2, "streams": 3}, "3 streams need a thread each, but the model has 2"),
        ({"device": "tensorrt", "streams": 2}, "streams are for the CPU"),
        ({"device": "cuda", "streams": 2}, "streams are for the CPU"),
    ],
)
def test_impossible_streams_are_refused(bundle: Path, how: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_model(bundle, **how)


class Full:
    """A session of a device that has memory for ``room`` tiles."""

    def __init__(self, session: ort.InferenceSession, room: int, says: str) -> None:
        self._session, self._room, self._says = session, room, says
        self.calls: list[int] = []

    def io_binding(self) -> Full:
        self._binding = self._session.io_binding()
        return self

    def bind_cpu_input(self, name: str, pixels: np.ndarray) -> None:
        self.calls.append(len(pixels))
        self._binding.bind_cpu_input(name, pixels)

    def bind_output(self, *args: object) -> None:
        self._binding.bind_output(*args)

    def run_with_iobinding(self, _: object) -> None:
        if self.calls[-1] > self._room:
            raise RuntimeError(self._says)
        self._session.run_with_iobinding(self._binding)


class TestMemoryOfTheDevice:
    MESSAGES = (
        "CUDA failure 2: out of memory ; GPU=0 ; hostname=edge",
        "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION :\nbfc_arena.cc:376 void* onnxruntime::BFCArena::Allocate",
        "Failed to allocate memory for requested buffer of size 1073741824",
    )

    @pytest.mark.parametrize("says", MESSAGES)
    def test_a_batch_that_does_not_fit_is_halved_for_good(self, bundle: Path, says: str) -> None:
        with OrtBackend(Bundle.open(bundle), "cpu", 1) as model:
            model.batch = 8
            model._session = session = Full(model._session, 3, says)
            np.testing.assert_array_equal(model.infer(tiles(8)), tiles(8))
            assert (session.calls, model.batch) == ([8, 4, 2, 2, 2, 2], 2)
            session.calls.clear()
            for number, scores in enumerate(model.stream(tiles(count, count) for count in (2, 5, 1))):
                np.testing.assert_array_equal(scores, tiles((2, 5, 1)[number], (2, 5, 1)[number]))
            assert (session.calls, model.batch) == ([2, 2, 2, 1, 1], 2)

    def test_a_stream_that_meets_the_limit_first(self, bundle: Path) -> None:
        with OrtBackend(Bundle.open(bundle), "cpu", 1) as model:
            model.batch = 7
            model._session = session = Full(model._session, 2, self.MESSAGES[0])
            for scores, seed in zip(model.stream(tiles(7, seed) for seed in (1, 2)), (1, 2), strict=True):
                np.testing.assert_array_equal(scores, tiles(7, seed))
            assert (session.calls, model.batch) == ([7, 3, *[1] * 14], 1)

    def test_a_batch_that_failed_half_way_goes_on_where_it_was(self, bundle: Path) -> None:
        with OrtBackend(Bundle.open(bundle), "cpu", 1) as model:
            model._session = session = Full(model._session, 4, self.MESSAGES[0])
            model.infer(tiles(8))
            session._room = 1
            np.testing.assert_array_equal(model.infer(tiles(6)), tiles(6))
            assert session.calls == [8, 4, 4, 4, 2, *[1] * 6]

    def test_not_even_one_tile_says_what_to_do(self, bundle: Path) -> None:
        with OrtBackend(Bundle.open(bundle), "cpu", 1) as model:
            model._session = Full(model._session, 0, self.MESSAGES[0])
            with pytest.raises(
                BackendError, match=r"one tile of 64 px does not fit.*nvidia-smi.*--device cpu"
            ):
                model.infer(tiles(4))

    def test_another_fault_is_not_tried_again(self, bundle: Path) -> None:
        with OrtBackend(Bundle.open(bundle), "cpu", 1) as model:
            model._session = session = Full(model._session, 1, "CUDA failure 700: an illegal memory access")
            with pytest.raises(
                BackendError, match="the model failed on CPUExecutionProvider: CUDA failure 700"
            ):
                list(model.stream([tiles(2)]))
            assert session.calls == [2]


class TestProviders:
    @pytest.fixture
    def asked(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
        """Offers every provider; each session is the CPU's, and what was asked for is kept here."""
        asked, real = list[Any](), ort.InferenceSession

        def session(path: str, options: object, providers: list[Any], **more: object) -> ort.InferenceSession:
            asked.append(providers)
            return real(path, options, providers=["CPUExecutionProvider"], **more)

        monkeypatch.setattr(ort, "get_available_providers", lambda: [TENSORRT, CUDA, CPU])
        monkeypatch.setattr(ort, "InferenceSession", session)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")  # put back afterwards
        monkeypatch.delenv("NVIDIA_TF32_OVERRIDE")
        return asked

    @pytest.mark.parametrize("device", ["cuda", "ort-tensorrt"])
    def test_falling_back_is_an_error_where_a_device_was_named(
        self, bundle: Path, asked: list[Any], device: str
    ) -> None:
        with pytest.raises(BackendError, match=f"{device} was asked for, but onnxruntime fell back to CPU"):
            open_model(bundle, device)
        with open_model(bundle, "auto") as model:
            assert (model.provider, model.batch) == (CPU, 1)

    def test_cuda_computes_fp32_as_fp32(
        self, bundle: Path, asked: list[Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for version, known in (("1.17.3", False), ("1.18.0", True), ("1.31.1", True)):
            monkeypatch.setattr(ort, "__version__", version)
            open_model(bundle, "auto").close()
            (name, options), last = asked[-1]
            assert (name, last) == (CUDA, CPU)
            assert options.get("use_tf32") == ("0" if known else None)
            assert options["arena_extend_strategy"] == "kSameAsRequested"

    def test_tensorrt_keeps_engines_by_file_and_lowers_none(self, tmp_path: Path, asked: list[Any]) -> None:
        manifest = pointwise_manifest()
        graphs = {p: graph_of(manifest, p) for p in ("fp32", "fp16", "int8-trt8", "int8-trt10")}
        folder = make_artifacts(tmp_path / "b", manifest, graphs)
        places, flags = set(), {}
        for precision in graphs:
            with pytest.raises(BackendError, match="fell back"):
                open_model(folder, "ort-tensorrt", precision=precision)
            (name, options), *_ = asked[-1]
            assert name == TENSORRT
            place = Path(options["trt_engine_cache_path"])
            assert place.is_dir()
            assert place.is_relative_to(tmp_path / "cache" / "rsedge")
            places.add(place)
            flags[precision] = options["trt_fp16_enable"], options["trt_int8_enable"]
        assert len(places) == len(graphs)
        assert flags == {
            "fp32": ("False", "False"),
            "fp16": ("True", "False"),
            "int8-trt8": ("False", "True"),
            "int8-trt10": ("True", "True"),
        }

    @pytest.mark.parametrize("device", ["cuda", "ort-tensorrt"])
    def test_what_is_not_offered_is_said(
        self, bundle: Path, monkeypatch: pytest.MonkeyPatch, device: str
    ) -> None:
        monkeypatch.setattr(ort, "get_available_providers", lambda: [CPU])
        with pytest.raises(BackendError, match=rf"{device} was asked for.*offers CPUExec.*pip install"):
            open_model(bundle, device)
