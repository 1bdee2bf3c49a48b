from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.errors import NotGeoreferencedWarning
from rasterio.transform import Affine

from rsedge import InputError, Options, open_model
from rsedge.evaluation import evaluate
from rsedge.metrics import Confusion
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
    total = Confusion(np.zeros((3, 3), np.int64))
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
    with open_model(bundle) as model:
        result = evaluate(model, tmp_path)
    np.testing.assert_array_equal(result.confusion.counts, total.counts)
    facts = result.to_dict()
    assert facts["miou"] == pytest.approx(total.miou)
    assert facts["classes"][1]["iou"] == pytest.approx(total.iou[1])
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
        with pytest.raises(InputError, match="lies elsewhere"):
            evaluate(model, tmp_path, Options(scale=(0, 25500)))


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
