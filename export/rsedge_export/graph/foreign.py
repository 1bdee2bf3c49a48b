"""Import of foreign ONNX: with facts supplied by the user, the file becomes a master like our own.

The graph keeps its arithmetic. It gets opset 18, a free batch and a fixed tile, which are checked by running both
graphs; then the names of a bundle, preprocessing in front, and upsampling behind if scores have a
lower resolution.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from numpy.typing import NDArray
from onnx import TensorProto, helper, inliner

from rsedge.errors import InputError, ModelError, RsedgeError
from rsedge.model.bundle import METADATA_KEY, file_sha256
from rsedge.model.manifest import DTYPES, MOST_TILE, ClassInfo, Manifest
from rsedge_export.graph.foreign_graph import (
    all_constants,
    first_line,
    free_batch,
    name_nodes,
    opset_of,
    parameters,
    preprocess,
    rename_clashing,
    set_shape,
    tidy,
    to_master_opset,
    upsample,
)
from rsedge_export.graph.foreign_scores import answers, take_scores
from rsedge_export.graph.onnx_file import OPSET
from rsedge_export.graph.rewrite import pool_spatial_means
from rsedge_export.graph.session import open_session

RGB = ("red", "green", "blue")
LEAST_TILE = 32  # pixels; a smaller side is more likely bands or classes than a tile
SAME = 1e-3  # largest change by a newer opset or another batch, as a share of the scores' range
CONTROL = ("If", "Loop", "Scan")
RANDOM = (
    "Bernoulli",
    "Multinomial",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
)
INTEGER = (
    "QuantizeLinear",
    "DequantizeLinear",
    "QLinearConv",
    "QLinearMatMul",
    "ConvInteger",
    "MatMulInteger",
)
FREE_BATCH = (
    "Export the network with a free batch: torch.onnx.export(..., dynamic_shapes=({0: torch.export.Dim('batch')},)), "
    "and no batch size in its own reshapes"
)


@dataclass(frozen=True)
class ForeignFacts:
    """Facts that a foreign file lacks. The network expects ``(value / max_value - mean) / std`` per band.

    Raises InputError if the facts contradict each other.
    """

    classes: tuple[ClassInfo, ...]  # in the order of the scores; see ``labels.ClassTable.read``
    mean: tuple[float, ...]  # per band, of values divided by max_value
    std: tuple[float, ...]
    max_value: float = 255.0
    bands: tuple[str, ...] = RGB  # in the order of the network's input
    dtype: str = "uint8"  # of the raster's values as stored
    gsd_m: tuple[float, float] | None = None  # range seen in training, finest first
    name: str | None = None  # of the model; None: use the file's name
    tile: int | None = None  # None: use the file's tile, which must then be fixed
    unlabelled: tuple[tuple[int, int, int], ...] = ()  # colours of label pixels without a class
    output: str | None = None  # output with the scores; None: the only one with the right shape

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise InputError(f"input dtype {self.dtype!r}: unknown. Choose one of {', '.join(DTYPES)}")
        if self.tile is not None and self.tile < 1:
            raise InputError(f"tile {self.tile}: too small. Use at least 1 pixel")
        if not 0 < self.max_value < math.inf:
            raise InputError(f"max value {self.max_value:g}: not a positive number. Use e.g. 255 for 8 bits")
        if not self.bands or len({len(self.bands), len(self.mean), len(self.std)}) != 1:
            raise InputError(
                f"{len(self.mean)} means and {len(self.std)} standard deviations for {len(self.bands)} bands "
                f"({', '.join(self.bands)}). Give one of each per band, in the order of the network's input"
            )
        if not all(0 < s < math.inf for s in self.std):
            raise InputError(f"standard deviations {_listed(self.std)}: not positive. Correct them")
        is_float = self.dtype == "float32"
        low, high = (-math.inf, math.inf) if is_float else (0, np.iinfo(self.dtype).max)
        if not all(math.isfinite(m) and low <= self.max_value * m <= high for m in self.mean):
            raise InputError(
                f"means {_listed(self.mean)} times max value {self.max_value:g} are not {self.dtype} values; means "
                "are of values divided by the max value. Give means of 0 to 1, or --max-value 1 with means of "
                "values as stored"
            )
        self.manifest("facts", 1)  # checks classes and GSD

    @property
    def fill(self) -> tuple[float, ...]:
        """Return the fill value for nodata: the training mean, as stored."""
        stored = [self.max_value * m for m in self.mean]
        return tuple(stored) if self.dtype == "float32" else tuple(float(round(v)) for v in stored)

    def manifest(self, name: str, tile: int, **more: Any) -> Manifest:
        """Return the facts as a manifest. Raises InputError if they are invalid."""
        try:
            return Manifest(
                name=self.name or name, bands=self.bands, dtype=self.dtype, tile=tile, classes=self.classes,
                fill=self.fill, gsd_m=self.gsd_m, unlabelled=self.unlabelled, **more,
            )  # fmt: skip
        except ModelError as error:
            raise InputError(str(error)) from error


def adopt(path: Path, facts: ForeignFacts) -> tuple[onnx.ModelProto, Manifest]:
    """Return the ONNX file at ``path`` as an fp32 master (raw pixels in, scores out) and its manifest.

    Raises ModelError if the file cannot be used, InputError if it contradicts the facts.
    """
    try:
        return _adopted(path, facts)
    except (RsedgeError, MemoryError):
        raise
    except Exception as error:  # onnx and the graph code raise undocumented types for odd graphs
        said = f"{type(error).__name__}: {first_line(error)}"
        raise ModelError(
            f"{path} is not a valid ONNX graph: {said:.200}. Export the network again"
        ) from error


def _adopted(path: Path, facts: ForeignFacts) -> tuple[onnx.ModelProto, Manifest]:
    model = _load(path)
    _check_operators(model, path)
    told = onnx.ModelProto()  # the file as received, except for a fixed tile
    told.CopyFrom(model)
    name_nodes(told)  # ONNX Runtime refuses two nodes of one name
    tile = _fix_tile(told, facts, path)
    tiles = _noise(facts, tile)
    scores = take_scores(told, [c.name for c in facts.classes], tiles, path, facts.output)
    expected = scores.answer

    core = to_master_opset(told, path)
    tidy(core)
    free_batch(core, expected.shape)
    pool_spatial_means(core)
    _check_same(core, tiles, expected, path)

    params = parameters(core)
    rename_clashing(core)
    upsample(core, tile // expected.shape[2])
    preprocess(core, facts.mean, facts.std, facts.max_value, facts.dtype)
    name_nodes(core)
    manifest = facts.manifest(
        path.stem,
        tile,
        provenance={
            "foreign": {
                "file": path.name,
                "sha256": file_sha256(path),
                "producer": f"{model.producer_name} {model.producer_version}".strip(),
                "opset": opset_of(model),
                "notes": list(scores.notes),
            }
        },
        complexity={"network": path.name, "params": params, "params_deployed": params},
    )
    return core, manifest


def _load(path: Path) -> onnx.ModelProto:
    try:
        model = onnx.load(path)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from error
    except DecodeError as error:
        raise ModelError(f"{path} is not an ONNX file: {error}. It may be damaged or incomplete") from error
    except onnx.checker.ValidationError as error:
        raise ModelError(
            f"{path} keeps its weights in another file, which cannot be read ({first_line(error)}). Copy both files, "
            "or save one file"
        ) from error
    if not model.graph.node or not model.graph.output:
        raise ModelError(f"{path} contains no ONNX graph. It may be damaged or incomplete")
    if any(entry.key == METADATA_KEY for entry in model.metadata_props):
        raise ModelError(
            f"{path} was made by rsedge and needs no import. Use it directly: `rsedge infer --model {path}`"
        )
    if model.functions:
        model = inliner.inline_local_functions(model)
    for holder in (*model.graph.node, *model.opset_import):
        holder.domain = "" if holder.domain == "ai.onnx" else holder.domain  # two names of one domain
    return model


def _check_operators(model: onnx.ModelProto, path: Path) -> None:
    """Raise ModelError if the graph has operators that some runtime of a bundle lacks."""
    foreign = sorted({f"{n.domain}.{n.op_type}" for n in model.graph.node if n.domain})
    if foreign:
        raise ModelError(
            f"{path} uses operators outside ONNX: {', '.join(foreign)}. Export it again without "
            "optimizing it for one runtime"
        )
    known = all_constants(model)
    if random := sorted({_said(n) for n in model.graph.node if _is_random(n, known)}):
        raise ModelError(
            f"{path} has {', '.join(random)}, so its answers vary. Export it again after model.eval(), "
            "with torch's exporter in training=TrainingMode.EVAL"
        )
    used = {n.op_type for n in model.graph.node}
    if branches := sorted(used & set(CONTROL)):
        raise ModelError(
            f"{path} has control flow ({', '.join(branches)}), which cannot be quantized. Export it again for a "
            "fixed tile, with torch.onnx.export(..., dynamo=True) or through onnxsim"
        )
    if integers := sorted(used & set(INTEGER)):
        raise ModelError(
            f"{path} is already quantized ({', '.join(integers)}). Give the float32 model, which rsedge quantizes"
        )


def _is_random(node: onnx.NodeProto, known: Mapping[str, NDArray[Any]]) -> bool:
    """Return True if a node draws random numbers, or uses batch statistics, as in training."""
    if node.op_type in RANDOM:
        return True
    if node.op_type == "BatchNormalization":
        return any(a.name == "training_mode" and a.i for a in node.attribute)
    if node.op_type != "Dropout" or len(node.input) < 3 or not node.input[2]:
        return False
    return bool(known.get(node.input[2], True))


def _said(node: onnx.NodeProto) -> str:
    return node.op_type if node.op_type in RANDOM else f"{node.op_type} in training mode"


def _fix_tile(model: onnx.ModelProto, facts: ForeignFacts, path: Path) -> int:
    """Check the input, give it a fixed tile, and return the tile's side."""
    weights = {t.name for t in model.graph.initializer}  # old files also list weights as inputs
    inputs = [v for v in model.graph.input if v.name not in weights]
    if len(inputs) != 1:
        names = ", ".join(v.name for v in inputs) or "none"
        raise ModelError(f"{path} has {len(inputs)} inputs ({names}) instead of one image")
    (image,) = inputs
    del model.graph.input[:], model.graph.value_info[:]
    model.graph.input.append(image)
    tile = _check_input(image, facts, path)
    if tile > MOST_TILE:
        raise InputError(f"{path}: tile {tile} exceeds {MOST_TILE} px. Choose a smaller tile")
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    return tile


def _check_input(image: onnx.ValueInfoProto, facts: ForeignFacts, path: Path) -> int:
    """Check the network's image input, give it the shape of a tile, and return the tile's side."""
    shape, kind = image.type.tensor_type.shape.dim, image.type.tensor_type.elem_type
    found = [d.dim_value if d.HasField("dim_value") else 0 for d in shape]  # 0: free
    shown = "x".join(str(side or d.dim_param or "?") for side, d in zip(found, shape, strict=True))
    said = f"{path}: its input {image.name} is {_type(kind)} {shown}"
    if kind != TensorProto.FLOAT:
        raise ModelError(
            f"{said} instead of float32 (batch, bands, height, width), normalised. Export the network in float32 "
            "and without preprocessing of its own"
        )
    bands = len(facts.bands)
    if _bands_last(found, bands):
        raise ModelError(
            f"{said}: bands come last (NHWC). Export it with bands first (tf2onnx: --inputs-as-nchw, and "
            "--outputs-as-nchw for its scores)"
        )
    if len(found) != 4:
        raise ModelError(f"{said} instead of four axes: (batch, bands, height, width)")
    if found[1] not in {0, bands}:
        raise InputError(
            f"{said}, but {bands} bands were given: {', '.join(facts.bands)}. Name each band (--band-names)"
        )
    if found[0] > 1:
        raise ModelError(f"{said}: its batch is fixed at {found[0]}. {FREE_BATCH}")
    sides = {side for side in found[2:] if side}
    if len(sides) > 1:
        raise ModelError(f"{said}: tiles must be square. Export it with height = width")
    if facts.tile and sides - {facts.tile}:
        raise InputError(f"{said}: its tile is fixed, but {facts.tile} was requested. Leave out --tile")
    if not facts.tile and not sides:
        raise InputError(
            f"{said}: height and width are free. Choose the tile with --tile, such as --tile 512"
        )
    tile = facts.tile or sides.pop()
    if not facts.tile and tile < LEAST_TILE:
        raise InputError(
            f"{said}: a tile of {tile} px is unlikely. If it is intended, confirm with --tile {tile}"
        )
    set_shape(image, ("batch" if not found[0] else 1, bands, tile, tile))
    return tile


def _bands_last(found: Sequence[int], bands: int) -> bool:
    """Return True if the bands of an input of these sizes (0 if free) come after height and width."""
    if len(found) != 4 or found[1] == bands or not found[3]:
        return False
    few = found[3] < LEAST_TILE and found[1] == found[2]  # both free, or a square
    return found[3] == bands or few


def _check_same(
    model: onnx.ModelProto, tiles: NDArray[np.float32], expected: NDArray[np.float32], path: Path
) -> None:
    """Raise ModelError unless ``model`` reproduces the file's answers, tile by tile and as a batch."""
    bound = SAME * (float(np.ptp(expected)) or 1.0)
    (found,) = answers(model, tiles, path, f"in opset {OPSET}")
    if not _distance(found, expected) <= bound:
        raise ModelError(
            f"{path} gives other answers in opset {OPSET}. Export it again with opset_version={OPSET}"
        )
    try:
        (batch,) = open_session(model).run(None, {model.graph.input[0].name: tiles})
    except Exception as error:  # onnxruntime raises a dozen unrelated types
        raise ModelError(
            f"{path} does not run on two tiles at once: {first_line(error)}. {FREE_BATCH}"
        ) from error
    if not _distance(batch, expected) <= bound:
        raise ModelError(
            f"{path} gives other answers for two tiles at once than one after the other. {FREE_BATCH}"
        )


def _distance(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    return float(np.abs(found - expected).max()) if found.shape == expected.shape else math.inf


def _noise(facts: ForeignFacts, tile: int) -> NDArray[np.float32]:
    """Return two tiles of normalised noise: two standard deviations around the mean."""
    return np.random.default_rng(0).random((2, len(facts.bands), tile, tile), np.float32) * 4 - 2


def _type(kind: int) -> str:
    try:
        return helper.tensor_dtype_to_np_dtype(kind).name
    except KeyError:
        return "no tensor"


def _listed(values: tuple[float, ...]) -> str:
    return ", ".join(f"{v:g}" for v in values)
