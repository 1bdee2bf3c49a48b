"""Child processes of this Python that import modules only from this process's own paths."""

from __future__ import annotations

import sys

CODE = (
    "import sys; sys.path[:] = {path!r}; import runpy; runpy.run_module({module!r}, None, '__main__', True)"
)


def module_command(module: str) -> list[str]:
    """Return the command that runs a module like ``python -m``; append the module's arguments.

    ``-m`` itself searches the current folder first, which may hold another user's code.
    """
    return [sys.executable, "-c", CODE.format(path=sys.path, module=module)]
