"""The ``rsedge doctor`` command."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import typer

from rsedge.cli import common, flags
from rsedge.text import columns

if TYPE_CHECKING:
    from rsedge.doctor.facts import Checkup, Finding, Machine, Measured, Way

UNMEASURED = "not measured: `rsedge verify`"
MARKS = {"ok": "", "missing": "not installed", "failed": "FAILS: "}


def doctor(model: flags.Model = None, as_json: flags.Json = False, quiet: flags.Quiet = False) -> None:
    """Show what is on this machine, what rsedge runs here and how fast, what is missing and what is wrong."""
    from rsedge.doctor.examine import examine

    found = examine(common.model_or_default(model, quiet))
    if as_json:
        common.say_json(found.to_dict())
    elif not quiet:
        _show(found)
    if not found.can_segment:
        common.complain(f"error: rsedge cannot segment here: {found.why_not}")
        raise typer.Exit(1)


def _show(found: Checkup) -> None:
    _say("On this machine", columns([*_machine(found.machine), *_libraries(found)]))
    rows = [
        [way.device, _speed(found.speeds, way) if way.runs else f"does not run: {way.why_not}"]
        for way in found.ways
    ]
    _say(f"What runs here, with {found.model}", columns(rows) if rows else ["nothing"])
    _say("Missing for more", _findings(found.missing))
    _say("Wrong", _findings(found.wrong))
    if found.can_segment:
        common.say("rsedge can segment here: a small raster was segmented from file to file")


def _say(heading: str, lines: Iterable[str]) -> None:
    common.say(heading)
    for line in lines:
        common.say(f"  {line}")
    common.say("")


def _machine(m: Machine) -> list[list[str]]:
    gpus = ", ".join(m.gpus) or ("the board's" if m.l4t else "none that a driver lists")
    release = f"L4T {m.l4t} (JetPack {m.jetpack or 'unknown'})" if m.l4t else None
    modes = ", ".join(filter(None, (m.power_mode, m.governor and f"governor {m.governor}")))
    disk = (
        "unknown" if m.free_disk_bytes is None else f"{m.free_disk_bytes / 2**30:.1f} GiB free in this folder"
    )
    rows = {
        "board": m.board,
        "system": m.system,
        "release": release,
        "processor": f"{m.cpu}, {common.counted(m.cores, 'core')}",
        "GPU": gpus,
        "driver": m.driver,
        "CUDA toolkit": m.cuda,
        "power": modes or None,
        "memory": f"{m.memory_bytes / 2**30:.1f} GiB",
        "disk": disk,
        "Python": f"{m.python} ({m.executable})",
    }
    return [[name, value] for name, value in rows.items() if value]


def _libraries(found: Checkup) -> list[list[str]]:
    return [
        [lib.name, f"{lib.version or ''} {MARKS[lib.state]}{lib.detail or ''}".strip()]
        for lib in found.libraries
    ]


def _speed(speeds: Sequence[Measured], way: Way) -> str:
    """Return what was measured on a device; figures of another version are not this one's."""
    own = [s for s in speeds if s.device == way.device]
    said = [
        f"{s.precision} {s.tile_ms:.1f} ms per {s.tile} px tile, {s.agreement:.2%} as fp32 ({s.date[:10]})"
        for s in own
        if s.version == way.version
    ]
    others = sorted({s.version for s in own if s.version != way.version})
    if others:
        said.append(
            f"measured with version {', '.join(others)}, {way.version} is installed: `rsedge verify` again"
        )
    return "; ".join(said) or UNMEASURED


def _findings(findings: Iterable[Finding]) -> list[str]:
    lines = list[str]()
    for f in findings:
        lines.append(f"{f.what}: {f.why}")
        lines += [f"    {f.command}"] if f.command else []
    return lines or ["nothing"]
