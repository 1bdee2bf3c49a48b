"""A folder with everything that the commands of README.md and docs/ name, all of it tiny."""

from __future__ import annotations

import dataclasses
import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import onnx
import rasterio
from onnx import helper, numpy_helper
from rasterio.crs import CRS
from rasterio.transform import Affine
from rasterio.warp import transform_bounds

from artifacts import make_artifacts
from graphs import graph, normal
from labelled import paint, save
from rsedge.model.bundle import DEFAULT_BUNDLE, FULL_BUNDLE, PRECISION_KEY, Bundle
from rsedge.score.labels import ClassTable
from rsedge_sample.files import write_sample
from toys import pointwise_graph

ROOT = Path(__file__).parents[2]
CLASSES = ROOT / "train" / "rsedge_train" / "data" / "dubai.toml"
SIDE = 512
SCENES = (
    ("survey/north", 4 * SIDE, 2 * SIDE),  # 16 tiles together, as many as calibration needs
    ("survey/south", 4 * SIDE, 2 * SIDE),
    ("labelled/plot", SIDE, SIDE),
    ("incoming/town", SIDE, SIDE),
    ("tile", 2 * SIDE, 2 * SIDE),
    ("cog", SIDE, SIDE),
)

# The commands as they stand there, but for how long they take. A teacher on SAM2's trunk goes through the same chain in
# tests/export/test_chain.py.
SETTINGS = """
[train]
steps = 4
crop = 64
batch = 2
workers = 0
precision = "fp32"

[train-teacher]
encoder = "test_efficientnet-w32-sep"
encoder-weights = "none"

[distill]
student = "test_efficientnet-w32-sep"
encoder-weights = "none"

[export]
calibration-tiles = 16
gate-tiles = 4

[verify]
tiles = 2

[bench]
rounds = 1
seconds = 0.1
size = 600
device = "cpu"
precision = "fp32"
"""


def prepare(folder: Path) -> None:
    """Fill ``folder``; a server of ``cog.tif`` is ``serving``."""
    (folder / "rsedge.toml").write_text(SETTINGS)
    shutil.copy(CLASSES, folder / "classes.toml")
    for bundle in (FULL_BUNDLE, str(DEFAULT_BUNDLE.relative_to(ROOT))):
        _stand_in(folder / bundle, Bundle.open(ROOT / bundle))
    for name in ("survey", "labelled", "scenes", "incoming"):
        (folder / name).mkdir()
    for seed, (name, width, height) in enumerate(SCENES, 20):
        labels = write_sample(folder / f"{name}.tif", width, height, seed=seed)
        if name != "labelled/plot":
            labels.unlink()
    for scene in (1, 2, 7):
        _labelled_scene(folder, scene)
    _parcels(folder / "cog.tif", folder / "parcels.geojson")
    _huge(folder / "huge.tif")
    _unet(folder / "unet.onnx")


def _stand_in(folder: Path, bundle: Bundle) -> None:
    """A bundle that says of itself what ``bundle`` does, with as many artifacts, whose model costs nothing."""
    facts = bundle.manifest
    tiny = dataclasses.replace(facts, tile=128)
    weight = numpy_helper.from_array(normal(len(facts.classes), len(facts.bands), 1, 1), "weight")
    graphs = {}
    for precision in bundle.precisions:
        graphs[precision] = pointwise_graph(tiny)
        graphs[precision].graph.initializer[0].CopyFrom(weight)
        graphs[precision].graph.output[0].type.tensor_type.shape.dim[1].dim_value = len(facts.classes)
        graphs[precision].metadata_props.add(key=PRECISION_KEY, value=precision)
    make_artifacts(folder, tiny, graphs, report=bundle.report)


def _labelled_scene(folder: Path, scene: int) -> None:
    """``DATA/tileN``: a JPEG and a PNG whose colours are those of the class table."""
    made = folder / "made.tif"
    labels = write_sample(made, SIDE, SIDE, seed=30 + scene)
    with rasterio.open(made) as image, rasterio.open(labels) as truth:
        save(folder / f"DATA/tile{scene}/images/part_1.jpg", image.read())
        save(folder / f"DATA/tile{scene}/masks/part_1.png", paint(truth.read(1), ClassTable.read(CLASSES)))
    made.unlink()
    labels.unlink()


def _parcels(raster: Path, path: Path) -> None:
    """The middle of the raster as one polygon, in degrees as GeoJSON wants."""
    with rasterio.open(raster) as src:
        w, s, e, n = transform_bounds(src.crs, "EPSG:4326", *src.bounds)
    w, s, e, n = (0.75 * w + 0.25 * e, 0.75 * s + 0.25 * n, 0.25 * w + 0.75 * e, 0.25 * s + 0.75 * n)
    ring = [[w, s], [e, s], [e, n], [w, n], [w, s]]
    feature = {"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": [ring]}}
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))


def _huge(path: Path) -> None:
    """20000 x 80000 pixels of which no block is stored."""
    facts = {
        "driver": "GTiff", "count": 3, "width": 20000, "height": 80000, "dtype": "uint8", "tiled": True,
        "compress": "deflate", "SPARSE_OK": True, "BIGTIFF": "YES", "crs": CRS.from_epsg(32631),
        "transform": Affine(0.5, 0, 500000, 0, -0.5, 5400000),
    }  # fmt: skip
    with rasterio.open(path, "w", **facts):
        pass


def _unet(path: Path) -> None:
    """Somebody else's network: normalised RGB in, scores of the table's classes out."""
    shape = (1, 3, 64, 64)
    weights = {"a": normal(8, 3, 3, 3), "b": normal(5, 8, 1, 1, seed=1)}
    nodes = [
        helper.make_node("Conv", ["pixels", "a"], ["deep"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["deep"], ["shallow"]),
        helper.make_node("Conv", ["shallow", "b"], ["scores"]),
    ]
    onnx.save(graph(nodes, weights, shape, (1, 5, 64, 64)), path)


class _Proxy(BaseHTTPRequestHandler):
    """Answers for every host with the files of a folder, by ranges, as GDAL asks for them."""

    folder: Path

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, with_body: bool) -> None:
        path = self.folder / urlsplit(self.path).path.lstrip("/")
        data = path.read_bytes() if path.is_file() else b""
        first, _, last = self.headers.get("Range", "").removeprefix("bytes=").partition("-")
        begin, end = int(first or 0), min(int(last or len(data)) + 1, len(data))
        self.send_response(206 if first else 200 if data else 404)
        self.send_header("Accept-Ranges", "bytes")
        if first:
            self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{len(data)}")
        self.send_header("Content-Length", str(end - begin))
        self.end_headers()
        if with_body:
            self.wfile.write(data[begin:end])


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """An HTTP proxy behind which every host has the files of ``folder``; its address."""
    handler = type("Proxy", (_Proxy,), {"folder": folder})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
