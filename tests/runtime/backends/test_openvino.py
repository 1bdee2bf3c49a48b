from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from artifacts import graph_of, make_artifacts
from rsedge import BackendError, ModelError, open_model, segment
from rsedge.tiling.window import Window
from rsedge_sample import SampleScene
from toys import CLASSES, TILE, make_bundle, pointwise_graph, pointwise_manifest, read, strongest


def test_a_missing_openvino_prints_the_pip_command(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(BackendError, match=r'pip install "rsedge\[openvino\]"'):
        open_model(bundle, "openvino")


class TestRuns:
    @pytest.fixture(autouse=True)
    def _installed(self) -> None:
        pytest.importorskip("openvino")

    def test_scores_are_the_graphs_output_whatever_the_batch(self, bundle: Path) -> None:
        batch = np.random.default_rng(0).integers(0, 256, (3, 3, TILE, TILE)).astype(np.uint8)
        with open_model(bundle, "openvino", threads=1) as model:
            for count in (1, 3, 2, 1):
                np.testing.assert_array_equal(model.infer(batch[:count]), batch[:count].astype(np.float32))
            assert (model.name, model.threads, model.bundle.precision) == ("openvino", 1, "fp32")
            assert model.provider == f"OpenVINO CPU {'.'.join(model.version.split('.')[:2])}"

    def test_an_answer_stays_when_the_next_comes(self, bundle: Path) -> None:
        batch = np.random.default_rng(0).integers(0, 256, (2, 3, TILE, TILE)).astype(np.uint8)
        with open_model(bundle, "openvino", threads=1) as model:
            first, second = model.infer(batch[:1]), model.infer(batch[1:])
        np.testing.assert_array_equal(first[0], batch[0])
        np.testing.assert_array_equal(second[0], batch[1])

    def test_pixels_that_are_not_contiguous(self, bundle: Path) -> None:
        image = np.random.default_rng(0).integers(0, 256, (TILE, TILE, 3)).astype(np.uint8)
        with open_model(bundle, "openvino", threads=1) as model:
            np.testing.assert_array_equal(
                model.infer(image.transpose(2, 0, 1)[None])[0], image.transpose(2, 0, 1)
            )

    def test_a_raster_through_the_engine(
        self,
        bundle: Path,
        write_raster: Callable[..., Path],
        noise: Callable[..., np.ndarray],
        tmp_path: Path,
    ) -> None:
        pixels = noise(150, 130)
        with open_model(bundle, "openvino", threads=1) as model:
            result = segment(model, write_raster(pixels), tmp_path / "m.tif")
        np.testing.assert_array_equal(read(tmp_path / "m.tif"), strongest(pixels))
        assert (result.backend, result.notes) == ("openvino", ())

    def test_the_precision_asked_for_is_the_file_that_runs(self, tmp_path: Path) -> None:
        manifest = pointwise_manifest()
        folder = make_artifacts(
            tmp_path / "b",
            manifest,
            {"fp32": graph_of(manifest), "int8": graph_of(manifest, "int8", (2, 2, 2))},
        )
        batch = np.full((1, 3, TILE, TILE), 7, np.uint8)
        with open_model(folder, "openvino", 1) as exact, open_model(folder, "openvino", 1, "int8") as coarse:
            assert exact.infer(batch).max() == 7
            assert coarse.infer(batch).max() == 14

    def test_the_default_model_answers_as_in_onnxruntime(self) -> None:
        pixels = SampleScene(512, 512, 33).render(Window(0, 0, 512, 512))[0][None]
        with open_model(None, "cpu", 1) as reference, open_model(None, "openvino", 1) as model:
            expected, found = reference.infer(pixels), model.infer(pixels)
        assert (expected.argmax(1) == found.argmax(1)).mean() > 0.9999
        assert np.abs(expected - found).max() < 1e-4 * np.ptp(expected)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"tile": 32}, "input is uint8 Nx3x64x64, but its manifest says uint8 Nx3x32x32"),
            (
                {"classes": CLASSES[:2]},
                "output is float32 Nx3x64x64, but its manifest says float32 Nx2x64x64",
            ),
        ],
    )
    def test_a_graph_other_than_its_manifest_is_refused(
        self, tmp_path: Path, changes: dict[str, object], message: str
    ) -> None:
        graph = pointwise_graph(pointwise_manifest(), metadata=False)
        folder = make_bundle(tmp_path / "b", pointwise_manifest(**changes), graph)
        with pytest.raises(ModelError, match=message):
            open_model(folder, "openvino")

    def test_a_damaged_graph_is_a_model_error(self, tmp_path: Path) -> None:
        graph = pointwise_graph(pointwise_manifest())
        graph.graph.node[1].op_type = "Konv"
        with pytest.raises(ModelError, match="does not load in OpenVINO 20"):
            open_model(make_bundle(tmp_path / "b", pointwise_manifest(), graph), "openvino")

    def test_it_starts_without_a_word(self, bundle: Path) -> None:
        script = f"from rsedge import open_model; open_model({str(bundle)!r}, 'openvino', 1).close()"
        done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
        assert (done.stdout, done.stderr) == ("", "")
