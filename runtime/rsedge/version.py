"""The version, from one place: the installed distribution."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("rsedge")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0+unknown"
