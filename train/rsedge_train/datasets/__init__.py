"""Labelled imagery: what is there, how it is split, and reading it by window."""

from rsedge_train.datasets.base import BandChoice, Dataset, SceneFiles, SceneReader
from rsedge_train.datasets.scan import Scan, SceneScan, scan

__all__ = ["BandChoice", "Dataset", "Scan", "SceneFiles", "SceneReader", "SceneScan", "scan"]
