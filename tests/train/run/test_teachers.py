"""What a student learns from: one teacher's logits, or the mean probability of several and of turned views."""

import pytest
import torch
from torch import nn

from rsedge.errors import InputError
from rsedge_train.run.request import Distillation
from rsedge_train.run.teachers import VIEWS, Teachers, teacher_facts, turn, turn_back


class Shifted(nn.Module):
    """Scores that depend on the place: not the same for a turned crop."""

    def __init__(self, shift):
        super().__init__()
        self.ramp = nn.Parameter(torch.linspace(-1, 1, 8).view(1, 1, 1, 8) * shift)

    def forward(self, x):
        return torch.cat([x[:, :1] + self.ramp, x[:, 1:2] * 2 - self.ramp, x[:, 2:]], 1)


@pytest.fixture
def images():
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def test_one_teacher_and_one_view_answer_their_logits(images):
    net = Shifted(1.0)
    answer = Teachers([net])(images)
    assert torch.equal(answer, net(images))
    assert not answer.requires_grad


@pytest.mark.parametrize("views", VIEWS[1:])
def test_several_are_the_mean_probability_over_networks_and_views(images, views):
    nets = [Shifted(1.0), Shifted(-2.0)]
    answer = Teachers(nets, views)(images).softmax(1)
    expected = torch.stack(
        [turn_back(net(turn(images, v)), v).softmax(1) for net in nets for v in range(views)]
    ).mean(0)
    torch.testing.assert_close(answer, expected, rtol=1e-5, atol=1e-6)


def test_the_views_are_the_eight_of_a_square_and_are_undone(images):
    seen = set()
    for view in range(8):
        turned = turn(images, view)
        assert torch.equal(turn_back(turned, view), images)
        seen.add(turned.numpy().tobytes())
    assert len(seen) == 8


def test_mean_over_all_views_does_not_change_when_the_crop_is_turned(images):
    teachers = Teachers([Shifted(1.5)], 8)
    straight = teachers(images)
    turned = teachers(torch.rot90(images, 1, (-2, -1)))
    torch.testing.assert_close(torch.rot90(straight, 1, (-2, -1)), turned, rtol=1e-5, atol=1e-5)


def test_half_precision_answers_are_averaged_in_float32(images):
    with torch.autocast("cpu", torch.bfloat16):
        assert Teachers([nn.Conv2d(3, 3, 1)], 2)(images).dtype == torch.float32


def test_facts_of_several_are_sums_and_each_one(tmp_path):
    class Member:
        def __init__(self, name):
            self.facts = {"folder": name, "network": name, "weights": "w", "sha256": name * 2, "params": 3,
                          "macs": 5, "macs_tile": 512, "size_bytes": 7, "val": {"miou": 0.5}}  # fmt: skip

    assert teacher_facts([Member("a")])["network"] == "a"
    both = teacher_facts([Member("a"), Member("b")])
    assert (both["network"], both["params"], both["macs"], both["size_bytes"]) == ("a + b", 6, 10, 14)
    assert (both["val"], [m["network"] for m in both["members"]]) == (None, ["a", "b"])


def test_impossible_choices_are_refused(tmp_path):
    with pytest.raises(InputError, match="3 teacher views: not supported. Choose one of 1, 2, 4, 8"):
        Distillation((tmp_path,), views=3)
    with pytest.raises(InputError, match="no teacher"):
        Distillation(())
