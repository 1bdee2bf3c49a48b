"""Labelled imagery: discovery, splits, checks and reading by window."""

from rsedge_train.data.base import BandChoice, Dataset, SceneFiles, SceneReader, masking_of
from rsedge_train.data.check import check
from rsedge_train.data.layouts import open_dataset
from rsedge_train.data.report import Report
from rsedge_train.data.samples import sample_dataset, with_samples
from rsedge_train.data.scan import Scan, SceneScan, scan
from rsedge_train.data.unlabelled import with_unlabelled

__all__ = [
    "BandChoice",
    "Dataset",
    "Report",
    "Scan",
    "SceneFiles",
    "SceneReader",
    "SceneScan",
    "check",
    "masking_of",
    "open_dataset",
    "sample_dataset",
    "scan",
    "with_samples",
    "with_unlabelled",
]
