"""Import of onnxruntime with its telemetry off, which must be set before the import."""

from __future__ import annotations

import os
from typing import Any

from rsedge.errors import BackendError

TELEMETRY_OFF = "ORT_DISABLE_TELEMETRY"  # read by onnxruntime 1.32; "1" turns telemetry off


def import_onnxruntime() -> Any:
    """Import onnxruntime such that it sends no telemetry and leaves no files in the user's home.

    Set ORT_DISABLE_TELEMETRY=0 to allow telemetry. rsedge imports onnxruntime only by this function. Raises
    BackendError if the package is missing.
    """
    os.environ.setdefault(TELEMETRY_OFF, "1")
    try:
        import onnxruntime  # noqa: PLC0415 - an extra, and slow to load
    except ImportError as error:
        raise BackendError(
            'onnxruntime is not installed; run `pip install "rsedge[cpu]"` (or `"rsedge[gpu]"` for CUDA)'
        ) from error
    return onnxruntime
