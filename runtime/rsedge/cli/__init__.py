"""The command line: one module per command, each of which parses, calls one library function and prints."""

from rsedge.cli.main import app, main

__all__ = ["app", "main"]
