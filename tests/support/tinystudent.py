"""A student of the INT8 family on an encoder of five convolutions, for tests of what trains and deploys it."""

from __future__ import annotations

from typing import Any

import pytest
from torch import Tensor, nn

from rsedge_train.nets import registry
from rsedge_train.nets.layers import conv_bn_act

TINY = "tiny-w16-fine-int8"
CHANNELS = (8, 12, 16, 24)


class TinyEncoder(nn.Module):
    """f1..f4 at strides 4, 8, 16 and 32."""

    def __init__(self) -> None:
        super().__init__()
        sides = ((3, 8), (8, 8), (8, 12), (12, 16), (16, 24))
        self.layers = nn.ModuleList(conv_bn_act(*side, stride=2, act="relu6") for side in sides)

    def forward(self, x: Tensor) -> list[Tensor]:
        features = []
        for layer in self.layers:
            x = layer(x)
            features.append(x)
        return features[1:]


def use_tiny(patch: pytest.MonkeyPatch) -> None:
    """Make ``registry.build(TINY, ...)`` build on this encoder."""

    def build_encoder(*_: Any, **__: Any) -> tuple[nn.Module, tuple[int, ...]]:
        return TinyEncoder(), CHANNELS

    patch.setattr(registry, "build_encoder", build_encoder)
