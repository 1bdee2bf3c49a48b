"""Notes on a sample of rasters that can be read but would give a wrong mask."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st
from rasterio.enums import ColorInterp

from rsedge import InputError, Options, segment
from rsedge.backends import Backend
from rsedge.model.manifest import NODATA
from rsedge.raster import RasterReader, plan_bands
from rsedge.raster.band_plan import AS_TAGGED, Masking
from rsedge.raster.look import ACROSS, SIDE, _spread, look, seems_alpha
from rsedge.score.evaluation import evaluate
from rsedge.tiling.window import Window
from toys import pointwise_manifest, read, strongest

Write = Callable[..., Path]
Noise = Callable[..., np.ndarray]
Run = Callable[..., tuple[int, str, str]]
TILES = {"tiled": True, "blockxsize": 128, "blockysize": 128}


def notes_on(path: Path, masking: Masking = AS_TAGGED, **how: object) -> str:
    with RasterReader(path) as reader:
        plan = plan_bands(reader, pointwise_manifest(), masking=masking, **how)  # type: ignore[arg-type]
        return "\n".join((*plan.notes, *look(reader, plan)))


@pytest.fixture
def rgbn(write_raster: Write, noise: Noise) -> Callable[[np.ndarray], Path]:
    """Write red, green, blue and a fourth band that GDAL tags as alpha."""

    def write(fourth: np.ndarray) -> Path:
        path = write_raster(np.concatenate([noise(*fourth.shape), fourth[None]]))
        with rasterio.open(path) as src:
            assert src.colorinterp[3] == ColorInterp.alpha
        return path

    return write


def near_infrared(height: int = 300, width: int = 400) -> np.ndarray:
    band = np.random.default_rng(5).integers(1, 256, (height, width), np.uint8)
    band[:60] = 0  # water
    return band


def test_near_infrared_tagged_as_alpha_gets_a_note_with_its_share(rgbn: Callable[[np.ndarray], Path]) -> None:
    said = notes_on(rgbn(near_infrared()))
    assert "band 4 is used as alpha" in said
    assert "--alpha none" in said
    share = float(said.split("makes ")[1].split("%")[0])
    assert 10 <= share <= 30  # 20 % of the rows; of a sample


@pytest.mark.parametrize("soft", [0, 3])
def test_true_alpha_gets_none_but_where_it_removes_much(
    rgbn: Callable[[np.ndarray], Path], soft: int
) -> None:
    alpha = np.full((1500, 1500), 255, np.uint8)
    alpha[:30] = 0
    alpha[30 : 30 + soft] = 130  # a soft edge
    assert notes_on(rgbn(alpha)) == ""
    alpha[:800] = 0
    assert "band 4 is used as alpha and makes" in (said := notes_on(rgbn(alpha)))
    assert "near infrared" not in said


@pytest.mark.parametrize(
    ("options", "lost"),
    [
        ({}, True),
        ({"alpha": "none"}, False),
        ({"alpha": 4}, True),
        ({"bands": (1, 2, 3)}, False),
        ({"bands": (1, 2, 3), "alpha": 4}, True),
        ({"bands": (1, 2, 4)}, False),
        ({"bands": (4, 4, 4), "alpha": "none"}, False),
    ],
)
def test_alpha_is_what_the_user_says(
    model: Backend,
    tmp_path: Path,
    rgbn: Callable[[np.ndarray], Path],
    options: dict[str, object],
    lost: bool,
) -> None:
    fourth = near_infrared(100, 130)
    raster, out = rgbn(fourth), tmp_path / "mask.tif"
    with rasterio.open(raster) as src:
        bands = src.read(options.get("bands", (1, 2, 3)))
    result = segment(model, raster, out, Options(**options))  # type: ignore[arg-type]
    holds = (fourth > 0) | (not lost)
    assert np.array_equal(read(out), np.where(holds, strongest(bands), NODATA))
    assert any("alpha" in n for n in result.notes) is (
        options in ({}, {"alpha": 4}, {"bands": (1, 2, 3)}, {"bands": (1, 2, 3), "alpha": 4})
    )


def test_bands_that_are_named_leave_true_alpha_in_force(
    model: Backend, tmp_path: Path, rgbn: Callable[[np.ndarray], Path]
) -> None:
    alpha = np.full((100, 130), 255, np.uint8)
    alpha[:20] = 0
    segment(model, rgbn(alpha), tmp_path / "mask.tif", Options(bands=(3, 2, 1)))
    assert np.array_equal(read(tmp_path / "mask.tif") == NODATA, alpha == 0)


@pytest.mark.parametrize(
    ("alpha", "bands", "why"),
    [(5, None, "has bands 1 to 4"), (2, (1, 2, 3), "feeds the model"), (4, (1, 2, 4), "feeds the model")],
)
def test_an_alpha_that_cannot_be_is_refused(
    rgbn: Callable[[np.ndarray], Path], alpha: int, bands: tuple[int, ...] | None, why: str
) -> None:
    with pytest.raises(InputError, match=why):
        notes_on(rgbn(near_infrared()), Masking(alpha=alpha), bands=bands)


def test_an_untagged_band_can_be_alpha(write_raster: Write, noise: Noise) -> None:
    alpha = np.zeros((40, 50), np.uint8)
    alpha[5:] = 1
    stored = np.concatenate([alpha[None], noise(40, 50)])
    path = write_raster(stored, photometric="minisblack")
    with RasterReader(path) as reader:
        plan = plan_bands(reader, pointwise_manifest(), masking=Masking(alpha=1))
        assert plan.indexes == (2, 3, 4)
        assert np.array_equal(reader.read(Window(0, 0, 40, 50), plan)[1], alpha > 0)


def test_without_alpha_its_band_feeds_a_model_of_four(write_raster: Write) -> None:
    manifest = pointwise_manifest(bands=("red", "green", "blue", "nir"), fill=(1.0,) * 4)
    stored = np.random.default_rng(1).integers(0, 255, (4, 40, 50), np.uint8)
    with RasterReader(write_raster(stored)) as reader:
        with pytest.raises(InputError, match="3 usable bands"):
            plan_bands(reader, manifest)
        plan = plan_bands(reader, manifest, masking=Masking(alpha="none"))
        assert (plan.indexes, plan.alphas) == ((1, 2, 3, 4), ())


@pytest.mark.parametrize("bits", [1, 2, 4, 7])
def test_fewer_bits_than_eight_get_a_note_unless_scaled(write_raster: Write, noise: Noise, bits: int) -> None:
    path = write_raster(noise(90, 90) >> (8 - bits), nbits=bits)
    assert f"--scale 0,{2**bits - 1}" in notes_on(path)
    assert "--scale" not in notes_on(path, scale=(0, 2**bits - 1))


@pytest.mark.parametrize(("most", "said"), [(1, 1), (15, 15), (40, 63), (100, 100), (101, None), (255, None)])
@pytest.mark.parametrize("profile", [{}, TILES, {"compress": "deflate", "blockysize": 300}])
def test_a_maximum_far_below_white_gets_a_note(
    write_raster: Write, most: int, said: int | None, profile: dict[str, object]
) -> None:
    pixels = np.random.default_rng(2).integers(0, most + 1, (3, 300, 400), np.uint8)
    pixels[:, 5:8] = 255  # where nothing is known
    path = write_raster(pixels, nodata=255, **profile)
    notes = notes_on(path)
    assert ("--scale" in notes) is (said is not None)
    assert said is None or f"--scale 0,{said}" in notes


@pytest.mark.parametrize("profile", [{}, TILES, {"interleave": "band"}, {"compress": "deflate"}])
@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (0, 255, 7)])
def test_a_border_of_one_colour_gets_a_note_with_its_share(
    write_raster: Write, noise: Noise, profile: dict[str, object], colour: tuple[int, ...]
) -> None:
    pixels = noise(700, 900)
    rows, cols = np.mgrid[:700, :900]
    collar = (rows + cols < 500) | (rows + cols > 1200)
    pixels[:, collar] = np.array(colour, np.uint8)[:, None]
    path = write_raster(pixels, **profile)
    said = notes_on(path)
    value = "0" if colour == (0, 0, 0) else "255" if colour[0] else "0,255,7"
    assert said.endswith(f"--nodata {value}")
    share = float(said.split("%")[0].rsplit(" ", 1)[-1].rsplit("\n", 1)[-1])
    assert abs(share - 100 * collar.mean()) < 20
    marked = Masking(nodata=tuple(map(float, value.split(","))))
    assert notes_on(path, marked) == ""


def test_one_colour_inside_or_all_over_is_no_border(write_raster: Write, noise: Noise) -> None:
    pixels = noise(700, 900)
    pixels[:, 150:550, 200:700] = 0
    assert notes_on(write_raster(pixels)) == ""
    assert notes_on(write_raster(np.full((3, 200, 200), 130, np.uint8))) == ""
    assert notes_on(write_raster(np.full((3, 8, 8), 130, np.uint8))) == ""


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_of_large_pictures_that_decode_from_the_start_only_the_top_is_looked_at(
    tmp_path: Path, noise: Noise, suffix: str
) -> None:
    from PIL import Image

    pixels = noise(2300, 2000)
    pixels[:, :, :800] = 0
    Image.fromarray(pixels.transpose(1, 2, 0)).save(tmp_path / f"p.{suffix}", quality=95)
    with RasterReader(tmp_path / f"p.{suffix}") as reader:
        asked = list[Window]()
        read_bands = reader.read_stored
        reader.read_stored = lambda w, p: asked.append(w) or read_bands(w, p)  # type: ignore[method-assign, func-returns-value]
        said = look(reader, plan_bands(reader, pointwise_manifest()))
    assert max(w.row_end for w in asked) <= SIDE
    assert any("--nodata 0" in note for note in said)


PIXELS = st.integers(1, 3000)


@given(length=PIXELS, side=st.sampled_from([16, SIDE]), block=PIXELS, shared=st.booleans())
def test_windows_reach_from_edge_to_edge_inside(length: int, side: int, block: int, shared: bool) -> None:
    spans = _spread(length, side, block, shared)
    assert 1 <= len(spans) <= ACROSS
    assert all(begin >= 0 and begin + size <= length for begin, size in spans)
    assert spans[0][0] == 0
    assert shared or len({begin // block for begin, _ in spans}) == len(spans)
    assert not shared or sum(spans[-1]) == length


def test_seems_alpha(rgbn: Callable[[np.ndarray], Path]) -> None:
    with RasterReader(rgbn(near_infrared())) as reader:
        assert not seems_alpha(reader, 4)
    with RasterReader(rgbn(np.zeros((90, 90), np.uint8))) as reader:
        assert seems_alpha(reader, 4)


@pytest.mark.parametrize(
    ("dtype", "nodata"),
    [("uint8", (0.0,)), ("uint8", (0.0, 0.0, 9.0)), ("float32", (-3.4e38,)), ("int16", (-1.0,))],
)
def test_nodata_that_the_user_names_is_nodata(
    model: Backend, tmp_path: Path, write_raster: Write, noise: Noise, dtype: str, nodata: tuple[float, ...]
) -> None:
    stored = noise(100, 130).astype(dtype)
    hole = np.zeros((100, 130), bool)
    hole[:30, :40] = True
    expected = strongest(stored)
    stored[:, hole] = np.broadcast_to(np.array(nodata, dtype), 3)[:, None]
    stored[1, 60, 60] = nodata[0]  # one band only: data
    expected[60, 60] = (
        strongest(stored)[60, 60] if dtype == "uint8" else np.delete(stored[:, 60, 60], 1).argmax() * 2
    )
    tag = {} if dtype == "uint8" else {"nodata": 77}  # which is wrong
    scale = None if dtype == "uint8" else (0.0, 255.0)
    raster, out = write_raster(stored, **tag), tmp_path / "mask.tif"
    result = segment(model, raster, out, Options(nodata=nodata, scale=scale))
    assert np.array_equal(read(out), np.where(hole, NODATA, expected))
    assert not any("--nodata" in note for note in result.notes)


@pytest.mark.parametrize(
    ("nodata", "why"),
    [
        ((1.0, 2.0), "2 values for 3 bands"),
        ((256.0,), "cannot occur"),
        ((-1.0,), "cannot occur"),
        ((0.5,), "cannot occur"),
        ((np.nan,), "cannot occur"),
    ],
)
def test_nodata_that_cannot_be_is_refused(
    write_raster: Write, noise: Noise, nodata: tuple[float, ...], why: str
) -> None:
    with pytest.raises(InputError, match=why):
        notes_on(write_raster(noise(20, 20)), Masking(nodata=nodata))


@pytest.mark.parametrize("how", [{"nodata": ()}, {"nodata": ("0",)}, {"alpha": 0}, {"alpha": "4"}])
def test_options_that_say_nothing_are_refused(how: dict[str, object]) -> None:
    with pytest.raises(InputError, match="nodata|alpha"):
        Options(**how)  # type: ignore[arg-type]


def test_eval_takes_both_and_tells_of_borders(model: Backend, write_raster: Write, noise: Noise) -> None:
    pixels = noise(300, 400)
    labels = strongest(pixels)[None]
    pixels[:, :, :150] = 0
    image, label = write_raster(pixels), write_raster(labels, "labels.tif")
    found = evaluate(model, [(image, label)])
    assert any("--nodata 0" in note for note in found.notes)
    assert found.confusion.oa < 1
    found = evaluate(model, [(image, label)], Options(nodata=(0,)))
    assert found.confusion.oa == 1
    assert found.confusion.counts.sum() == 300 * 250


@pytest.mark.parametrize("command", ["infer", "eval", "verify", "watch", "data check"])
def test_every_command_that_reads_rasters_takes_them(
    call_rsedge: Run, tmp_path: Path, bundle: Path, write_raster: Write, noise: Noise, command: str
) -> None:
    if command == "data check":
        pytest.importorskip("torch")
    pixels = noise(90, 90)
    (tmp_path / "in").mkdir()
    (tmp_path / "in/classes.toml").write_text(
        '[classes]\nred = "#FF0000"\ngreen = "#00FF00"\nblue = "#0000FF"\n'
    )
    write_raster(np.concatenate([pixels, near_infrared(90, 90)[None]]), "in/t.tif")
    write_raster(strongest(pixels)[None], "in/t_labels.tif")
    write_raster(strongest(pixels)[None], "in/u_labels.tif")
    write_raster(np.concatenate([noise(90, 90, 1), near_infrared(90, 90)[None]]), "in/u.tif")
    bundle = Path(shutil.copytree(bundle, tmp_path / "own.rsedge"))  # `verify` leaves speeds in it
    args: dict[str, list[object]] = {
        "infer": ["infer", tmp_path / "in/t.tif", "--out", tmp_path / "m.tif", "--model", bundle],
        "eval": ["eval", tmp_path / "in", "--model", bundle],
        "verify": ["verify", bundle, "--raster", tmp_path / "in/t.tif", "--tiles", 1],
        "watch": ["watch", tmp_path / "in", "--out-dir", tmp_path / "out", "--model", bundle, "--once", "--settle", 0,
                  "--pattern", "t.tif"],
        "data check": ["data", "check", tmp_path / "in"],
    }  # fmt: skip
    code, said, notes = call_rsedge(*args[command])
    assert code == 0, said + notes
    assert "band 4 is used as alpha" in said + notes
    code, said, notes = call_rsedge(*args[command], "--alpha", "none", "--nodata", "3", "--json")
    assert code == 0, said + notes
    assert "is used as alpha" not in said + notes
    json.loads(said.splitlines()[-1]) if said.strip() else None
    for option, value in (("--alpha", "x"), ("--nodata", "0;1")):
        code, _, complaint = call_rsedge(*args[command], option, value)
        assert (code, f"{option} '{value}'" in complaint) == (2, True)


def test_damage_outside_the_area_that_is_wanted_does_no_harm(
    model: Backend, tmp_path: Path, write_raster: Write, noise: Noise
) -> None:
    pixels = noise(1024, 1024)
    path = write_raster(pixels, compress="deflate", tiled=True, blockxsize=256, blockysize=256)
    with rasterio.open(path) as src:
        offset = int(src.get_tag_item("BLOCK_OFFSET_3_3", "TIFF", bidx=1))
    data = bytearray(path.read_bytes())
    data[offset : offset + 400] = bytes(400)
    path.write_bytes(data)
    west, north = 500000, 5400000  # of `write_raster`
    area = (west, north - 100, west + 100, north)
    result = segment(model, path, tmp_path / "m.tif", Options(bbox=area))
    assert np.array_equal(read(tmp_path / "m.tif")[:200, :200], strongest(pixels)[:200, :200])
    assert result.notes == ()


def test_nan_may_be_named_as_the_nodata_of_floats(write_raster: Write, noise: Noise) -> None:
    pixels = noise(90, 90).astype(np.float32)
    pixels[:, :9] = np.nan
    with RasterReader(write_raster(pixels)) as reader:
        plan = plan_bands(reader, pointwise_manifest(), scale=(0, 255), masking=Masking(nodata=(np.nan,)))
        assert plan.nodata is None
        valid = reader.read(Window(0, 0, 90, 90), plan)[1]
    assert (valid[9:].all(), valid[:9].any()) == (True, False)


def test_a_dry_run_tells_it_before_the_work(
    call_rsedge: Run, tmp_path: Path, bundle: Path, rgbn: Callable[[np.ndarray], Path]
) -> None:
    raster = rgbn(near_infrared(100, 130))
    args = ("infer", raster, "--out", tmp_path / "m.tif", "--model", bundle, "--dry-run")
    code, _, notes = call_rsedge(*args)
    assert (code, "band 4 is used as alpha" in notes) == (0, True)
    code, said, _ = call_rsedge(*args, "--json")
    assert any("band 4 is used as alpha" in note for note in json.loads(said.splitlines()[-1])["notes"])


@pytest.mark.parametrize("profile", [{}, TILES])
@pytest.mark.parametrize(
    ("width_px", "colour", "value"), [(60, (0, 0, 0), "0"), (20, (255,) * 3, "255"), (60, (9, 8, 7), "9,8,7")]
)
def test_a_narrow_ring_that_nothing_marks_is_seen(
    write_raster: Write,
    noise: Noise,
    profile: dict[str, object],
    width_px: int,
    colour: tuple[int, ...],
    value: str,
) -> None:
    pixels = np.empty((3, 1000, 1000), np.uint8)
    pixels[:] = np.reshape(colour, (3, 1, 1))
    inner = 1000 - 2 * width_px
    pixels[:, width_px:-width_px, width_px:-width_px] = noise(inner, inner)
    assert notes_on(write_raster(pixels, **profile)).endswith(f"--nodata {value}")


@pytest.mark.parametrize("side", ["top", "left", "right"])
def test_a_strip_along_one_side_is_seen(write_raster: Write, noise: Noise, side: str) -> None:
    pixels = noise(800, 800)
    at = {"top": np.s_[:, :50], "left": np.s_[:, :, :50], "right": np.s_[:, :, -50:]}[side]
    pixels[at] = 0
    assert notes_on(write_raster(pixels)).endswith("--nodata 0")
    pixels[at] = np.reshape((180, 60, 60), (3, 1, 1))  # a field
    assert notes_on(write_raster(pixels, "field.tif")) == ""


@pytest.mark.parametrize("block", [20, 100, 300])
def test_pictures_made_of_flat_areas_have_no_border(write_raster: Write, block: int) -> None:
    kinds = np.random.default_rng(0).integers(0, 3, (-(-900 // block),) * 2)
    kinds = np.kron(kinds, np.ones((block, block), int))[:900, :900]
    assert "--nodata" not in notes_on(
        write_raster(np.where(kinds == np.arange(3)[:, None, None], 180, 60).astype(np.uint8))
    )
