"""The command line: one module a command; each parses, calls one library function, prints."""

from rsedge.cli.main import app, main

__all__ = ["app", "main"]
