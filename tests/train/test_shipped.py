"""The parts of the command that trains the shipped student which need no training."""

import numpy as np
import pytest
import torch

from rsedge.sample import CLASSES
from rsedge_train.data import Scene
from rsedge_train.shipped import SAMPLE_SEEDS, UNSEEN_SEED, _parse, evaluate, predict, sample_scenes


class Brightest(torch.nn.Module):
    """Answers, per pixel, the brightest of three channels, and never classes 3 and 4."""

    def forward(self, images):
        low = torch.full_like(images[:, :2], -99.0)
        return torch.cat([images, low], dim=1)


@pytest.mark.parametrize("shape", [(40, 90), (64, 64), (10, 100)])
def test_tiles_cover_every_pixel_and_agree_with_the_whole(shape):
    truth = np.random.default_rng(0).integers(0, 3, shape).astype(np.uint8)
    image = np.where(np.arange(3)[:, None, None] == truth, 250, 5).astype(np.uint8)
    np.testing.assert_array_equal(predict(Brightest(), image, 5, tile=32), truth)
    scores = evaluate(Brightest(), Scene("x", image, truth))
    assert scores["miou"] == scores["oa"] == 1
    assert scores["iou"]["water"] is None
    assert scores["majority_oa"] == pytest.approx(np.bincount(truth.ravel()).max() / truth.size, abs=1e-4)


def test_sample_scenes_for_training_are_not_those_for_demo_and_validation():
    assert min(SAMPLE_SEEDS) >= 1000
    assert UNSEEN_SEED < 100
    scenes = sample_scenes(SAMPLE_SEEDS[:2], side=48)
    assert [s.name for s in scenes] == ["sample1000@0.25m", "sample1001@1.00m"]
    assert all(s.labels.max() < len(CLASSES) for s in scenes)


def test_a_user_begins_with_pretrained_weights_unless_told_otherwise():
    assert _parse(["--data", "d"]).pretrained is True
    assert _parse(["--data", "d", "--no-pretrained"]).pretrained is False
