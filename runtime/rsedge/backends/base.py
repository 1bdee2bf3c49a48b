"""What every backend offers."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsedge.errors import BackendError, ModelError
from rsedge.model.bundle import Bundle
from rsedge.tiling.twins import argmax


@dataclass(frozen=True)
class TensorSpec:
    """A graph's input or output: its shape (None where free) and numpy dtype name."""

    shape: tuple[int | None, ...]
    dtype: str


class Backend(ABC):
    """A loaded model. A context manager; closing it frees the device.

    ``infer`` takes pixels as stored, (N, bands, tile, tile) in the manifest's dtype, and returns
    scores, (N, classes, tile, tile) float32, owned by the caller.
    """

    name: str
    version: str  # of the library behind it
    threads: int  # CPU threads of the graph
    provider: str  # what really runs the graph, e.g. "CPUExecutionProvider"
    classes_on_device = False  # whether ``stream_classes`` brings classes from the device rather than scores
    batch = 1  # tiles that the device likes to get at once; on a CPU more only cost memory
    kept: int | None = None  # how many answers of ``stream`` stay valid; None: all of them
    why: str | None = None  # why ``auto`` took it; None: it was asked for by name
    runs = 0  # of ``infer`` so far
    trouble: str | None = None  # why what runs is not of the precision that its name says

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        # Seconds so far of bringing pixels to the device and scores back, where they are steps of their own.
        self.copy_s = {"copy_in": 0.0, "copy_out": 0.0}

    @contextmanager
    def copying(self, way: str) -> Iterator[None]:
        """Counts the block to "copy_in" or "copy_out"."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.copy_s[way] += time.perf_counter() - begin

    @property
    @abstractmethod
    def input_spec(self) -> TensorSpec:
        """The graph's input."""

    @property
    @abstractmethod
    def output_spec(self) -> TensorSpec:
        """The graph's output."""

    @property
    def record(self) -> dict[str, Any]:
        """What the exporter's report says of the artifact that runs (an engine: that it was built from), or {}.

        Raises ModelError when the report was edited.
        """
        return self.bundle.record()

    @abstractmethod
    def _run(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        """Run the graph on a checked batch."""

    def _answers(self, batches: Iterable[NDArray[Any]]) -> Iterator[NDArray[np.float32]]:
        """What ``stream`` gives, not yet checked."""
        return map(self._run, batches)

    def _classes(self, batches: Iterable[NDArray[Any]]) -> Iterator[NDArray[np.uint8]]:
        """What ``stream_classes`` gives, not yet checked."""
        return map(self.classify, batches)

    @abstractmethod
    def close(self) -> None:
        """Free what the model holds."""

    def infer(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        """Scores of a batch of tiles.

        Raises BackendError when the model fails or answers NaN, ModelError when it answers something else.
        """
        scores = self._run(batch)
        self.runs += 1
        self._check_answer(scores, len(batch), "float32", (len(self.bundle.manifest.classes),))
        # One sum a batch: a network that overflows must not pass for one that sees class 0.
        self.check_finite(scores.sum())
        return scores

    def classify(self, batch: NDArray[Any]) -> NDArray[np.uint8]:
        """Each pixel's class, (N, tile, tile): that of the highest score, the first among equals.

        Raises BackendError as ``infer`` does.
        """
        return np.stack([argmax(scores) for scores in self.infer(batch)])

    def stream(self, batches: Iterable[NDArray[Any]]) -> Iterator[NDArray[np.float32]]:
        """Scores of each batch, in order; a device may be given the next batch before this one is done.

        So ``batches`` is read up to one ahead; each of its arrays is looked at only until the next is asked for.
        Finish or close one stream before the next and before ``infer``. The last ``kept`` answers stay valid,
        also into the next stream; older ones are overwritten. They are not checked for NaN: who blends them
        reads every number anyway. Raises BackendError when the model fails, ModelError when it answers something else.
        """
        return self._checked(self._answers, batches, "float32", (len(self.bundle.manifest.classes),))

    def stream_classes(self, batches: Iterable[NDArray[Any]]) -> Iterator[NDArray[np.uint8]]:
        """``classify`` of each batch, as ``stream`` is ``infer`` of each."""
        return self._checked(self._classes, batches, "uint8", ())

    def _checked(
        self,
        answer: Callable[[Iterable[NDArray[Any]]], Iterator[NDArray[Any]]],
        batches: Iterable[NDArray[Any]],
        dtype: str,
        planes: tuple[int, ...],
    ) -> Iterator[NDArray[Any]]:
        """What ``answer`` makes of the batches, each of which is what the manifest says."""
        asked = deque[int]()

        def counted() -> Iterator[NDArray[Any]]:
            for batch in batches:
                asked.append(len(batch))
                yield batch

        answers = answer(counted())
        try:
            for found in answers:
                self._check_answer(found, asked.popleft(), dtype, planes)
                yield found
        finally:  # a caller who leaves early, too: a device may be at work on the next
            if isinstance(answers, Generator):
                answers.close()

    def _check_answer(self, found: NDArray[Any], tiles: int, dtype: str, planes: tuple[int, ...]) -> None:
        """Raise ModelError where an answer is not what the manifest promises: it is read by its pointer later."""
        tile = self.bundle.manifest.tile
        wanted = (tiles, *planes, tile, tile)
        if found.shape != wanted or found.dtype != dtype:
            raise ModelError(
                f"{self.bundle.artifact} answered {found.dtype} {_sides(found.shape)} on {self.provider}, its manifest "
                f"says {dtype} {_sides(wanted)}; export the model again"
            )

    def check_finite(self, digest: NDArray[Any] | np.floating[Any]) -> None:
        """Raise BackendError when sums or means of scores tell that some were NaN or infinite."""
        if not np.isfinite(digest).all():
            precision = self.bundle.precision
            remedy = (
                "its weights or the raster's values are at fault: check them, or train it again"
                if precision == "fp32"
                else "run it in fp32, or export it again"
            )
            raise BackendError(
                f"the model answered NaN or infinity on {self.provider} ({precision}); {remedy}"
            )

    def check_contract(self) -> None:
        """Raise ModelError when the graph is not what the manifest says."""
        m = self.bundle.manifest
        wanted_in = TensorSpec((None, len(m.bands), m.tile, m.tile), m.dtype)
        wanted_out = TensorSpec((None, len(m.classes), m.tile, m.tile), "float32")
        for what, found, wanted in (
            ("input", self.input_spec, wanted_in),
            ("output", self.output_spec, wanted_out),
        ):
            # A graph may leave its input's sides free; what it answers must be known before it runs.
            if not _fits(found, wanted) or (what == "output" and None in found.shape[1:]):
                raise ModelError(
                    f"{self.bundle.artifact}: its {what} is {found.dtype} {_show(found)}, its manifest says "
                    f"{wanted.dtype} {_show(wanted)}; export the model again"
                )

    def __enter__(self) -> Backend:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _fits(found: TensorSpec, wanted: TensorSpec) -> bool:
    if found.dtype != wanted.dtype or len(found.shape) != len(wanted.shape):
        return False
    return all(f is None or w is None or f == w for f, w in zip(found.shape, wanted.shape, strict=True))


def _show(spec: TensorSpec) -> str:
    return _sides(spec.shape)


def _sides(shape: tuple[int | None, ...]) -> str:
    return "x".join("N" if side is None else str(side) for side in shape)
