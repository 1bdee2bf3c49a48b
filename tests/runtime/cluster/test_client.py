"""A real cluster of two worker processes. What is compared with: the same command without a cluster."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsedge import BackendError, InputError, ModelError, Options, open_model, segment
from rsedge.backends import Backend
from rsedge.cluster import client as cluster_client
from rsedge.cluster.worker import Failure, threads_of
from rsedge.engine.stages import Stats
from rsedge.errors import BusyError
from rsedge.infer.job import Runner
from rsedge.tiling.axes import Tiling
from rsedge.tiling.window import Window
from toys import CLASSES, make_bundle, pointwise_graph, pointwise_manifest

distributed = pytest.importorskip("distributed")
dask = pytest.importorskip("dask")
Write = Callable[..., Path]
Noise = Callable[..., np.ndarray]
PART_ROWS = 512


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Scheduler of a cluster of two processes; a killed one is started again."""
    before = dict(os.environ)  # a nanny leaves OMP_NUM_THREADS=1 and more there, for all who come after
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0", host="127.0.0.1"
    ) as cluster:
        yield cluster.scheduler_address
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of 512 rows, so that a small raster has several."""
    monkeypatch.setattr("rsedge.raster.parts.PART_PIXELS", 1)


def digests(out: Path) -> dict[str, str]:
    """Of all rasters and pictures of a result, by their names' ends."""
    files = sorted(out.parent.glob(f"{out.stem}*"))
    return {f.name.removeprefix(out.stem): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def finished(out: Path) -> int:
    """Parts that the journal of an unfinished run has."""
    lines = out.with_name(f".{out.name}.rsedge") / "journal.jsonl"
    return lines.read_text().count("area_m2") if lines.exists() else 0


OPTIONS = {
    "cog": Options(),
    "gtiff, all layers": Options(format="gtiff", overlap=0.5, confidence=True, probabilities=True),
    "columns": Options(seam="crop", confidence=True),
    "area": Options(bbox=(500010, 5399300, 500120, 5399950), crop=True),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_the_same_bytes_as_a_local_run(
    address: str,
    model: Backend,
    write_raster: Write,
    noise: Noise,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    pixels = noise(7 * PART_ROWS + 77, 300)
    pixels[:, 700:1400, 20:250] = 0
    pixels[:, 3000:, 200:] = 0
    raster, options = write_raster(pixels, nodata=0), OPTIONS[name]
    local, far = tmp_path / "local" / "mask.tif", tmp_path / "far" / "mask.tif"
    local.parent.mkdir()
    far.parent.mkdir()
    if name == "columns":
        monkeypatch.setattr("rsedge.infer.job.make_plan", in_columns)
    picture = "mask_preview.png" if name == "cog" else None
    with_picture = replace(options, preview=picture and local.with_name(picture))
    monkeypatch.chdir(tmp_path)  # the workers' current folder is another
    there = segment(model, raster.name, local, with_picture)
    calls: list[tuple[int, int]] = []
    with_picture = replace(options, preview=picture and far.with_name(picture))
    here = segment(model, raster.name, far, with_picture, lambda *now: calls.append(now), on(address))
    assert digests(far) == digests(local)
    assert len(digests(far)) > (1 if name == "area" else 2) - (name == "columns")
    assert here.classes == there.classes
    assert not far.with_name(f".{far.name}.rsedge").exists()
    assert calls[-1] == (here.windows, here.windows)
    assert here.windows >= there.windows  # those on the borders of bands are counted twice
    assert here.windows_skipped >= there.windows_skipped > 0
    assert here.seconds["infer"] > 0
    assert here.seconds["read"] > 0


def on(address: str) -> Runner:
    """On a cluster, connected to when the run begins."""

    def run(*args: Any) -> Stats:
        with cluster_client.Cluster(address) as cluster:
            return cluster.run(*args)

    return run


def in_columns(*args: object) -> object:
    from rsedge.infer.memory_plan import make_plan

    plan = make_plan(*args[:2])  # type: ignore[arg-type]
    (block,) = plan.blocks
    cut = [Window(block.row, col, block.height, min(128, block.col_end - col)) for col in range(0, 300, 128)]
    return replace(plan, blocks=tuple(cut))


def test_a_scale_that_fits_badly_is_noted_as_locally(
    address: str, model: Backend, write_raster: Write, noise: Noise, tmp_path: Path
) -> None:
    raster = write_raster(noise(3 * PART_ROWS, 100).astype(np.uint16) * 10)
    options = Options(scale=(0, 2000))
    local = segment(model, raster, tmp_path / "local.tif", options)
    far = segment(model, raster, tmp_path / "far.tif", options, runner=on(address))
    assert "were clipped" in local.notes[0]
    # Which share is clipped depends on how often the pixels of overlapping bands are read.
    assert far.notes[0].partition("% of")[2] == local.notes[0].partition("% of")[2]
    with pytest.raises(InputError, match=r"lie outside --scale.*from 0|lie outside --scale") as error:
        segment(model, raster, tmp_path / "wrong.tif", Options(scale=(0, 500)), runner=on(address))
    assert "100 times" not in str(error.value)


def test_a_killed_worker_costs_nothing_but_time(
    address: str, model: Backend, write_raster: Write, noise: Noise, tmp_path: Path
) -> None:
    raster = write_raster(noise(12 * PART_ROWS, 400))
    options = Options(overlap=0.75, format="gtiff")
    local, far = tmp_path / "local.tif", tmp_path / "far.tif"
    segment(model, raster, local, options)
    killed: list[int] = []

    with distributed.Client(address, set_as_default=False) as client:

        def kill(done: int, total: int) -> None:
            busy = [worker for worker, keys in client.processing().items() if keys]
            if not killed and finished(far) and busy:
                (pid,) = client.run(os.getpid, workers=busy[:1]).values()
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
                assert done < total

        segment(model, raster, far, options, kill, on(address))
        assert killed
        assert killed[0] not in client.run(os.getpid).values()
        client.wait_for_workers(2, timeout=30)
    assert far.read_bytes() == local.read_bytes()


@pytest.mark.parametrize("where", ["here", "there"])
def test_an_interrupted_run_goes_on(
    address: str, model: Backend, write_raster: Write, noise: Noise, tmp_path: Path, where: str
) -> None:
    raster = write_raster(noise(9 * PART_ROWS, 200))
    local, far = tmp_path / "local.tif", tmp_path / "far.tif"
    segment(model, raster, local)

    def interrupt(done: int, total: int) -> None:
        if finished(far):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        segment(model, raster, far, None, interrupt, on(address))
    assert not far.exists()
    count = finished(far)
    assert 0 < count < 9
    result = segment(
        model, raster, far, Options(resume=True), runner=on(address) if where == "there" else None
    )
    assert result.resumed_pixels >= count * PART_ROWS * 200
    assert far.read_bytes() == local.read_bytes()


def test_a_raster_that_changes_while_workers_read_it_gives_no_mask(
    address: str, model: Backend, write_raster: Write, noise: Noise, tmp_path: Path
) -> None:
    raster, out = write_raster(noise(7 * PART_ROWS, 200)), tmp_path / "mask.tif"

    def meddle(done: int, total: int) -> None:
        os.utime(raster, (1, 1))

    with pytest.raises(BusyError, match="changed or disappeared while it was read"):
        segment(model, raster, out, None, meddle, on(address))
    assert [p.name for p in tmp_path.iterdir()] == [raster.name]


def test_a_damaged_raster_is_reported_in_the_words_of_a_local_run(
    address: str, model: Backend, write_raster: Write, noise: Noise, tmp_path: Path
) -> None:
    raster = write_raster(noise(6 * PART_ROWS, 200), compress="deflate", blockysize=PART_ROWS)
    data = bytearray(raster.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 2000] = bytes(2000)
    raster.write_bytes(data)
    with pytest.raises(InputError) as local:
        segment(model, raster, tmp_path / "local.tif")
    with pytest.raises(InputError) as far:
        segment(model, raster, tmp_path / "far.tif", runner=on(address))
    # A strip may be higher here than there: it ends where the band does.
    words = [re.sub(r"rows \d+\.\.\d+", "rows", str(error.value)) for error in (local, far)]
    assert words[0] == words[1]
    assert str(raster) in words[0]


def test_what_differs_on_the_worker_is_refused(
    address: str,
    write_raster: Write,
    noise: Noise,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    bundle: Path,
) -> None:
    raster = write_raster(noise(2 * PART_ROWS, 100))
    copy = Path(shutil.copytree(bundle, tmp_path / "own.rsedge"))
    make_order = cluster_client.make_order

    def refused(
        change: Callable[[], object] = lambda: None,
        changes: dict[str, object] | None = None,
        **otherwise: object,
    ) -> str:
        """What becomes of a run when, the order being written, something is changed where the workers look."""

        def order(*args: object) -> cluster_client.Order:
            wanted = make_order(*args)  # type: ignore[arg-type]
            change()
            return replace(wanted, settings={**wanted.settings, **(changes or {})}, **otherwise)

        monkeypatch.setattr(cluster_client, "make_order", order)
        with (
            open_model(copy, threads=1) as model,
            pytest.raises((InputError, ModelError, BackendError)) as error,
        ):
            segment(model, raster, tmp_path / "mask.tif", runner=on(address))
        assert not (tmp_path / "mask.tif").exists()
        assert "on the Dask worker tcp://127.0.0.1" in str(error.value)
        return f"{type(error.value).__name__}: {error.value}"

    assert "InputError" in (said := refused(changes={"raster_state": "of a copy"}))
    assert f"{raster} is not the client's file" in said
    assert "BackendError" in (said := refused(changes={"rsedge": "0.0.1"}))
    assert "on the client 0.0.1" in said

    def other_model() -> None:
        shutil.rmtree(copy)
        manifest = pointwise_manifest(name="other", classes=CLASSES[::-1])
        make_bundle(copy, manifest, pointwise_graph(manifest))

    copy = Path(shutil.copytree(bundle, tmp_path / "second.rsedge"))  # one that no worker has open
    assert "ModelError" in (said := refused(other_model))
    assert f"{copy} is not the client's model" in said
    copy = Path(shutil.copytree(bundle, tmp_path / "third.rsedge"))
    assert "ModelError" in (said := refused(lambda: shutil.rmtree(copy)))
    assert "must be readable under the same paths on every worker" in said
    shutil.copytree(bundle, copy)
    assert "/nowhere/raster.tif not found" in refused(raster="/nowhere/raster.tif")


def test_one_connection_for_several_rasters(
    address: str, model: Backend, write_raster: Write, noise: Noise, tmp_path: Path
) -> None:
    with cluster_client.Cluster(address) as cluster:
        client = cluster._client
        for seed in range(2):
            raster, out = write_raster(noise(PART_ROWS + 1, 90, seed)), tmp_path / f"{seed}.tif"
            segment(model, raster, out, runner=cluster.run)
            assert cluster._client is client
            assert client.status == "running"
    assert client.status == "closed"


def test_no_scheduler(
    model: Backend, write_raster: Write, noise: Noise, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_client, "CONNECT_S", 0.5)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    raster = write_raster(noise(70, 70))
    for wrong in (closed, "tcp://nowhere.invalid:8786", "nonsense"):
        with pytest.raises(BackendError, match=f"cannot reach the Dask scheduler {wrong}"):
            segment(model, raster, tmp_path / "mask.tif", runner=on(wrong))
    assert not list(tmp_path.glob("*mask*"))


TLS = "DASK_DISTRIBUTED__COMM__TLS__"


def test_tls_without_certificates_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in os.environ if n.startswith(TLS)]:
        monkeypatch.delenv(name)
    begin = time.monotonic()
    with (
        pytest.raises(BackendError, match=f"needs certificates.*{TLS}CA_FILE"),
        cluster_client.Cluster("tls://h:1"),
    ):
        pass
    assert time.monotonic() - begin < 10  # Dask alone takes 20 s, and ends in TypeError


@pytest.mark.parametrize("contents", [None, "no certificate"])
def test_certificates_that_cannot_be_used(tmp_path: Path, contents: str | None) -> None:
    path = tmp_path / "ca.pem"
    if contents:
        path.write_text(contents)
    settings = {"distributed.comm.tls.ca-file": str(path), "distributed.comm.tls.client.cert": str(path)}
    with (
        dask.config.set(settings),
        pytest.raises(BackendError, match="cannot use the certificates for tls://h:1"),
        cluster_client.Cluster("tls://h:1"),
    ):
        pass


@pytest.mark.parametrize("address", ["tcp://10.0.0.1:8786", "scheduler:8786", "tcp://cluster.lan:8786"])
def test_a_cluster_that_others_reach_is_open(address: str) -> None:
    assert cluster_client.is_open_to_others(address)


@pytest.mark.parametrize(
    "address",
    ["tcp://127.0.0.1:8786", "localhost:8786", "tcp://[::1]:1", "tls://10.0.0.1:8786", "tcp://[", ""],
)
def test_one_of_this_machine_or_with_tls_is_not(address: str) -> None:
    assert not cluster_client.is_open_to_others(address)


def test_infer_says_that_a_cluster_is_open(
    call_rsedge: Callable[..., tuple[int, str, str]], write_raster: Write, noise: Noise, tmp_path: Path
) -> None:
    raster, address = write_raster(noise(70, 70)), "tcp://nowhere.invalid:8786"
    code, _, said = call_rsedge("infer", raster, "--out", tmp_path / "m.tif", "--dask", address)
    assert code == 1
    assert f"note: {address} has neither encryption nor passwords" in said


def test_no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_client, "WORKERS_S", 0.3)
    with (
        distributed.LocalCluster(
            n_workers=0, processes=False, protocol="tcp", dashboard_address=":0", host="127.0.0.1"
        ) as cluster,
        pytest.raises(BackendError, match="has no workers; start some with `dask worker tcp://127"),
        cluster_client.Cluster(cluster.scheduler_address),
    ):
        pass


def test_no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with (
        pytest.raises(BackendError, match=r'pip install "rsedge\[dask\]"'),
        cluster_client.Cluster("tcp://h:1"),
    ):
        pass


def test_another_rsedge(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_client, "__version__", "9.9")
    with (
        pytest.raises(BackendError, match=r"has rsedge .*, but this machine has 9.9. Run"),
        cluster_client.Cluster(address),
    ):
        pass


@pytest.mark.parametrize("kind", [InputError, ModelError, BackendError])
def test_an_error_comes_back_as_what_it_was(kind: type[Exception]) -> None:
    error = Failure(kind.__name__, "message").error()
    assert type(error) is kind
    assert str(error) == "message"


@given(
    height=st.integers(1, 4096),
    width=st.integers(1, 200_000),
    count=st.integers(1, 3000),
    workers=st.integers(0, 50),
    tile=st.sampled_from([64, 256, 512, 1024]),
    overlap=st.floats(0, 0.75),
    result_bands=st.integers(1, 8),
)
def test_bands_keep_workers_busy_and_messages_small(
    height: int, width: int, count: int, workers: int, tile: int, overlap: float, result_bands: int
) -> None:
    part = Window(0, 0, height, width)
    tiling = Tiling.of(height * count, width, tile, overlap, "blend")
    size = cluster_client.parts_per_band(part, count, workers, tiling, result_bands)
    assert 1 <= size <= count
    assert size == 1 or size * height * width * result_bands <= cluster_client.BAND_BYTES
    assert -(-count // size) >= min(count, workers) or size * height <= 4 * tiling.rows.stride + height
    assert -(-count // size) * 2 >= min(count, workers)  # whole parts: 3 workers, 4 parts make 2 bands of 2
    rows = height * size / tiling.rows.stride
    assert size == 1 or rows < 24 + height / tiling.rows.stride


def test_a_worker_takes_its_share_of_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rsedge.cluster.worker.usable_cores", lambda: 8)
    one = {"tcp://10.0.0.1:1": 8}
    assert threads_of("tcp://10.0.0.1:1", one) == 8
    assert threads_of("tcp://10.0.0.1:1", {"tcp://10.0.0.1:1": 2}) == 2  # as many as its owner gave it
    both = {"tcp://10.0.0.1:1": 8, "tcp://10.0.0.1:2": 8, "tcp://10.0.0.2:1": 8}
    assert threads_of("tcp://10.0.0.1:1", both) == 4  # both believe to have the machine for themselves
    assert threads_of("tcp://10.0.0.9:1", both) == 8  # came later
