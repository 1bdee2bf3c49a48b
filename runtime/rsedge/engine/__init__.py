"""Run a model by sliding window over a raster of any height: read, infer, blend, hand on.

`sliding_window.run` is the only loop that does so; `infer`, `eval`, `verify` and training's validation all go through
it. `pipeline` overlaps its stages in bounded memory.
"""

from rsedge.engine.sliding_window import Pixels, Source, Stats, Strip, run

__all__ = ["Pixels", "Source", "Stats", "Strip", "run"]
