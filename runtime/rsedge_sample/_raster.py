"""Pixels covered by objects, for all objects of a window at once, without a loop in Python."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, TypeVar

import numpy as np

from rsedge_sample._noise import F32, F64, Frame, Ints, repeat_index


@dataclass(frozen=True)
class Boxes:
    """Rotated rectangles on the ground, one entry per rectangle; later ones lie on top."""

    x: F64  # centre, metres
    y: F64
    ax: F64  # unit vector of the first axis; the second is (-ay, ax)
    ay: F64
    half_p: F64  # half sides along the two axes, metres
    half_q: F64
    height: F32  # metres
    kind: Ints
    rgb: F32  # (n, 3), 0..255


Table = TypeVar("Table")


def take(table: Table, keep: Ints) -> Table:
    """Return the entries of a dataclass of arrays chosen by an index or mask."""
    chosen: Any = table
    return type(table)(*(getattr(chosen, f.name)[keep] for f in fields(chosen)))


def concat(*parts: Boxes) -> Boxes:
    """Concatenate rectangles in order."""
    return Boxes(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Boxes)))


def cover(frame: Frame, x0: F64, y0: F64, x1: F64, y1: F64) -> tuple[Ints, Ints, Ints]:
    """Return (object, row, column) of every pixel centre in each bounding box (metres) within the frame.

    Objects are in order, so that assigning to the pixels leaves the last object on top.
    """
    c0 = np.clip(np.ceil(x0 / frame.gsd - 0.5) - frame.col, 0, frame.width).astype(np.int64)
    c1 = np.clip(np.ceil(x1 / frame.gsd - 0.5) - frame.col, 0, frame.width).astype(np.int64)
    r0 = np.clip(np.ceil(y0 / frame.gsd - 0.5) - frame.row, 0, frame.height).astype(np.int64)
    r1 = np.clip(np.ceil(y1 / frame.gsd - 0.5) - frame.row, 0, frame.height).astype(np.int64)
    wide, high = np.maximum(c1 - c0, 0), np.maximum(r1 - r0, 0)
    # First the rows of the boxes, then the pixels of those rows, which needs no division per pixel.
    line_owner, line = repeat_index(np.where(wide > 0, high, 0))
    owner, step = repeat_index(wide[line_owner])
    row = (r0[line_owner] + line)[owner]
    box = line_owner[owner]
    return box, row, c0[box] + step


def offsets(frame: Frame, x: F64, y: F64, box: Ints, row: Ints, col: Ints) -> tuple[F32, F32]:
    """Return the metres from each object's centre to the pixel centre.

    Absolute positions are subtracted in float64, because the result must not depend on the window.
    """
    dx = np.take(frame.x, col) - np.take(x, box)
    dy = np.take(frame.y, row) - np.take(y, box)
    return dx.astype(np.float32), dy.astype(np.float32)


def local(frame: Frame, boxes: Boxes, box: Ints, row: Ints, col: Ints) -> tuple[F32, F32]:
    """Return pixel positions in metres along the axes of their rectangles."""
    dx, dy = offsets(frame, boxes.x, boxes.y, box, row, col)
    ax, ay = boxes.ax.astype(np.float32)[box], boxes.ay.astype(np.float32)[box]
    return dx * ax + dy * ay, dy * ax - dx * ay


def footprint(frame: Frame, boxes: Boxes) -> tuple[Ints, Ints, F32, F32]:
    """Return (flat pixel, rectangle, p, q) of the pixel centres inside each rectangle."""
    reach_x = np.abs(boxes.ax) * boxes.half_p + np.abs(boxes.ay) * boxes.half_q
    reach_y = np.abs(boxes.ay) * boxes.half_p + np.abs(boxes.ax) * boxes.half_q
    box, row, col = cover(frame, boxes.x - reach_x, boxes.y - reach_y, boxes.x + reach_x, boxes.y + reach_y)
    p, q = local(frame, boxes, box, row, col)
    half_p, half_q = boxes.half_p.astype(np.float32), boxes.half_q.astype(np.float32)
    inside = np.flatnonzero((np.abs(p) <= half_p[box]) & (np.abs(q) <= half_q[box]))
    return (row * frame.width + col)[inside], box[inside], p[inside], q[inside]


def shadow(frame: Frame, boxes: Boxes, sx: float, sy: float) -> Ints:
    """Return the flat pixels in shadow: each rectangle swept along (sx, sy) metres per metre of height."""
    dx, dy = boxes.height * sx, boxes.height * sy
    reach_x = np.abs(boxes.ax) * boxes.half_p + np.abs(boxes.ay) * boxes.half_q
    reach_y = np.abs(boxes.ay) * boxes.half_p + np.abs(boxes.ax) * boxes.half_q
    box, row, col = cover(
        frame,
        boxes.x - reach_x + np.minimum(dx, 0), boxes.y - reach_y + np.minimum(dy, 0),
        boxes.x + reach_x + np.maximum(dx, 0), boxes.y + reach_y + np.maximum(dy, 0),
    )  # fmt: skip
    p, q = local(frame, boxes, box, row, col)
    sp = (dx * boxes.ax + dy * boxes.ay).astype(np.float32)
    sq = (dy * boxes.ax - dx * boxes.ay).astype(np.float32)
    half_p, half_q = boxes.half_p.astype(np.float32), boxes.half_q.astype(np.float32)
    # The sweep of a rectangle along a segment is a hexagon, with three pairs of parallel sides.
    spb, sqb = sp[box], sq[box]
    inside = np.abs(p - 0.5 * spb) <= (half_p + 0.5 * np.abs(sp))[box]
    inside &= np.abs(q - 0.5 * sqb) <= (half_q + 0.5 * np.abs(sq))[box]
    inside &= np.abs(p * sqb - q * spb) <= (half_p * np.abs(sq) + half_q * np.abs(sp))[box]
    return (row * frame.width + col)[inside]
