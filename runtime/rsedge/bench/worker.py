"""Process that holds one model, so that its memory is the model's alone and models can take turns.

    python -m rsedge.bench.worker '{"path": "student.rsedge", "device": "cpu", ...}'

The process reads one JSON request per line from standard input and answers each with one line; output of libraries
goes to standard error. The process ends at the end of its input, so it does not outlive its parent.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from rsedge import errors
from rsedge.backends import Backend
from rsedge.bench.contender import Contender
from rsedge.bench.facts import Cost
from rsedge.bench.inputs import example_tile
from rsedge.errors import RsedgeError
from rsedge.machine import begin_peak, peak_rss_bytes

Facts = dict[str, Any]
LAYERS = ("quantized", "kept_fp32")  # long lists in a record that nobody compares


def open_artifact(contender: Contender) -> tuple[Backend, Facts]:
    """Open a bundle's artifact; return its facts too. Raises ModelError, BackendError or InputError."""
    from rsedge.infer.inputs import artifact_notes  # noqa: PLC0415
    from rsedge.model.bundle import Bundle  # noqa: PLC0415 - as below
    from rsedge.model.engines import ENGINE_DEVICES  # noqa: PLC0415
    from rsedge.verify.compare import Candidate, opened  # noqa: PLC0415 - a teacher needs none of it

    candidate = Candidate(str(contender.precision), contender.device, streams=contender.streams)
    bundle = Bundle.open(contender.path, None if contender.device in ENGINE_DEVICES else contender.precision)
    backend = opened(bundle, candidate, contender.threads)
    complexity, record = backend.bundle.manifest.complexity, backend.record
    teacher = complexity.get("teacher")
    teacher = teacher if isinstance(teacher, dict) else None
    trained = backend.bundle.manifest.provenance.get("training")
    # The network's scores hold only for fp32, which equals the network.
    own = _validated(trained, "progress", "val_best") if backend.bundle.precision == "fp32" else None
    return backend, {
        "cost": asdict(Cost.of(complexity)),
        "cost_exported": asdict(Cost.of(complexity, "_deployed")),
        "teacher": teacher and {**teacher, "val": _validated(trained, "teacher", "val")},
        "size_bytes": backend.bundle.artifact.stat().st_size,
        "accuracy": _reported(record, bundle.report.get("artifacts")) or own,
        "gate": _gate(record, bundle.report.get("limits")),
        "notes": artifact_notes(backend),
    }


def _gate(record: Mapping[str, Any], limits: Any) -> Facts | None:
    """Return the gate record of the artifact with the gate's limits; None if there is no record."""
    kept = {key: value for key, value in record.items() if key not in LAYERS}
    return {**kept, "limits": limits} if kept else None


def _reported(record: Mapping[str, Any], others: Any) -> Facts | None:
    """Return the exporter's mIoU, if it had labels; fp32's is in the records of the other artifacts."""
    records = list(others.values()) if isinstance(others, dict) else []
    found = [(record, "miou")] if record.get("precision") != "fp32" else [(r, "miou_fp32") for r in records]
    for facts, key in found:
        if isinstance(facts, Mapping) and facts.get(key) is not None:
            source = f"report.json: {facts.get('tiles')} {facts.get('tiles_from')}"
            return {"miou": facts[key], "oa": None, "iou": None, "source": source}
    return None


def _validated(trained: Any, *path: str) -> Facts | None:
    """Return the scores at ``path`` in a bundle's training record; None if they are not recorded."""
    with suppress(AttributeError, KeyError, TypeError):  # another program may have written the bundle
        for key in path:
            trained = trained[key]
        source = "the bundle: validation when it was trained"
        return {"miou": trained["miou"], "oa": trained["oa"], "iou": trained["iou"], "source": source}
    return None


class Server:
    """Server of requests about one model."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._tile, self._what = example_tile(backend.bundle.manifest)

    def tiles(self, batch: int, seconds: float, warm_up: int) -> Facts:
        """Run ``batch`` tiles at once, at least once and for ``seconds``; return the seconds of each run."""
        pixels = np.repeat(self._tile, batch, axis=0)
        for _ in range(warm_up):
            self._backend.infer(pixels)
        times_s: list[float] = []
        begin, cpu_begin = time.perf_counter(), time.process_time()
        while not times_s or time.perf_counter() - begin < seconds:
            start = time.perf_counter()
            self._backend.infer(pixels)
            times_s.append(time.perf_counter() - start)
        wall_s = time.perf_counter() - begin
        cpu_s = time.process_time() - cpu_begin
        return {"times_s": times_s, "wall_s": wall_s, "cpu_s": cpu_s, "pixels": self._what}

    def raster(self, path: str, out: str, overlap: float) -> Facts:
        """Segment a raster, file to file."""
        from rsedge.infer.options import Options  # noqa: PLC0415 - as in ``open_artifact``
        from rsedge.infer.segmentation import segment  # noqa: PLC0415

        result = segment(self._backend, path, out, Options(overlap=overlap, overwrite=True))
        return {
            "height": result.grid["height"],
            "width": result.grid["width"],
            "windows": result.windows,
            "seconds": result.seconds,
            "peak_rss_bytes": result.peak_rss_bytes,
        }

    def peak(self) -> Facts:
        """Return the peak memory since the model was opened, or since the last raster began."""
        return {"peak_rss_bytes": peak_rss_bytes()}

    def evaluate(self, data: str, classes: str | None, allow_missing: bool, **reading: Any) -> Facts:
        """Score the model on labelled rasters; ``reading``: fields of Options, with tuples as lists."""
        from rsedge.infer.options import Options  # noqa: PLC0415
        from rsedge.score.evaluation import evaluate  # noqa: PLC0415
        from rsedge.score.labels import LabelColors  # noqa: PLC0415

        names = tuple(c.name for c in self._backend.bundle.manifest.classes)
        colors = LabelColors.read(Path(classes), names) if classes else None
        told: Facts = {
            key: tuple(value) if isinstance(value, list) else value for key, value in reading.items()
        }
        options = Options(**told)
        return evaluate(self._backend, data, options, colors, allow_missing=allow_missing).to_dict()


def main() -> None:
    """Open the contender of the command line, then answer requests."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets Ctrl-C too, and ends this process
    answers = _claim_stdout()
    begin_peak()
    try:
        contender = Contender.from_json(sys.argv[1])
        module, _, name = contender.opener.partition(":")
        opener: Callable[[Contender], tuple[Backend, Facts]] = getattr(import_module(module), name)
        backend, facts = opener(contender)
        server = Server(backend)
        _say(answers, {**_identity(backend), **facts})
        for line in sys.stdin:
            request: Mapping[str, Any] = json.loads(line)
            _say(answers, getattr(server, request["do"])(**request["how"]))
    except RsedgeError as error:
        kind = next(c.__name__ for c in type(error).__mro__ if hasattr(errors, c.__name__))
        _say(answers, {"error": kind, "message": str(error)})
    except MemoryError:
        _say(answers, {"error": "BackendError", "message": "out of memory"})


def _identity(backend: Backend) -> Facts:
    bundle = backend.bundle
    return {
        "name": bundle.manifest.name,
        "precision": bundle.precision,
        "backend": backend.name,
        "version": backend.version,
        "provider": backend.provider,
        "threads": backend.threads,
        "sha256": bundle.sha256,
        "tile": bundle.manifest.tile,
        "takes_rgb8": bundle.manifest.takes_rgb8,
    }


def _claim_stdout() -> TextIO:
    """Return the real standard output; later prints of libraries go to standard error."""
    mine = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return mine


def _say(answers: TextIO, facts: Facts) -> None:
    answers.write(json.dumps(facts) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()
