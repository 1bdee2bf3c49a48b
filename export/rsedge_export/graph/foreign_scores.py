"""Which output of somebody else's graph holds the scores, and what the graph makes of them at its end.

The runtime blends scores and makes shares of them by softmax, so a softmax that is in the graph already must go: its
node is cut where the graph then answers scores whose softmax is what the file answers; else the logarithm is appended,
whose softmax is the same by arithmetic. Either is tried, never trusted.
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
    "wanted is one float32 score a class and pixel, (batch, classes, height, width), before any argmax; export "
    "the network again without its last steps"
)
PASSED_ON = ("Cast", "Identity", "Reshape", "Resize", "Squeeze", "Transpose", "Unsqueeze", "Upsample")
SAME_SHARE = 1e-3  # how far the softmax of the new scores may be from the shares that the file answers
SUMS_TO_ONE = 1e-3
PROVED = "and the softmax of the scores is the file's answer again"
LEAST_SHARE = 1e-7  # smaller ones are rounding, and their logarithm has no bound
OVERSHOOT = 0.5  # below zero, of the sum: what cubic interpolation makes of shares

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Scores:
    """The answer (n, classes, h, w) of a graph with one output, and what the user should know of it."""

    answer: NDArray[Any]
    notes: tuple[str, ...] = ()


def answers(
    model: onnx.ModelProto, tiles: Floats, path: Path, how: str, names: Sequence[str] | None = None
) -> list[NDArray[Any]]:
    """The named outputs, else all, for ``tiles``, one at a time, stacked. Raises ModelError where it does not run."""
    (image,), wanted = model.graph.input, list(names or (v.name for v in model.graph.output))
    try:
        session = open_session(model)
        each = [session.run(wanted, {image.name: tile[None]}) for tile in tiles]
        return [np.concatenate([np.asarray(one) for one in found]) for found in zip(*each, strict=True)]
    except Exception as error:  # onnxruntime raises a dozen unrelated types here
        side = tiles.shape[-1]
        raise ModelError(
            f"{path} does not run {how} in ONNX Runtime on a {side} px tile: {first_line(error)}"
        ) from error


def take_scores(
    model: onnx.ModelProto, classes: Sequence[str], tiles: Floats, path: Path, output: str | None
) -> Scores:
    """Leave ``model`` one output, scores: ``output`` where it is named, else the only one of their shape.

    Raises InputError where several have it, ModelError where none has or the graph cannot be run.
    """
    found = {v.name: v for v in model.graph.output}
    if output is not None and output not in found:
        raise InputError(
            f"{path} has no output {output!r}; it has {', '.join(found)}. Name one of them with --output"
        )
    names = [output] if output is not None else list(found)
    given = dict(zip(names, answers(model, tiles, path, "as it is", names), strict=True))
    fitting = [name for name in names if _trouble(given[name], classes, tiles.shape[-1]) is None]
    if len(fitting) > 1:
        listed = ", ".join(f"{name} ({_shown(given[name])})" for name in fitting)
        raise InputError(
            f"{path} has {len(fitting)} outputs that could be the scores: {listed}. Choose one with --output NAME; "
            "its documentation says which is the main one"
        )
    (chosen,) = fitting or [
        max(names, key=lambda name: given[name].ndim == 4 and given[name].dtype.kind == "f")
    ]
    if trouble := _trouble(given[chosen], classes, tiles.shape[-1]):
        raise type(trouble)(f"{path}: its output {chosen} is {_shown(given[chosen])}{trouble}")
    if not np.isfinite(given[chosen]).all():
        raise ModelError(
            f"{path}: its output {chosen} is {_shown(given[chosen])} and holds NaN or infinity; train it again or "
            "check its export"
        )
    others = [name for name in found if name != chosen]
    del model.graph.output[:]
    model.graph.output.append(found[chosen])
    notes = (f"its output {chosen} is taken, not {', '.join(others)}",) if others else ()
    plain = _without_activation(model, given[chosen], tiles, path)
    return Scores(plain.answer, (*notes, *plain.notes))


def _shown(answer: NDArray[Any]) -> str:
    return f"{answer.dtype.name} {'x'.join(['N', *map(str, answer.shape[1:])])}"


def _trouble(answer: NDArray[Any], classes: Sequence[str], tile: int) -> RsedgeError | None:
    """Why an output is no score a class at a resolution that divides the tile, to follow its shape; None: it is."""
    if answer.dtype != np.float32:
        what = ": classes rather than scores" if answer.dtype.kind in "iub" else ""
        return ModelError(f"{what}; {SCORES_WANTED}")
    if answer.ndim != 4:
        return ModelError(f" for a {tile} px tile; {SCORES_WANTED}")
    if answer.shape[1] != len(classes):
        if answer.shape[3] == len(classes):
            return ModelError(
                ": classes come last (NHWC); export it with classes first, (batch, classes, height, width) "
                "(tf2onnx: --outputs-as-nchw)"
            )
        one = (
            "; a single channel is no score a class: end the network with one each"
            if answer.shape[1] == 1
            else "; name a class for each, in their order, background too (--classes)"
        )
        return InputError(
            f": {answer.shape[1]} scores a pixel for {len(classes)} classes ({', '.join(classes)}){one}"
        )
    height, width = answer.shape[2:]
    if height != width or height > tile or tile % height:
        return ModelError(
            f" for a {tile} px tile: scores come at the tile's resolution, or at a half, a third and so on; "
            "export the network with its upsampling, or choose a tile that it divides"
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
        return Scores(answer, (f"{said}, which serve as scores as they are",))
    if 0 <= answer.min() < answer.max() <= 1:
        said = "its output holds a probability a class that need not sum to one (a sigmoid inside)"
        means = (
            "the mask takes the highest, and confidences are shares among the classes, not the network's own"
        )
        cut = _cut(model, "Sigmoid", tiles, lambda new: _distance(_sigmoid(new), answer), path)
        if cut is not None:
            return Scores(cut, (f"{said}: the sigmoid was cut off; {means}",))
        return Scores(answer, (f"{said} and was left as it is; {means}, and nearly equal",))
    return Scores(answer)


def _without_softmax(
    model: onnx.ModelProto, shares: Floats, total: float, tiles: Floats, path: Path
) -> Scores:
    """Cut the softmax off, or append the logarithm; ``total``: what the classes add up to in the file's answer."""
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
        raise ModelError(f"{path}: its output holds probabilities that cannot be undone; {SCORES_WANTED}")
    return Scores(new, (f"{said}: their logarithm is taken for scores, {PROVED}",))


def _shares(answer: Floats) -> Floats | None:
    """The answer as shares of one, where its classes add up to the same everywhere and none is below zero."""
    sums = answer.sum(1, dtype=np.float64, keepdims=True)
    total = float(sums.mean())
    if answer.shape[1] < 2 or total <= 0 or np.ptp(sums) > SUMS_TO_ONE * total:
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
    """Take the node out of ``model`` where what it then answers is as near as it should be; that answer, else None."""
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
