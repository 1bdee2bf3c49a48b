"""One version of TensorRT's real Python bindings executes rsedge's builder and runner, over a stub of the library.

Run by test_bindings.py in a process of its own: ``drive.py LIBNVINFER BUNDLE``. It proves call shape (names, arities,
types and keywords, checked by the real pybind11 code), not semantics: no engine is built, nothing is computed.
"""

from __future__ import annotations

import json
import os
import re
import sys
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import fake_pycuda as cuda
import numpy as np
import pytest
import tensorrt_bindings as trt
from order import Noted, check_order
from stub import Stub

sys.modules.update({"tensorrt": trt, "pycuda": cuda, "pycuda.driver": cuda})

from rsedge.backends.tensorrt import TensorRtBackend  # noqa: E402
from rsedge.errors import BackendError, ModelError  # noqa: E402
from rsedge.infer.inputs import artifact_notes  # noqa: E402
from rsedge.model.bundle import Bundle  # noqa: E402
from rsedge.model.engines import Batch, list_engines  # noqa: E402
from rsedge_export.engines.build import TrtOptions, build_engine  # noqa: E402
from rsedge_export.engines.monitor import Log  # noqa: E402

MAJOR = int(trt.__version__.split(".")[0])
STRONG = MAJOR >= 10
PLAN = b"what the stub answers; no engine"
TILE, CLASSES = 64, 3
SHAPES = {
    "pixels": (-1, 3, TILE, TILE),
    "scores": (-1, CLASSES, TILE, TILE),
    "rsedge.classes": (-1, 1, TILE, TILE),
    "rsedge.mean": (-1, 1, 1, 1),
}
DTYPES = {"pixels": "UINT8", "scores": "FLOAT", "rsedge.classes": "INT32", "rsedge.mean": "FLOAT"}


def teach(stub: Stub) -> dict[str, object]:
    """Answers for builder, engine and context. Returns calls that tests answer otherwise."""
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    config = builder.create_builder_config()
    parser = trt.OnnxParser(network, logger)
    stub.answer(lambda: parser.num_errors, 0)
    parse = stub.slots(lambda: parser.parse_from_file("x"))
    for tensor, name in ((network.get_input(0), "pixels"), (network.get_output(0), "scores")):
        stub.answer(lambda t=tensor: t.name, name)
        stub.answer(lambda t=tensor: t.shape, SHAPES[name])
    kept = teach_layers(stub, network)
    stub.answer(lambda: network.num_inputs, 1)
    stub.answer(lambda: network.num_outputs, 1)
    build = stub.slots(lambda: builder.build_serialized_network(network, config))
    stub.answer_memory(builder.build_serialized_network(network, config), PLAN)
    stub.answer_memory(config.get_timing_cache().serialize(), b"timings")
    runtime = trt.Runtime(logger)
    deserialize = stub.slots(lambda: runtime.deserialize_cuda_engine(PLAN))
    engine = runtime.deserialize_cuda_engine(PLAN)
    stub.answer(lambda: engine.num_io_tensors, len(SHAPES))
    for index, (name, shape) in enumerate(SHAPES.items()):
        stub.answer(lambda i=index: engine.get_tensor_name(i), name, when=index)
        stub.answer(lambda n=name: engine.get_tensor_shape(n), shape, when=name)
        stub.answer(
            lambda n=name: engine.get_tensor_dtype(n), int(getattr(trt.DataType, DTYPES[name])), when=name
        )
    stub.answer(lambda: engine.get_tensor_profile_shape("pixels", 0), (2, 3, TILE, TILE))
    has_v2 = hasattr(engine, "device_memory_size_v2")  # beside it, the old one warns
    stub.answer(lambda: engine.device_memory_size_v2 if has_v2 else engine.device_memory_size, 1 << 20)
    inspector = engine.create_engine_inspector()
    inspect = stub.slots(lambda: inspector.get_engine_information(trt.LayerInformationFormat.JSON))
    context = engine.create_execution_context()
    execute = stub.slots(lambda: context.execute_async_v3(1))
    parser_error = parser.get_error(0)
    return {
        "parse": parse, "build": build, "deserialize": deserialize, "inspect": inspect, "execute": execute,
        "kept": kept, "set_flag": stub.slots(lambda: config.set_flag(trt.BuilderFlag.TF32)),
        "num_errors": stub.slots(lambda: parser.num_errors),
        "desc": stub.slots(parser_error.desc),
        "node": stub.slots(parser_error.node),
        "node_name": stub.slots(parser_error.node_name) if hasattr(parser_error, "node_name") else [],
    }  # fmt: skip


LAYERS = (  # name, type of the first input, whether it must be bound to fp32
    ("/kept", "FLOAT", True),
    ("/kept_3", "HALF", True),  # the parser's second layer of that node
    ("/kept_4", "INT32", False),  # it computes with integers
    ("/kept_x", "FLOAT", False),
    ("/other", "FLOAT", False),
)


def teach_layers(stub: Stub, network: object) -> list[tuple[str, list[str]]]:
    """The parsed network's layers. Returns, before TensorRT 10, the calls that bind each to fp32."""
    if STRONG:
        return []
    stub.answer(lambda: network.num_layers, len(LAYERS))
    stub.tell_apart(lambda: network.get_layer(0))
    bind = []
    for at, (name, dtype, _) in enumerate(LAYERS):
        layer = network.get_layer(at)
        for tensor in (layer.get_input(0), layer.get_output(0)):
            stub.answer(lambda t=tensor: t.dtype, int(getattr(trt.DataType, dtype)))
            stub.answer(lambda t=tensor: t.is_shape_tensor, 0)
        stub.answer(lambda x=layer: x.name, name)
        stub.answer(lambda x=layer: x.num_inputs, 1)
        stub.answer(lambda x=layer: x.num_outputs, 1)
        precision = stub.slots(lambda x=layer: setattr(x, "precision", trt.DataType.FLOAT))
        output = stub.slots(lambda x=layer: x.set_output_type(0, trt.DataType.FLOAT))
        bind.append((name, [precision[-1], output[-1]]))
    assert len({slot for _, slots in bind for slot in slots}) == 2 * len(LAYERS), bind
    return bind


def layers(*types: str) -> str:
    """What an inspector says of convolutions with such inputs."""
    return json.dumps(
        {
            "Layers": [
                {"Name": "c", "LayerType": "CaskConvolution", "Inputs": [{"Format/Datatype": t}]}
                for t in types
            ]
        }
    )


def answer(stub: Stub, slots: object, value: object) -> None:
    for slot in slots:
        stub.set(slot, value)


def fails_open(kind: type[Exception], words: str, call: object) -> None:
    """``call`` raises ``kind`` with these words."""
    with pytest.raises(kind, match=re.escape(words)):
        call()


def fails(kind: type[Exception], words: str, call: object) -> None:
    """The same, and what it took of the device is given back."""
    fails_open(kind, words, call)
    assert cuda.current == 0
    assert not cuda.allocated, f"{len(cuda.allocated)} allocations left after: {words}"


def drive_builder(stub: Stub, taught: dict[str, object], bundle: Path) -> int:
    options = TrtOptions(batch=Batch(2))
    for precision, types in (("fp16", ("Row major FP16 format",)), ("int8", ("Int8",))):
        answer(stub, taught["inspect"], layers(*types))
        before = len(stub.log())
        facts = build_engine(bundle, precision, options, lambda done, total: None)
        assert facts.device.tensorrt == trt.__version__
        assert facts in list_engines(bundle)
        check_kept(stub.log()[before:], taught, flags=0 if STRONG else 2 if precision == "fp16" else 3)
    calls = len(stub.log())
    answer(stub, taught["inspect"], layers("Row major linear FP32"))
    fails(ModelError, "1 in FP32; nothing was written", lambda: build_engine(bundle, "int8"))
    assert build_engine(bundle, "fp16", TrtOptions(force=True)).problem
    with TensorRtBackend(Bundle.open(bundle), "fp16") as backend:
        (note,) = artifact_notes(backend)
        assert "kept by force: fp16 was asked for" in note, note
    answer(stub, taught["inspect"], layers("Half"))
    build_engine(bundle, "fp16", options)
    if STRONG:
        build_engine(bundle, "fp32")
    else:
        fails(ModelError, "unsupported opset", lambda: build_engine(bundle, "fp32"))
    check_wrong_branch(bundle)
    answer(stub, taught["build"], 0)
    fails(ModelError, "built no engine", lambda: build_engine(bundle, "fp16"))
    answer(stub, taught["parse"], 0)
    answer(stub, taught["num_errors"], 1)
    answer(stub, taught["desc"], "Unsupported: Konv")
    answer(stub, taught["node"], 7)
    answer(stub, taught["node_name"], "/head/Konv")
    node = "/head/Konv" if taught["node_name"] else 7  # before 10 there is a number only
    fails(ModelError, f"node {node}: Unsupported: Konv", lambda: build_engine(bundle, "fp16"))
    return calls


def check_kept(log: list[str], taught: dict[str, object], flags: int) -> None:
    """The layers that the exporter's report names are bound to fp32, and no others."""
    assert log.count(taught["set_flag"][-1]) == flags  # FP16, OBEY_PRECISION_CONSTRAINTS; INT8
    for (name, slots), (_, _, is_kept) in zip(taught["kept"], LAYERS, strict=not STRONG):
        assert [log.count(slot) for slot in slots] == [int(is_kept)] * 2, name


def check_wrong_branch(bundle: Path) -> None:
    """That this would notice: the branch for other versions meets a name that these bindings do not have."""
    missing = "EXPLICIT_BATCH" if MAJOR >= 11 else "STRONGLY_TYPED"
    if MAJOR != 10:  # which has both
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("rsedge_export.engines.network.strongly_typed", lambda _: not STRONG)
            fails(AttributeError, missing, lambda: build_engine(bundle, "fp16"))


def drive_runner(stub: Stub, taught: dict[str, object], folder: Path) -> int:
    bundle, before = Bundle.open(folder), len(stub.log())
    tiles = [np.full((1, 3, TILE, TILE), i, np.uint8) for i in range(3)]
    with TensorRtBackend(bundle, "fp16") as backend:
        backend.check_contract()
        backend._context = Noted(backend._context)
        assert backend.infer(np.concatenate(tiles)).shape == (3, CLASSES, TILE, TILE)  # in two parts
        assert backend.classify(tiles[0]).shape == (1, TILE, TILE)
        cuda.calls.clear()
        pair = np.concatenate(tiles[:2])
        assert [len(scores) for scores in backend.stream([pair, pair, tiles[0], pair])] == [2, 2, 1, 2]
        assert check_order(cuda.calls) == (4, 3)
        backend.infer(tiles[0])
        cuda.calls.clear()
        assert len(list(backend.stream(tiles))) == 3
        assert check_order(cuda.calls) == (3, 0)
        order = [c.split()[0] for c in cuda.calls if c.startswith(("htod", "synchronize event"))]
        assert order[:6] == ["htod", "htod", "synchronize", "synchronize", "htod", "synchronize"], order
        half = backend.stream_classes(tiles)
        next(half)
        half.close()  # somebody who leaves in the middle
        calls = len(stub.log()) - before
        for wrong in (tiles[0].astype(np.float32), tiles[0][:, :2]):
            fails_open(
                BackendError,
                "the engine takes uint8 of shape (1 to 2, 3, 64, 64), not",
                lambda w=wrong: backend.infer(w),
            )
        backend._slots[0].host["rsedge.mean"][:] = np.nan
        fails_open(BackendError, "NaN", lambda: backend.classify(tiles[0]))
        answer(stub, taught["execute"], 0)
        fails_open(BackendError, "the model failed", lambda: backend.infer(tiles[0]))
    assert cuda.current == 0
    assert not cuda.allocated
    cuda.fail_allocation_after = 5
    fails(BackendError, "out of memory", lambda: TensorRtBackend(bundle, "fp16"))
    cuda.fail_allocation_after, cuda.free_bytes = 10**9, 1 << 20
    fails(BackendError, "of device memory", lambda: TensorRtBackend(bundle, "fp16"))
    cuda.free_bytes = 8 << 30
    answer(stub, taught["deserialize"], 0)
    fails(ModelError, "does not load", lambda: TensorRtBackend(bundle, "fp16"))
    return calls


def main(library: Path, bundle: Path) -> None:
    stub = Stub(library, wide_dims=STRONG)
    taught = teach(stub)
    stub.clear()
    log = Log.of(trt)
    log.logger.log(trt.ILogger.Severity.ERROR, "kept")
    log.logger.log(trt.ILogger.Severity.WARNING, "not kept")
    assert log.lines == ["kept"]
    built = drive_builder(stub, taught, bundle)
    stub.clear()
    ran = drive_runner(stub, taught, bundle)
    print(  # noqa: T201
        f"TensorRT {trt.__version__} bindings: builder fp16, int8{', fp32' if STRONG else ''} "
        f"({built} library calls), refused and forced; "
        f"runner infer, classify, stream ({ran} library calls), failures; all released. Call shape only"
    )


if __name__ == "__main__":
    status = 1
    try:
        main(Path(sys.argv[1]), Path(sys.argv[2]))
        status = 0
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # the stub's objects have no destructors that an orderly end could call
