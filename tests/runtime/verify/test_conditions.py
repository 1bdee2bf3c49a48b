from __future__ import annotations

import os
from datetime import datetime, timezone

from rsedge.backends import Backend
from rsedge.verify.conditions import Conditions


def test_they_are_those_of_the_opened_model(model: Backend) -> None:
    found = Conditions.of(model)
    assert (found.threads, found.backend, found.provider) == (1, "onnxruntime", "CPUExecutionProvider")
    assert found.precision == "fp32"
    assert found.backend_version[0].isdigit()
    assert 1 <= found.cores <= (os.cpu_count() or 1)
    assert abs((datetime.now(timezone.utc) - datetime.fromisoformat(found.date)).total_seconds()) < 600
