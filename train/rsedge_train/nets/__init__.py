"""Networks of both papers, built from one small set of parts.

``registry`` builds by name, ``complexity`` and ``table`` count, ``deploy`` rewrites exactly for
deployment. (``complexity.complexity`` and ``deploy.deploy`` are not exported, as they would hide their modules.)
"""

from .arafnet import ARAFNet
from .complexity import Complexity, summary
from .configs import ARAFNetConfig, MAFLNetConfig
from .maflnet import MAFLNet
from .network import SegNet
from .registry import build, build_student, names
from .table import models_table

__all__ = [
    "ARAFNet",
    "ARAFNetConfig",
    "Complexity",
    "MAFLNet",
    "MAFLNetConfig",
    "SegNet",
    "build",
    "build_student",
    "models_table",
    "names",
    "summary",
]
