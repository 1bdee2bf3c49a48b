"""The papers' students before NVIDIA's own parser and compiler; the edge family has a file of its own, and a core."""

from __future__ import annotations

from pathlib import Path

import pytest

from rsedge_train.nets.registry import names
from rtx import needs_rtx
from rtx_students import check_student


@needs_rtx
@pytest.mark.slow
@pytest.mark.parametrize("name", names("student"))
def test_a_papers_student_is_parsed_and_compiled(name: str, tmp_path: Path) -> None:
    check_student(name, tmp_path)
