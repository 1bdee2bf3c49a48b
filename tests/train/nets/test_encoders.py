import re

import pytest
import timm
import torch
from safetensors.torch import save_file

from rsedge.errors import InputError, ModelError
from rsedge_train.nets.encoders import _MIT_KEYS, build_encoder
from rsedge_train.nets.mit import MIT, MiT


@pytest.mark.parametrize(
    ("backbone", "channels"),
    [
        ("mobilenetv3_small_100", (16, 24, 48, 576)),
        ("segformer_b0", (32, 64, 160, 256)),
        ("mit_b0", (32, 64, 160, 256)),
        ("resnet18", (64, 128, 256, 512)),
        ("convnext_atto", (40, 80, 160, 320)),  # four levels: timm counts them from 0
    ],
)
def test_features_at_four_strides(backbone, channels):
    encoder, found = build_encoder(backbone)
    assert found == channels
    features = encoder.eval()(torch.randn(1, 3, 64, 64))
    assert [tuple(f.shape) for f in features] == [(1, c, 16 >> i, 16 >> i) for i, c in enumerate(channels)]


@pytest.mark.parametrize("backbone", ["nosuchnet", "vit_tiny_patch16_224"])
def test_other_backbones_are_refused_naming_what_is_allowed(backbone):
    with pytest.raises(InputError, match="efficientnet_b0, .*timm backbone with features at strides"):
        build_encoder(backbone)


def published(mit):
    """The state dict as ``transformers`` publishes it, by the loader's table read backwards."""
    names = {
        r"^stages\.(\d)\.embed\.norm\.": r"encoder.patch_embeddings.\1.layer_norm.",
        r"^stages\.(\d)\.embed\.proj\.": r"encoder.patch_embeddings.\1.proj.",
        r"^stages\.(\d)\.norm\.": r"encoder.layer_norm.\1.",
        r"^stages\.(\d)\.blocks\.(\d)\.": r"encoder.block.\1.\2.",
        r"\.attention\.q\.": ".attention.self.query.",
        r"\.attention\.k\.": ".attention.self.key.",
        r"\.attention\.v\.": ".attention.self.value.",
        r"\.attention\.reduce\.": ".attention.self.sr.",
        r"\.attention\.norm\.": ".attention.self.layer_norm.",
        r"\.attention\.proj\.": ".attention.output.dense.",
        r"\.norm(\d)\.": r".layer_norm_\1.",
        r"\.ffn\.fc(\d)\.": r".mlp.dense\1.",
        r"\.ffn\.depthwise\.": ".mlp.dwconv.dwconv.",
    }
    state = {}
    for key, value in mit.state_dict().items():
        new = key
        for pattern, replacement in names.items():
            new = re.sub(pattern, replacement, new)
        state[f"segformer.{new}"] = value
    return state


def test_published_mit_weights_load_from_both_formats(tmp_path):
    assert _MIT_KEYS
    source = MiT(MIT["mit_b0"]).eval()
    state = published(source)
    assert "segformer.encoder.block.2.1.attention.self.sr.weight" in state
    torch.save({**state, "classifier.weight": torch.zeros(3, 3)}, tmp_path / "pytorch_model.bin")
    save_file(state, tmp_path / "model.safetensors")
    x = torch.randn(1, 3, 64, 64)
    for name in ("pytorch_model.bin", "model.safetensors"):
        encoder, _ = build_encoder("segformer_b0", pretrained=tmp_path / name)
        assert torch.equal(encoder.eval()(x)[3], source(x)[3])


def test_mit_is_the_encoder_transformers_has(tmp_path):
    """The same weights give the same features as the library they were published with."""
    transformers = pytest.importorskip("transformers")
    theirs = transformers.SegformerModel(transformers.SegformerConfig()).eval()
    theirs.save_pretrained(tmp_path)
    ours, _ = build_encoder("mit_b0", pretrained=tmp_path / "model.safetensors")
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = theirs(x).last_hidden_state
        torch.testing.assert_close(ours.eval()(x)[3], expected, rtol=1e-4, atol=1e-5)


def test_wrong_mit_files_say_what_is_expected(tmp_path):
    with pytest.raises(ModelError, match="Give pytorch_model"):
        build_encoder("mit_b0", pretrained=tmp_path / "absent.bin")
    torch.save(published(MiT(MIT["mit_b0"])), tmp_path / "b0.bin")
    with pytest.raises(ModelError, match="does not match"):
        build_encoder("mit_b1", pretrained=tmp_path / "b0.bin")
    (tmp_path / "cut.bin").write_bytes((tmp_path / "b0.bin").read_bytes()[:1000])
    with pytest.raises(ModelError, match="truncated"):
        build_encoder("mit_b0", pretrained=tmp_path / "cut.bin")


def test_timm_weights_load_from_a_file(tmp_path):
    source = timm.create_model("mobilenetv3_small_050")
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    encoder, _ = build_encoder("mobilenetv3_small_050", pretrained=str(tmp_path / "weights.pth"))
    assert torch.equal(encoder.state_dict()["conv_stem.weight"], source.state_dict()["conv_stem.weight"])
    with pytest.raises(ModelError, match="timm checkpoint"):
        build_encoder("mobilenetv3_small_050", pretrained=tmp_path / "absent.pth")


def test_no_hub_says_what_to_do(monkeypatch):
    def offline(name, pretrained=False, **options):
        if pretrained:
            raise OSError("no route to host")
        return real(name, pretrained=pretrained, **options)

    real = timm.create_model
    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(ModelError, match=r"offline.*pretrained=False.*HF_HOME"):
        build_encoder("mobilenetv3_small_050", pretrained=True)

    def no_download(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", no_download)
    with pytest.raises(ModelError, match=r"nvidia/mit-b0 .*offline"):
        build_encoder("segformer_b0", pretrained=True)
