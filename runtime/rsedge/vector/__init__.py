"""Polygons: areas of interest that come in, outlines of a mask that go out."""
