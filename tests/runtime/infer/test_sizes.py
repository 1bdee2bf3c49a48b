"""Headers that promise more pixels than anybody has: refused or planned at once, in little memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rsedge.tiling.axes import Axis
from rsedge.tiling.blend import Span

LEAN = 450 << 20  # bytes: libraries, --max-ram 400M and a little

PLAN = r"""
import re, sys
from rsedge.cli import main
sys.argv = ["rsedge", *sys.argv[1:]]
try:
    main()
finally:
    # Not getrusage's: that begins with what the process that started this one had.
    print("peak", re.search(r"VmHWM:\s*(\d+)", open("/proc/self/status").read())[1], file=sys.stderr)
"""


def vrt(path: Path, height: int, width: int) -> Path:
    bands = "".join(f"<VRTRasterBand dataType='Byte' band='{band}'/>" for band in (1, 2, 3))
    place = "<SRS>EPSG:4326</SRS><GeoTransform>5, 1e-9, 0, 50, 0, -1e-9</GeoTransform>"
    path.write_text(f"<VRTDataset rasterXSize='{width}' rasterYSize='{height}'>{place}{bands}</VRTDataset>")
    return path


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is read as Linux tells it")
@pytest.mark.parametrize(
    ("height", "width", "memory", "code"),
    [
        (200_000_000, 1, "400M", 0),
        (2**31 - 1, 1, "400M", 0),
        (1, 2**31 - 1, "400M", 2),
        (1, 2**31 - 1, "99G", 0),
        (2**31 - 1, 2**31 - 1, "400M", 2),
        (5_000_000, 5_000_000, "400M", 2),
    ],
)
def test_a_plan_is_arithmetic(
    tmp_path: Path, bundle: Path, height: int, width: int, memory: str, code: int
) -> None:
    path = vrt(tmp_path / "a.vrt", height, width)
    arguments = [
        "infer",
        path,
        "--out",
        tmp_path / "m.tif",
        "--model",
        bundle,
        "--dry-run",
        "--max-ram",
        memory,
    ]
    done = subprocess.run(
        [sys.executable, "-c", PLAN, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    peak_bytes = int(done.stderr.rsplit("peak ", 1)[1]) * 1024
    assert peak_bytes < LEAN


@pytest.mark.parametrize("length", [64 * 70_000 + 3, 2**31 - 1])
def test_windows_of_a_long_side_are_those_of_a_list(length: int) -> None:
    axis = Axis(length, 64, 0.25)
    last, steps = length - 64, -(-(length - 64) // 48)
    assert axis.count == len(axis.starts) == steps + 1
    for number in (0, 1, 2, 777, steps // 2, steps - 1, steps, -1):
        assert axis.starts[number] == (number % (steps + 1)) * last // steps
        assert axis.ends[number] == axis.starts[number] + 64
    for begin in (0, 47, length // 3, length - 64):
        windows = axis.covering(begin, begin + 1)
        assert all(axis.starts[n] <= begin < axis.ends[n] for n in windows)
        assert windows.start == 0 or axis.ends[windows.start - 1] <= begin
        assert windows.stop == axis.count or axis.starts[windows.stop] > begin
    fewest, most = axis.steps(range(axis.count))
    some = [axis.starts[n + 1] - axis.starts[n] for n in range(1000)]
    assert fewest <= min(some) <= max(some) <= most <= 48
    assert Span(axis, 0, length).most_carried == 64 - fewest
