from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from rsedge import InputError
from rsedge.bench import BenchOptions, Contender, bench
from rsedge.bench.facts import TEACHER
from rsedge.cli.bench import OPENER
from rsedge_train.fit.state import LAST_NAME
from rsedge_train.nets.complexity import macs, parameters
from rsedge_train.nets.registry import build
from rsedge_train.run.bench_teacher import open_teacher
from rsedge_train.run.folder import Run
from toys import CLASSES, TILE, make_bundle, pointwise_graph, pointwise_manifest

NETWORK = "mobilenetv3_small_100-w32-sep"
SCORES = {"miou": 0.5, "oa": 0.75, "iou": {"red": 0.5, "green": 0.5, "blue": 0.5}}


@pytest.fixture(autouse=True)
def _threads_as_they_were() -> Iterator[None]:
    """A teacher's threads are its process's; here that is everybody's, and sums depend on their number."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    manifest = pointwise_manifest()
    return make_bundle(tmp_path_factory.mktemp("m") / "student.rsedge", manifest, pointwise_graph(manifest))


def make_run(folder: Path, **changes: object) -> Path:
    folder.mkdir()
    facts = Run("teacher", NETWORK, CLASSES, ("red", "green", "blue"), 64, data={"val": ["c"]})
    replace(facts, progress={"val_best": SCORES}, **changes).write(folder)  # type: ignore[arg-type]
    torch.manual_seed(0)
    save_file(build(NETWORK, len(CLASSES)).state_dict(), folder / LAST_NAME)
    return folder


def contender(path: Path | str, student: Path) -> Contender:
    return Contender(str(path), "torch", None, 1, TEACHER, OPENER, str(student))


def test_a_run_is_measured_beside_its_student(student: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path / "teacher")
    options = BenchOptions(1, 0, TILE + 1, "cpu", threads=1)
    found = bench([student], options, contender(run, student))
    teacher, own = found.rows
    assert (found.base, teacher.label, teacher.backend, teacher.provider) == ("T", "T", "torch", "cpu")
    assert (teacher.cost.network, teacher.tile) == (NETWORK, TILE)
    assert teacher.size_bytes == (run / LAST_NAME).stat().st_size
    assert teacher.accuracy is not None
    assert (teacher.accuracy.miou, teacher.accuracy.source) == (0.5, "run.json: validation on c")
    assert teacher.end_to_end is not None
    assert own.fps_ratio[8] is not None
    assert own.end_to_end is not None
    assert own.end_to_end.ratio is not None


def test_its_answers_are_the_networks(student: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path / "teacher")
    backend, facts = open_teacher(contender(run, student))
    net = build(NETWORK, len(CLASSES)).eval()
    assert facts["cost"]["params"] == parameters(net)
    assert facts["cost"]["macs"] == macs(net, TILE)
    tile = np.random.default_rng(0).integers(0, 256, (1, 3, TILE, TILE), np.uint8)
    assert backend.infer(tile).shape == (1, len(CLASSES), TILE, TILE)
    assert backend.copy_s["copy_in"] > 0
    assert backend.copy_s["copy_out"] > 0


def test_a_name_is_a_network_with_random_weights(student: Path) -> None:
    backend, facts = open_teacher(contender(NETWORK, student))
    assert backend.bundle.manifest.classes == CLASSES
    assert "random" in facts["notes"][0]
    assert facts["cost"]["network"] == NETWORK


def test_other_classes_are_refused(student: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path / "teacher", classes=CLASSES[:2])
    with pytest.raises(InputError, match=r"trained on red, green in .*strongest-band has red, green, blue"):
        bench([student], BenchOptions(device="cpu"), contender(run, student))


def test_neither_run_nor_network(student: Path) -> None:
    with pytest.raises(InputError, match="runs/none: neither"):
        open_teacher(contender("runs/none", student))
