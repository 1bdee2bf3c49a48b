"""`rsedge infer`: segment one raster into a mask, in bounded memory and resumably.

`segmentation.segment` opens a `job`, makes a `memory_plan`, runs the engine into parts that a `journal` records, and
has them assembled into the result.
"""

from rsedge.infer.options import Options, Result
from rsedge.infer.segmentation import open_model, segment

__all__ = ["Options", "Result", "open_model", "segment"]
