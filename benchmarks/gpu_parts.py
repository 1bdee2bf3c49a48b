"""Parts of gpu.py, each a process that prints every result as a line of JSON as soon as it is known.

    python benchmarks/gpu_parts.py onnx '{"device": "cpu", "bundle": "...", ...}'

A line has "what" was measured, and "failed" with the error if it failed.
"""

from __future__ import annotations

import importlib
import json
import sys
import warnings

# Module and function, each imported separately, since a missing library must not stop the others.
PARTS = {
    "onnx": ("gpu_onnx", "onnx"),
    "memory": ("gpu_memory", "memory"),
    "eager": ("gpu_speed", "eager"),
    "train": ("gpu_train", "training"),
    "compile": ("gpu_speed", "compiled"),
    "rtx": ("gpu_rtx", "rtx"),
}


def main() -> None:
    warnings.simplefilter("ignore")
    module, name = PARTS[sys.argv[1]]
    for found in getattr(importlib.import_module(module), name)(json.loads(sys.argv[2])):
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
