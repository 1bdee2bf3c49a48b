"""Halving batches on a full GPU, for gpu.py: the runtime's own code on memory that is really short.

Memory is filled by plain allocations (cudaMalloc) in the same process until only a given batch still fits.
On a CPU, a session that refuses larger batches takes its place.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gpu_tools import Facts, attempt
from numpy.typing import NDArray
from table4_worker import conditions

from rsedge.backends.ort import CUDA_BATCH, OrtBackend
from rsedge.model.bundle import Bundle
from rsedge.verify.tiles import SampleTiles

BATCHES = (1, 2, 4, 8)
CHUNK_BYTES = 4 << 30
STAND_IN = "Failed to allocate memory for requested buffer of size 1 (a stand-in, no GPU)"


class Watched(OrtBackend):
    """Backend that records errors which halved a batch; ``most``: tiles in a stand-in's memory, None for a GPU."""

    def __init__(self, bundle: Bundle, device: str, most: int | None) -> None:
        super().__init__(bundle, device)
        self.said, self._room = list[str](), most
        if device == "cpu":
            self.batch = CUDA_BATCH

    def _call(self, pixels: NDArray[Any], scores: NDArray[np.float32]) -> None:
        if self._room is not None and len(pixels) > self._room:
            raise RuntimeError(STAND_IN)
        super()._call(pixels, scores)

    def _shrink(self, tiles: int, error: Exception) -> None:
        self.said.append(f"{tiles} tiles: {' '.join(str(error).split())[:400]}")
        super()._shrink(tiles, error)


def memory(how: Facts) -> Iterator[Facts]:
    """Yield facts on the machine, on batches' memory, on the batch that fits less, and the error if no tile fits."""
    device = how["device"]
    yield attempt("machine", conditions, device, None)
    bundle = Bundle.open(Path(how["bundle"]), "fp32")
    pixels = np.stack([tile.pixels for tile in SampleTiles(bundle.manifest, CUDA_BATCH, None)])
    with OrtBackend(bundle, "cpu") as reference:
        expected = np.concatenate([reference.infer(tile[None]) for tile in pixels])
    if device == "cuda":
        torch.ones(1, device="cuda")  # creating the context takes memory of its own
    # The first model also loads the libraries, which then stay in the GPU's memory.
    yield attempt("the first model, 8 tiles", _need, bundle, device, pixels)
    needs = dict[int, int]()
    for tiles in BATCHES:
        found = attempt(f"{tiles} tiles", _need, bundle, device, pixels[:tiles])
        needs[tiles] = found.get("bytes", 0)
        yield found
    loaded = attempt("no tile", _need, bundle, device, pixels[:0])
    needs[0] = loaded.get("bytes", 0)
    yield loaded
    for tiles in (4, 2, 1, 0):
        more = needs.get(2 * tiles or 1, 0)
        left = (needs[tiles] + more) // 2
        what = f"room for {tiles} tiles" if tiles else "room for no tile"
        yield attempt(what, _squeezed, bundle, device, pixels, expected, tiles, left)


def _need(bundle: Bundle, device: str, pixels: NDArray[Any]) -> Facts:
    """Return the GPU memory of a model and a batch of tiles together."""
    before = _free_bytes(device)
    with OrtBackend(bundle, device) as model:
        start = time.perf_counter()
        if len(pixels):
            model.infer(pixels)
        return {
            "bytes": before - _free_bytes(device),
            "provider": model.provider,
            "first_s": time.perf_counter() - start,
        }


def _squeezed(
    bundle: Bundle, device: str, pixels: NDArray[Any], expected: NDArray[np.float32], tiles: int, left: int
) -> Facts:
    """Run all tiles at once with ``left`` bytes free, twice; the second call must not retry the full batch."""
    with _filled(device, left) as free, ExitStack() as stack:
        model = Watched(bundle, device, tiles if device == "cpu" else None)
        stack.enter_context(model)
        facts: Facts = {"free_bytes": free, "asked": len(pixels)}
        try:
            for _ in range(2):
                start = time.perf_counter()
                scores = model.infer(pixels)
                facts |= {
                    "batch": model.batch,
                    "seconds": time.perf_counter() - start,
                    "halved": len(model.said),
                    "differ": float((scores.argmax(1) != expected.argmax(1)).mean()),
                    "worst_error": float(np.abs(scores - expected).max() / np.ptp(expected)),
                }
        except Exception as error:
            facts["error"] = f"{type(error).__name__}: {str(error)[:400]}"
        return {**facts, "said": model.said}


def _free_bytes(device: str) -> int:
    return torch.cuda.mem_get_info()[0] if device == "cuda" else 0


@contextmanager
def _filled(device: str, left: int) -> Iterator[int]:
    """Fill the GPU except for ``left`` bytes, and yield the bytes that are really free."""
    if device == "cpu":
        yield 0
        return
    held = list[torch.Tensor]()
    while (more := min(CHUNK_BYTES, _free_bytes(device) - left)) > 1 << 21:
        try:
            held.append(torch.empty(more, dtype=torch.uint8, device="cuda"))
        except torch.OutOfMemoryError:
            break
    try:
        yield _free_bytes(device)
    finally:
        held.clear()
        torch.cuda.empty_cache()
