"""Other processes of this Python: what they import comes from where this one's modules come from, and nowhere else."""

from __future__ import annotations

import sys

CODE = (
    "import sys; sys.path[:] = {path!r}; import runpy; runpy.run_module({module!r}, None, '__main__', True)"
)


def module_command(module: str) -> list[str]:
    """The command that runs a module as ``python -m`` does, its arguments to be put behind it.

    ``-m`` looks for every module in the current folder first, which may be somebody else's work.
    """
    return [sys.executable, "-c", CODE.format(path=sys.path, module=module)]
