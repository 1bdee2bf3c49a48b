"""Damaged bundles: refused with an error or opened, never a traceback, a crash or scores of another shape.

Seeded. The long run: ``pytest -m fuzz tests/runtime/model``.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest

from artifacts import graph_of, make_artifacts
from fuzzing import damaged, reworded
from rsedge import open_model
from rsedge.backends.speeds import Machine, Speed, keep_speeds, load_speeds
from rsedge.errors import RsedgeError
from rsedge.model.bundle import Bundle, file_sha256
from rsedge.model.engines import list_engines
from rsedge.verify.tiles import REFERENCE_NAME, ReferenceAnswer
from toys import TILE, pointwise_manifest

FILES = ("manifest.json", "model.fp32.onnx", REFERENCE_NAME, "report.json", "speeds.json", "engines/a.json")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    manifest = pointwise_manifest(
        gsd_m=(0.1, 0.5), unlabelled=((1, 2, 3),), provenance={"training": {"rehearsal": True}}
    )
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, TILE, TILE)).astype(np.uint8)
    answer = {
        "pixels": pixels,
        "classes": pixels.argmax(1).astype(np.uint8),
        "scores": pixels[:, :, ::8, ::8] * np.float16(1),
    }
    report = {
        "artifacts": {"model.fp32.onnx": {"agreement": 1.0}},
        "ladder": [{"precisions": ["int8"], "passed": False, "why": ["a"]}],
    }
    folder = make_artifacts(
        tmp_path_factory.mktemp("fuzz") / "b.rsedge", manifest, {"fp32": graph_of(manifest)}, report, answer
    )
    opened = Bundle.open(folder)
    keep_speeds(
        opened, [Speed("fp32", "cpu", "P", "1", 1, 1.0, 1.0, 1.0, opened.sha256, "2026", Machine.here())]
    )
    device = {
        "name": "Orin",
        "sm": "87",
        "tensorrt": "10.3",
        "cuda": "12.6",
        "driver_cuda": "12.6",
        "l4t": None,
    }
    facts = {"file": "a.plan", "sha256": "0" * 64, "size_bytes": 5, "precision": "fp16", "onnx": "model.fp16.onnx",
             "onnx_sha256": "0" * 64, "device": device, "batch": {"max": 1}, "workspace_bytes": 5, "convolutions": {},
             "layers": {}, "problem": None, "rsedge_version": "0.1.0", "date": "2026"}  # fmt: skip
    (folder / "engines").mkdir()
    (folder / "engines" / "a.json").write_text(json.dumps({"rsedge_plan_schema": 1, **facts}))
    return folder


def mutate(rng: random.Random, whole: Path, folder: Path) -> None:
    """Copy the bundle with one damaged file, and hash it again."""
    odd = rng.choice(FILES)
    (folder / "engines").mkdir(parents=True, exist_ok=True)
    for name in FILES:
        data = (whole / name).read_bytes()
        if name == odd:
            data = (reworded if name.endswith(".json") and rng.random() < 0.7 else damaged)(rng, data)
        (folder / name).write_bytes(data)
    if odd != "manifest.json":
        facts = json.loads((folder / "manifest.json").read_text())
        facts["artifacts"][odd] = file_sha256(folder / odd)
        (folder / "manifest.json").write_text(json.dumps(facts))


def use(folder: Path) -> None:
    """Use a bundle as the commands do. Raises the errors that the command line reports."""
    bundle = Bundle.open(folder)
    load_speeds(bundle)
    ReferenceAnswer.of(bundle)
    bundle.why_not("int8")
    list_engines(folder)
    with open_model(folder, "cpu", 1) as model:
        m = model.bundle.manifest
        batch = np.full((1, len(m.bands), m.tile, m.tile), 7, m.dtype)
        assert model.infer(batch).shape == (1, len(m.classes), m.tile, m.tile)
        assert [found.shape for found in model.stream([batch])] == [(1, len(m.classes), m.tile, m.tile)]


def run(whole: Path, folder: Path, seeds: range) -> tuple[int, int]:
    done = refused = 0
    for seed in seeds:
        mutate(random.Random(seed), whole, folder)
        try:
            use(folder)
        except RsedgeError as error:
            refused += bool(str(error))
        except Exception as error:
            raise AssertionError(f"seed {seed}: {type(error).__name__}: {error}") from error
        else:
            done += 1
    return done, refused


def test_some_odd_bundles(whole: Path, tmp_path: Path) -> None:
    done, refused = run(whole, tmp_path / "b.rsedge", range(100))
    assert done > 10
    assert refused > 10


@pytest.mark.fuzz
def test_many_odd_bundles(whole: Path, tmp_path: Path) -> None:
    done, refused = run(whole, tmp_path / "b.rsedge", range(1000, 3000))
    assert done + refused == 2000, done
