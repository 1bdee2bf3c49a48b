import pytest
import torch

from rsedge.errors import InputError, ModelError
from rsedge_train.nets.sam2_trunk import (
    VARIANTS,
    SAM2Variant,
    build_trunk,
    fetch_checkpoint,
    load_trunk,
    variant,
)

TINY = variant("sam2.1-hiera-tiny")


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    """A checkpoint in the official format: the whole SAM2.1 tiny, saved as {"model": state_dict}."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # hydra's and omegaconf's
        from sam2.build_sam import build_sam2

        torch.manual_seed(3)
        model = build_sam2("configs/sam2.1/sam2.1_hiera_t.yaml", device="cpu")
    path = tmp_path_factory.mktemp("sam2") / TINY.checkpoint
    torch.save({"model": model.state_dict()}, path)
    return path, model.image_encoder.trunk.eval()


def test_eight_variants_with_official_names():
    assert len(VARIANTS) == 8
    assert variant("facebook/sam2.1-hiera-base-plus").checkpoint == "sam2.1_hiera_base_plus.pt"
    assert variant("sam2-hiera-large").repository == "facebook/sam2-hiera-large"
    with pytest.raises(InputError, match=r"sam2\.1-hiera-tiny"):
        variant("sam3-huge")
    with pytest.raises(InputError, match="release"):
        SAM2Variant("tiny", "sam9", "t", (1, 2, 3, 4))


@pytest.mark.parametrize(
    "name", ["sam2-hiera-tiny", "sam2.1-hiera-tiny", "sam2.1-hiera-small", "sam2-hiera-base-plus"]
)
def test_trunks_have_the_channels_they_announce(name):
    trunk = build_trunk(variant(name))
    assert tuple(reversed(trunk.channel_list)) == variant(name).channels


def test_an_official_checkpoint_loads_to_the_last_bit(official):
    path, reference = official
    trunk = build_trunk(TINY).eval()
    load_trunk(trunk, path, TINY)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for ours, theirs in zip(trunk(x), reference(x), strict=True):
            assert torch.equal(ours, theirs)


def test_a_missing_checkpoint_names_the_file(tmp_path):
    with pytest.raises(ModelError, match=r"sam2\.1_hiera_tiny\.pt"):
        load_trunk(build_trunk(TINY), tmp_path / "absent.pt", TINY)


@pytest.mark.parametrize("size", [0, 100, 1_000_000])
def test_a_truncated_checkpoint_names_the_file(official, tmp_path, size):
    path = tmp_path / "cut.pt"
    path.write_bytes(official[0].read_bytes()[:size])
    with pytest.raises(ModelError, match=r"truncated.*sam2\.1_hiera_tiny\.pt"):
        load_trunk(build_trunk(TINY), path, TINY)


def test_a_checkpoint_of_another_size_names_the_file(official):
    small = variant("sam2.1-hiera-small")
    with pytest.raises(ModelError, match=r"another size.*sam2\.1_hiera_small\.pt"):
        load_trunk(build_trunk(small), official[0], small)


def test_other_files_are_refused(tmp_path):
    torch.save({"weights": {}}, tmp_path / "a.pt")
    torch.save({"model": {"head.weight": torch.zeros(1)}}, tmp_path / "b.pt")
    for name, words in (("a.pt", "no .model. state dict"), ("b.pt", "no keys image_encoder")):
        with pytest.raises(ModelError, match=words):
            load_trunk(build_trunk(TINY), tmp_path / name, TINY)


def test_a_pickle_with_code_is_not_run(tmp_path):
    class Harm:
        def __reduce__(self):
            return print, ("ran",)

    torch.save({"model": Harm()}, tmp_path / "harm.pt")
    with pytest.raises(ModelError, match="Give the official file"):
        load_trunk(build_trunk(TINY), tmp_path / "harm.pt", TINY)


def test_no_hub_names_the_file(monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", offline)
    with pytest.raises(ModelError, match=r"offline.*sam2\.1_hiera_tiny\.pt"):
        fetch_checkpoint(TINY)


def test_a_missing_package_prints_the_command(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sam2.modeling.backbones.hieradet", None)
    with pytest.raises(ModelError, match=r'pip install "rsedge\[train\]"'):
        build_trunk(TINY)
