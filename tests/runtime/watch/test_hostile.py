"""Folders that are fed by others: what lands there may stop no watcher, read nothing and ask nobody."""

from __future__ import annotations

import logging
import os
import random
import shutil
import socket
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.transform import Affine

from rsedge import InputError
from rsedge.backends import Backend
from rsedge.raster import RasterReader
from rsedge.watch.folder import Done, Refused, Watch
from rsedge.watch.ledger import Ledger, State
from toys import read, strongest

Write = Callable[..., Path]
Noise = Callable[..., np.ndarray]
SECRET = b"aws_secret_access_key = AKIA+not+real+1234567890"
BAND = "<VRTRasterBand dataType='Byte' band='{band}'{kind}>{source}</VRTRasterBand>"
GOOD = 10


class Asked(BaseHTTPRequestHandler):
    """Notes who asks."""

    def do_GET(self) -> None:
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        self.send_response(404)
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadingHTTPServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Asked) as running:
        running.asked = []  # type: ignore[attr-defined]
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def vrt(source: str, kind: str = "", size: tuple[int, int] = (48, 1)) -> str:
    bands = "".join(BAND.format(band=band, kind=kind, source=source) for band in (1, 2, 3))
    return f"<VRTDataset rasterXSize='{size[0]}' rasterYSize='{size[1]}'>{bands}</VRTDataset>"


def raw(secret: Path) -> str:
    """Shows a file's bytes as pixels."""
    layout = "<ImageOffset>0</ImageOffset><PixelOffset>1</PixelOffset><LineOffset>48</LineOffset>"
    return vrt(
        f"<SourceFilename relativeToVRT='0'>{secret}</SourceFilename>{layout}", " subClass='VRTRawRasterBand'"
    )


def simple(source: object) -> str:
    return vrt(
        f"<SimpleSource><SourceFilename>{source}</SourceFilename><SourceBand>1</SourceBand></SimpleSource>"
    )


def documents(secret: Path, url: str) -> dict[str, str]:
    """Text that GDAL takes for a raster, whatever its name."""
    wms = (
        f"<GDAL_WMS><Service name='TMS'><ServerUrl>{url}/wms?x=1</ServerUrl></Service><DataWindow><UpperLeftX>0"
        "</UpperLeftX><UpperLeftY>9</UpperLeftY><LowerRightX>9</LowerRightX><LowerRightY>0</LowerRightY><SizeX>48"
        "</SizeX><SizeY>48</SizeY><TileLevel>0</TileLevel></DataWindow><BandsCount>3</BandsCount></GDAL_WMS>"
    )
    return {
        "raw": raw(secret),
        "wms": wms,
        "wcs": f"<WCS_GDAL><ServiceURL>{url}/wcs?</ServiceURL><CoverageName>x</CoverageName></WCS_GDAL>",
        "curl": simple(f"/vsicurl/{url}/a.tif"),
        "http": simple(f"{url}/b.tif"),
        "zip": simple(f"/vsizip//vsicurl/{url}/c.zip/a.tif"),
        "wide": vrt("", size=(2**31 - 1, 1)),
        "high": vrt("", size=(1, 2**31 - 1)),
    }


@pytest.fixture
def watched(tmp_path: Path, model: Backend) -> Callable[..., list[Done | Refused]]:
    """Runs a watcher over ``tmp_path``/in once; its clock does not wait."""
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    def run(**how: object) -> list[Done | Refused]:
        with Ledger(tmp_path / "out") as ledger:
            given: dict[str, object] = {"clock": lambda: now[0], "sleep": sleep, **how}
            watcher = Watch(model, tmp_path / "in", ledger, **given)  # type: ignore[arg-type]
            return [e for e in watcher.run(once=True) if isinstance(e, Done | Refused)]

    return run


def spoil(folder: Path, number: int, tiny: bytes, texts: list[str], rng: random.Random) -> None:
    """One more bad entry; most kinds need no malice."""
    path = folder / f"bad{number:04}.tif"
    aux = path.with_name(f"{path.name}.aux.xml")
    kinds: list[Callable[[], object]] = [
        lambda: path.symlink_to(path),
        lambda: (folder / f"notes{number}.txt").symlink_to(f"notes{number}.txt"),
        lambda: path.symlink_to("/nowhere/at/all"),
        lambda: path.symlink_to("/proc/kmsg"),
        lambda: os.mkfifo(path),
        path.mkdir,
        lambda: path.write_bytes(b""),
        lambda: path.write_bytes(rng.randbytes(60)),
        lambda: path.write_bytes(tiny[: rng.randrange(8, len(tiny) - 60)]),
        lambda: path.write_bytes(b"II*\0" + rng.randbytes(200)),
        lambda: path.write_text(rng.choice(texts)),
        lambda: path.write_bytes(simple("Gauß.tif").encode("latin-1")),
        lambda: (path.write_bytes(tiny), os.mkfifo(aux)),
        lambda: (path.write_bytes(tiny), os.mkfifo(path.with_suffix(".tfw"))),
        lambda: (path.write_bytes(tiny), aux.symlink_to("/proc/kmsg")),
        lambda: (
            path.write_bytes(tiny),
            aux.write_bytes("<PAMDataset><SRS>Gauß</SRS></PAMDataset>".encode("latin-1")),
        ),
        lambda: (path.write_bytes(tiny), path.with_name(f"{path.name}.msk").write_text(rng.choice(texts))),
        lambda: (
            path.write_bytes(tiny),
            aux.write_text(
                "<PAMDataset><Metadata domain='OVERVIEWS'><MDI key='OVERVIEW_FILE'>/etc/passwd</MDI></Metadata>"
                "</PAMDataset>"
            ),
        ),
        lambda: (folder / f"{'x' * 240}{number:04}.tif").write_bytes(tiny),
        lambda: Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9\x1b[2J\n%d.tif" % number)).write_bytes(
            tiny
        ),
    ]
    kinds[number % len(kinds)]()


def test_two_thousand_bad_entries_hold_no_raster_up(
    tmp_path: Path,
    write_raster: Write,
    noise: Noise,
    watched: Callable[..., list[Done | Refused]],
    server: ThreadingHTTPServer,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # thousands, on whatever disk the tests have
    folder, rng = tmp_path / "in", random.Random(5)
    (secret := tmp_path / "in" / "secret.cfg").write_bytes(SECRET)
    caplog.set_level(logging.CRITICAL)
    texts = list(documents(secret, f"http://127.0.0.1:{server.server_address[1]}").values())
    tiny = write_raster(noise(4, 4), "tiny.tif").read_bytes()
    for number in range(2000):
        spoil(folder, number, tiny, texts, rng)
    pixels = {f"good{k}.tif": noise(70, 90, k) for k in range(GOOD)}
    for name, bands in pixels.items():
        write_raster(bands, "made.tif").replace(folder / name)
    told = watched(preview=True)
    done = {e.source.name for e in told if isinstance(e, Done)}
    assert done >= set(pixels)
    for name, bands in pixels.items():
        np.testing.assert_array_equal(read(tmp_path / "out" / name), strongest(bands))
    reasons = [e.reason for e in told if isinstance(e, Refused)]
    assert len(reasons) > 1000
    assert [r for r in reasons if "please report" in r] == []
    assert server.asked == []  # type: ignore[attr-defined]
    assert watched(preview=True) == []  # all are accounted for


@pytest.mark.parametrize("kind", ["lacks a line", "has a letter"])
def test_rpcs_that_cannot_be_read_are_a_note(
    tmp_path: Path,
    write_raster: Write,
    noise: Noise,
    watched: Callable[..., list[Done | Refused]],
    kind: str,
) -> None:
    path = write_raster(noise(30, 40), "made.tif").replace(tmp_path / "in" / "a.tif")
    lines = {
        f"{k}_{what}": "1" for k in ("LINE", "SAMP", "LAT", "LONG", "HEIGHT") for what in ("OFF", "SCALE")
    }
    lines |= {f"{k}_{n}_COEFF": " ".join(["1"] * 20) for k in ("LINE", "SAMP") for n in ("NUM", "DEN")}
    if kind == "lacks a line":
        del lines["HEIGHT_OFF"]
    else:
        lines["LAT_OFF"] = "north"
    facts = "".join(f"<MDI key='{key}'>{value}</MDI>" for key, value in lines.items())
    path.with_name("a.tif.aux.xml").write_text(
        f"<PAMDataset><Metadata domain='RPC'>{facts}</Metadata></PAMDataset>"
    )
    (event,) = watched()
    assert isinstance(event, Done)
    with RasterReader(path) as reader:
        assert any("RPCs cannot be read" in note for note in reader.notes)


@pytest.mark.parametrize("kind", ["raw", "wms", "wcs", "curl", "http", "zip"])
def test_a_tif_that_is_none_reads_no_file_and_asks_nobody(
    tmp_path: Path, server: ThreadingHTTPServer, kind: str
) -> None:
    (secret := tmp_path / "secret.cfg").write_bytes(SECRET)
    text = documents(secret, f"http://127.0.0.1:{server.server_address[1]}")[kind]
    for name in ("survey.tif", "survey.png", "survey"):
        (tmp_path / name).write_text(text)
        with pytest.raises(InputError, match="names other files or servers"):
            RasterReader(tmp_path / name)
    (tmp_path / "survey.vrt").write_text(text)
    with pytest.raises(InputError):
        RasterReader(tmp_path / "survey.vrt")
    assert server.asked == []  # type: ignore[attr-defined]


def test_what_gdal_opens_beside_a_raster_is_no_way_around(
    tmp_path: Path, write_raster: Write, noise: Noise, server: ThreadingHTTPServer
) -> None:
    path = write_raster(noise(60, 70), "a.tif")
    text = documents(tmp_path / "x", f"http://127.0.0.1:{server.server_address[1]}")["wms"]
    for name in ("a.tif.msk", "a.tif.ovr"):
        (beside := tmp_path / name).write_text(text)
        with pytest.raises(InputError, match="neither TIFF nor"):
            RasterReader(path)
        shutil.copy(path, beside)
        (tmp_path / f"{name}.ovr").write_text(text)
        with pytest.raises(InputError, match="neither TIFF nor"):
            RasterReader(path)
        beside.unlink()
        (tmp_path / f"{name}.ovr").unlink()
    assert server.asked == []  # type: ignore[attr-defined]
    with RasterReader(path):
        pass


def test_sources_of_a_vrt_lie_below_it(tmp_path: Path, write_raster: Write, noise: Noise) -> None:
    (below := tmp_path / "set" / "deep").mkdir(parents=True)
    inside = write_raster(noise(1, 48), "made.tif").replace(below / "a.tif")
    outside = shutil.copy(inside, tmp_path / "b.tif")
    path = tmp_path / "set" / "m.vrt"
    path.write_text(simple(inside))
    with RasterReader(path) as reader:
        assert inside in reader.files
    (below / "link.tif").symlink_to(outside)
    for source in (outside, "../b.tif", below / "link.tif", below / ".." / ".." / "b.tif"):
        path.write_text(simple(source).replace("<SourceFilename>", "<SourceFilename relativeToVRT='1'>"))
        if str(source).startswith("/"):
            path.write_text(simple(source))
        with pytest.raises(InputError, match="outside its folder"):
            RasterReader(path)
    outer = tmp_path / "set" / "outer.vrt"
    outer.write_text(simple(path))
    with pytest.raises(InputError, match="outside its folder"):
        RasterReader(outer)
    (below / "sly.tif").write_text(simple(outside))
    outer.write_text(simple(below / "sly.tif"))
    with pytest.raises(InputError, match="names other files"):
        RasterReader(outer)


def test_a_watcher_takes_a_vrt_only_where_it_is_allowed(
    tmp_path: Path, write_raster: Write, noise: Noise, watched: Callable[..., list[Done | Refused]]
) -> None:
    write_raster(noise(1, 48), "made.tif").replace(tmp_path / "in" / "a.png.data")
    (tmp_path / "in" / "m.vrt").write_text(simple(tmp_path / "in" / "a.png.data"))
    (event,) = watched(patterns=("*.vrt",))
    assert isinstance(event, Refused)
    assert "--allow vrt" in event.reason
    (event,) = watched(patterns=("*.vrt",), allow=("vrt",))
    assert isinstance(event, Done)
    with pytest.raises(InputError, match="is never allowed"):
        watched(allow=("wms",))
    with pytest.raises(InputError, match="no driver"):
        watched(allow=("nonsense",))


def test_what_has_ended_the_watcher_twice_is_refused_until_it_changes(
    tmp_path: Path, write_raster: Write, noise: Noise, watched: Callable[..., list[Done | Refused]]
) -> None:
    path = write_raster(noise(30, 40), "made.tif").replace(tmp_path / "in" / "a.tif")

    def die(kept_bytes: int = 0) -> None:
        state = State.of(path)
        assert state is not None
        with Ledger(tmp_path / "out") as ledger:  # closed, as by the end of the process
            ledger.begin("a.tif", state, kept_bytes)

    die()
    die(kept_bytes=100)  # it had come further: a power cut, say
    with Ledger(tmp_path / "out") as ledger:
        ledger.begin("a.tif", State.of(path), 100)  # type: ignore[arg-type]
        ledger.leave()  # Ctrl-C
    die(kept_bytes=100)
    (event,) = watched()
    assert isinstance(event, Refused)
    assert "ended the watcher 2 times" in event.reason
    assert watched() == []
    os.utime(path)
    (event,) = watched()
    assert isinstance(event, Done)


def test_a_raster_is_begun_before_it_is_read(
    tmp_path: Path,
    write_raster: Write,
    noise: Noise,
    watched: Callable[..., list[Done | Refused]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = write_raster(noise(30, 40), "made.tif").replace(tmp_path / "in" / "a.tif")

    def die(*_: object) -> None:
        text = (tmp_path / "out" / ".rsedge-watch.jsonl").read_text()
        assert '"begun": "a.tif"' in text
        raise MemoryError

    monkeypatch.setattr("rsedge.raster.trust.Check.before", die)
    (event,) = watched()
    assert isinstance(event, Refused)
    assert "MemoryError" in event.reason
    assert path.exists()


def test_a_raster_of_equal_size_and_time_is_done_again(
    tmp_path: Path, write_raster: Write, noise: Noise, watched: Callable[..., list[Done | Refused]]
) -> None:
    first, second = noise(30, 40, 1), noise(30, 40, 2)
    path = write_raster(first, "made.tif").replace(tmp_path / "in" / "a.tif")
    facts = path.stat()
    assert len(watched()) == 1
    shutil.copyfile(write_raster(second, "made.tif"), path)  # the same inode
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (facts.st_size, facts.st_mtime_ns)
    assert len(watched()) == 1
    np.testing.assert_array_equal(read(tmp_path / "out" / "a.tif"), strongest(second))


def test_headers_that_promise_too_much_are_refused(
    tmp_path: Path, write_raster: Write, noise: Noise, watched: Callable[..., list[Done | Refused]]
) -> None:
    path = tmp_path / "in" / "a.tif"
    options = {
        "tiled": True,
        "blockxsize": 4096,
        "blockysize": 4096,
        "sparse_ok": True,
        "compress": "deflate",
    }
    options |= {"width": 400_000, "height": 300_000, "transform": Affine(1, 0, 5, 0, -1, 9)}
    with rasterio.open(path, "w", driver="GTiff", count=3, dtype="uint8", **options):
        pass
    (event,) = watched()
    assert isinstance(event, Refused)
    assert "--max-pixels" in event.reason


def test_a_socket_beside_a_raster_is_not_opened(
    tmp_path: Path, write_raster: Write, noise: Noise, watched: Callable[..., list[Done | Refused]]
) -> None:
    write_raster(noise(30, 40), "made.tif").replace(tmp_path / "in" / "a.tif")
    with socket.socket(socket.AF_UNIX) as beside:
        beside.bind(str(tmp_path / "in" / "a.tfw"))
        (event,) = watched()
    assert isinstance(event, Refused)
    assert "a pipe or a socket" in event.reason


def test_a_link_shows_no_file_by_a_header_beside_it(
    tmp_path: Path, watched: Callable[..., list[Done | Refused]]
) -> None:
    """ENVI takes any file for pixels; in a watched folder that would publish what only the watcher may read."""
    secret = tmp_path / "elsewhere" / "key"
    secret.parent.mkdir()
    secret.write_bytes(SECRET * 200)
    header = "ENVI\nsamples = 48\nlines = 50\nbands = 3\ndata type = 1\ninterleave = bsq\nheader offset = 0\n"
    (tmp_path / "in" / "a.tif").symlink_to(secret)
    (tmp_path / "in" / "a.hdr").write_text(header)
    (event,) = watched(preview=True)
    assert isinstance(event, Refused)
    assert "header and pixels lie in different folders" in event.reason
    secret.with_name("key.hdr").write_text(header)  # a pair, of which both are linked, is one
    (tmp_path / "in" / "a.hdr").unlink()
    (tmp_path / "in" / "a.hdr").symlink_to(secret.with_name("key.hdr"))
    with RasterReader(tmp_path / "in" / "a.tif"):
        pass


@pytest.mark.parametrize("before", ["", "EHFA", "EHFA_HEADER_TAG", "\n"])
@pytest.mark.parametrize("suffix", [".tif.mSk", ".TIF.msk", ".tif.Ovr", ".tif.msk", ".tif.ovr", ".aUx"])
def test_no_way_to_write_its_name_or_beginning_makes_a_side_file_a_vrt(
    tmp_path: Path, write_raster: Write, noise: Noise, before: str, suffix: str
) -> None:
    """GDAL finds them in any case, and finds markup behind what an HFA file begins with."""
    secret = write_raster(noise(1, 48), "secret.tif")
    (folder := tmp_path / "set").mkdir()
    path = write_raster(noise(1, 48), "made.tif").replace(folder / "a.tif")
    (folder / f"a{suffix}").write_text(before + simple(secret))
    with pytest.raises(InputError, match="neither TIFF nor"):
        RasterReader(path)


@pytest.mark.parametrize("key", ["OVERVIEW_FILE", "overview_file", "Overview&#95;File"])
def test_no_overviews_are_taken_from_where_a_raster_says(
    tmp_path: Path, write_raster: Write, noise: Noise, key: str
) -> None:
    secret = write_raster(noise(1, 48), "secret.tif")
    (folder := tmp_path / "set").mkdir()
    path = write_raster(noise(1, 48), "made.tif").replace(folder / "a.tif")
    beside = folder / "a.tif.Aux.xml"
    beside.write_text(
        f"<PAMDataset><Metadata domain='OVERVIEWS'><MDI key='{key}'>{secret}</MDI></Metadata></PAMDataset>"
    )
    with pytest.raises(InputError, match="names another file for overviews"):
        RasterReader(path)
    (outer := folder / "m.vrt").write_text(simple(path))
    with pytest.raises(InputError, match="names another file for overviews"):
        RasterReader(outer)
    beside.unlink()
    with rasterio.open(path, "r+") as dst:  # in the file itself
        dst.update_tags(ns="OVERVIEWS", **{key.replace("&#95;", "_"): str(secret)})
    with pytest.raises(InputError, match="names another file for its overviews"):
        RasterReader(path)


def test_a_vrt_in_an_archive_names_no_other(tmp_path: Path, write_raster: Write, noise: Noise) -> None:
    secret = write_raster(noise(1, 48), "secret.tif")
    relative = "<SourceFilename relativeToVRT='1'>"
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("inner.png", simple(secret))
        file.writestr("outer.vrt", simple("inner.png").replace("<SourceFilename>", relative))
        file.write(secret, "good.tif")
        file.writestr("good.vrt", simple("good.tif").replace("<SourceFilename>", relative))
    with pytest.raises(InputError, match="a VRT in an archive"):
        RasterReader(f"/vsizip/{archive}/outer.vrt")
    with RasterReader(f"/vsizip/{archive}/good.vrt") as reader:
        assert reader.grid.width == 48


def test_a_vrts_source_is_relative_or_not(tmp_path: Path, write_raster: Write, noise: Noise) -> None:
    """GDAL takes 2 for 1."""
    write_raster(noise(1, 48), "a.tif")
    path = tmp_path / "m.vrt"
    path.write_text(simple("a.tif").replace("<SourceFilename>", "<SourceFilename relativeToVRT='2'>"))
    with pytest.raises(InputError, match="not 0 or 1"):
        RasterReader(path)


def test_a_files_name_is_no_order_to_gdal(
    tmp_path: Path, write_raster: Write, noise: Noise, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_raster(noise(1, 48), "good.tif")
    write_raster(noise(2, 40), "made.tif").replace(tmp_path / "GTIFF_DIR:1:good.tif")
    monkeypatch.chdir(tmp_path)
    with RasterReader("GTIFF_DIR:1:good.tif") as reader:
        assert reader.grid.width == 40


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root makes others' links")
def test_a_strangers_link_to_what_is_not_theirs_is_not_followed(
    tmp_path: Path, write_raster: Write, noise: Noise
) -> None:
    private = write_raster(noise(1, 48), "private.tif")
    (link := tmp_path / "a.tif").symlink_to(private)
    with RasterReader(link):
        pass
    os.chown(link, 1234, 1234, follow_symlinks=False)
    with pytest.raises(InputError, match="another user's link"):
        RasterReader(link)
    os.chown(private, 1234, 1234)
    with RasterReader(link):
        pass
