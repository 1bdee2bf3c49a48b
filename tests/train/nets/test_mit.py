import pytest
import torch

from rsedge.errors import InputError
from rsedge_train.nets.mit import MIT, DropPath, MiT, MiTConfig


@pytest.mark.parametrize(("name", "params"), [("mit_b0", 3_319_392), ("mit_b1", 13_151_424)])
def test_parameters_of_the_published_encoders(name, params):
    with torch.device("meta"):
        assert sum(p.numel() for p in MiT(MIT[name]).parameters()) == params


def test_four_levels():
    features = MiT(MIT["mit_b0"]).eval()(torch.randn(2, 3, 64, 96))
    assert [tuple(f.shape) for f in features] == [
        (2, 32, 16, 24),
        (2, 64, 8, 12),
        (2, 160, 4, 6),
        (2, 256, 2, 3),
    ]


def test_a_configuration_checks_itself():
    with pytest.raises(InputError, match="heads"):
        MiTConfig((32, 64, 161, 256))
    with pytest.raises(InputError, match="drop_path"):
        MiTConfig((32, 64, 160, 256), drop_path=1.0)


def test_drop_path_keeps_the_expectation_and_drops_whole_samples():
    torch.manual_seed(0)
    drop = DropPath(0.25).train()
    out = drop(torch.ones(4000, 2, 3))
    assert out.flatten(1).unique(dim=1).shape[1] == 1
    torch.testing.assert_close(out.unique(), torch.tensor([0.0, 1 / 0.75]))
    assert float(out.mean()) == pytest.approx(1.0, abs=0.05)
    assert torch.equal(drop.eval()(torch.ones(4, 2, 3)), torch.ones(4, 2, 3))
