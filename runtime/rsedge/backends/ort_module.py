"""onnxruntime, which tells its makers about the machine that it runs on unless told not to before it is imported."""

from __future__ import annotations

import os
from typing import Any

from rsedge.errors import BackendError

TELEMETRY_OFF = "ORT_DISABLE_TELEMETRY"  # as onnxruntime 1.32 reads it; "1" keeps it quiet


def import_onnxruntime() -> Any:
    """The onnxruntime module, which then sends nothing to anyone and leaves no files in the user's home.

    Whoever wants its telemetry sets ORT_DISABLE_TELEMETRY=0. Nothing of rsedge imports it otherwise. Raises
    BackendError where it is missing.
    """
    os.environ.setdefault(TELEMETRY_OFF, "1")
    try:
        import onnxruntime  # noqa: PLC0415 - an extra, and slow to load
    except ImportError as error:
        raise BackendError(
            'onnxruntime is not installed; run `pip install "rsedge[cpu]"` (or `"rsedge[gpu]"` for CUDA)'
        ) from error
    return onnxruntime
