"""A torch network scored through the engine; what the means leave out."""

import numpy as np
import pytest
import torch

from rsedge.model.manifest import ClassInfo
from rsedge.score.labels import ClassTable
from rsedge.score.metrics import Confusion
from rsedge_train.data import Dataset, SceneFiles
from rsedge_train.data.pixels import MEAN, STD
from rsedge_train.run.validate import TorchBackend, score, summary

TABLE = ClassTable(tuple(ClassInfo(n, (i, i, i)) for i, n in enumerate(("red", "green", "blue"))))


class Strongest(torch.nn.Module):
    """Answers, per pixel, the band that is strongest as stored: it undoes the normalisation."""

    def __init__(self):
        super().__init__()
        self.mean, self.std = (torch.nn.Parameter(torch.tensor(v).view(1, 3, 1, 1)) for v in (MEAN, STD))

    def forward(self, x):
        return (x * self.std + self.mean) * 255


@pytest.mark.parametrize("shape", [(70, 150), (64, 64), (20, 200)])
def test_scores_are_those_of_numpy_whatever_the_size(shape, noise, write_raster):
    pixels = noise(*shape)
    truth = np.random.default_rng(1).integers(0, 3, shape).astype(np.uint8)
    truth[:5] = 255
    files = SceneFiles("s", "s", write_raster(pixels), write_raster(truth[None], "truth.tif"))
    dataset = Dataset("toy", TABLE, (files,))
    result = score(Strongest(), dataset, (files,), dataset.manifest("m", 64), crop=64)
    expected = Confusion.of(truth, pixels.argmax(0).astype(np.uint8), 3)
    np.testing.assert_array_equal(result.confusion.counts, expected.counts)
    assert result.provider == "cpu"


def test_the_scoring_label_is_what_counts(noise, write_raster):
    pixels = noise(64, 64)
    right, wrong = pixels.argmax(0).astype(np.uint8)[None], np.zeros((1, 64, 64), np.uint8)
    files = SceneFiles(
        "s", "s", write_raster(pixels), write_raster(wrong, "full.tif"), write_raster(right, "eroded.tif")
    )
    dataset = Dataset("toy", TABLE, (files,))
    assert score(Strongest(), dataset, (files,), dataset.manifest("m", 64), crop=64).confusion.miou == 1


def test_the_backend_keeps_the_contract():
    dataset = Dataset("toy", TABLE, (SceneFiles("s", "s", None, None),))
    with TorchBackend(Strongest(), dataset.manifest("m", 32)) as backend:
        backend.check_contract()
        batch = np.random.default_rng(0).integers(0, 256, (2, 3, 32, 32)).astype(np.uint8)
        np.testing.assert_allclose(backend.infer(batch), batch, atol=1e-3)


def test_means_leave_out_what_is_uncounted_and_what_does_not_occur():
    counts = np.array([[8, 2, 0, 0], [1, 9, 0, 0], [3, 0, 1, 0], [0, 0, 0, 0]])
    facts = summary(Confusion(counts), ("a", "b", "clutter", "never"), ("clutter",))
    iou = [8 / 14, 9 / 12]
    assert facts["miou"] == pytest.approx(np.mean(iou))
    assert facts["iou"] == pytest.approx({"a": iou[0], "b": iou[1], "clutter": 1 / 4, "never": None})
    assert facts["classes_counted"] == ["a", "b", "never"]
    assert facts["oa"] == pytest.approx(18 / 24)
    assert facts["majority"]["oa"] == pytest.approx(10 / 24)
    assert facts["pixels"] == 24


def test_a_few_validation_scenes_may_lack_classes(noise, write_raster):
    """The set as a whole was looked at before the first step."""
    truth = np.zeros((1, 64, 64), np.uint8)
    files = SceneFiles("s", "s", write_raster(noise(64, 64)), write_raster(truth, "truth.tif"))
    dataset = Dataset("toy", TABLE, (files,), told=True)
    result = score(Strongest(), dataset, (files,), dataset.manifest("m", 64), crop=64)
    assert result.confusion.counts.sum(1).tolist() == [64 * 64, 0, 0]
