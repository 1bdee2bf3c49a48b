"""run.json goes and comes; weights are found and checked."""

import json

import pytest
import torch

from rsedge.errors import InputError, ModelError
from rsedge.model.manifest import ClassInfo
from rsedge_train.fit.state import save_weights
from rsedge_train.nets.registry import build
from rsedge_train.run.folder import Run, load_network, weights_path

NETWORK = "mobilenetv3_small_100-w32-sep"
RUN = Run(
    role="student",
    network=NETWORK,
    classes=(ClassInfo("a", (1, 2, 3)), ClassInfo("b", (4, 5, 6))),
    bands=("red", "green", "blue"),
    crop=64,
    gsd_m=(0.1, 0.2),
    uncounted=("b",),
    teacher={"network": "arafnet-t"},
)


def test_it_goes_and_comes(tmp_path):
    RUN.write(tmp_path)
    assert Run.read(tmp_path) == RUN
    manifest = RUN.manifest("m")
    assert (manifest.tile, manifest.gsd_m, manifest.classes) == (512, (0.1, 0.2), RUN.classes)


def test_a_folder_that_is_no_run(tmp_path):
    with pytest.raises(InputError, match=r"is not a run folder: .*rsedge train-teacher"):
        Run.read(tmp_path)
    for text in ("", "{}", "[]", "[" * 100_000, json.dumps({"rsedge_run_schema": 1, "role": "x"})):
        (tmp_path / "run.json").write_text(text)
        with pytest.raises(InputError, match=r"run\.json cannot be read"):
            Run.read(tmp_path)
    (tmp_path / "run.json").write_text(json.dumps({"rsedge_run_schema": 99}))
    with pytest.raises(InputError, match="another version"):
        Run.read(tmp_path)


def test_best_falls_back_to_last(tmp_path):
    with pytest.raises(InputError, match="is not finished"):
        weights_path(tmp_path)
    for name in ("weights", "best"):
        (tmp_path / f"{name}.safetensors").touch()
        assert weights_path(tmp_path).stem == name
    assert weights_path(tmp_path, "last").stem == "weights"
    with pytest.raises(InputError, match="Choose best or last"):
        weights_path(tmp_path, "worst")


def test_a_network_comes_back_with_unreached_taps_folded(tmp_path):
    RUN.write(tmp_path)
    net = build(NETWORK, 2).eval()
    save_weights(tmp_path / "weights.safetensors", net)
    whole, folded = (load_network(tmp_path, fold=fold)[0] for fold in (False, True))
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(whole(x), net(x))
        torch.testing.assert_close(folded(x), net(x), rtol=1e-4, atol=1e-4)
    assert sum(p.numel() for p in folded.parameters()) < sum(p.numel() for p in net.parameters())


def test_weights_that_are_damaged_or_of_another_network(tmp_path):
    RUN.write(tmp_path)
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"not safetensors")
    with pytest.raises(ModelError, match="not a complete safetensors file"):
        load_network(tmp_path)
    save_weights(path, build(NETWORK, 3))
    with pytest.raises(ModelError, match=rf"does not match {NETWORK}: 2 of \d+ tensors differ, first .*\(3"):
        load_network(tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("crop", None), ("crop", "64"), ("crop", 10**9), ("network", 5), ("role", []), ("uncounted", [1]), ("data", []),
        ("teacher", "x"), ("gsd_m", ["a", "b"]), ("bands", [5, 6, 7]), ("classes", [{"name": "a", "color": "red"}]),
    ],
)  # fmt: skip
def test_a_value_of_another_kind_is_an_input_error(tmp_path, key, value):
    RUN.write(tmp_path)
    path = tmp_path / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(InputError, match=r"run\.json cannot be read"):
        Run.read(tmp_path)


@pytest.mark.parametrize("text", ["null", '"x"', "5"])
def test_json_that_is_no_object_is_no_run(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(InputError, match=r"run\.json cannot be read"):
        Run.read(tmp_path)
