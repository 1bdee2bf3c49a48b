"""``python -m rsedge``."""

from rsedge.cli import main

main()
