"""The ``rsedge infer`` command."""

from __future__ import annotations

import dataclasses
import glob
import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from rsedge.cli import common, stopping
from rsedge.cli.infer_options import InferOptions
from rsedge.cli.settings import with_options
from rsedge.errors import InputError, RsedgeError, unexpected

if TYPE_CHECKING:
    from rsedge.backends import Backend
    from rsedge.cluster.client import Cluster
    from rsedge.engine import Stats
    from rsedge.engine.sliding_window import Progress
    from rsedge.infer.job import Job, Runner
    from rsedge.infer.journal import Journal
    from rsedge.infer.memory_plan import Plan
    from rsedge.infer.options import Options, Result
    from rsedge.model.manifest import Manifest

GO_ON = "finished work is kept: continue with the same command and --resume"


@with_options(InferOptions)
def infer(asked: InferOptions, given: frozenset[str]) -> None:
    """Segment rasters of any size into class masks on the same grids."""
    from rsedge.cli.opening import open_asked
    from rsedge.raster.quiet import hush_libtiff

    hush_libtiff()
    sources, options, quiet = expand(asked.rasters), asked.to_options(), asked.quiet
    targets = choose_targets(sources, asked.out, asked.out_dir)
    each = [options if asked.out_dir is None else _for_one_of_many(options, target) for target in targets]
    _check_names(targets, each)
    if asked.out_dir is not None and not asked.dry_run:
        common.make_out_dir(asked.out_dir)
    if asked.dask is not None:
        _say_who_is_trusted(asked.dask, quiet)
    model = common.model_or_default(asked.model, quiet)
    with ExitStack() as stack:
        how = asked.device, asked.precision, asked.threads, asked.streams, asked.fast
        backend = stack.enter_context(open_asked(model, *how, quiet))
        runner = None if asked.dask is None or asked.dry_run else _on_cluster(asked.dask, stack)
        if asked.scale == "auto":
            found = _survey_scale(sources, options, backend.bundle.manifest, quiet)
            each = [dataclasses.replace(mine, scale=found) for mine in each]
        failed = list[str]()
        for source, target, mine in zip(sources, targets, each, strict=True):
            try:
                if asked.dry_run:
                    _show_plan(backend, source, target, mine, asked.as_json, quiet)
                else:
                    _segment(backend, source, target, mine, quiet, asked.as_json, runner)
            except Exception as error:
                if len(sources) == 1 or (
                    isinstance(error, RsedgeError | MemoryError) and not isinstance(error, InputError)
                ):
                    raise
                # One unreadable raster must not stop the others.
                why = error if isinstance(error, InputError) else InputError(unexpected(source, error))
                common.complain_of(why)
                failed.append(source)
    if failed:
        raise InputError(f"{len(failed)} of {len(sources)} rasters failed: {', '.join(failed)}")


def _say_who_is_trusted(address: str, quiet: bool) -> None:
    from rsedge.cluster.client import OPEN, is_open_to_others

    if is_open_to_others(address):
        common.note(OPEN.format(address=address), quiet)


def _on_cluster(address: str, stack: ExitStack) -> Runner:
    """Return a runner that connects when it is first needed, and stays connected as long as ``stack``."""
    connected: list[Cluster] = []

    def run(job: Job, plan: Plan, journal: Journal, progress: Progress | None) -> Stats:
        from rsedge.cluster.client import Cluster

        if not connected:
            with stopping.stops_wait():
                connected.append(stack.enter_context(Cluster(address)))
        return connected[0].run(job, plan, journal, progress)

    return run


def expand(rasters: Sequence[str]) -> list[str]:
    """Replace globs by the files that they match, sorted. Raises InputError if a glob matches no file."""
    found = list[str]()
    for text in rasters:
        if (
            glob.has_magic(text)
            and "://" not in text
            and not text.startswith("/vsi")
            and not os.path.exists(text)
        ):
            matches = sorted(glob.glob(text, recursive=True))
            if not matches:
                raise InputError(f"no file matches {text}")
            found += matches
        else:
            found.append(text)
    return found


def choose_targets(sources: Sequence[str], out: Path | None, out_dir: Path | None) -> list[Path]:
    """Return each raster's mask path. Raises InputError if ``out`` and ``out_dir`` do not give one mask each."""
    if (out is None) == (out_dir is None):
        raise InputError("give --out MASK.tif for one raster, or --out-dir FOLDER for several")
    if out is not None:
        if len(sources) > 1:
            raise InputError(f"--out names one mask, {len(sources)} rasters were given; use --out-dir FOLDER")
        return [out]
    assert out_dir is not None
    targets = [out_dir / f"{_stem(source)}.tif" for source in sources]
    if twice := sorted({str(t) for t in targets if targets.count(t) > 1}):
        raise InputError(f"several rasters would be written to {twice[0]}; run each with its own --out-dir")
    return targets


def _stem(source: str) -> str:
    """Return a raster's name without folder and suffix, and without the query of a URL."""
    path = urlsplit(source).path if "://" in source else source
    return Path(path.rstrip("/").rsplit("/", 1)[-1]).stem


def _check_names(targets: Sequence[Path], options: Sequence[Options]) -> None:
    """Raise InputError if two results would be written to the same path."""
    names = [
        path for target, mine in zip(targets, options, strict=True) for path in mine.outputs(target).values()
    ]
    if twice := sorted({str(name) for name in names if names.count(name) > 1}):
        raise InputError(
            f"two results would be written to {twice[0]}; run each raster with its own --out-dir"
        )


def _for_one_of_many(options: Options, target: Path) -> Options:
    """Return the options of one of several rasters: its results are written beside its mask, under its name."""

    def named(path: Path | str | None) -> Path | None:
        return None if path is None else target.with_name(f"{target.stem}_{Path(path).name}")

    return dataclasses.replace(
        options,
        preview=named(options.preview),
        polygons=named(options.polygons),
        summary=named(options.summary),
    )


def _survey_scale(
    sources: Sequence[str], options: Options, manifest: Manifest, quiet: bool
) -> tuple[float, float]:
    from rsedge.raster.scaling import survey_scale

    bands, masking = options.bands or manifest, options.masking
    try:
        low, high = survey_scale(sources, bands, masking=masking, trust=options.trust)
    except InputError:
        good = [source for source in sources if _is_readable(source, options)]
        if len(good) in {0, len(sources)}:
            raise
        low, high = survey_scale(
            good, bands, masking=masking, trust=options.trust
        )  # `infer` reports the others when their turn comes
    common.note(
        f"--scale {low:g},{high:g}, the 2nd and 98th percentile; give it for further rasters of this survey",
        quiet,
    )
    return low, high


def _is_readable(source: str, options: Options) -> bool:
    from rsedge.infer.inputs import check_whole

    try:
        check_whole(source, options.trust)
    except InputError:
        return False
    return True


def _segment(
    backend: Backend,
    source: str,
    target: Path,
    options: Options,
    quiet: bool,
    as_json: bool,
    runner: Runner | None,
) -> None:
    from rsedge.infer.segmentation import is_done, segment

    if options.resume and is_done(backend, source, target, options):
        common.note(f"{target} is finished already", quiet)
        if as_json:
            common.say_json({"raster": source, "out": str(target), "finished_before": True})
        return
    net = (backend.bundle.manifest.tile * (1 - options.overlap)) ** 2  # new pixels per window
    with (
        stopping.stopping_says(lambda: _stopped(target)),
        common.progress_bar(Path(source).name, quiet, net) as progress,
    ):
        try:
            result = segment(backend, source, target, options, progress, runner)
        except RsedgeError as error:
            _say_how_to_go_on(target, error, quiet)
            raise
    for note in result.notes:
        common.note(note, quiet)
    if not quiet:
        _show(result)
    if as_json:
        common.say_json(result.to_dict())


def _is_kept(target: Path) -> bool:
    from rsedge.infer.journal import folder_of

    return folder_of(Path(os.path.realpath(target))).exists()


def _stopped(target: Path) -> str:
    return f"interrupted; {GO_ON}" if _is_kept(target) else "interrupted; nothing was finished yet"


def _say_how_to_go_on(target: Path, error: RsedgeError, quiet: bool) -> None:
    if _is_kept(target) and "--resume" not in str(error):
        common.note(GO_ON, quiet)


def _show_plan(
    backend: Backend, source: str, target: Path, options: Options, as_json: bool, quiet: bool
) -> None:
    from rsedge.infer.job import Job

    with Job(backend, source, target, options) as job:
        plan = job.plan()
        facts = {**job.facts(plan), "notes": job.raster_notes()}
    for note in facts["notes"]:
        common.note(note, quiet)
    if as_json:
        common.say_json(facts)
        return
    common.say(f"raster   {facts['raster']}: {facts['width']} x {facts['height']} px, bands {facts['bands']}")
    common.say(f"mask     {facts['out']}: {facts['out_width']} x {facts['out_height']} px, {options.format}")
    common.say(
        f"model    {facts['model']}, {facts['precision']}, {facts['backend']}{_streams(facts['streams'])} "
        f"({facts['why']})"
    )
    common.say(
        f"windows  {facts['windows']} of {facts['tile']} px in {common.counted(facts['column_blocks'], 'column block')}"
    )
    common.say(f"memory   at most {facts['bound_bytes'] / 2**20:.0f} MiB: ")
    for name, size_bytes in facts["bytes_by_part"].items():
        common.say(f"  {name:22} {size_bytes / 2**20:7.1f} MiB")
    common.say(
        f"disk     at most {facts['most_disk_bytes'] / 2**30:.2f} GiB while it runs (masks shrink to a few percent "
        f"of that), {facts['free_disk_bytes'] / 2**30:.1f} GiB are free"
    )
    common.say(
        f"time     about {facts['seconds_guess']:.0f} s, the model's share, from one tile just measured"
    )


def _show(result: Result) -> None:
    common.say(f"mask     {result.out}")
    for name in ("confidence", "probabilities", "preview"):
        if path := getattr(result, name):
            common.say(f"{name:8} {path}")
    if result.polygons:
        common.say(f"polygons {result.polygons}, {result.polygon_count} of them")
    if result.summary:
        common.say(f"summary  {result.summary}, {Path(result.summary).stat().st_size} bytes")
    common.say(
        f"model    {result.model}, {result.precision}, {result.backend} {result.provider}"
        f"{_streams(result.streams)} ({result.why})"
    )
    common.say(
        f"speed    {result.seconds['total']:.1f} s, {result.mpx_per_s:.1f} Mpx/s end to end, "
        f"peak memory {result.peak_rss_bytes / 2**20:.0f} of at most {result.bound_bytes / 2**20:.0f} MiB"
    )
    skipped = f"{result.windows_skipped} skipped as nodata"
    resumed = f", {result.resumed_pixels / 1e6:.1f} Mpx finished earlier" if result.resumed_pixels else ""
    common.say(f"windows  {result.windows} of {result.tile} px, {skipped}{resumed}")
    pixels = max(1, result.nodata_pixels + sum(c.pixels for c in result.classes))
    common.say(
        f"nodata   {result.nodata_pixels / pixels:.1%} of the raster; the classes are shares of the rest:"
    )
    width = max(len(c.name) for c in result.classes)
    for c in result.classes:
        common.say(f"  {c.value:3d}  {c.name:{width}}  {c.share:6.1%}{_area(c.area_m2)}")


def _streams(count: int) -> str:
    return f", {count} streams" if count > 1 else ""


def _area(area_m2: float | None) -> str:
    if area_m2 is None:
        return ""
    return f"  {area_m2 / 1e4:12,.2f} ha" if area_m2 >= 1e4 else f"  {area_m2:12,.1f} m2"
