"""Tests marked ``bindings`` download NVIDIA's wheels, so they run only where they are asked for."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "bindings" in (config.getoption("-m") or ""):
        return
    for item in items:
        if item.get_closest_marker("bindings"):
            item.add_marker(
                pytest.mark.skip(reason="downloads NVIDIA's binding wheels; run with `-m bindings`")
            )
