"""Curves of a run as one PNG: losses and learning rate, validation scores."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rsedge.errors import InputError
from rsedge.files import whole_or_nothing, writing
from rsedge_train.look.logbook import LOSSES, read_log

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

PANEL_IN, HEIGHT_IN, DPI = 6.2, 4.6, 120
# Okabe and Ito's colours, which colour-blind people can tell apart.
COLORS = {
    "loss": "#222222",
    "ce": "#0072B2",
    "dice": "#D55E00",
    "aux": "#009E73",
    "inter": "#CC79A7",
    "intra": "#E69F00",
    "kl": "#56B4E9",
    "unlabelled": "#999933",
}
NAMES = {"loss": "total", "ce": "cross-entropy", "dice": "Dice", "aux": "auxiliary"}
RATE_COLOR, MIOU_COLOR, OA_COLOR = "#9A9A9A", "#0072B2", "#E69F00"
ROWS_PER_SPAN = 40  # each point is the mean over a fortieth of the rows
HEAD = 0.02  # share of early rows whose high losses do not set the scale

Series = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Steps and finite values, both (n,)."""


def draw_curves(log: Path, out: Path, title: str) -> None:
    """Draw a log as PNG: left losses (smoothed lightly) and learning rate, right mIoU and overall accuracy.

    Columns missing from the log are left out. Raises InputError if there is nothing to draw, OutputError
    if ``out`` cannot be written.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415  (half a second, and no need of it to train)

    rows = read_log(log)
    losses = {name: s for name in LOSSES if len((s := _series(rows, name))[0])}
    miou, oa = _series(rows, "val_miou"), _series(rows, "val_oa")
    scored = len(miou[0]) + len(oa[0]) > 0
    panels = bool(losses) + scored
    if not panels:
        raise InputError(f"{log} has neither losses nor scores yet. Wait for the first rows")
    figure = Figure(figsize=(PANEL_IN * panels, HEIGHT_IN), dpi=DPI, layout="constrained")
    figure.suptitle(title, parse_math=False)
    axes = list(figure.subplots(1, panels, squeeze=False)[0])
    if losses:
        _draw_losses(axes[0], losses, _series(rows, "lr"))
    if scored:
        _draw_scores(axes[-1], miou, oa)
    with writing(f"curves {out}"), whole_or_nothing(out) as partial, warnings.catch_warnings():
        # A glyph missing from the font shows as a box, which is message enough.
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)
        figure.savefig(partial, format="png")


def smoothed(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the centred running mean of (n,), over fewer values towards the ends."""
    kernel = np.ones(len(values) // ROWS_PER_SPAN | 1)
    sums, counts = (np.convolve(v, kernel, "same") for v in (values, np.ones(len(values))))
    return np.asarray(sums / counts)


def _series(rows: Sequence[dict[str, float]], name: str) -> Series:
    points = [(row["step"], row[name]) for row in rows if np.isfinite(row.get(name, np.nan))]
    steps, values = np.array(points, np.float64).reshape(-1, 2).T
    return steps, values


def _draw_losses(ax: Axes, losses: dict[str, Series], rate: Series) -> None:
    lines, tops, lows = [], [], [0.0]
    for name, (steps, values) in losses.items():
        mean, total = smoothed(values), name == "loss"
        if total:
            ax.plot(steps, values, color=COLORS[name], linewidth=0.6, alpha=0.25)
        width, label = (2.0 if total else 1.3), NAMES.get(name, name)
        marker = "o" if len(steps) == 1 else ""
        lines += ax.plot(steps, mean, marker=marker, color=COLORS[name], linewidth=width, label=label)
        tops.append(mean[int(HEAD * len(mean)) :].max())
        lows.append(mean.min())
    if max(tops) > min(lows):
        margin = 0.1 * (max(tops) - min(lows))
        ax.set_ylim(min(lows) - (margin if min(lows) < 0 else 0.0), max(tops) + margin)
    if len(rate[0]):
        twin = ax.twinx()
        lines += twin.plot(*rate, color=RATE_COLOR, linewidth=0.8, label="learning rate (right)")
        twin.set_ylim(bottom=0)
        twin.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
        twin.tick_params(axis="y", colors=RATE_COLOR)
        twin.spines["top"].set_visible(False)
    _finish(ax, "training loss", lines)


def _draw_scores(ax: Axes, miou: Series, oa: Series) -> None:
    lines = []
    for (steps, values), color, name in ((oa, OA_COLOR, "overall accuracy"), (miou, MIOU_COLOR, "mIoU")):
        if len(steps):
            lines += ax.plot(steps, 100 * values, "o-", color=color, ms=3, linewidth=1.5, label=name)
    if len(miou[0]):
        best = int(miou[1].argmax())
        step, score = miou[0][best], 100 * miou[1][best]
        label = f"best mIoU, {score:.1f} % at step {step:,.0f}"
        lines += ax.plot(step, score, "*", color="#D55E00", ms=13, ls="", label=label, zorder=3)
    _finish(ax, "validation score, %", lines)


def _finish(ax: Axes, name: str, lines: list[Line2D]) -> None:
    from matplotlib.ticker import EngFormatter, MaxNLocator  # noqa: PLC0415

    ax.set_xlabel("step")
    ax.set_ylabel(name)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    ax.grid(color="#E4E4E4", linewidth=0.7)
    ax.set_axisbelow(True)
    ax.spines["top"].set_visible(False)
    # Above the axes, no curve can cross the legend.
    ax.legend(
        handles=lines, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, frameon=False, fontsize=8
    )
