"""From labelled GeoTIFFs to run folders: a student alone, one distilled from it, and what does not fit."""

import json
import pickle
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from labelled import save_tif
from rsedge.errors import InputError, ModelError, OutputError
from rsedge.model.manifest import ClassInfo
from rsedge.score.labels import ClassTable
from rsedge_train.data import BandChoice, Dataset, SceneFiles, with_unlabelled
from rsedge_train.data.crops import CropConfig
from rsedge_train.fit.loop import FitConfig
from rsedge_train.fit.state import STATE_NAME, check_resumable
from rsedge_train.look.logbook import read_log
from rsedge_train.nets.complexity import complexity
from rsedge_train.run import folder as run_folder
from rsedge_train.run import pictures
from rsedge_train.run.folder import Run, load_network
from rsedge_train.run.request import Distillation, Job, NetChoice, Unlabelled
from rsedge_train.run.train import train

NETWORK = "mobilenetv3_small_100-w32-sep"
TABLE = ClassTable((ClassInfo("dark", (20, 20, 20)), ClassInfo("bright", (250, 250, 250))))


@pytest.fixture(scope="module", autouse=True)
def small_tiles():
    """Validation and sheets at the size of the toys."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_folder, "TILE", 96)
        patch.setattr(pictures, "SIDE", 96)
        yield


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Two training scenes and one to validate on; bright pixels are class 1."""
    import rasterio
    from rasterio.transform import Affine

    folder = tmp_path_factory.mktemp("scenes")
    rng = np.random.default_rng(0)
    scenes = []
    for name in "abc":
        coarse = rng.integers(0, 256, (3, 12, 12))
        image = np.kron(coarse, np.ones((1, 8, 8))).astype(np.uint8)
        labels = (image.mean(0) > 127).astype(np.uint8)[None]
        for pixels, end in ((image, ""), (labels, "_labels")):
            with rasterio.open(
                folder / f"{name}{end}.tif", "w", driver="GTiff", count=len(pixels), height=96, width=96,
                dtype="uint8", crs="EPSG:32631", transform=Affine(0.5, 0, 0, 0, -0.5, 0),
            ) as dst:  # fmt: skip
                dst.write(pixels)
        scenes.append(SceneFiles(name, name, folder / f"{name}.tif", folder / f"{name}_labels.tif"))
    return Dataset("toy", TABLE, tuple(scenes[:2]), (scenes[2],), notes=("a note",), gsd_m=(0.5, 0.5))


def job(out, **changes):
    plain = Job(
        role="student",
        out=out,
        net=NetChoice(NETWORK),
        crops=CropConfig(size=64, batch=2, seed=3),
        fit=FitConfig(steps=2, log_every=1),
        validate_epochs=0,
        device="cpu",
        workers=0,
    )
    return replace(plain, **changes)


@pytest.fixture(scope="module")
def alone(dataset, tmp_path_factory):
    """The folder of a student trained without a teacher."""
    folder = tmp_path_factory.mktemp("runs") / "alone"
    train(job(folder, source={"path": "x"}), dataset)
    return folder


def test_a_run_folder_says_what_was_trained(alone, dataset):
    run = Run.read(alone)
    assert (run.role, run.network, run.crop, run.bands) == ("student", NETWORK, 64, ("red", "green", "blue"))
    assert run.classes == TABLE.classes
    assert run.data["train"] == ["a", "b"]
    assert run.data["val"] == ["c"]
    assert run.data["source"] == {"path": "x"}
    assert sum(run.data["class_shares"].values()) == pytest.approx(1, abs=1e-3)
    assert run.progress["steps"] == 2
    assert run.progress["val_last"] == run.progress["val_best"]
    assert 0 <= run.progress["val_last"]["miou"] <= 1
    assert run.progress["val_last"]["pixels"] == 96 * 96
    assert run.teacher is None
    assert run.settings["fit"]["seed"] == 3
    assert [row["step"] for row in read_log(alone / "log.csv")] == [1, 2]
    for name in ("curves.png", "sheet.png"):
        with Image.open(alone / name) as picture:
            assert min(picture.size) > 200
    net, again = load_network(alone)
    assert again == run
    assert not net.training


def test_a_distilled_student_learns_from_it(alone, dataset, tmp_path):
    before = {p.name: p.read_bytes() for p in alone.iterdir() if p.is_file()}
    wanted = Distillation((alone,), "last", temperature=0.7)
    run = train(job(tmp_path / "d", distillation=wanted, compare=alone), dataset)
    assert {p.name: p.read_bytes() for p in alone.iterdir() if p.is_file()} == before
    assert run.teacher["network"] == NETWORK
    size = complexity(NETWORK, 2, tile=96)
    assert (run.teacher["params"], run.teacher["macs"]) == (size.params, size.macs)
    assert run.settings["distillation"]["temperature"] == 0.7
    row = read_log(tmp_path / "d" / "log.csv")[0]
    parts = sum(row[name] for name in ("ce", "dice", "inter", "intra"))
    assert row["loss"] == pytest.approx(parts, rel=1e-4)
    with Image.open(tmp_path / "d" / "sheet.png") as five, Image.open(alone / "sheet.png") as three:
        assert five.width > 1.5 * three.width


def test_several_teachers_and_views_teach_one_student(alone, dataset, tmp_path):
    train(job(tmp_path / "b"), dataset)
    wanted = Distillation((alone, tmp_path / "b"), "last", views=2)
    run = train(job(tmp_path / "d", distillation=wanted), dataset)
    assert run.teacher["network"] == f"{NETWORK} + {NETWORK}"
    assert [m["folder"] for m in run.teacher["members"]] == [str(alone), str(tmp_path / "b")]
    assert run.settings["distillation"]["teachers"] == [str(alone), str(tmp_path / "b")]
    one = train(job(tmp_path / "one", distillation=Distillation((alone,), "last")), dataset)
    assert one.progress["steps"] == run.progress["steps"]
    first, second = (read_log(tmp_path / name / "log.csv")[0] for name in ("d", "one"))
    assert first["ce"] == pytest.approx(second["ce"])  # the same first batch and weights
    assert first["intra"] != pytest.approx(second["intra"], rel=1e-3)  # another lesson


@pytest.fixture(scope="module")
def more(dataset, tmp_path_factory):
    """The data set with a raster without labels, elsewhere, a third of which is nodata."""
    image = np.random.default_rng(5).integers(1, 256, (3, 96, 96)).astype(np.uint8)
    image[:, :, :32] = 0
    path = save_tif(tmp_path_factory.mktemp("more") / "u.tif", image, nodata=0)
    return with_unlabelled(dataset, [path.parent])


def test_a_student_is_taught_on_imagery_without_labels(alone, dataset, more, tmp_path):
    for loss in ("dist", "kl"):
        wanted = Distillation((alone,), "last", unlabelled=Unlabelled(loss=loss, weight=0.5))
        run = train(job(tmp_path / loss, distillation=wanted, crops=CropConfig(size=64, batch=6)), more)
        plain = Run.read(alone).data
        own = {key: value for key, value in run.data.items() if key not in {"unlabelled", "source"}}
        assert own == {key: value for key, value in plain.items() if key != "source"}
        facts = run.data["unlabelled"]
        assert facts["names"] == [more.unlabelled[0].name]
        assert (facts["rasters"], facts["pixels"]) == (1, 64 * 96)
        assert run.settings["distillation"]["unlabelled"]["loss"] == loss
        assert run.progress["val_last"]["pixels"] == 96 * 96
        row = read_log(tmp_path / loss / "log.csv")[0]
        parts = sum(row[name] for name in ("ce", "dice", "inter", "intra"))
        assert row["loss"] == pytest.approx(parts + 0.5 * row["unlabelled"], rel=1e-4)
        assert 0 < row["confidence"] < 1
    with pytest.raises(InputError, match=r"unlabelled.share was 0.5, is now None; .*; unlabelled was"):
        train(job(tmp_path / "dist", resume=True, distillation=Distillation((alone,), "last")), dataset)


def test_imagery_without_labels_needs_a_teacher_and_shows_no_held_out_scene(alone, dataset, more, tmp_path):
    with pytest.raises(InputError, match=r"teaches nothing without a teacher. Give one with --teacher"):
        train(job(tmp_path / "d"), more)
    wanted = job(tmp_path / "d", distillation=Distillation((alone,), "last", unlabelled=Unlabelled()))
    with pytest.raises(InputError, match=r"has no unlabelled imagery. Give a folder with --unlabelled"):
        train(wanted, dataset)
    (tmp_path / "copy").mkdir()
    shutil.copy(dataset.val[0].image, tmp_path / "copy" / "other.tif")
    with pytest.raises(InputError, match=r"other.tif overlaps c of the val split, on which .* Leave it out"):
        train(wanted, with_unlabelled(dataset, [tmp_path / "copy"]))
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        {"share": 0},
        {"share": 1.5},
        {"loss": "mse"},
        {"confidence": "all"},
        {"weight": -1.0},
        {"weight": float("inf")},
    ],
)
def test_impossible_settings_of_unlabelled_imagery_are_refused(wrong):
    with pytest.raises(InputError, match=rf"^unlabelled {next(iter(wrong))} .*\. (Choose|0.5|1 is)"):
        Unlabelled(**wrong)


def test_shares_are_not_more_than_all(tmp_path):
    wanted = Distillation((tmp_path,), unlabelled=Unlabelled(share=0.7))
    with pytest.raises(InputError, match="more than 1 together. Lower one"):
        job(tmp_path, distillation=wanted, sample_share=0.4)


def test_a_finished_run_is_not_written_over_without_asking(alone, dataset):
    with pytest.raises(InputError, match=r"already holds a run. Resume with --resume, replace it with"):
        train(job(alone), dataset)


def test_a_run_can_be_resumed_and_replaced(dataset, tmp_path):
    first = train(job(tmp_path / "r"), dataset)
    weights = load_file(tmp_path / "r" / "weights.safetensors")
    again = train(job(tmp_path / "r", resume=True), dataset)
    assert again.progress["val_last"] == first.progress["val_last"]
    (tmp_path / "r" / "notes.txt").write_text("mine")
    replaced = train(job(tmp_path / "r", overwrite=True), dataset)
    assert (tmp_path / "r" / "notes.txt").read_text() == "mine"
    assert replaced.progress["val_last"] == first.progress["val_last"]
    assert all((weights[k] == v).all() for k, v in load_file(tmp_path / "r" / "weights.safetensors").items())


def test_other_data_are_not_gone_on_with(alone, dataset, tmp_path):
    fewer = replace(dataset, train=dataset.train[:1])
    with pytest.raises(InputError, match=r"belongs to another run: data was"):
        train(job(alone, resume=True), fewer)
    more = ClassTable((*TABLE.classes, ClassInfo("third", (1, 2, 3))))
    with pytest.raises(InputError, match=r"classes was \['dark', 'bright'\], is now .*'third'"):
        train(job(alone, resume=True), replace(dataset, table=more))
    with pytest.raises(InputError, match="nothing to resume"):
        train(job(tmp_path / "nothing", resume=True), dataset)


def test_a_teacher_that_does_not_fit_is_refused(alone, dataset, tmp_path):
    wanted = job(tmp_path / "d", distillation=Distillation((alone,)))
    other = ClassTable((ClassInfo("dark", (20, 20, 20)), ClassInfo("light", (250, 250, 250))))
    with pytest.raises(InputError, match="has the classes dark, bright, but the data has dark, light"):
        train(wanted, replace(dataset, table=other))
    with pytest.raises(InputError, match="reads red, green, blue, but the data gives nir, red, green"):
        train(wanted, replace(dataset, bands=BandChoice(("nir", "red", "green"))))
    with pytest.raises(InputError, match=r"is not a run folder: .*rsedge train-teacher"):
        train(job(tmp_path / "d", distillation=Distillation((tmp_path / "none",))), dataset)
    assert not (tmp_path / "d").exists()


def test_a_student_is_not_scored_on_what_its_teacher_saw(alone, dataset, tmp_path):
    turned = replace(dataset, train=(dataset.val[0], dataset.train[1]), val=dataset.train[:1])
    with pytest.raises(
        InputError, match="the teacher was trained on a, which the student would be scored on"
    ):
        train(job(tmp_path / "d", distillation=Distillation((alone,))), turned)


def test_an_unfinished_teacher_does_not_teach(alone, dataset, tmp_path):
    Run.read(alone).write(tmp_path)
    with pytest.raises(InputError, match=r"is not finished. Resume with .*--resume"):
        train(job(tmp_path / "d", distillation=Distillation((tmp_path,))), dataset)


def test_a_resumed_run_begins_as_it_did(alone, dataset):
    other = NetChoice(NETWORK, encoder_weights="hub")  # and asks no hub for weights that the state holds
    with pytest.raises(InputError, match="encoder_weights was False, is now True"):
        train(job(alone, net=other, resume=True), dataset)


def test_damaged_images_are_left_out_on_every_side(dataset, tmp_path):
    def damaged(entry):
        path = tmp_path / f"bad_{entry.name}.tif"
        path.write_bytes(entry.image.read_bytes()[:9000])
        return replace(entry, name=f"bad_{entry.name}", scene=f"bad_{entry.name}", image=path)

    more = replace(
        dataset,
        train=(*dataset.train, damaged(dataset.train[0])),
        val=(*dataset.val, damaged(dataset.val[0])),
    )
    with pytest.raises(InputError, match=r"bad_c\.tif cannot be read"):
        train(job(tmp_path / "stop"), more)
    run = train(job(tmp_path / "skip", skip_damaged=True), more)
    assert run.data["left_out"] == ["bad_a", "bad_c"]
    assert (run.data["train"], run.data["val"]) == (["a", "b"], ["c"])


def test_neighbours_on_both_sides_are_said(dataset, tmp_path, caplog):
    train(job(tmp_path / "d"), dataset)  # all toys lie in one place
    assert "train and val overlap on the ground" in caplog.text


def test_a_run_does_not_write_over_its_teacher(alone, dataset):
    before = (alone / "weights.safetensors").read_bytes()
    for changes in ({"distillation": Distillation((alone,))}, {"compare": alone}):
        with pytest.raises(InputError, match="is the teacher's or the compared run"):
            train(job(alone, overwrite=True, **changes), dataset)
    assert (alone / "weights.safetensors").read_bytes() == before


def test_what_is_wanted_only_at_the_end_is_looked_at_first(dataset, tmp_path):
    with pytest.raises(InputError, match="is not a run folder"):
        train(job(tmp_path / "d", compare=tmp_path / "none"), dataset)
    wrong = replace(dataset.val[0], label=dataset.val[0].image)
    with pytest.raises(InputError, match="colours belong to no class"):
        train(job(tmp_path / "d"), replace(dataset, val=(wrong,)))
    assert not (tmp_path / "d").exists()


def test_weights_of_another_network_are_refused(alone, dataset, tmp_path):
    start = NetChoice("mobilenetv3_small_100-w64", start=alone / "weights.safetensors")
    with pytest.raises(ModelError, match=r"does not match mobilenetv3_small_100-w64: .* instead of "):
        train(job(tmp_path / "d", net=start), dataset)


def test_one_class_is_no_segmentation(dataset, tmp_path):
    single = ClassTable((ClassInfo("all", (1, 1, 1)),))
    with pytest.raises(InputError, match="only one class"):
        train(job(tmp_path / "d"), replace(dataset, table=single))


def test_a_place_that_cannot_be_written(dataset, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="is a file. Give a folder with --out"):
        train(job(tmp_path / "file"), dataset)
    with pytest.raises(OutputError, match=r"cannot be written"):
        train(job(tmp_path / "file" / "below"), dataset)


def test_epochs_cover_the_area_and_class_weights_favour_the_rare(dataset, tmp_path):
    run = train(job(tmp_path / "e", epochs=2, class_weights=True, fit=FitConfig(steps=1)), dataset)
    assert run.progress["steps"] == 2 * -(-2 * 96 * 96 // (64 * 64 * 2))
    assert json.loads((tmp_path / "e" / "run.json").read_text())["settings"]["class_weights"] is True


def test_a_temperature_of_zero_is_refused():
    with pytest.raises(InputError, match=r"temperature 0: not above 0"):
        Distillation((Path("x"),), temperature=0)


@pytest.mark.parametrize("unlabelled", [None, Unlabelled()])
def test_a_run_killed_at_any_moment_goes_on_to_the_same_weights(alone, dataset, more, tmp_path, unlabelled):
    """A process of its own, with a worker of its own, killed while it trains and saves."""
    scenes = replace(more if unlabelled else dataset, val=())
    wanted = Distillation((alone,), "last", unlabelled=unlabelled)
    fitting = FitConfig(steps=14, save_every_s=0)
    crops = CropConfig(size=64, batch=2, seed=3, mosaic=0.3)
    killed = job(tmp_path / "killed", fit=fitting, crops=crops, workers=1, distillation=wanted)
    (tmp_path / "job").write_bytes(pickle.dumps((killed, scenes)))
    code = "import pickle, sys; from rsedge_train.run.train import train; train(*pickle.load(open(sys.argv[1], 'rb')))"
    state = tmp_path / "killed" / STATE_NAME
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "job")]) as process:
        try:
            while process.poll() is None and not (state.exists() and check_resumable(state).step >= 3):
                time.sleep(0.005)
        finally:
            process.kill()
    assert process.returncode == -9, "it had ended before it could be killed"
    train(replace(killed, resume=True), scenes)
    train(replace(killed, out=tmp_path / "whole"), scenes)
    for name in ("weights.safetensors", STATE_NAME):
        one, other = (load_file(tmp_path / run / name) for run in ("killed", "whole"))
        assert one.keys() == other.keys()
        assert all(torch.equal(one[k], v) for k, v in other.items())
    assert not list((tmp_path / "killed").glob(".*"))
