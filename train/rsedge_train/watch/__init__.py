"""What a training leaves for people to look at: a log, curves and a sheet of crops."""

from rsedge_train.watch.curves import draw_curves
from rsedge_train.watch.logbook import COLUMNS, Logbook, read_log
from rsedge_train.watch.sheet import SheetRow, choose_crops, draw_sheet

__all__ = ["COLUMNS", "Logbook", "SheetRow", "choose_crops", "draw_curves", "draw_sheet", "read_log"]
