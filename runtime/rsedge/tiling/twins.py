"""The loops of ``kernels.c`` in numpy, equal bit for bit, for machines without a compiler.

A compiled library is tested against these functions before use.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float32]
Pixels = NDArray[np.uint8]
At = tuple[int, int, int, int, int, int]
TESTS = 16  # tiles; together under a millisecond


def add_tile(
    scores: Scores,
    down: Scores,
    across: Scores,
    rows: Scores,
    left: Scores,
    mask: Pixels,
    at: At,
    totals: Scores | None = None,
) -> bool:
    """Add a tile as ``rsedge_add_tile`` does, in whole planes; return True if all ``scores`` are finite.

    ``scores``: (classes, h, w). ``at``: first column in the band, ring position of the first row, rows with sums from
    above, rows now complete, columns with sums from the left, columns now complete. ``totals``: buffer for sums.
    """
    first, top, kept, done, prior, ready = at
    height, width = down.size, across.size
    scores = scores[:, :height, :width]
    totals = np.multiply(scores, np.multiply.outer(down, across), out=totals)
    totals[:, :, :prior] += left[:, :, :prior].transpose(1, 0, 2)
    above = (top + np.arange(kept)) % len(rows)
    totals[:, :kept, prior:] += rows[above, :, first + prior : first + width].transpose(1, 0, 2)
    mask[:done, first : first + ready] = argmax(totals[:, :done, :ready])
    below = (top + np.arange(done, height)) % len(rows)
    rows[below, :, first : first + ready] = totals[:, done:, :ready].transpose(1, 0, 2)
    left[:, :, : width - ready] = totals[:, :, ready:].transpose(1, 0, 2)
    return bool(np.isfinite(scores.sum()))


def argmax(scores: Scores) -> Pixels:
    """Return the class of the highest score, on a tie the first: (classes, h, w) to (h, w).

    Same result as ``scores.argmax(0)``, several times faster on planar scores.
    """
    best = scores[0].copy()
    mask = np.zeros(best.shape, np.uint8)
    for index in range(1, len(scores)):
        higher = scores[index] > best
        np.copyto(mask, index, where=higher)
        np.maximum(best, scores[index], out=best)
    return mask


def halve(fine: Pixels) -> Pixels:
    """Halve (2 h, 2 w) to (h, w) as ``rsedge_halve`` does."""
    a, b, c, d = fine[::2, ::2], fine[::2, 1::2], fine[1::2, ::2], fine[1::2, 1::2]
    rest = np.where((b == c) | (b == d), b, np.where(c == d, c, a))
    return np.where((a == b) | (a == c) | (a == d), a, rest)


def answers_the_same(library: Any) -> bool:
    """Return True if a compiled library gives the same results, on tiles of several shapes that overlap."""
    classes, tile, capacity, beside = 3, 44, 9, 7
    mixed = np.arange(classes * tile * tile, dtype=np.int64) * 7919 % 10007
    for test in range(TESTS):
        height, width = 5 + test % 4, 33 + test % 11  # one chunk of the kernel and a remainder
        across, done, ready = width + test, height - test % 4, width - test % beside
        at = (test, test % capacity, test % 3, done, (5 * test) % beside, ready)
        span = 2 if test % 2 else 997  # many ties, or few
        scores = (mixed % (span + test)).astype(np.float32).reshape(classes, tile, tile) / np.float32(7)
        if test == TESTS - 1:
            scores[1, 2, 3] = np.nan
        down, weights = (np.linspace(0.1, 1, n, dtype=np.float32) for n in (height, width))
        rows = np.resize(scores, (capacity, classes, across))
        left = np.resize(scores[::-1], (height, classes, beside))
        own, other = ([rows.copy(), left.copy(), np.zeros((height, across), np.uint8)] for _ in range(2))
        arrays = (scores, down, weights, *other)
        shape = (classes, tile, height, width, across, capacity, beside)
        finite = library.rsedge_add_tile(*(array.ctypes.data for array in arrays), *shape, *at)
        if bool(finite) != add_tile(scores, down, weights, own[0], own[1], own[2], at):
            return False
        if finite and any(a.tobytes() != b.tobytes() for a, b in zip(own, other, strict=True)):
            return False
    # All combinations of four values in four pixels.
    fine = np.indices((4, 4, 4, 4), np.uint8).reshape(2, 2, 16, 16).transpose(2, 0, 3, 1).reshape(32, 32)
    coarse = np.empty((16, 16), np.uint8)
    library.rsedge_halve(fine.ctypes.data, coarse.ctypes.data, *coarse.shape)
    return np.array_equal(coarse, halve(fine))
