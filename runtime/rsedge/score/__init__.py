"""`rsedge eval`: read labels and score masks against them.

`labels` says what colours and values stand for, `truth` reads label rasters, `pairs` finds which label belongs to which
image; `evaluation` runs the engine over them and counts with `metrics` and `boundaries`.
"""
