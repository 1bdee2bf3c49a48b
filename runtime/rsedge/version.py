"""The version of the installed distribution."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("rsedge")
except PackageNotFoundError:  # running from a source tree that is not installed
    __version__ = "0+unknown"
