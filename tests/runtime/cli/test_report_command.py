from __future__ import annotations

import base64
import io
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.transform import Affine

from report_inputs import NAMES, evaluation, full_bench, save
from rsedge_sample.files import COLORS, write_sample

Run = Callable[..., tuple[int, str, str]]
Write = Callable[..., Path]


@pytest.fixture
def run(call_rsedge: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Run ``rsedge report ARGS`` in tmp_path, where bench.json and eval.json lie: (exit code, output, errors)."""
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "bench.json", full_bench(), before="model    landcover5-b0\n\n")
    save(tmp_path / "eval.json", evaluation())
    return lambda *args: call_rsedge("report", *args)


@pytest.fixture
def scene(tmp_path: Path) -> tuple[Path, Path]:
    """Return a sample scene and its labels, which serve as a mask too."""
    path = tmp_path / "town.tif"
    return path, write_sample(path, 300, 200)


def pictures(html: str) -> dict[str, Image.Image]:
    found = re.findall(
        r'data-pane="(\w+)"><figcaption>\w+</figcaption><img src="data:image/\w+;base64,([^"]+)"', html
    )
    return {name: Image.open(io.BytesIO(base64.b64decode(data))) for name, data in found}


def test_a_page_comes_of_both_files_and_stays_small(run: Run, scene: tuple[Path, Path]) -> None:
    town, labels = scene
    code, printed, _ = run("eval.json", "bench.json", "--raster", town, "--mask", labels, "--truth", labels)
    assert code == 0
    html = Path("report.html").read_text(encoding="utf-8")
    assert printed == f"report   report.html, {len(html.encode()) / 1e6:.2f} MB\n"
    assert len(html.encode()) < 3e6
    assert f"rsedge report eval.json bench.json --out report.html --raster {town} --mask {labels}" in html
    shown = pictures(html)
    assert list(shown) == ["image", "mask", "truth"]
    with rasterio.open(town) as src:
        assert np.abs(np.asarray(shown["image"], int) - src.read().transpose(1, 2, 0)).mean() < 6  # a JPEG
    with rasterio.open(labels) as src:
        colors = np.array([COLORS[name] for name in NAMES], np.uint8)[src.read(1)]
    np.testing.assert_array_equal(np.asarray(shown["mask"].convert("RGB")), colors)
    np.testing.assert_array_equal(np.asarray(shown["truth"].convert("RGB")), colors)


def test_either_file_alone_is_enough(run: Run) -> None:
    assert run("bench.json", "--out", "b.html", "-q") == (0, "", "")
    assert run("eval.json", "--out", "e.html", "-q", "--title", "Town 5") == (0, "", "")
    assert "<h1>Town 5</h1>" in Path("e.html").read_text(encoding="utf-8")
    assert "Measured on" not in Path("e.html").read_text(encoding="utf-8")


def test_a_page_of_its_own_is_replaced_and_nothing_else(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "notes.html"
    out.write_text("<p>mine</p>")
    code, _, said = run("eval.json", "--out", out)
    assert code == 2
    assert "was not written by rsedge" in said
    assert out.read_text() == "<p>mine</p>"
    assert run("eval.json", "--out", out, "--overwrite", "-q")[0] == 0
    assert run("bench.json", "--out", out, "-q")[0] == 0
    assert "Measured on" in out.read_text(encoding="utf-8")
    assert run("gone.json", "--out", out)[0] == 2
    assert "Measured on" in out.read_text(encoding="utf-8")
    assert not list(tmp_path.glob(".*.part"))


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--out", "report.pdf"], "must end in .html or .htm"),
        (["--out", "none/report.html"], "does not exist"),
        (["--raster", "town.tif"], "needs both --raster and --mask"),
        (["--truth", "town.tif"], "needs both --raster and --mask"),
        (["--raster", "town.tif", "--mask", "town.tif"], "is not a mask: it has 3 bands of uint8"),
        (["--raster", "gone.tif", "--mask", "town_labels.tif"], "gone.tif not found"),
        (["--classes", "c.toml"], "--truth, which was not given"),
    ],
)
def test_wrong_usage_is_explained(run: Run, scene: tuple[Path, Path], args: list[str], said: str) -> None:
    code, _, errors = run("eval.json", *args)
    assert code == 2
    assert said in errors
    assert not Path("report.html").exists()


def test_rasters_that_do_not_fit_are_refused(run: Run, scene: tuple[Path, Path], write_raster: Write) -> None:
    town, labels = scene
    small = write_raster(np.zeros((1, 10, 20), np.uint8), "small.tif")
    code, _, said = run("eval.json", "--raster", town, "--mask", small)
    assert code == 2
    assert "small.tif is 20 x 10 pixels, its image 300 x 200" in said
    code, _, said = run("eval.json", "--raster", town, "--mask", labels, "--truth", small)
    assert "small.tif is 20 x 10 pixels" in said
    place = {"transform": Affine(0.5, 0, 9, 0, -0.5, 9), "crs": "EPSG:32631"}
    moved = write_raster(np.zeros((1, 200, 300), np.uint8), "moved.tif", **place)
    assert "does not lie on" in run("eval.json", "--raster", town, "--mask", moved)[2]


def test_a_mask_of_other_classes_than_the_scores_is_refused(
    run: Run, scene: tuple[Path, Path], tmp_path: Path
) -> None:
    save(tmp_path / "other.json", evaluation(("roof", "land", "road", "vegetation", "water")))
    code, _, said = run("other.json", "--raster", scene[0], "--mask", scene[1])
    assert code == 2
    assert "has the classes building, land, road, vegetation, water, the eval has roof, land" in said


def test_a_foreign_mask_takes_names_from_the_eval(run: Run, write_raster: Write) -> None:
    image = write_raster(np.full((3, 40, 60), 90, np.uint8), "i.tif")
    mask = write_raster(np.full((1, 40, 60), 4, np.uint8), "m.tif")
    assert run("eval.json", "--raster", image, "--mask", mask, "-q")[0] == 0
    html = Path("report.html").read_text(encoding="utf-8")
    assert re.search(r"water <small>100\.0", html)
    assert run("bench.json", "--raster", image, "--mask", mask, "-q")[0] == 0
    assert re.search(r"class 4 <small>100\.0", Path("report.html").read_text(encoding="utf-8"))
    wrong = write_raster(np.full((1, 40, 60), 5, np.uint8), "w.tif")
    assert (
        "holds the value 5; its classes are 0 to 4" in run("eval.json", "--raster", image, "--mask", wrong)[2]
    )


def test_the_truth_may_be_painted_in_colours_of_a_table(
    run: Run, scene: tuple[Path, Path], write_raster: Write, tmp_path: Path
) -> None:
    town, labels = scene
    with rasterio.open(labels) as src:
        values = src.read(1)
    paint = np.array([(i, 200, 7) for i in range(5)], np.uint8)
    truth = write_raster(paint[values].transpose(2, 0, 1), "truth.tif")
    with rasterio.open(truth, "r+") as dst, rasterio.open(labels) as src:
        dst.transform = src.transform
    show = ("eval.json", "--raster", town, "--mask", labels, "--truth", truth)
    code, _, said = run(*show)
    assert code == 2
    assert "#00C807" in said
    assert "--classes FILE" in said
    table = tmp_path / "c.toml"
    table.write_text("[classes]\n" + "\n".join(f'{n} = "#{i:02X}C807"' for i, n in enumerate(NAMES)))
    assert run(*show, "--classes", table, "-q")[0] == 0
    shown = pictures(Path("report.html").read_text(encoding="utf-8"))
    np.testing.assert_array_equal(shown["truth"].convert("RGB"), shown["mask"].convert("RGB"))


def test_a_large_noisy_raster_still_makes_a_small_page(run: Run, write_raster: Write) -> None:
    rng = np.random.default_rng(0)
    image = write_raster(rng.integers(0, 255, (3, 900, 900)).astype(np.uint8), "i.tif")
    mask = write_raster(rng.integers(0, 250, (1, 900, 900)).astype(np.uint8), "m.tif")
    assert run("bench.json", "--raster", image, "--mask", mask, "--truth", mask, "-q")[0] == 0
    assert Path("report.html").stat().st_size < 3e6
    assert pictures(Path("report.html").read_text(encoding="utf-8"))["mask"].size == (450, 450)


def test_a_raster_of_other_values_and_with_holes_is_shown(run: Run, write_raster: Write) -> None:
    pixels = np.linspace(100, 4000, 64 * 64, dtype=np.float32).reshape(1, 64, 64)
    pixels[:, :8] = -1
    image = write_raster(pixels, "i.tif", nodata=-1)
    mask = write_raster(np.where(pixels < 0, 255, 1).astype(np.uint8), "m.tif", nodata=255)
    assert run("eval.json", "--raster", image, "--mask", mask, "-q")[0] == 0
    shown = {n: np.asarray(p.convert("RGB")) for n, p in pictures(Path("report.html").read_text()).items()}
    assert shown["image"][:6].min() > 240
    assert shown["image"][-1, -1].min() > 240
    assert shown["image"][10].max() < 60
    assert (shown["mask"][:8] == 255).all()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_told(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "closed"
    folder.mkdir(0o555)
    code, _, said = run("eval.json", "--out", folder / "r.html")
    assert code == 2
    assert "not writable" in said


def test_a_full_disk_is_told_and_leaves_nothing(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("rsedge.files.os.fsync", full)
    code, _, said = run("eval.json")
    assert code == 1
    assert "report.html cannot be written: No space left on device" in said
    assert not list(tmp_path.glob("*report.html*"))
