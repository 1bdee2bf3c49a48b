"""Which names of TensorRT's Python API our sources use, and in which versions each exists.

The table was read from the real bindings of four versions; tests/bindings checks it against them again.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCES = (
    "runtime/rsedge/backends/gpu.py",
    "runtime/rsedge/backends/tensorrt.py",
    "export/rsedge_export/engines/build.py",
    "export/rsedge_export/engines/network.py",
    "export/rsedge_export/engines/monitor.py",
)
VERSIONS = ("8.6", "10.3", "10.13", "11.4")

# How those sources name objects of TensorRT's classes, as a variable or (with an underscore) an attribute of self.
VARIABLES = {
    "trt": "",
    "builder": "Builder",
    "cache": "ITimingCache",
    "config": "IBuilderConfig",
    "context": "IExecutionContext",
    "engine": "ICudaEngine",
    "inspector": "EngineInspector",
    "layer": "ILayer",
    "mean": "ILayer",
    "memory": "IHostMemory",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "parser_error": "ParserError",
    "profile": "IOptimizationProfile",
    "runtime": "Runtime",
    "scores": "ITensor",
    "tensor": "ITensor",
    "top": "ILayer",
}

# By class ("" is the module): what all four versions have.
MEMBERS = {
    "": (
        "Builder BuilderFlag DataType ICudaEngine IExecutionContext ILogger LayerInformationFormat Logger "
        "MemoryPoolType NetworkDefinitionCreationFlag OnnxParser ProfilingVerbosity ReduceOperation "
        "Runtime TopKOperation"
    ),
    "Builder": "build_serialized_network create_builder_config create_network create_optimization_profile",
    "BuilderFlag": "TF32",
    "EngineInspector": "get_engine_information",
    "IBuilderConfig": (
        "add_optimization_profile builder_optimization_level clear_flag create_timing_cache "
        "get_timing_cache profiling_verbosity set_flag set_memory_pool_limit set_timing_cache"
    ),
    "ICudaEngine": (
        "create_engine_inspector create_execution_context get_tensor_dtype get_tensor_name "
        "get_tensor_profile_shape get_tensor_shape num_io_tensors"
    ),
    "IExecutionContext": "execute_async_v3 set_input_shape set_tensor_address",
    "DataType": "FLOAT HALF",
    "ILayer": "get_input get_output name num_inputs num_outputs",
    "ILogger": "Severity log",
    "ILogger.Severity": "ERROR",
    "INetworkDefinition": (
        "add_reduce add_topk get_input get_layer get_output mark_output num_inputs num_layers num_outputs"
    ),
    "IOptimizationProfile": "set_shape",
    "ITensor": "dtype is_shape_tensor name shape",
    "ITimingCache": "serialize",
    "LayerInformationFormat": "JSON",
    "Logger": "ERROR",
    "MemoryPoolType": "TACTIC_DRAM WORKSPACE",
    "OnnxParser": "get_error num_errors parse_from_file",
    "ParserError": "desc node",
    "ProfilingVerbosity": "DETAILED",
    "ReduceOperation": "AVG",
    "Runtime": "deserialize_cuda_engine",
    "TopKOperation": "MAX",
}
EVERYWHERE = tuple(
    f"{holder}.{name}".lstrip(".") for holder, names in MEMBERS.items() for name in names.split()
)

# Names that some versions lack: used behind a guard, or not to be used at all.
SOMEWHERE = {
    "Builder.build_engine": "8.6",
    "Builder.platform_has_fast_fp16": "8.6 10.3 10.13",
    "Builder.platform_has_fast_int8": "8.6 10.3 10.13",
    "BuilderFlag.FP16": "8.6 10.3 10.13",
    "BuilderFlag.INT8": "8.6 10.3 10.13",
    "BuilderFlag.OBEY_PRECISION_CONSTRAINTS": "8.6 10.3 10.13",
    "IBuilderConfig.int8_calibrator": "8.6 10.3 10.13",
    "IBuilderConfig.max_workspace_size": "8.6",
    "IBuilderConfig.progress_monitor": "10.3 10.13 11.4",
    "ICudaEngine.device_memory_size": "8.6 10.3 10.13",
    "ICudaEngine.device_memory_size_v2": "10.3 10.13 11.4",
    "ICudaEngine.get_binding_shape": "8.6",
    "ICudaEngine.num_bindings": "8.6",
    "IExecutionContext.execute_async_v2": "8.6",
    "IExecutionContext.set_binding_shape": "8.6",
    "IInt8EntropyCalibrator2": "8.6 10.3 10.13",
    "ILayer.precision": "8.6 10.3 10.13",
    "ILayer.set_output_type": "8.6 10.3 10.13",
    "INetworkDefinition.add_convolution": "8.6",
    "IProgressMonitor": "10.3 10.13 11.4",
    "IProgressMonitor.phase_finish": "10.3 10.13 11.4",
    "IProgressMonitor.phase_start": "10.3 10.13 11.4",
    "IProgressMonitor.step_complete": "10.3 10.13 11.4",
    "ITensor.set_dynamic_range": "8.6 10.3 10.13",
    "NetworkDefinitionCreationFlag.EXPLICIT_BATCH": "8.6 10.3 10.13",
    "NetworkDefinitionCreationFlag.STRONGLY_TYPED": "10.3 10.13 11.4",
    "ParserError.node_name": "10.3 10.13 11.4",
}


def exists(name: str, version: str) -> bool | None:
    """Whether a version has a name such as "Builder.create_network"; None where the table does not know it."""
    if name in EVERYWHERE:
        return True
    return version in SOMEWHERE[name].split() if name in SOMEWHERE else None


def missing(source: str, version: str) -> list[str]:
    """Names that ``source`` would use with TensorRT ``version`` though that does not have them."""
    faults = []
    for name, line in Walk(ast.parse(source), version).names():
        there = exists(name, version)
        if there is None:
            faults.append(f"line {line}: {name} is not in the table; look it up in the bindings")
        elif not there:
            faults.append(f"line {line}: TensorRT {version} has no {name}")
    return faults


class Walk:
    """The names that code uses with one version: branches that this version does not take are left out.

    Known guards: ``hasattr(OBJECT, "name")``, ``strongly_typed(trt)`` and ``is_rtx(trt)``, in ``if`` or
    ``a if b else c``, with ``not``, ``and``, ``or``. A private function counts only where
    something that counts names it.
    """

    def __init__(self, tree: ast.Module, version: str) -> None:
        self._version = version
        self._private = {
            node.name: node
            for node in tree.body
            if isinstance(node, ast.FunctionDef) and node.name.startswith("_")
        }
        self._public = [node for node in tree.body if node not in self._private.values()]

    def names(self) -> Iterator[tuple[str, int]]:
        """Names and the lines they stand on."""
        seen, ahead = set(), list[ast.AST](self._public)
        while ahead:
            node = ahead.pop()
            yield from self._uses(node)
            if isinstance(node, ast.Name) and node.id in self._private and node.id not in seen:
                seen.add(node.id)
                ahead.append(self._private[node.id])
            ahead.extend(self._children(node))

    def _children(self, node: ast.AST) -> list[ast.AST]:
        if not isinstance(node, ast.If | ast.IfExp):
            return list(ast.iter_child_nodes(node))
        holds = self._holds(node.test)
        body, other = ([x] if isinstance(x, ast.AST) else x for x in (node.body, node.orelse))
        return [node.test, *(body if holds is not False else ()), *(other if holds is not True else ())]

    def _uses(self, node: ast.AST) -> Iterator[tuple[str, int]]:
        if isinstance(node, ast.Attribute) and not node.attr.startswith("__"):
            name = resolve(node)
            if name:
                yield name, node.lineno
        elif isinstance(node, ast.ClassDef):
            for base in filter(None, map(resolve, node.bases)):  # TensorRT calls its methods by their names
                methods = (
                    m for m in node.body if isinstance(m, ast.FunctionDef) and not m.name.startswith("__")
                )
                yield from ((f"{base}.{m.name}", m.lineno) for m in methods)

    def _holds(self, test: ast.expr) -> bool | None:
        """Whether a guard holds; None where it is none."""
        if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            inner = self._holds(test.operand)
            return None if inner is None else not inner
        if isinstance(test, ast.BoolOp):
            parts = [self._holds(part) for part in test.values]
            deciding = isinstance(test.op, ast.Or)
            if deciding in parts:
                return deciding
            return None if None in parts else not deciding
        if isinstance(test, ast.Call) and isinstance(test.func, ast.Name):
            if test.func.id == "is_rtx":
                return False  # these are versions of TensorRT; NVIDIA's compiler itself runs the other branch
            if test.func.id == "strongly_typed":
                return not self._version.startswith("8.")
            if test.func.id == "hasattr" and isinstance(test.args[1], ast.Constant):
                holder = resolve(test.args[0])
                return (
                    None
                    if holder is None
                    else exists(f"{holder}.{test.args[1].value}".lstrip("."), self._version)
                )
        return None


def resolve(node: ast.expr) -> str | None:
    """The dotted name of an expression that is TensorRT's by its variable's name; "" for the module; else None."""
    if isinstance(node, ast.Name):
        return VARIABLES.get(node.id)
    if not isinstance(node, ast.Attribute):
        return None
    if isinstance(node.value, ast.Name) and node.value.id == "self":
        return VARIABLES.get(node.attr[1:]) if node.attr.startswith("_") else None
    holder = resolve(node.value)
    if holder is None or ("." in holder and not of_module(node.value)):
        return None  # of what an object's attribute is, nothing is known
    return f"{holder}.{node.attr}".lstrip(".")


def of_module(node: ast.expr) -> bool:
    """Whether it is written from the module on, as trt.BuilderFlag is."""
    while isinstance(node, ast.Attribute):
        node = node.value
    return isinstance(node, ast.Name) and node.id == "trt"
