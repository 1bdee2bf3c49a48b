"""The networks of both papers, built from one small set of parts."""

from .arafnet import ARAFNet
from .configs import ARAFNetConfig
from .registry import build_student

__all__ = ["ARAFNet", "ARAFNetConfig", "build_student"]
