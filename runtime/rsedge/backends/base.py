"""The interface and the checks common to all backends."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import repeat
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsedge.errors import BackendError, ModelError
from rsedge.model.bundle import Bundle
from rsedge.tiling.twins import argmax


@dataclass(frozen=True)
class TensorSpec:
    """Shape (None for a free side) and numpy dtype name of a graph's input or output."""

    shape: tuple[int | None, ...]
    dtype: str


class Backend(ABC):
    """A loaded model. A context manager; closing it frees the device.

    ``infer`` takes pixels as stored, (N, bands, tile, tile) in the manifest's dtype, and returns
    scores, (N, classes, tile, tile) float32, owned by the caller.
    """

    name: str
    version: str  # of the library
    threads: int  # CPU threads of the graph
    provider: str  # what actually runs the graph, e.g. "CPUExecutionProvider"
    classes_on_device = (
        False  # True if ``stream_classes`` transfers classes from the device instead of scores
    )
    batch = 1  # tiles to give to the device at once; on a CPU more only cost memory
    streams = 1  # batches that ``stream`` works on at once; answers do not depend on it
    in_flight = 1  # batches that ``stream`` takes before it yields the first one's answer
    kept: int | None = None  # number of answers of ``stream`` that stay valid; None for all
    why: str | None = None  # reason why ``auto`` chose this backend; None if requested by name
    is_warm = False  # True if ``warm_up`` ran
    trouble: str | None = None  # reason why the engine does not run at its nominal precision

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        # Seconds spent moving pixels to the device and scores back, if those are separate steps.
        self.copy_s = {"copy_in": 0.0, "copy_out": 0.0}

    @contextmanager
    def copying(self, way: str) -> Iterator[None]:
        """Add the time of the block to "copy_in" or "copy_out"."""
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
        """The exporter's record of the artifact that runs, or of the one an engine was built from; {} if none.

        Raises ModelError if the report was edited.
        """
        return self.bundle.record()

    @abstractmethod
    def _run(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        """Run the graph on a checked batch."""

    def _answers(self, batches: Iterable[NDArray[Any]]) -> Iterator[NDArray[np.float32]]:
        """Yield the answers of ``stream``, not yet checked."""
        return map(self._run, batches)

    def _classes(self, batches: Iterable[NDArray[Any]]) -> Iterator[NDArray[np.uint8]]:
        """Yield the answers of ``stream_classes``, not yet checked."""
        return map(self.classify, batches)

    @abstractmethod
    def close(self) -> None:
        """Free the model's resources."""

    def infer(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        """Return the scores of a batch of tiles.

        Raises BackendError if the model fails or answers NaN, ModelError if its answer breaks the contract.
        """
        scores = self._run(batch)
        self._check_answer(scores, len(batch), "float32", (len(self.bundle.manifest.classes),))
        # One sum per batch, because scores that overflow must not pass for class 0.
        self.check_finite(scores.sum())
        return scores

    def classify(self, batch: NDArray[Any]) -> NDArray[np.uint8]:
        """Return each pixel's class, (N, tile, tile): the one with the highest score, the first among equals.

        Raises BackendError as ``infer`` does.
        """
        return np.stack([argmax(scores) for scores in self.infer(batch)])

    def stream(self, batches: Iterable[NDArray[Any]]) -> Iterator[NDArray[np.float32]]:
        """Yield the scores of each batch in order; a device may receive later batches before this one is done.

        So ``batches`` is read ahead, ``in_flight`` in all, and each array is used only until the next is requested.
        Finish or close one stream before the next and before ``infer``. The last ``kept`` answers stay valid, also
        into the next stream; older ones are overwritten. Scores are not checked for NaN, because blending reads every
        number anyway. Raises BackendError if the model fails, ModelError if its answer breaks the contract.
        """
        return self._checked(self._answers, batches, "float32", (len(self.bundle.manifest.classes),))

    def warm_up(self) -> None:
        """Run the model until its libraries have allocated their memory, for as many tiles as ``stream`` works on.

        Only the first call does so. Raises BackendError as ``infer`` does.
        """
        if self.is_warm:
            return
        tile = self.blank_tile()
        self.infer(tile)  # ONNX Runtime plans its memory in a model's first run and allocates it in the next
        if self.streams == 1:
            self.infer(tile)
        else:
            self._warm_streams(tile)
        self.is_warm = True

    def _warm_streams(self, tile: NDArray[Any]) -> None:
        """Run as many tiles at once as there are streams."""
        deque(self.stream(repeat(tile, self.streams)), maxlen=0)

    def blank_tile(self) -> NDArray[Any]:
        """Return a batch of one tile, (1, bands, tile, tile), filled as pixels without data are."""
        m = self.bundle.manifest
        pixels = np.empty((1, len(m.bands), m.tile, m.tile), m.dtype)
        pixels[:] = np.array(m.fill, m.dtype)[:, None, None]
        return pixels

    def stream_classes(self, batches: Iterable[NDArray[Any]]) -> Iterator[NDArray[np.uint8]]:
        """Yield the classes of each batch (see ``classify``), streamed as in ``stream``."""
        return self._checked(self._classes, batches, "uint8", ())

    def _checked(
        self,
        answer: Callable[[Iterable[NDArray[Any]]], Iterator[NDArray[Any]]],
        batches: Iterable[NDArray[Any]],
        dtype: str,
        planes: tuple[int, ...],
    ) -> Iterator[NDArray[Any]]:
        """Yield the answers to the batches, checked against the manifest."""
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
        finally:  # also if the caller leaves early, because a device may be working on the next batch
            if isinstance(answers, Generator):
                answers.close()

    def _check_answer(self, found: NDArray[Any], tiles: int, dtype: str, planes: tuple[int, ...]) -> None:
        """Raise ModelError if an answer breaks the manifest's contract, because it is later read by pointer."""
        tile = self.bundle.manifest.tile
        wanted = (tiles, *planes, tile, tile)
        if found.shape != wanted or found.dtype != dtype:
            raise ModelError(
                f"{self.bundle.artifact} answered {found.dtype} {_sides(found.shape)} on {self.provider}, but its "
                f"manifest says {dtype} {_sides(wanted)}; export the model again"
            )

    def check_finite(self, digest: NDArray[Any] | np.floating[Any]) -> None:
        """Raise BackendError if sums or means of scores show that some were NaN or infinite."""
        if not np.isfinite(digest).all():
            precision = self.bundle.precision
            remedy = (
                "check its weights and the raster's values, or train the model again"
                if precision == "fp32"
                else "run it in fp32, or export it again"
            )
            raise BackendError(
                f"the model answered NaN or infinity on {self.provider} ({precision}); {remedy}"
            )

    def check_contract(self) -> None:
        """Raise ModelError if the graph does not match the manifest."""
        m = self.bundle.manifest
        wanted_in = TensorSpec((None, len(m.bands), m.tile, m.tile), m.dtype)
        wanted_out = TensorSpec((None, len(m.classes), m.tile, m.tile), "float32")
        for what, found, wanted in (
            ("input", self.input_spec, wanted_in),
            ("output", self.output_spec, wanted_out),
        ):
            # A graph may leave its input's sides free, but the shape of its output must be known before a run.
            if not _fits(found, wanted) or (what == "output" and None in found.shape[1:]):
                raise ModelError(
                    f"{self.bundle.artifact}: its {what} is {found.dtype} {_show(found)}, but its manifest says "
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
