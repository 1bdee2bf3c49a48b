"""`rsedge eval`: read labels and score masks against them.

`labels` defines what colours and values mean, `truth` reads label rasters, `pairs` matches labels with images;
`evaluation` runs the engine over them and counts with `metrics` and `boundaries`.
"""
