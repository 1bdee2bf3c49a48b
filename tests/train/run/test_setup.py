"""How often scenes and classes count, and how long a run is."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from rsedge_train.data import Scan, SceneFiles, SceneScan
from rsedge_train.data.crops import CropConfig
from rsedge_train.fit.loop import FitConfig
from rsedge_train.run.request import Job, NetChoice
from rsedge_train.run.setup import class_weights, scene_weights, schedule


def scene(name, side, counts=(1, 1), drawn=False, bare=False):
    files = SceneFiles(name, name, Path(name), None if bare else Path(name), drawn=drawn)
    return SceneScan(files, side, side, np.array(counts), np.zeros((2, 1, 1), bool))


def store(*scenes):
    return SimpleNamespace(scans=scenes)


def test_sample_scenes_have_their_share_and_the_rest_goes_by_the_root_of_the_area():
    # A user's scene may be called sample-anything.
    scenes = store(
        scene("sample_a", 100), scene("b", 300), scene("x", 50, drawn=True), scene("y", 50, drawn=True)
    )
    assert scene_weights(scenes, 0.2) == pytest.approx([0.8 * 1 / 4, 0.8 * 3 / 4, 0.1, 0.1])
    assert scene_weights(scenes, None) is None
    assert scene_weights(store(*scenes.scans[:2]), 0.2) is None


def test_unlabelled_imagery_has_its_share_too():
    own, drawn = [scene("a", 100), scene("b", 300)], [scene("x", 50, drawn=True)]
    bare = [scene("u", 10, bare=True), scene("v", 30, bare=True)]
    assert scene_weights(store(*own, *bare), None, 0.6) == pytest.approx([0.1, 0.3, 0.15, 0.45])
    assert scene_weights(store(*own, *drawn, *bare), 0.2, 0.4) == pytest.approx([0.1, 0.3, 0.2, 0.1, 0.3])
    assert scene_weights(store(*drawn, *bare), 0.3, 0.5) == pytest.approx(
        [0.5, 0.125, 0.375]
    )  # all that is labelled
    assert scene_weights(store(*own, *drawn, *bare), 0.7, 0.3)[:2] == [0, 0]  # not below 0
    assert scene_weights(store(*own, *bare), None, 1.0) == pytest.approx([0, 0, 0.25, 0.75])
    # As before there was unlabelled imagery, to the bit.
    scenes, share = store(*own, *drawn), 0.3
    roots, is_drawn = np.array([100.0, 300.0, 50.0]), np.array([False, False, True])
    former = np.where(is_drawn, share, 1 - share) * roots / np.where(is_drawn, 50.0, 400.0)
    assert scene_weights(scenes, share) == former.tolist()


def test_class_weights_are_median_frequency_within_bounds():
    scanned = Scan((scene("a", 9, (10, 30, 0)), scene("b", 9, (0, 50, 10))), (), "")
    share = np.array([10, 80, 10]) / 100
    np.testing.assert_allclose(class_weights(scanned), np.median(share) / share)
    rare = Scan((scene("a", 9, (1, 5000, 5000)),), (), "")
    assert class_weights(rare)[0] == 10


def test_an_epoch_covers_the_area_once():
    scanned = Scan((scene("a", 100), scene("b", 200)), (), "")
    crops = CropConfig(size=32, batch=3, seed=5)
    job = Job("student", Path("o"), NetChoice("x"), crops, FitConfig(steps=7), epochs=4, validate_epochs=2)
    epoch = -(-(100**2 + 200**2) // (32**2 * 3))
    found = schedule(job, scanned)
    assert (found.steps, found.validate_every, found.seed) == (4 * epoch, 2 * epoch, 5)
