import pytest
import torch

from rsedge.errors import InputError
from rsedge_train.nets.authors import TABLE_4, Printed, authors_count
from rsedge_train.nets.complexity import build_weightless
from rsedge_train.nets.table import model_row


@pytest.mark.parametrize("name", TABLE_4)
def test_table_4_comes_out_of_the_networks(name):
    """Parameters to the printed digits, operations within 0.1 %, sizes within 0.1 MB: all ten rows."""
    row, printed = model_row(name).paper, TABLE_4[name]
    assert round(row.params_m, 2) == printed.params_m
    assert row.flops_g == pytest.approx(printed.flops_g, rel=1e-3)
    assert row.size_mb == pytest.approx(printed.size_mb, abs=0.1)


def test_counting_takes_its_hooks_away_again():
    net = build_weightless("mobilenetv3_small_100-w32-sep", 6).eval()
    first = authors_count(net)
    assert authors_count(net) == first
    assert not any(module._forward_hooks for module in net.modules())


def test_thops_rules_on_single_layers():
    conv = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.BatchNorm2d(8)).eval().to("meta")
    pixels = 512 * 512
    assert authors_count(conv).operations == 8 * (pixels * 8 * 27 + 4 * pixels * 8 + 11 * pixels * 8)
    assert authors_count(conv).params == 8 * 27 + 8 + 16


def test_a_printed_row_checks_itself():
    with pytest.raises(InputError):
        Printed(0, 1, 1, 1, 1)
