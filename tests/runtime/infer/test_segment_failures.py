from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rasterio.shutil

from rsedge import InputError, Options, OutputError, open_model, segment
from rsedge.backends import Backend
from rsedge.errors import BackendError, BusyError
from rsedge.infer.journal import folder_of
from toys import make_bundle, pointwise_graph, pointwise_manifest, read, strongest

Write = Callable[..., Path]
Noise = Callable[..., np.ndarray]


def test_the_old_mask_survives_a_truncated_raster(
    model: Backend, write_raster: Write, noise: Noise, tmp_path: Path
) -> None:
    out = tmp_path / "mask.tif"
    out.write_bytes(b"precious")
    raster = write_raster(noise(400, 200), tiled=True, blockxsize=64, blockysize=64)
    raster.write_bytes(raster.read_bytes()[: raster.stat().st_size // 2])
    with pytest.raises(InputError, match="truncated or damaged"):
        segment(model, raster, out)
    assert out.read_bytes() == b"precious"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mask.tif", "raster.tif"]


def appended(raster: Path) -> None:
    with raster.open("ab") as file:
        file.write(b"more")


def rewritten(raster: Path) -> None:
    raster.with_suffix(".new").write_bytes(raster.read_bytes())
    raster.with_suffix(".new").replace(raster)


def cut_off(raster: Path) -> None:
    raster.write_bytes(raster.read_bytes()[:2000])


@pytest.mark.parametrize("change", [appended, rewritten, cut_off, Path.unlink])
@pytest.mark.parametrize("old", [b"precious", None])
def test_a_raster_that_changes_while_it_is_read_gives_no_mask(
    model: Backend,
    write_raster: Write,
    noise: Noise,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Path], None],
    old: bytes | None,
) -> None:
    """What was made of the other file is thrown away too: the next run needs neither --resume nor --overwrite."""
    monkeypatch.setattr("rsedge.raster.parts.PART_PIXELS", 1)
    out, changed = tmp_path / "mask.tif", list[int]()
    if old:
        out.write_bytes(old)
    pixels = noise(1800, 200)
    raster = write_raster(pixels, tiled=True, blockxsize=64, blockysize=64)

    def meddle(done: int, _: int) -> None:
        if done > 60 and not changed:  # a part is finished
            changed.append(done)
            change(raster)

    options = Options(preview=tmp_path / "preview.png")
    with pytest.raises(BusyError, match=r"raster.tif changed .* nothing was written. Run again"):
        segment(model, raster, out, options, meddle)
    assert changed
    assert (out.read_bytes() if out.exists() else None) == old
    assert {p.name for p in tmp_path.iterdir()} <= {"mask.tif", "raster.tif"}
    raster = write_raster(pixels)
    segment(model, raster, out, options)
    np.testing.assert_array_equal(read(out), strongest(pixels))


def test_a_model_that_answers_nan_is_an_error(write_raster: Write, noise: Noise, tmp_path: Path) -> None:
    graph = pointwise_graph(pointwise_manifest())
    graph.graph.initializer[0].raw_data = np.full((3, 3), np.nan, np.float32).tobytes()
    folder = make_bundle(tmp_path / "nan.rsedge", pointwise_manifest(), graph)
    with open_model(folder) as broken, pytest.raises(BackendError, match="NaN"):
        segment(broken, write_raster(noise(70, 70)), tmp_path / "mask.tif")
    assert not (tmp_path / "mask.tif").exists()


def test_the_output_may_not_be_the_input(
    model: Backend, write_raster: Write, noise: Noise, tmp_path: Path
) -> None:
    raster = write_raster(noise(70, 70))
    before = raster.read_bytes()
    (tmp_path / "link.tif").symlink_to(raster)
    for name in ("raster.tif", "link.tif"):
        with pytest.raises(InputError, match="is an input"):
            segment(model, raster, tmp_path / name)
    assert raster.read_bytes() == before


def test_a_missing_output_folder_is_named(
    model: Backend, write_raster: Write, noise: Noise, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="nowhere does not exist"):
        segment(model, write_raster(noise(70, 70)), tmp_path / "nowhere" / "mask.tif")


def test_a_failing_disk_leaves_what_is_finished_and_nothing_else(
    model: Backend,
    write_raster: Write,
    noise: Noise,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("rsedge.raster.stored_blocks.sync", full)
    with pytest.raises(OutputError, match="No space left"):
        segment(model, write_raster(noise(70, 70)), tmp_path / "mask.tif")
    assert {p.name for p in tmp_path.iterdir()} == {"raster.tif", ".mask.tif.rsedge"}


@pytest.mark.parametrize("file_format", ["cog", "gtiff"])
@pytest.mark.parametrize("limit", [5_000, 40_000, 90_000, 97_000])
def test_a_mask_that_did_not_fit_is_never_published(
    bundle: Path, write_raster: Write, noise: Noise, tmp_path: Path, file_format: str, limit: int
) -> None:
    """A limit on file size fails writes as a full disk does, also those that GDAL does not report."""
    raster, out = write_raster(noise(600, 600)), tmp_path / "mask.tif"
    out.write_bytes(b"precious")
    script = (
        "import resource, sys; from rsedge.cli import main\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
        f"sys.argv = ['rsedge', 'infer', {str(raster)!r}, '--out', {str(out)!r}, '--model', {str(bundle)!r}, "
        f"'--format', {file_format!r}]\nmain()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        with rasterio.open(raster) as src:
            np.testing.assert_array_equal(read(out), strongest(src.read()))
    else:
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        assert out.read_bytes() == b"precious"
        assert not [p for p in tmp_path.iterdir() if ".part" in p.name]


def test_the_output_may_not_be_a_source_of_a_vrt(
    model: Backend, write_raster: Write, noise: Noise, tmp_path: Path
) -> None:
    source = write_raster(noise(70, 70), "part.tif")
    before = source.read_bytes()
    rasterio.shutil.copy(source, tmp_path / "mosaic.vrt", driver="VRT")
    with pytest.raises(InputError, match="is an input"):
        segment(model, tmp_path / "mosaic.vrt", source)
    assert source.read_bytes() == before


@pytest.mark.parametrize(
    ("pixels", "profile", "message"),
    [
        (np.ones((2, 9, 9), np.uint8), {}, "2 usable bands.*needs 3"),
        (np.ones((3, 9, 9), np.uint16), {}, "stored as uint16.*--scale"),
        (np.ones((3, 9, 9), np.float32), {}, "stored as float32.*--scale"),
        (np.ones((3, 9, 9), np.complex64), {}, "stored as complex64"),
        (np.ones((3, 9, 9), np.complex64), {"dtype": "complex_int16"}, "stored as complex_int16"),
    ],
)
def test_unfit_rasters_are_refused(
    model: Backend,
    write_raster: Write,
    tmp_path: Path,
    pixels: np.ndarray,
    profile: dict[str, object],
    message: str,
) -> None:
    raster = write_raster(pixels, **profile)
    with pytest.raises(InputError, match=message):
        segment(model, raster, tmp_path / "mask.tif")


@pytest.mark.parametrize("bands", [(1, 2), (1, 2, 4), (0, 1, 2)])
def test_impossible_bands_are_refused(
    model: Backend, write_raster: Write, noise: Noise, tmp_path: Path, bands: tuple[int, ...]
) -> None:
    with pytest.raises(InputError, match="2 bands but the model needs 3|has no band"):
        segment(model, write_raster(noise(9, 9)), tmp_path / "mask.tif", Options(bands=bands))


@pytest.mark.parametrize("which", ["raster", "out", "preview", "polygons"])
def test_a_name_that_is_not_utf8_is_refused_before_the_model_runs(
    model: Backend,
    write_raster: Callable[..., Path],
    noise: Callable[..., np.ndarray],
    tmp_path: Path,
    which: str,
) -> None:
    raster = write_raster(noise(70, 80))
    odd = {
        "raster": "r\udce9.tif",
        "out": "o\udce9.tif",
        "preview": "p\udce9.png",
        "polygons": "g\udce9.gpkg",
    }
    named = {"raster": raster, "out": tmp_path / "m.tif", which: tmp_path / odd[which]}
    if which == "raster":
        named["raster"] = raster.rename(tmp_path / odd["raster"])
    options = Options(preview=named.get("preview"), polygons=named.get("polygons"))
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InputError, match="not UTF-8"):
        segment(model, named["raster"], named["out"], options)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("changes", "names"), [({"confidence": True}, "layers was"), ({"preview": "p.png"}, "preview was")]
)
def test_an_unfinished_run_of_other_results_is_not_wiped(
    model: Backend,
    write_raster: Callable[..., Path],
    noise: Callable[..., np.ndarray],
    tmp_path: Path,
    changes: dict[str, Any],
    names: str,
) -> None:
    raster, out = write_raster(noise(1300, 200)), tmp_path / "m.tif"

    def stop(done: int, total: int) -> None:
        if len(list(folder_of(out).glob("*-*.mask"))) > 1:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rsedge.raster.parts.PART_PIXELS", 1)
        with pytest.raises(KeyboardInterrupt):
            segment(model, raster, out, None, stop)
        kept = sorted(p.name for p in folder_of(out).iterdir())
        changes = {k: tmp_path / v if k == "preview" else v for k, v in changes.items()}
        with pytest.raises(InputError, match="has an unfinished run"):
            segment(model, raster, out, Options(**changes))
        with pytest.raises(InputError, match=names):
            segment(model, raster, out, Options(**changes, resume=True))
    assert sorted(p.name for p in folder_of(out).iterdir()) == kept
