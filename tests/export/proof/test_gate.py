from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from artifacts import graph_of, make_artifacts, nan_graph
from labelled import save_tif
from rsedge import InputError
from rsedge.score.labels import LabelColors
from rsedge_export.proof import gate
from rsedge_export.proof.gate import Judged, Limits, Verdict, judge, labelled, unlabelled
from toys import CLASSES, TILE, pointwise_manifest

MANIFEST = pointwise_manifest()
GAINS = (1.0, 1.02, 0.97)  # another network, a little
LOOSE = Limits(100, 100, 0, 0)
COLORS = LabelColors.of_classes(CLASSES)
Noise = Callable[..., NDArray[Any]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """fp32 answers the bands, fp16 the same, int8 the bands with GAINS, trt's with their first band doubled."""
    graphs = {
        "fp32": graph_of(MANIFEST),
        "fp16": graph_of(MANIFEST, "fp16"),
        "int8": graph_of(MANIFEST, "int8", GAINS),
        "int8-trt8": graph_of(MANIFEST, "int8-trt8", (2, 1, 1)),
        "int8-trt10": nan_graph(MANIFEST, "int8-trt10"),
    }
    return make_artifacts(tmp_path_factory.mktemp("gate") / "b.rsedge", MANIFEST, graphs)


def classes_of(pixels: NDArray[Any], gains: Sequence[float] = (1, 1, 1)) -> NDArray[Any]:
    return (pixels * np.reshape(gains, (3, 1, 1))).argmax(0)


def ious(truth: NDArray[Any], found: NDArray[Any]) -> NDArray[np.float64]:
    """Of truth and mask of any shape, class by class; pixels of truth 255 left out."""
    counted = truth != 255
    with np.errstate(invalid="ignore"):
        return np.array(
            [
                np.float64(((truth == c) & (found == c) & counted).sum())
                / (((truth == c) | (found == c)) & counted).sum()
                for c in range(3)
            ]
        )


def tile(noise: Noise, seed: int, truth: NDArray[Any] | None = None) -> Judged:
    return Judged(noise(TILE, TILE, seed), np.ones((TILE, TILE), np.bool_), truth)


def test_agreement_worst_tile_and_worst_error_are_those_of_numpy(folder: Path, noise: Noise) -> None:
    tiles = [noise(TILE, TILE, seed) for seed in range(4)]
    found = judge(folder, "int8", unlabelled(iter(tiles)), "noise", LOOSE)
    same = [(classes_of(t) == classes_of(t, GAINS)).mean() for t in tiles]
    assert 0.9 < np.mean(same) < 1
    assert found.agreement == pytest.approx(np.mean(same))
    assert found.worst_tile == pytest.approx(min(same))
    values = np.array(tiles).astype(float)
    errors = np.abs(values * (np.reshape(GAINS, (1, 3, 1, 1)) - 1))
    assert found.worst_error == pytest.approx(errors.max() / np.ptp(values), rel=1e-4)
    assert (found.tiles, found.tiles_from, found.precision, found.passed) == (4, "noise", "int8", True)
    unknown = (found.miou_fp32, found.miou, found.miou_drop, found.class_drops)
    assert unknown == (None, None, None, None)


def test_drops_are_those_of_numpy_and_255_counts_for_nothing(folder: Path, noise: Noise) -> None:
    """Truth is fp32's own answer but for a strip of every tile, and unlabelled in a corner."""
    tiles = []
    for seed in range(3):
        truth = classes_of(noise(TILE, TILE, seed)).astype(np.uint8)
        truth[:9] = seed
        truth[40:, 40:] = 255
        tiles.append(tile(noise, seed, truth))
    found = judge(folder, "int8", iter(tiles), "labels", LOOSE)
    pixels = np.concatenate([t.pixels for t in tiles], axis=2)
    truth = np.concatenate([t.truth for t in tiles if t.truth is not None], axis=1)
    exact, reduced = ious(truth, classes_of(pixels)), ious(truth, classes_of(pixels, GAINS))
    assert found.miou_fp32 == pytest.approx(exact.mean())
    assert found.miou == pytest.approx(reduced.mean())
    assert found.miou_drop == pytest.approx(100 * (exact.mean() - reduced.mean()))
    assert found.class_drops == pytest.approx(
        dict(zip(("red", "green", "blue"), 100 * (exact - reduced), strict=True))
    )
    assert found.miou_drop > 0.5
    # Agreement is over all valid pixels, labelled or not.
    assert found.agreement == pytest.approx((classes_of(pixels) == classes_of(pixels, GAINS)).mean())


def test_a_class_that_the_truth_lacks_is_not_counted(folder: Path) -> None:
    """int8-trt8 alone says red, in a twentieth of the pixels: no red is there, so only the others lose."""
    pixels = np.zeros((3, TILE, TILE), np.uint8)
    pixels[1, :, :32], pixels[2, :, 32:] = 100, 100
    pixels[0, 10:12], pixels[0, 12:] = 60, 40
    truth = classes_of(pixels).astype(np.uint8)
    assert set(np.unique(truth)) == {1, 2}
    found = judge(
        folder, "int8-trt8", iter([Judged(pixels, np.ones_like(truth, np.bool_), truth)]), "", LOOSE
    )
    lost = 2 / 64 * 100
    assert found.class_drops == pytest.approx({"green": lost, "blue": lost})
    assert (found.miou_fp32, found.miou_drop) == (1, pytest.approx(lost))


def test_another_network_fails_with_every_reason(folder: Path, noise: Noise) -> None:
    truth = classes_of(noise(TILE, TILE)).astype(np.uint8)
    tiles = [tile(noise, 0, truth)]
    found = judge(folder, "int8-trt8", iter(tiles), "", Limits())
    assert not found.passed
    same = (classes_of(tiles[0].pixels, (2, 1, 1)) == truth).mean()
    assert f"{same:.2%} of the pixels have fp32's class, but 98.00% are required" in found.reasons
    assert any(reason.startswith("mIoU drops by") for reason in found.reasons)
    assert {r.split()[0] for r in found.reasons if "points of IoU" in r} == {"red", "green", "blue"}
    assert judge(folder, "fp16", iter(tiles), "", Limits(0, 0, 1, 1)).reasons == ()  # the same network


def test_a_file_that_answers_nan_or_does_not_load_is_broken(
    folder: Path, noise: Noise, tmp_path: Path
) -> None:
    found = judge(folder, "int8-trt10", iter([tile(noise, 0)]), "", LOOSE)
    assert (found.runs, found.passed, found.agreement) == (False, False, 0)
    model = graph_of(MANIFEST, "fp16")
    model.graph.node[1].op_type = "Cnov"
    other = make_artifacts(tmp_path / "b.rsedge", MANIFEST, {"fp32": graph_of(MANIFEST), "fp16": model})
    found = judge(other, "fp16", iter([tile(noise, 0)]), "", LOOSE)
    assert (found.runs, found.passed, len(found.reasons)) == (False, False, 1)
    assert judge(folder, "int8-trt8", iter([tile(noise, 0)]), "", Limits()).runs  # bad is not broken


def test_each_limit_alone_decides(folder: Path, noise: Noise) -> None:
    truth = classes_of(noise(TILE, TILE)).astype(np.uint8)

    def reasons(**limits: float) -> list[str]:
        found = judge(
            folder,
            "int8",
            iter([tile(noise, 0, truth)]),
            "",
            replace(LOOSE, **limits),
        )
        return [r.split()[0] for r in found.reasons]

    free = judge(folder, "int8", iter([tile(noise, 0, truth)]), "", LOOSE)
    assert free.miou_drop is not None
    assert free.class_drops is not None
    worst = max(free.class_drops.values())
    assert reasons() == []
    assert reasons(int8_agreement=free.agreement) == []
    assert len(reasons(int8_agreement=free.agreement + 1e-6)) == 1
    assert reasons(miou_drop=free.miou_drop) == []
    assert reasons(miou_drop=free.miou_drop - 1e-6) == ["mIoU"]
    assert reasons(class_drop=worst) == []
    assert reasons(class_drop=worst - 1e-6) == [max(free.class_drops, key=free.class_drops.__getitem__)]


@pytest.mark.parametrize("precision", ["int8", "int8-trt8", "int8-trt10"])
def test_agreement_asked_of_int8_and_of_fp16(precision: str) -> None:
    limits = Limits(fp16_agreement=0.9, int8_agreement=0.7)
    assert (limits.agreement(precision), limits.agreement("fp16")) == (0.7, 0.9)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"miou_drop": -0.1}, "points of 0 or more"),
        ({"class_drop": -1}, "points of 0 or more"),
        ({"int8_agreement": 98}, "shares from 0 to 1"),
        ({"fp16_agreement": float("nan")}, "shares from 0 to 1"),
        ({"miou_drop": float("nan")}, "points of 0 or more"),
    ],
)
def test_limits_that_are_none(limits: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Limits(**limits)


def test_int8_for_cpus_is_judged_by_openvino_where_it_is(
    folder: Path, noise: Noise, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")

    def by(precision: str) -> Verdict:
        return judge(folder, precision, iter([tile(noise, 0)]), "", LOOSE)

    assert by("int8").backend.startswith("openvino")
    assert by("int8-trt8").backend.startswith("onnxruntime")
    monkeypatch.setattr(gate, "find_spec", lambda _: None)
    assert by("int8").backend.startswith("onnxruntime")


class TestLabelledTiles:
    def pair(self, folder: Path, name: str, pixels: NDArray[Any], truth: NDArray[Any]) -> tuple[Path, Path]:
        return save_tif(folder / f"{name}.tif", pixels), save_tif(folder / f"{name}_l.tif", truth[None])

    def test_tiles_are_the_rasters_own_with_their_truth(self, tmp_path: Path, noise: Noise) -> None:
        pixels = noise(2 * TILE, 3 * TILE)
        truth = np.random.default_rng(0).choice([0, 1, 2, 255], pixels.shape[1:]).astype(np.uint8)
        (*found,) = labelled([self.pair(tmp_path, "a", pixels, truth)], MANIFEST, COLORS, 10)
        assert len(found) == 6
        places = set()
        for judged in found:
            assert judged.truth is not None
            for row in range(0, 2 * TILE, TILE):
                for col in range(0, 3 * TILE, TILE):
                    part = np.s_[..., row : row + TILE, col : col + TILE]
                    if (judged.pixels == pixels[part]).all():
                        places.add((row, col))
                        np.testing.assert_array_equal(judged.truth, truth[part])
            assert judged.valid.all()
        assert len(places) == 6

    def test_the_count_is_spread_over_the_pairs(self, tmp_path: Path, noise: Noise) -> None:
        truth = np.zeros((TILE, 4 * TILE), np.uint8)
        pairs = [self.pair(tmp_path, str(i), noise(TILE, 4 * TILE, i), truth) for i in range(3)]
        known = {
            noise(TILE, 4 * TILE, i)[:, :, c : c + TILE].tobytes(): i
            for i in range(3)
            for c in range(0, 4 * TILE, TILE)
        }
        found = [known[judged.pixels.tobytes()] for judged in labelled(pairs, MANIFEST, COLORS, 5)]
        assert [found.count(i) for i in range(3)] == [1, 2, 2]

    def test_nodata_and_what_is_mirrored_up_to_a_tile_is_neither_valid_nor_truth(
        self, tmp_path: Path, noise: Noise
    ) -> None:
        pixels, truth = noise(50, TILE), np.ones((50, TILE), np.uint8)
        pixels[:, :7] = 0
        image = save_tif(tmp_path / "a.tif", pixels, nodata=0)
        (judged,) = labelled([(image, save_tif(tmp_path / "t.tif", truth[None]))], MANIFEST, COLORS, 4)
        assert judged.truth is not None
        np.testing.assert_array_equal(judged.valid.nonzero()[0], np.arange(7, 50).repeat(TILE))
        np.testing.assert_array_equal(judged.truth == 1, judged.valid)
        assert (judged.truth[~judged.valid] == 255).all()
        assert (judged.pixels[:, :7] == 120).all()

    def test_labels_of_another_size_are_refused(self, tmp_path: Path, noise: Noise) -> None:
        pair = self.pair(tmp_path, "a", noise(TILE, TILE), np.zeros((TILE, 50), np.uint8))
        with pytest.raises(InputError, match="50"):
            list(labelled([pair], MANIFEST, COLORS, 4))

    def test_tiles_without_a_labelled_pixel_are_passed_over(self, tmp_path: Path, noise: Noise) -> None:
        truth = np.full((TILE, 4 * TILE), 255, np.uint8)
        pair = self.pair(tmp_path, "a", noise(TILE, 4 * TILE), truth)
        with pytest.raises(InputError, match="no labelled pixel"):
            list(labelled([pair], MANIFEST, COLORS, 4))
        truth[5, 2 * TILE + 5] = 1
        pair = self.pair(tmp_path, "b", noise(TILE, 4 * TILE), truth)
        (found,) = labelled([pair], MANIFEST, COLORS, 1)
        np.testing.assert_array_equal(found.pixels, noise(TILE, 4 * TILE)[:, :, 2 * TILE : 3 * TILE])
