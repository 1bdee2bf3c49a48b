"""Cover a raster with overlapping windows, and blend the scores of their tiles into rows of a mask.

Pure geometry and arithmetic: no files, no model. `axes` lays the windows out, `blend` merges, `kernels` holds the
loops in C with numpy twins that give the same bits.
"""

from rsedge.tiling.axes import Axis, Seam, Tiling
from rsedge.tiling.window import Window

__all__ = ["Axis", "Seam", "Tiling", "Window"]
