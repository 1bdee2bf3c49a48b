"""What must not be narrowed: modules to keep in fp32 under fp16, and in float under INT8.

Names are those of ``named_modules``; ``torch.onnx.export(dynamo=True)`` writes them into each
node's ``pkg.torch.onnx.name_scopes`` metadata, where the export stage finds them.
"""

from __future__ import annotations

from torch import nn

from .maca import L2Norm, SpatialSoftmax
from .maflnet import Gaussian

#: fp16 overflows or loses these: sums over all tokens (XCA's norms: 16384 squares at stride 4 of a
#: 512 tile), LayerNorm's variance, the spatial softmax's sum of exponentials.
FP32_TYPES = (nn.LayerNorm, L2Norm, SpatialSoftmax)
#: INT8 moreover spoils the Gaussian: its error is of the size of the edges it is there to find.
FLOAT_TYPES = (*FP32_TYPES, Gaussian)
#: ONNX operators to leave in float under INT8, wherever they stand.
FLOAT_OPERATORS = ("Softmax", "LayerNormalization", "ReduceL2", "LpNormalization")


def fp32_modules(net: nn.Module) -> tuple[str, ...]:
    """Names of the modules that stay fp32 in an fp16 graph; empty for purely convolutional nets."""
    return tuple(name for name, module in net.named_modules() if isinstance(module, FP32_TYPES))


def int8_float_modules(net: nn.Module) -> tuple[str, ...]:
    """Names of the modules that stay in float in an INT8 graph (see ``FLOAT_OPERATORS`` too)."""
    return tuple(name for name, module in net.named_modules() if isinstance(module, FLOAT_TYPES))
