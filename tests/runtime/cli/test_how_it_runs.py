"""`--streams` and `--fast`, through the commands that have them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from artifacts import graph_of, make_artifacts
from rsedge.infer.job import Job
from toys import CLASSES, pointwise_manifest, read, strongest

Call = Callable[..., tuple[int, str, str]]
Write = Callable[..., Path]
Noise = Callable[..., np.ndarray]
MANIFEST = pointwise_manifest()
RECORD = {"passed": True, "miou_fp32": 0.6, "miou": 0.59, "miou_drop": 1.0}


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle of fp32 and int8, of which int8 was measured to be faster here."""
    from rsedge.verify import fastest

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("rsedge.verify.compare.find_spec", lambda _: None)
    monkeypatch.setattr(
        fastest.Speed, "cost", property(lambda self: 0.5 if self.precision == "int8" else 1.0)
    )
    graphs = {p: graph_of(MANIFEST, p) for p in ("fp32", "int8")}
    return make_artifacts(tmp_path / "b", MANIFEST, graphs, {"artifacts": {"model.int8.onnx": RECORD}})


def test_masks_of_any_number_of_streams_have_the_same_bytes(
    call_rsedge: Call, bundle: Path, write_raster: Write, noise: Noise, tmp_path: Path
) -> None:
    pixels = noise(200, 300)
    raster, found = write_raster(pixels), set[bytes]()
    for streams in (1, 2, 4, 8):
        out = tmp_path / f"{streams}.tif"
        how = ("--model", bundle, "--threads", 8, "--streams", streams, "--device", "cpu")
        code, printed, _ = call_rsedge("infer", raster, "--out", out, *how)
        assert code == 0
        assert (f"onnxruntime CPUExecutionProvider, {streams} streams (" in printed) == (streams > 1)
        found.add(out.read_bytes())
    assert len(found) == 1
    np.testing.assert_array_equal(read(tmp_path / "8.tif"), strongest(pixels))


def test_a_run_goes_on_with_another_number_of_streams(
    call_rsedge: Call,
    bundle: Path,
    write_raster: Write,
    noise: Noise,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    raster, out = write_raster(noise(200, 300)), tmp_path / "mask.tif"
    command = ("infer", raster, "--out", out, "--model", bundle, "--threads", 4)
    assert call_rsedge(*command)[0] == 0
    whole = out.read_bytes()
    out.unlink()

    def fail(self: Job, *_: object) -> None:
        raise OSError("the power went")

    with monkeypatch.context() as patch:
        patch.setattr(Job, "notes", fail)
        assert call_rsedge(*command, "--streams", 4)[0] == 1
    assert call_rsedge(*command, "--streams", 2, "--resume")[0] == 0
    assert out.read_bytes() == whole


def test_more_streams_than_threads_are_refused(
    call_rsedge: Call, bundle: Path, write_raster: Write, noise: Noise, tmp_path: Path
) -> None:
    command = ("infer", write_raster(noise(9, 9)), "--out", tmp_path / "m.tif", "--model", bundle)
    code, _, complaint = call_rsedge(*command, "--threads", 2, "--streams", 3)
    assert (code, "3 streams need a thread each" in complaint) == (2, True)


def test_the_dry_run_counts_the_streams(
    call_rsedge: Call, bundle: Path, write_raster: Write, noise: Noise, tmp_path: Path
) -> None:
    raster, tiles = write_raster(noise(90, 300)), list[int]()
    for streams in (1, 4):
        how = ("--model", bundle, "--threads", 4, "--streams", streams, "--dry-run", "--json")
        code, printed, _ = call_rsedge("infer", raster, "--out", tmp_path / "m.tif", *how)
        facts = json.loads(printed.splitlines()[-1])
        assert (code, facts["streams"]) == (0, streams)
        tiles.append(facts["bytes_by_part"]["tiles"])
    assert tiles[1] >= tiles[0] + 4 * 64 * 64 * (4 * 3 + 3)


def test_fast_says_what_it_took_and_without_it_nothing_changes(
    call_rsedge: Call, two: Path, write_raster: Write, noise: Noise, tmp_path: Path
) -> None:
    raster = write_raster(noise(90, 100))
    command = ("infer", raster, "--out", tmp_path / "m.tif", "--model", two, "--threads", 1)
    code, printed, _ = call_rsedge(*command, "--fast")
    (line,) = (line for line in printed.splitlines() if line.startswith("model"))
    assert code == 0
    assert line.startswith(
        "model    strongest-band, int8, onnxruntime CPUExecutionProvider (--fast: 2.0 times as fast"
    )
    assert line.endswith("costs 1.00 points of mIoU by the gate, 0.600 to 0.590)")
    (line,) = (n for n in call_rsedge(*command)[1].splitlines() if n.startswith("model"))
    assert line.startswith(
        "model    strongest-band, fp32, onnxruntime CPUExecutionProvider (the only one measured"
    )
    printed = call_rsedge(*command, "--fast", "--dry-run")[1]
    assert "model    strongest-band, int8, onnxruntime CPUExecutionProvider (--fast: 2.0 times" in printed


def test_fast_and_a_precision_contradict_each_other(
    call_rsedge: Call, two: Path, write_raster: Write, noise: Noise, tmp_path: Path
) -> None:
    for command in (
        ("infer", write_raster(noise(9, 9)), "--out", tmp_path / "m.tif"),
        ("eval", tmp_path),
        ("watch", tmp_path, "--out-dir", tmp_path / "masks", "--once"),
    ):
        code, _, complaint = call_rsedge(*command, "--model", two, "--fast", "--precision", "fp32")
        assert code == 2
        assert "--fast chooses the precision, but --precision fp32 was given too; leave one out" in complaint


def test_eval_and_watch_take_the_same(
    call_rsedge: Call, two: Path, write_raster: Write, noise: Noise, tmp_path: Path
) -> None:
    data, inbox = tmp_path / "data", tmp_path / "inbox"
    pixels = noise(80, 90)
    for folder in (data, inbox):
        folder.mkdir()
        write_raster(pixels).rename(folder / "x.tif")
    colors = np.array([c.color for c in CLASSES], np.uint8)[strongest(pixels)].transpose(2, 0, 1)
    write_raster(colors).rename(data / "x_labels.tif")
    how = ("--model", two, "--threads", 1, "--fast")
    code, printed, said = call_rsedge("eval", data, *how, "--json")
    assert code == 0
    assert json.loads(printed.splitlines()[-1])["precision"] == "int8"
    assert "note: int8, onnxruntime CPUExecutionProvider (--fast: 2.0 times as fast" in said
    masks = tmp_path / "masks"
    code, _, said = call_rsedge("watch", inbox, "--out-dir", masks, "--once", "--settle", 0, *how)
    assert code == 0
    assert "note: int8 because of --fast: 2.0 times as fast" in said.replace("\n", " ")
    np.testing.assert_array_equal(read(masks / "x.tif"), strongest(pixels))
