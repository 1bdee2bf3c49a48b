"""Overlapping windows that cover a raster, and the blending of their tiles' scores into rows of a mask.

Pure geometry and arithmetic: no files, no model. `axes` places the windows, `blend` merges the scores, `kernels`
compiles the loops in C, and `twins` holds the same loops in numpy, equal bit for bit.
"""

from rsedge.tiling.axes import Axis, Seam, Tiling
from rsedge.tiling.window import Window

__all__ = ["Axis", "Seam", "Tiling", "Window"]
