from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.errors import NotGeoreferencedWarning
from rasterio.transform import Affine

from rsedge import InputError, Options, open_model
from rsedge.backends import Backend
from rsedge.model.manifest import ClassInfo
from rsedge.score.boundaries import BoundaryCounter, BoundaryCounts
from rsedge.score.evaluation import evaluate, find_labelled
from rsedge.score.labels import LOVEDA
from rsedge.score.metrics import Confusion
from toys import CLASSES, make_bundle, pointwise_graph, pointwise_manifest, strongest

Noise = Callable[..., np.ndarray]


def spoil(truth: np.ndarray) -> np.ndarray:
    """Labels that are wrong here and missing there."""
    labels = truth.copy()
    labels[:30, :20] = 1
    labels[40:, 60:] = 255
    return labels


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    facts = {
        "driver": "PNG",
        "count": len(pixels),
        "height": pixels.shape[1],
        "width": pixels.shape[2],
        "dtype": "uint8",
    }
    with pytest.warns(NotGeoreferencedWarning), rasterio.open(path, "w", **facts) as dst:
        dst.write(pixels)


@pytest.mark.parametrize("painted", [True, False])
def test_scores_equal_a_count_over_the_whole_masks(
    bundle: Path, noise: Noise, tmp_path: Path, painted: bool
) -> None:
    total, edges = Confusion(np.zeros((3, 3), np.int64)), BoundaryCounts.none(3)
    for seed in range(2):
        pixels = noise(130, 150, seed)
        labels = spoil(strongest(pixels))
        palette = np.zeros((256, 3), np.uint8)
        palette[:3] = [c.color for c in CLASSES]
        save(tmp_path / "images" / f"{seed}.png", pixels)
        save(
            tmp_path / "masks" / f"{seed}.png",
            palette[labels].transpose(2, 0, 1) if painted else labels[None],
        )
        total += Confusion.of(labels, strongest(pixels), 3)
        counter = BoundaryCounter(150, 3)
        counter.add(labels, strongest(pixels))
        edges += counter.finish()
    with open_model(bundle) as model:
        result = evaluate(model, tmp_path)
    np.testing.assert_array_equal(result.confusion.counts, total.counts)
    facts = result.to_dict()
    assert facts["miou"] == pytest.approx(total.miou)
    assert facts["classes"][1]["iou"] == pytest.approx(total.iou[1])
    assert [c["boundary_f"] for c in facts["classes"]] == pytest.approx(list(edges.f))
    assert facts["mean_boundary_f"] == pytest.approx(edges.mean_f)
    assert facts["majority_baseline"]["oa"] == pytest.approx(total.counts.sum(1).max() / total.counts.sum())


def test_scale_and_place_are_checked_as_in_infer(
    bundle: Path, noise: Noise, write_raster: Callable[..., Path], tmp_path: Path
) -> None:
    pixels = noise(64, 64)
    write_raster(pixels.astype(np.uint16) * 100, "a.tif")
    write_raster(strongest(pixels)[None], "a_labels.tif")
    with open_model(bundle) as model:
        with pytest.raises(InputError, match="outside --scale"):
            evaluate(model, tmp_path, Options(scale=(0, 1)))
        assert evaluate(model, tmp_path, Options(scale=(0, 25500))).confusion.oa == 1
        write_raster(strongest(pixels)[None], "a_labels.tif", transform=Affine(1, 0, 7, 0, -1, 0))
        with pytest.raises(InputError, match="does not lie on"):
            evaluate(model, tmp_path, Options(scale=(0, 25500)))


def test_a_label_whose_transform_lacks_the_crs_lies_elsewhere_all_the_same(
    bundle: Path, noise: Noise, write_raster: Callable[..., Path], tmp_path: Path
) -> None:
    pixels = noise(64, 64)
    with rasterio.open(write_raster(pixels, "a.tif")) as src:
        transform = src.transform
    write_raster(strongest(pixels)[None], "a_labels.tif", crs=None, transform=transform)
    with open_model(bundle) as model:
        assert evaluate(model, tmp_path).confusion.oa == 1
        moved = transform @ Affine.translation(40, 0)
        write_raster(strongest(pixels)[None], "a_labels.tif", crs=None, transform=moved)
        with pytest.raises(InputError, match=r"40\.0 px right .*a_labels.tif has no CRS"):
            evaluate(model, tmp_path)


def test_a_note_on_the_gsd_names_no_option_that_eval_lacks(
    noise: Noise, write_raster: Callable[..., Path], tmp_path: Path
) -> None:
    manifest = pointwise_manifest(gsd_m=(2.0, 3.0))
    model = make_bundle(tmp_path / "b.rsedge", manifest, pointwise_graph(manifest))
    pixels = noise(64, 64)
    pair = write_raster(pixels, "a.tif"), write_raster(strongest(pixels)[None], "a_labels.tif")
    with open_model(model) as backend:
        (note,) = evaluate(backend, [pair]).notes
    assert "GSD is 0.50 m" in note
    assert "--resample" not in note


def test_labels_that_do_not_fit_are_refused(bundle: Path, noise: Noise, tmp_path: Path) -> None:
    save(tmp_path / "images" / "1.png", noise(40, 50))
    with open_model(bundle) as model:
        save(tmp_path / "masks" / "1.png", np.zeros((1, 40, 49), np.uint8))
        with pytest.raises(InputError, match="49 x 40 pixels, its image 50 x 40"):
            evaluate(model, tmp_path)
        save(tmp_path / "masks" / "1.png", np.full((1, 40, 50), 7, np.uint8))
        with pytest.raises(
            InputError, match=r"label values 7 \(2000 px, first at row 0, column 0\); the classes are 0 to 2"
        ):
            evaluate(model, tmp_path)
        save(tmp_path / "masks" / "1.png", np.full((1, 40, 50), 255, np.uint8))
        with pytest.raises(InputError, match="no labelled pixel"):
            evaluate(model, tmp_path)


def test_colours_that_were_unlabelled_in_training_are_unlabelled_here(noise: Noise, tmp_path: Path) -> None:
    manifest = pointwise_manifest(unlabelled=((9, 9, 9),))
    model = make_bundle(tmp_path / "b.rsedge", manifest, pointwise_graph(manifest))
    pixels = noise(40, 50)
    truth = strongest(pixels)
    colors = np.array([c.color for c in CLASSES], np.uint8)[truth].transpose(2, 0, 1).copy()
    colors[:, :10] = 9
    save(tmp_path / "data" / "images" / "1.png", pixels)
    save(tmp_path / "data" / "masks" / "1.png", colors)
    with open_model(model) as backend:
        assert evaluate(backend, tmp_path / "data").confusion.counts.sum() == 30 * 50


def labelled(root: Path, pixels: np.ndarray, mask: np.ndarray, name: str = "1") -> None:
    save(root / "images" / f"{name}.png", pixels)
    save(root / "masks" / f"{name}.png", mask if mask.ndim == 3 else mask[None])


def test_a_class_without_a_label_pixel_is_an_error_that_says_what_is_unlabelled(
    model: Backend, noise: Noise, tmp_path: Path
) -> None:
    pixels = noise(40, 50)
    mask = np.where(strongest(pixels) == 1, 255, 0).astype(np.uint8)
    labelled(tmp_path, pixels, mask)
    lost = (mask == 255).sum()
    said = rf"1 rasters hold no label pixel of classes green, blue; taken for unlabelled: 255 \({lost} px\)"
    with pytest.raises(InputError, match=said):
        evaluate(model, tmp_path)
    result = evaluate(model, tmp_path, allow_missing=True)
    assert result.uncounted_share == (mask == 255).mean()
    facts = result.to_dict()["uncounted"]
    assert facts == {
        "pixels": (mask == 255).sum(),
        "share": (mask == 255).mean(),
        "no_data": 0,
        "unlabelled": {"255": (mask == 255).sum()},
    }
    labelled(tmp_path, pixels, strongest(pixels), "2")  # the classes may stand in another raster
    assert evaluate(model, tmp_path).confusion.counts.sum() == 40 * 50 + (mask == 0).sum()


@pytest.mark.parametrize("form", ["grey", "three bands", "by number"])
def test_masks_of_0_and_255_score_the_blind_as_blind(noise: Noise, tmp_path: Path, form: str) -> None:
    """A model that never finds the white class, against a count."""
    classes = (ClassInfo("no", (0, 0, 0)), ClassInfo("yes", (255, 255, 255)), ClassInfo("never", (9, 9, 9)))
    manifest = pointwise_manifest(classes=classes)
    blind = make_bundle(tmp_path / "b.rsedge", manifest, pointwise_graph(manifest))
    pixels = noise(40, 50)
    pixels[1:] = 0  # the strongest band is always the first
    truth = np.arange(40 * 50).reshape(40, 50) % 3 == 0
    mask = (255 * truth).astype(np.uint8)
    labelled(tmp_path, pixels, np.repeat(mask[None], 3, 0) if form == "three bands" else mask)
    (tmp_path / "classes.toml").write_text(
        "[classes]\nno = 0\nyes = 255\n"
        if form == "by number"
        else "[classes]\nno='#000000'\nyes='#FFFFFF'\n"
    )
    with open_model(blind) as backend:
        result = evaluate(backend, tmp_path)
    assert result.confusion.oa == pytest.approx(1 - truth.mean())
    assert result.confusion.iou[1] == 0
    assert result.uncounted == 0
    assert any("classes.toml" in note for note in result.notes)
    assert any("greys" in note for note in result.notes) == (form == "grey")


def test_pixels_that_do_not_count_are_told_apart(
    model: Backend, noise: Noise, write_raster: Callable[..., Path], tmp_path: Path
) -> None:
    pixels = noise(40, 50)
    truth = strongest(pixels)
    pixels[:, :4] = 0
    truth[2:6], truth[6, :5] = 255, 7
    write_raster(pixels, "a.tif", nodata=0)
    write_raster(truth[None], "a_labels.tif", nodata=7)
    result = evaluate(model, tmp_path)
    assert (result.no_data, result.unlabelled) == (4 * 50, {"255": 2 * 50, "7": 5})
    assert result.uncounted + result.confusion.counts.sum() == 40 * 50


def test_labels_that_start_with_1_are_read_by_the_folder_s_table(
    model: Backend, noise: Noise, tmp_path: Path
) -> None:
    pixels = noise(40, 50)
    mask = strongest(pixels) + 1
    mask[:5] = 0
    labelled(tmp_path, pixels, mask.astype(np.uint8))
    with pytest.raises(InputError, match=r"label values 3 .* name = INDEX"):
        evaluate(model, tmp_path)
    (tmp_path / "classes.toml").write_text("ignore = [0]\n[classes]\nred = 1\ngreen = 2\nblue = 3\n")
    result = evaluate(model, tmp_path)
    assert (result.confusion.oa, result.unlabelled) == (1, {"0": 5 * 50})


def test_loveda_needs_no_table(noise: Noise, tmp_path: Path) -> None:
    manifest = pointwise_manifest(classes=LOVEDA.classes[:3])
    with open_model(make_bundle(tmp_path / "b.rsedge", manifest, pointwise_graph(manifest))) as backend:
        pixels = noise(40, 50)
        save(tmp_path / "Val/Urban/images_png/1.png", pixels)
        save(tmp_path / "Val/Urban/masks_png/1.png", (strongest(pixels) + 1)[None].astype(np.uint8))
        with pytest.raises(
            InputError, match="LoveDA has classes agriculture, barren, forest, water, which are not"
        ):
            evaluate(backend, tmp_path)
    assert find_labelled(
        pointwise_manifest(classes=LOVEDA.classes), tmp_path, allow_missing=True
    ).colors.values == dict(LOVEDA.values or ())


@pytest.mark.parametrize("shift", [0.01, 0.049])
def test_a_grid_a_hundredth_of_a_pixel_away_is_the_same(
    model: Backend, noise: Noise, write_raster: Callable[..., Path], tmp_path: Path, shift: float
) -> None:
    pixels = noise(40, 50)
    write_raster(pixels, "a.tif")
    moved = Affine(0.5, 0, 500000 + 0.5 * shift, 0, -0.5, 5400000)
    write_raster(strongest(pixels)[None], "a_labels.tif", transform=moved)
    assert evaluate(model, tmp_path).confusion.oa == 1


@pytest.mark.parametrize(
    ("transform", "said"),
    [
        (Affine(0.5, 0, 500000 + 1.5, 0, -0.5, 5400000), "3.00 px right and 0.00 px below"),
        (Affine(0.5, 0, 500000 - 10, 0, -0.5, 5400000 + 0.25), "20.0 px left and 0.50 px above"),
        (Affine(0.501, 0, 500000, 0, -0.5, 5400000), "0.10 px right and 0.00 px below"),
        (Affine(0.5, 0, 500000, 0, 0.5, 5400000 - 20), "0.00 px right and 40.0 px (above|below)"),
    ],
)
def test_a_grid_elsewhere_is_told_in_pixels(
    model: Backend,
    noise: Noise,
    write_raster: Callable[..., Path],
    tmp_path: Path,
    transform: Affine,
    said: str,
) -> None:
    pixels = noise(40, 50)
    write_raster(pixels, "a.tif")
    write_raster(strongest(pixels)[None], "a_labels.tif", transform=transform)
    with pytest.raises(InputError, match=f"does not lie on its image: a corner is {said} where it should be"):
        evaluate(model, tmp_path)


def test_the_command_states_what_it_did_not_count(
    bundle: Path, noise: Noise, tmp_path: Path, call_rsedge: Callable[..., tuple[int, str, str]]
) -> None:
    pixels = noise(40, 50)
    mask = strongest(pixels)
    labelled(tmp_path, pixels, mask)
    code, printed, _ = call_rsedge("eval", tmp_path, "--model", bundle)
    assert (code, "0.00 Mpx labelled, 0.0% not counted\n" in printed) == (0, True)
    mask[:10] = 255
    mask[mask == 2] = 255
    labelled(tmp_path, pixels, mask)
    code, _, complaint = call_rsedge("eval", tmp_path, "--model", bundle)
    assert (code, "no label pixel of class blue" in complaint) == (2, True)
    code, printed, _ = call_rsedge("eval", tmp_path, "--model", bundle, "--allow-missing-classes", "--json")
    share = (mask == 255).mean()
    assert code == 0
    assert f"{share:.1%} not counted (labelled 255 {share:.1%})" in printed
    assert json.loads(printed.splitlines()[-1])["uncounted"]["share"] == share


def test_indices_beside_0_and_255_are_told(noise: Noise, tmp_path: Path) -> None:
    classes = (ClassInfo("no", (0, 0, 0)), ClassInfo("yes", (255, 255, 255)), ClassInfo("x", (9, 0, 0)))
    manifest = pointwise_manifest(classes=classes)
    pixels = noise(40, 50)
    labelled(tmp_path / "d", pixels, strongest(pixels), "1")
    labelled(tmp_path / "d", pixels, np.where(strongest(pixels) == 1, 255, 0).astype(np.uint8), "2")
    with open_model(make_bundle(tmp_path / "b.rsedge", manifest, pointwise_graph(manifest))) as backend:
        (note,) = evaluate(backend, tmp_path / "d").notes
    assert f"{(strongest(pixels) == 1).sum()} px of 255" in note
    assert '"yes" = 255' in note
