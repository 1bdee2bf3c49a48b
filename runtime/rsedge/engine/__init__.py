"""Sliding-window inference over a raster of any height: read, infer, blend, pass on.

`sliding_window.run` is the only such loop; `infer`, `eval`, `verify` and training's validation all use it.
`pipeline` overlaps its stages in bounded memory.
"""

from rsedge.engine.sliding_window import Pixels, Source, Strip, run
from rsedge.engine.stages import Stats

__all__ = ["Pixels", "Source", "Stats", "Strip", "run"]
