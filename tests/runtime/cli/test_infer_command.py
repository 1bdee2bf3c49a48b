"""`rsedge infer` with several rasters, options that contradict each other, and finished runs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rsedge import InputError, Options, open_model, segment
from rsedge.cli.infer import choose_targets, expand
from rsedge.machine import peak_rss_bytes, rss_bytes
from toys import make_bundle, pointwise_graph, pointwise_manifest, read, strongest

Call = Callable[..., tuple[int, str, str]]
Write = Callable[..., Path]
Noise = Callable[..., np.ndarray]


def test_globs_are_expanded_and_other_names_are_not(tmp_path: Path) -> None:
    for name in ("b.tif", "a.tif", "c[1].tif"):
        (tmp_path / name).touch()
    assert expand([f"{tmp_path}/*.tif"]) == [f"{tmp_path}/{n}.tif" for n in ("a", "b", "c[1]")]
    assert expand([f"{tmp_path}/c[1].tif", "https://h/x*.tif?y"]) == [
        f"{tmp_path}/c[1].tif",
        "https://h/x*.tif?y",
    ]
    with pytest.raises(InputError, match="no file matches"):
        expand([f"{tmp_path}/*.png"])


def test_masks_of_a_folder_are_named_after_their_rasters() -> None:
    sources = ["a/x.tif", "https://h/y.tif?sig=ab/cd%2F1.5", "/vsizip/z.zip/w.img"]
    assert choose_targets(sources, None, Path("o")) == [Path("o/x.tif"), Path("o/y.tif"), Path("o/w.tif")]
    with pytest.raises(InputError, match=r"written to o/x\.tif"):
        choose_targets(["a/x.tif", "b/x.tif"], None, Path("o"))
    with pytest.raises(InputError, match="use --out-dir"):
        choose_targets(["a/x.tif", "b/y.tif"], Path("m.tif"), None)


def test_one_broken_raster_does_not_stop_the_others(
    call_rsedge: Call, bundle: Path, write_raster: Write, noise: Noise, tmp_path: Path
) -> None:
    pixels = {name: noise(90, 100, seed) for seed, name in enumerate(("a", "b"))}
    rasters = [write_raster(p, f"{name}.tif") for name, p in pixels.items()]
    (tmp_path / "c.tif").write_bytes(rasters[0].read_bytes()[:5000])
    out = tmp_path / "masks"
    command = ("infer", f"{tmp_path}/*.tif", "--out-dir", out, "--model", bundle, "--json", "--quiet")
    code, printed, complaint = call_rsedge(*command)
    assert code == 2
    assert "1 of 3 rasters failed" in complaint
    assert [Path(json.loads(line)["out"]).name for line in printed.splitlines()] == ["a.tif", "b.tif"]
    for name, p in pixels.items():
        np.testing.assert_array_equal(read(out / f"{name}.tif"), strongest(p))
    _, printed, _ = call_rsedge(*command, "--resume")
    assert [json.loads(line)["finished_before"] for line in printed.splitlines()] == [True, True]


def test_results_of_several_rasters_do_not_replace_each_other(
    call_rsedge: Call, bundle: Path, write_raster: Write, noise: Noise, tmp_path: Path
) -> None:
    one, other = write_raster(noise(9, 9), "a.tif"), write_raster(noise(9, 9), "a_confidence.tif")
    command = ("infer", one, other, "--out-dir", tmp_path / "o", "--model", bundle, "--confidence")
    code, _, complaint = call_rsedge(*command)
    assert code == 2
    assert "a_confidence.tif" in complaint
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("change", [("format", "gtiff"), ("compress", "lzw"), ("overlap", "0.5")])
def test_a_finished_run_of_other_options_is_not_taken_for_this_one(
    call_rsedge: Call,
    bundle: Path,
    write_raster: Write,
    noise: Noise,
    tmp_path: Path,
    change: tuple[str, str],
) -> None:
    raster, out = write_raster(noise(70, 80)), tmp_path / "mask.tif"
    command = ["infer", raster, "--out", out, "--model", bundle, "--resume"]
    assert "finished already" not in call_rsedge(*command)[2]
    before = out.read_bytes()
    assert "finished already" in call_rsedge(*command)[2]
    code, _, complaint = call_rsedge(*command, f"--{change[0]}", change[1])
    assert (code, "finished with other settings" in complaint) == (2, True)
    assert out.read_bytes() == before
    assert call_rsedge(*command, "--overwrite", f"--{change[0]}", change[1])[0] == 0
    assert out.read_bytes() != before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bbox_crs": "EPSG:4326"}, "without bbox"),
        ({"min_area_m2": 5.0}, "without polygons"),
        ({"crop": True}, "without bbox or aoi"),
        ({"bbox": (0, 0, 1, 1), "aoi": "a.geojson"}, "give one"),
        ({"bbox": (0, 0, 1, 1), "crop": True, "resample": True}, "cannot be combined"),
        ({"compress": "jpeg"}, "zstd, deflate, lzw"),
        ({"max_ram_bytes": 0}, "below 1"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Options(**options)


def test_what_is_read_is_never_replaced(
    call_rsedge: Call, bundle: Path, write_raster: Write, noise: Noise
) -> None:
    raster = write_raster(noise(30, 30), "in.gpkg", driver="GPKG")
    before = raster.read_bytes()
    out = raster.with_name("m.tif")
    command = ("infer", raster, "--out", out, "--model", bundle, "--polygons", raster, "--overwrite")
    code, _, complaint = call_rsedge(*command)
    assert (code, "is an input" in complaint) == (2, True)
    assert raster.read_bytes() == before


def test_a_resampled_masks_pixels_are_counted_in_the_mask(
    write_raster: Write, noise: Noise, tmp_path: Path
) -> None:
    manifest = pointwise_manifest(gsd_m=(1.0, 1.0))
    folder = make_bundle(tmp_path / "b.rsedge", manifest, pointwise_graph(manifest))
    pixels = noise(201, 173)
    pixels[:, :50, :60] = 0
    raster, out = write_raster(pixels, nodata=0), tmp_path / "mask.tif"
    bbox = (500003.1, 5399910.2, 500080.3, 5399990.7)
    with open_model(folder, threads=1) as model:
        result = segment(model, raster, out, Options(resample=True, bbox=bbox))
    mask = read(out)
    assert [c.pixels for c in result.classes] == [np.count_nonzero(mask == k) for k in range(3)]
    assert result.nodata_pixels == np.count_nonzero(mask == 255)
    assert sum(c.area_m2 for c in result.classes) == pytest.approx(
        np.count_nonzero(mask != 255) * 0.25 / 0.9996**2
    )
    rows, cols = np.nonzero(mask != 255)
    x, y = 500000 + (cols + 0.5) * 0.5, 5400000 - (rows + 0.5) * 0.5
    assert bbox[0] < x.min()
    assert x.max() < bbox[2]
    assert bbox[1] < y.min()
    assert y.max() < bbox[3]


def test_a_parents_memory_is_not_ours() -> None:
    held = np.ones(400 << 20, np.uint8)
    code = "from rsedge.machine import peak_rss_bytes; print(peak_rss_bytes())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert held.nbytes < rss_bytes() <= peak_rss_bytes() * 1.01
    assert int(done.stdout) < held.nbytes
