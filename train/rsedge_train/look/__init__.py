"""Logs, curves and sheets that show how a training went."""

from rsedge_train.look.curves import draw_curves
from rsedge_train.look.logbook import COLUMNS, Logbook, read_log
from rsedge_train.look.sheet import SheetRow, choose_crops, draw_sheet

__all__ = ["COLUMNS", "Logbook", "SheetRow", "choose_crops", "draw_curves", "draw_sheet", "read_log"]
