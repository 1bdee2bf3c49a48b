"""What the options of train-teacher and distill become."""

from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest

from rsedge.cli.training import (
    QUICK_STUDENT,
    QUICK_TEACHER,
    _imagery,
    _job,
    _rehearse,
    _source,
    _teachers_network,
    distill,
)
from rsedge.cli.training_options import DistillOptions, TeacherOptions
from rsedge.errors import InputError
from rsedge.raster.band_plan import Masking
from rsedge_train.run.request import NetChoice


def test_without_options_the_settings_are_the_papers():
    job = _job(TeacherOptions(), "teacher", Path("o"), NetChoice("arafnet-t"))
    assert (job.crops.size, job.crops.batch, job.crops.seed, job.crops.mosaic) == (512, 8, 42, 0)
    assert (job.epochs, job.fit.lr, job.fit.lr_encoder, job.fit.weight_decay) == (200, 6e-4, 6e-5, 0.01)
    assert (TeacherOptions().sam2, TeacherOptions().arch, TeacherOptions().encoder_weights) == (
        "large", "arafnet", "auto",
    )  # fmt: skip
    assert (DistillOptions().student, DistillOptions().temperature) == ("efficientnet_b0", 0.5)
    job = _job(DistillOptions(), "student", Path("o"), NetChoice("maflnet-s"))
    assert (job.crops.batch, job.crops.mosaic) == (4, 0.25)


def test_a_rehearsal_keeps_what_was_set():
    for options, quick in ((TeacherOptions, QUICK_TEACHER), (DistillOptions, QUICK_STUDENT)):
        small = _rehearse(options(quick=True, quiet=True, crop=256), frozenset({"crop"}), quick)
        assert small == replace(options(quick=True, quiet=True), **{**quick, "crop": 256})
        assert _rehearse(options(), frozenset(), quick) == options()


def test_steps_win_over_epochs_and_the_source_is_plain():
    options = DistillOptions(steps=7, data=Path("d"), val="a, b", bands="4,3,2", band_names="nir,red,green")
    job = _job(options, "student", Path("o"), NetChoice("efficientnet_b0"))
    assert (job.epochs, job.fit.steps) == (None, 7)
    source = _source(options)
    assert source["path"] == str(Path("d").resolve())
    assert source["val"] == ["a", "b"]
    assert source["bands"] == [4, 3, 2]
    assert source["band_names"] == ["nir", "red", "green"]


def test_a_cnn_teaches_in_place_of_sam2s_trunk():
    assert _teachers_network(TeacherOptions(), frozenset()) == "arafnet-t"
    assert _teachers_network(TeacherOptions(sam2="tiny", arch="maflnet"), frozenset()) == "maflnet-t-tiny"
    own = TeacherOptions(encoder="efficientnet_lite2")
    assert _teachers_network(own, frozenset({"encoder"})) == "efficientnet_lite2"
    for other, given in ((replace(own, arch="maflnet"), {"arch"}), (replace(own, sam2="tiny"), {"sam2"})):
        with pytest.raises(InputError, match="leave out --arch and --sam2"):
            _teachers_network(other, frozenset(given))


def test_unlabelled_imagery_takes_its_own_bands_and_values_and_a_teacher():
    assert _imagery(DistillOptions()) == {}
    found = _imagery(
        DistillOptions(unlabelled=[Path("a"), Path("b")], unlabelled_bands="3,2,1", unlabelled_scale="0,3000",
                       unlabelled_nodata="0")
    )  # fmt: skip
    assert found == {
        "folders": [Path("a"), Path("b")], "bands": (3, 2, 1), "scale": (0, 3000), "masking": Masking((0,)),
    }  # fmt: skip
    assert _imagery(DistillOptions(unlabelled=[Path("a")]))["masking"] is None
    with pytest.raises(InputError, match="--unlabelled-scale 'x' is not LOW,HIGH"):
        _imagery(DistillOptions(unlabelled=[Path("a")], unlabelled_scale="x"))
    with pytest.raises(InputError, match="teaches nothing without a teacher"):
        distill(**{**vars(DistillOptions(unlabelled=[Path("a")], alone=True)), "context": Mock()})


def test_an_unknown_way_with_damaged_files_is_refused():
    with pytest.raises(InputError, match="choose stop or skip"):
        _job(DistillOptions(damaged="fix"), "student", Path("o"), NetChoice("efficientnet_b0"))
