"""Real watchers in processes of their own, killed, stopped and started again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from rsedge.infer.journal import folder_of
from toys import make_bundle, pointwise_graph, pointwise_manifest, read, strongest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are killed")
Call = Callable[..., tuple[int, str, str]]
Write = Callable[..., Path]
Noise = Callable[..., np.ndarray]
# Parts of one row of blocks, so that a small raster has many.
COMMAND = "import rsedge.raster.parts as p; p.PART_PIXELS = 1; from rsedge.cli import main; main()"
PATIENCE_S = 60.0


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


@pytest.fixture
def arguments(bundle: Path, inbox: Path, tmp_path: Path) -> list[str]:
    out = tmp_path / "out"
    quick = ["--settle", "0.2", "--every", "0.1", "--threads", "1", "--overlap", "0.75"]
    return ["watch", str(inbox), "--out-dir", str(out), "--model", str(bundle), "--json", *quick]


@contextmanager
def watching(arguments: list[str]) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", COMMAND, *arguments]
    env = {**os.environ, "PYTHONWARNINGS": "ignore"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def told(process: subprocess.Popen[str]) -> dict[str, object]:
    """Return the next line that a watcher prints."""
    assert process.stdout is not None
    return dict(json.loads(process.stdout.readline()))


def wait_for(what: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not what():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.01)


def part_is_there(mask: Path) -> bool:
    lines = folder_of(mask) / "journal.jsonl"
    return lines.exists() and "area_m2" in lines.read_text()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_stopped_in_the_middle_of_a_raster_it_goes_on_there(
    arguments: list[str],
    inbox: Path,
    tmp_path: Path,
    write_raster: Write,
    noise: Noise,
    number: signal.Signals,
) -> None:
    pixels, out = noise(4000, 1000), tmp_path / "out" / "big.tif"
    write_raster(pixels, tiled=True, blockxsize=128, blockysize=128).replace(inbox / "big.tif")
    with watching(arguments) as process:
        wait_for(lambda: part_is_there(out))
        process.send_signal(number)
        _, complaint = process.communicate(timeout=PATIENCE_S)
    if number == signal.SIGKILL:
        assert process.returncode == -number
    else:
        assert process.returncode == 130, complaint
        assert "interrupted; finished work is kept" in complaint
    assert not out.exists()
    write_raster(noise(60, 60)).replace(inbox / "small.tif")
    with watching(arguments) as process:
        events = [told(process), told(process)]
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 130
    assert [Path(str(e["raster"])).name for e in events] == ["big.tif", "small.tif"]
    assert int(str(events[0]["resumed_pixels"])) > 0
    np.testing.assert_array_equal(read(out), strongest(pixels))
    with watching([*arguments, "--once"]) as process:
        assert process.communicate(timeout=PATIENCE_S)[0] == ""
        assert process.returncode == 0


def test_a_file_that_another_process_writes_slowly_is_done_once_and_whole(
    arguments: list[str], inbox: Path, tmp_path: Path, write_raster: Write, noise: Noise
) -> None:
    pixels = noise(500, 300)
    raster = write_raster(pixels)
    writer = (
        "import sys, time; data = open(sys.argv[1], 'rb').read(); out = open(sys.argv[2], 'wb', buffering=0)\n"
        "for i in range(0, len(data), 30000): out.write(data[i:i + 30000]); time.sleep(0.05)"
    )
    arguments = [*arguments, "--settle", "2.5"]
    with watching(arguments) as process:
        subprocess.run([sys.executable, "-c", writer, str(raster), str(inbox / "slow.tif")], check=True)
        assert told(process)["event"] == "done"
        process.kill()
    with watching([*arguments, "--once"]) as process:
        assert process.communicate(timeout=PATIENCE_S)[0] == ""
    np.testing.assert_array_equal(read(tmp_path / "out" / "slow.tif"), strongest(pixels))


def test_a_second_watcher_is_turned_away_and_the_first_is_well(
    arguments: list[str], tmp_path: Path, call_rsedge: Call
) -> None:
    health = [*arguments, "--health"]
    code, _, complaint = call_rsedge(*health)
    assert (code, "has never had a watcher" in complaint) == (1, True)
    with watching(arguments):
        wait_for((tmp_path / "out" / ".rsedge-watch.alive").exists)
        code, _, complaint = call_rsedge(*arguments)
        assert (code, "in use by another rsedge watch" in complaint) == (2, True)
        assert call_rsedge(*health) == (0, "", "")
    long_ago = (1, 1)
    os.utime(tmp_path / "out" / ".rsedge-watch.alive", long_ago)
    assert call_rsedge(*health)[0] == 1


def test_what_is_told(
    arguments: list[str], inbox: Path, tmp_path: Path, write_raster: Write, noise: Noise, call_rsedge: Call
) -> None:
    pixels = noise(100, 100)
    pixels[:, :25] = 0
    write_raster(pixels, nodata=0).replace(inbox / "a.tif")
    (inbox / "b.tif").write_bytes(b"II*\0 but no more")
    arguments.remove("--json")
    code, printed, complaint = call_rsedge(*arguments, "--once")
    assert code == 2
    assert printed.startswith("a.tif: ")
    assert printed.endswith(" Mpx/s, nodata 25.0%\n")
    assert f"note: watching {inbox} for *.tif *.tiff" in complaint
    assert "refused: b.tif: " in complaint
    assert "error: 1 raster refused" in complaint
    assert call_rsedge(*arguments, "--once", "--quiet") == (0, "", "")
    assert sorted(p.name for p in inbox.iterdir()) == ["a.tif", "b.tif"]
    (tmp_path / "out" / ".rsedge-watch.jsonl").unlink()
    _, printed, _ = call_rsedge(*arguments, "--once", "--json", "--quiet")
    done, refused = sorted(map(json.loads, printed.splitlines()), key=lambda facts: str(facts["event"]))
    assert done == {
        "event": "done",
        "raster": str(inbox / "a.tif"),
        "out": str(tmp_path / "out" / "a.tif"),
        "finished_before": True,
    }
    assert refused["event"] == "refused"
    assert "b.tif" in refused["reason"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (("--every", "0"), "must be above"),
        (("--settle", "-1"), "must not be below 0"),
        (("--scale", "auto"), "LOW,HIGH"),
        (("--scale", "many"), "is not LOW,HIGH"),
        (("--compress", "jpeg"), "zstd, deflate, lzw"),
    ],
)
def test_options_that_do_not_fit(
    arguments: list[str], tmp_path: Path, call_rsedge: Call, wrong: tuple[str, str], message: str
) -> None:
    code, _, complaint = call_rsedge(*arguments, *wrong)
    assert (code, message in complaint) == (2, True)
    assert not (tmp_path / "out").exists()


def test_a_folder_is_not_watched_into_itself(arguments: list[str], inbox: Path, call_rsedge: Call) -> None:
    code, _, complaint = call_rsedge(*arguments, "--out-dir", inbox)
    assert (code, "masks would be segmented again" in complaint) == (2, True)
    assert list(inbox.iterdir()) == []
    inbox.rmdir()
    assert call_rsedge(*arguments)[0] == 2


def test_rasters_are_read_at_the_models_gsd_as_the_note_advises(
    inbox: Path, write_raster: Write, noise: Noise, call_rsedge: Call, tmp_path: Path
) -> None:
    manifest = pointwise_manifest(gsd_m=(1.0, 1.0))
    bundle = make_bundle(tmp_path / "b.rsedge", manifest, pointwise_graph(manifest))
    write_raster(noise(70, 70), "in/a.tif")
    again = ["watch", str(inbox), "--model", str(bundle), "--once", "--settle", "0", "--threads", "1"]
    code, _, said = call_rsedge(*again, "--out-dir", str(tmp_path / "as_it_is"))
    assert (code, "--resample reads it at the model's GSD" in said) == (0, True)
    code, _, said = call_rsedge(*again, "--out-dir", str(tmp_path / "resampled"), "--resample")
    assert (code, "read at a GSD of 1.00 m" in said) == (0, True)
