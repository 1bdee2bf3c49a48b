"""Choice of the output of a foreign graph that holds the scores, and removal of a final activation.

The runtime blends scores and turns them into shares by softmax, so a softmax in the graph must be removed: its
node is cut if the graph then gives scores whose softmax is the file's answer; otherwise the logarithm is appended,
whose softmax is equal by arithmetic. Either result is tested by running the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from rsedge.errors import InputError, ModelError, RsedgeError
from rsedge_export.graph.foreign_graph import first_line
from rsedge_export.graph.session import open_session

SCORES_WANTED = (
    "needed: one float32 score per class and pixel, (batch, classes, height, width), before any argmax. Export "
    "the network again without its last steps"
)
PASSED_ON = ("Cast", "Identity", "Reshape", "Resize", "Squeeze", "Transpose", "Unsqueeze", "Upsample")
SAME_SHARE = 1e-3  # largest difference between the softmax of the new scores and the file's shares
SUMS_TO_ONE = 1e-3
# The same if no share is negative, for sums of fp16 or of shares in whole per cents or bytes.
ROUNDED_SUMS = 1e-2
PROVED = "and the softmax of the scores equals the file's answer"
LEAST_SHARE = 1e-7  # smaller shares are rounding, and their logarithm has no bound
OVERSHOOT = 0.5  # below zero, as a share of the sum: caused by cubic interpolation

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Scores:
    """Answer (n, classes, h, w) of a graph with one output, and notes for the user."""

    answer: NDArray[Any]
    notes: tuple[str, ...] = ()


def answers(
    model: onnx.ModelProto, tiles: Floats, path: Path, how: str, names: Sequence[str] | None = None
) -> list[NDArray[Any]]:
    """Return the named outputs, else all, for ``tiles`` run one by one, stacked. Raises ModelError if a run fails."""
    (image,), wanted = model.graph.input, list(names or (v.name for v in model.graph.output))
    try:
        session = open_session(model)
        each = [session.run(wanted, {image.name: tile[None]}) for tile in tiles]
        return [np.concatenate([np.asarray(one) for one in found]) for found in zip(*each, strict=True)]
    except Exception as error:  # onnxruntime raises a dozen unrelated types
        side = tiles.shape[-1]
        raise ModelError(
            f"{path} does not run {how} in ONNX Runtime on a {side} px tile: {first_line(error)}"
        ) from error


def take_scores(
    model: onnx.ModelProto, classes: Sequence[str], tiles: Floats, path: Path, output: str | None
) -> Scores:
    """Reduce ``model`` to one output, the scores: ``output`` if named, else the only one of the right shape.

    Raises InputError if several outputs fit, ModelError if none fits or the graph cannot be run.
    """
    found = {v.name: v for v in model.graph.output}
    if output is not None and output not in found:
        raise InputError(
            f"{path} has no output {output!r}, only {', '.join(found)}. Name one of these with --output"
        )
    names = [output] if output is not None else list(found)
    given = dict(zip(names, answers(model, tiles, path, "as it is", names), strict=True))
    fitting = [name for name in names if _trouble(given[name], classes, tiles.shape[-1]) is None]
    if len(fitting) > 1:
        listed = ", ".join(f"{name} ({_shown(given[name])})" for name in fitting)
        raise InputError(
            f"{path} has {len(fitting)} outputs that could be the scores: {listed}. Choose one with --output NAME; "
            "the model's documentation says which is the main one"
        )
    (chosen,) = fitting or [
        max(names, key=lambda name: given[name].ndim == 4 and given[name].dtype.kind == "f")
    ]
    if trouble := _trouble(given[chosen], classes, tiles.shape[-1]):
        raise type(trouble)(f"{path}: its output {chosen} is {_shown(given[chosen])}{trouble}")
    if not np.isfinite(given[chosen]).all():
        raise ModelError(
            f"{path}: its output {chosen} is {_shown(given[chosen])} and holds NaN or infinity. Train it again or "
            "check its export"
        )
    others = [name for name in found if name != chosen]
    del model.graph.output[:]
    model.graph.output.append(found[chosen])
    notes = (f"using its output {chosen}, not {', '.join(others)}",) if others else ()
    plain = _without_activation(model, given[chosen], tiles, path)
    return Scores(plain.answer, (*notes, *plain.notes))


def _shown(answer: NDArray[Any]) -> str:
    return f"{answer.dtype.name} {'x'.join(['N', *map(str, answer.shape[1:])])}"


def _trouble(answer: NDArray[Any], classes: Sequence[str], tile: int) -> RsedgeError | None:
    """Return the reason, to follow the shape, why an output is not a score per class at a divisor of the tile."""
    if answer.dtype != np.float32:
        what = ": classes rather than scores" if answer.dtype.kind in "iub" else ""
        return ModelError(f"{what}; {SCORES_WANTED}")
    if answer.ndim != 4:
        return ModelError(f" for a {tile} px tile; {SCORES_WANTED}")
    if answer.shape[1] != len(classes):
        if answer.shape[3] == len(classes):
            return ModelError(
                ": classes come last (NHWC). Export it with classes first, (batch, classes, height, width) "
                "(tf2onnx: --outputs-as-nchw)"
            )
        one = (
            ". One channel is not a score per class: end the network with one channel for each"
            if answer.shape[1] == 1
            else ". Name a class for each score, in order, including background (--classes)"
        )
        return InputError(
            f": {answer.shape[1]} scores per pixel for {len(classes)} classes ({', '.join(classes)}){one}"
        )
    height, width = answer.shape[2:]
    if height != width or height > tile or tile % height:
        return ModelError(
            f" for a {tile} px tile: scores must have the tile's resolution, or a half, a third and so on. "
            "Export the network with its upsampling, or choose a tile that the scores' size divides"
        )
    return None


def _without_activation(model: onnx.ModelProto, answer: Floats, tiles: Floats, path: Path) -> Scores:
    """Undo a softmax, log-softmax or sigmoid at the end of ``model``, which has one output."""
    if (shares := _shares(answer)) is not None:
        return _without_softmax(model, shares, float(answer.sum(1, dtype=np.float64).mean()), tiles, path)
    if answer.max() <= SUMS_TO_ONE and np.abs(np.exp(answer).sum(1) - 1).max() <= SUMS_TO_ONE:
        said = "its output holds logarithms of probabilities (a log-softmax inside)"
        cut = _cut(model, "LogSoftmax", tiles, lambda new: _distance(_softmax(new), np.exp(answer)), path)
        if cut is not None:
            return Scores(cut, (f"{said}: the log-softmax was cut off, {PROVED}",))
        return Scores(answer, (f"{said}, used unchanged as scores",))
    if 0 <= answer.min() < answer.max() <= 1:
        said = "its output holds a probability per class that need not sum to one (a sigmoid inside)"
        means = (
            "the mask takes the highest, and confidences are shares among the classes, not the network's own"
        )
        cut = _cut(model, "Sigmoid", tiles, lambda new: _distance(_sigmoid(new), answer), path)
        if cut is not None:
            return Scores(cut, (f"{said}: the sigmoid was cut off; {means}",))
        return Scores(answer, (f"{said} and was left unchanged; {means}, and nearly equal",))
    return Scores(answer)


def _without_softmax(
    model: onnx.ModelProto, shares: Floats, total: float, tiles: Floats, path: Path
) -> Scores:
    """Cut the softmax off, or append the logarithm; ``total``: sum of the classes in the file's answer."""
    said = "its output holds probabilities (a softmax inside)"
    cut = _cut(model, "Softmax", tiles, lambda new: _distance(_softmax(new), shares), path)
    if cut is not None:
        return Scores(cut, (f"{said}: the softmax was cut off, {PROVED}",))
    if ((shares == 0) | (shares == 1)).all():
        raise ModelError(
            f"{path}: its output is 0 or 1 everywhere, classes rather than scores; {SCORES_WANTED}"
        )
    _append_log(model, total)
    (new,) = answers(model, tiles, path, "with a logarithm behind it")
    if not _distance(_softmax(new), shares) <= SAME_SHARE:
        raise ModelError(f"{path}: its output holds probabilities that cannot be inverted; {SCORES_WANTED}")
    return Scores(new, (f"{said}: their logarithm is used as scores, {PROVED}",))


def _shares(answer: Floats) -> Floats | None:
    """Return the answer as shares of one, if its classes have the same sum everywhere and none is negative."""
    sums = answer.sum(1, dtype=np.float64, keepdims=True)
    total = float(sums.mean())
    most = ROUNDED_SUMS if answer.min() >= 0 else SUMS_TO_ONE
    if answer.shape[1] < 2 or total <= 0 or np.ptp(sums) > most * total:
        return None
    if answer.min() < -OVERSHOOT * total:
        return None
    shares = np.clip(answer, 0, None)
    return np.asarray(shares / shares.sum(1, keepdims=True), np.float32)


def _cut(
    model: onnx.ModelProto,
    activation: str,
    tiles: Floats,
    distance: Callable[[Floats], float],
    path: Path,
) -> Floats | None:
    """Cut the node out of ``model`` if the remaining answer is close enough; return that answer, else None."""
    tried = onnx.ModelProto()
    tried.CopyFrom(model)
    made = {name: node for node in tried.graph.node for name in node.output}
    node = made.get(tried.graph.output[0].name)
    while node is not None and node.op_type in PASSED_ON:
        node = made.get(node.input[0])
    if node is None or node.op_type != activation:
        return None
    node.op_type = "Identity"
    del node.attribute[:]
    try:
        (new,) = answers(tried, tiles, path, f"without its {activation}")
    except ModelError:
        return None
    if not (np.isfinite(new).all() and distance(new) <= SAME_SHARE):
        return None
    model.CopyFrom(tried)
    return np.asarray(new, np.float32)


def _append_log(model: onnx.ModelProto, total: float) -> None:
    output, taken = model.graph.output[0], {name for n in model.graph.node for name in (*n.input, *n.output)}
    least, kept, log = (
        next(name for i in range(len(taken) + 1) if (name := f"{stem}_{i}") not in taken)
        for stem in ("least_share", "shares", "log_shares")
    )
    model.graph.initializer.append(numpy_helper.from_array(np.array(LEAST_SHARE * total, np.float32), least))
    model.graph.node.append(helper.make_node("Max", [output.name, least], [kept], name=kept))
    model.graph.node.append(helper.make_node("Log", [kept], [log], name=log))
    output.name = log


def _distance(found: Floats, expected: Floats) -> float:
    return float(np.abs(found - expected).max()) if found.shape == expected.shape else float("inf")


def _softmax(scores: Floats) -> Floats:
    powers = np.exp(scores - scores.max(1, keepdims=True))
    return np.asarray(powers / powers.sum(1, keepdims=True), np.float32)


def _sigmoid(scores: Floats) -> Floats:
    with np.errstate(over="ignore"):
        return np.asarray(1 / (1 + np.exp(-scores)), np.float32)
