"""TensorRT for RTX as a backend: what is missing, what does not fit, and its cache. No GPU and no package is needed."""

from __future__ import annotations

import os
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from rsedge import files, open_model
from rsedge.backends import rtx
from rsedge.backends.gpu import is_rtx, strongly_typed
from rsedge.backends.rtx import JitCache, import_tensorrt_rtx
from rsedge.errors import BackendError, ModelError
from rsedge.model.bundle import Bundle
from rsedge.model.engines import RTX, Batch, Device, PlanFacts, plan_name, write_plan
from toys import make_bundle, pointwise_graph, pointwise_manifest

VERSION = "1.7.1.116"
HERE = Device("RTX 4060", "89", VERSION, "13.0", "13.0", library=RTX)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle of the test's own, since engines are written into it."""
    manifest = pointwise_manifest()
    return make_bundle(tmp_path / "toy.rsedge", manifest, pointwise_graph(manifest))


def module(name: str, version: str) -> ModuleType:
    made = ModuleType(name)
    made.__version__ = version  # type: ignore[attr-defined]
    return made


def test_version_1_of_it_is_not_version_1_of_tensorrt() -> None:
    for name in ("tensorrt_rtx", "tensorrt_rtx_bindings"):
        assert is_rtx(module(name, VERSION))
        assert strongly_typed(module(name, VERSION))
    assert not is_rtx(module("tensorrt", "8.6.1"))
    assert not strongly_typed(module("tensorrt", "8.6.1"))
    assert strongly_typed(module("tensorrt", "10.3.0"))


def test_nvidias_package_comes_before_the_bindings(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"tensorrt_rtx_bindings", "tensorrt_rtx_libs"}
    monkeypatch.setattr(rtx, "find_spec", lambda name: name if name in there else None)
    monkeypatch.setattr(rtx.importlib, "import_module", lambda name: module(name, VERSION))
    monkeypatch.setattr(rtx, "library_version", lambda: "1.7.1")
    assert import_tensorrt_rtx().__name__ == "tensorrt_rtx_bindings"
    there.add("tensorrt_rtx")
    assert import_tensorrt_rtx().__name__ == "tensorrt_rtx"


def test_libraries_of_the_providers_package_are_loaded_in_order_under_their_sonames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("libtensorrt_onnxparser_rtx.so.1.7.1", "libtensorrt_rtx.so.1.7.1", "libtensorrt_plugins.so"):
        (tmp_path / name).write_bytes(b"")
    spec = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    places = {rtx.BINDINGS: spec, rtx.PROVIDER: spec}
    loaded: list[str] = []
    monkeypatch.setattr(rtx, "find_spec", places.get)
    monkeypatch.setattr(rtx.ctypes, "CDLL", lambda path, mode=0: loaded.append(Path(path).name))
    monkeypatch.setattr(rtx.importlib, "import_module", lambda name: module(name, VERSION))
    monkeypatch.setattr(rtx, "library_version", lambda: None)
    monkeypatch.setattr(rtx.sys, "platform", "linux")
    import_tensorrt_rtx()
    assert loaded == ["libtensorrt_rtx.so.1.7.1", "libtensorrt_onnxparser_rtx.so.1.7.1"]


def test_packages_of_two_versions_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rtx, "find_spec", lambda name: name)
    monkeypatch.setattr(rtx.importlib, "import_module", lambda name: module(name, VERSION))
    monkeypatch.setattr(rtx, "library_version", lambda: "1.6.0")
    with pytest.raises(
        BackendError, match=r"bindings are 1\.7\.1\.116, the library is 1\.6\.0; .*rsedge\[rtx\]"
    ):
        import_tensorrt_rtx()


def test_one_that_is_missing_or_does_not_load_is_said(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> None:
        raise ImportError("libtensorrt_rtx.so.1: cannot open shared object file")

    with monkeypatch.context() as patch:
        patch.setattr(rtx, "find_spec", lambda name: None)
        patch.setattr(rtx, "BINDINGS", "no_such_module")
        with pytest.raises(BackendError, match=r'not installed; run `pip install "rsedge\[rtx\]"`'):
            open_model(bundle, "tensorrt-rtx")
    monkeypatch.setattr(rtx, "find_spec", lambda name: name)
    monkeypatch.setattr(rtx.importlib, "import_module", broken)
    with pytest.raises(BackendError, match=r"does not load \(libtensorrt_rtx\.so\.1: .*in one version"):
        open_model(bundle, "tensorrt-rtx")


def test_no_driver_is_said(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "rsedge.backends.tensorrt.import_tensorrt_rtx", lambda: module("tensorrt_rtx", VERSION)
    )

    def no_libcuda(name: str) -> None:
        raise ImportError("libcuda.so.1: cannot open shared object file")

    monkeypatch.setattr("rsedge.backends.gpu.importlib.import_module", no_libcuda)
    with pytest.raises(BackendError, match=r"pycuda does not load \(libcuda\.so\.1.*install NVIDIA's driver"):
        open_model(bundle, "tensorrt-rtx")


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> dict[str, Device]:
    """TensorRT and TensorRT for RTX on a GPU that has memory; nothing can be loaded."""
    now = {"here": HERE}

    class NoGpu(ExitStack):
        driver = None

        def facts(self, trt: ModuleType) -> Device:
            return now["here"]

        def free_bytes(self) -> int:
            return 1 << 33

        def current(self) -> ExitStack:
            return ExitStack()

    backend = "rsedge.backends.tensorrt"
    monkeypatch.setattr(f"{backend}.import_tensorrt_rtx", lambda: module("tensorrt_rtx", VERSION))
    monkeypatch.setattr(f"{backend}.import_tensorrt", lambda: module("tensorrt", "10.3.0"))
    monkeypatch.setattr(f"{backend}.Gpu", NoGpu)
    return now


def written(bundle: Path, device: Device, plan: bytes) -> PlanFacts:
    opened = Bundle.open(bundle)
    digest, onnx = sha256(plan).hexdigest(), "model.fp32.onnx"
    facts = PlanFacts(
        plan_name("fp32", device), digest, len(plan), "fp32", onnx, opened.sha256, device,
        Batch(), 1 << 28, {"FP32": 1}, {"FP32": 1}, None, "0.1.0", "2026-11-20",
    )  # fmt: skip
    write_plan(bundle, plan, facts)
    return facts


@pytest.mark.parametrize(
    ("built_for", "words"),
    [
        (Device(None, "86", VERSION, library=RTX), "built for SM 86, but this machine has 89"),
        (
            Device(None, "89", "1.6.0.9", library=RTX),
            r"built for TensorRT-RTX 1\.6\.0\.9, but this machine has 1\.7",
        ),
    ],
)
def test_an_engine_that_does_not_fit_is_refused_with_the_command(
    bundle: Path, on_gpu: dict[str, Device], built_for: Device, words: str
) -> None:
    written(bundle, built_for, b"vtrt plan")
    with pytest.raises(
        ModelError, match=rf"{words}.*rsedge export --trt --for sm89 --bundle .* --precision fp32"
    ):
        open_model(bundle, "tensorrt-rtx")


def test_an_engine_of_another_model_is_refused(bundle: Path, on_gpu: dict[str, Device]) -> None:
    facts = written(bundle, Device(None, "89", VERSION, library=RTX), b"vtrt plan")
    path = bundle / "engines" / facts.file
    sidecar = path.with_suffix(".json")
    sidecar.write_text(sidecar.read_text().replace(facts.onnx_sha256, "0" * 64))
    with pytest.raises(ModelError, match=r"model\.fp32\.onnx has changed.*rsedge export --trt --for sm89"):
        open_model(bundle, "tensorrt-rtx")


def test_an_engine_of_one_library_is_none_of_the_other(bundle: Path, on_gpu: dict[str, Device]) -> None:
    theirs = Device("RTX 4060", "89", "10.3.0", "13.0", "13.0")
    written(bundle, theirs, b"ftrt plan")
    with pytest.raises(ModelError, match=r"no TensorRT-RTX engine \(it has fp32-rtx-4060-sm89-trt10"):
        open_model(bundle, "tensorrt-rtx")
    on_gpu["here"] = theirs
    for file in (bundle / "engines").iterdir():
        file.unlink()
    written(bundle, Device(None, "89", VERSION, library=RTX), b"vtrt plan")
    with pytest.raises(ModelError, match=r"no TensorRT engine \(it has fp32-sm89-rtx1\.7"):
        open_model(bundle, "tensorrt")


@pytest.mark.parametrize(
    ("device", "here", "plan", "words"),
    [
        ("tensorrt-rtx", HERE, b"ftrt plan", "is a plan of TensorRT, not of TensorRT-RTX.*--for sm89"),
        (
            "tensorrt",
            Device("RTX 4060", "89", "10.3.0", "13.0", "13.0"),
            b"vtrt plan",
            "is a plan of TensorRT-RTX, not of TensorRT; build it again: rsedge export --trt --bundle",
        ),
    ],
)
def test_a_plan_of_the_other_library_under_a_wrong_name_is_refused_before_it_is_loaded(
    bundle: Path, on_gpu: dict[str, Device], device: str, here: Device, plan: bytes, words: str
) -> None:
    on_gpu["here"] = here
    written(bundle, here, plan)
    with pytest.raises(ModelError, match=words):
        open_model(bundle, device)


def test_a_sidecar_of_an_unknown_library_is_refused() -> None:
    with pytest.raises(ModelError, match="library 'TensorRT-LLM' is not one of TensorRT, TensorRT-RTX"):
        PlanFacts(
            "a.plan", "0" * 64, 1, "fp32", "model.fp32.onnx", "0" * 64, Device(None, "89", "1", library="TensorRT-LLM"),
            Batch(), 1, {}, {}, None, "0.1.0", "2026-11-20",
        )  # fmt: skip


class Engine:
    """Hands out a cache that holds what it was given, and more after a run."""

    def __init__(self, made: bytes, accepts: bool = True) -> None:
        self.made, self.accepts = made, accepts
        self.given: list[bytes] = []
        self.used: Any = None

    def create_runtime_config(self) -> Engine:
        return self

    def create_runtime_cache(self) -> Engine:
        return self

    def set_runtime_cache(self, cache: object) -> None:
        self.used = cache

    def deserialize(self, data: bytes) -> bool:
        self.given.append(data)
        return self.accepts

    def serialize(self) -> bytes:
        return self.made


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "rsedge"


def test_finished_kernels_are_kept_for_the_next_run(cache: Path) -> None:
    first = Engine(b"kernels")
    jit = JitCache(first, "k" * 64)
    assert (first.given, first.used) == ([], first)
    jit.keep()
    (file,) = cache.iterdir()
    assert file.read_bytes() == b"kernels"
    second = Engine(b"kernels and more", accepts=False)  # of another driver
    again = JitCache(second, "k" * 64)
    assert second.given == [b"kernels"]
    again.keep()
    assert file.read_bytes() == b"kernels and more"
    assert JitCache(Engine(b""), "other" * 8).config.given == []


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="modes are Unix's")
def test_a_cache_that_others_can_write_is_neither_read_nor_written(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    JitCache(Engine(b"ours"), "k" * 64).keep()
    (file,) = cache.iterdir()
    monkeypatch.setattr(files, "_is_own_group", lambda gid: False)
    cache.chmod(0o777)
    engine = Engine(b"new")
    JitCache(engine, "k" * 64).keep()
    assert engine.given == []
    assert file.read_bytes() == b"ours"
    cache.chmod(0o700)
    file.chmod(0o666)
    engine = Engine(b"new")
    JitCache(engine, "k" * 64)
    assert engine.given == []


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(cache: Path) -> None:
    cache.parent.write_bytes(b"in the way")
    engine = Engine(b"kernels")
    JitCache(engine, "k" * 64).keep()
    assert engine.used is engine
