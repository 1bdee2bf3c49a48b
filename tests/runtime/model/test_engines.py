"""Engines of a bundle: the facts beside a plan, and the reasons to refuse a plan."""

from __future__ import annotations

import json
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from rsedge.errors import InputError, ModelError, OutputError
from rsedge.model.bundle import Bundle
from rsedge.model.engines import (
    Batch,
    Device,
    PlanFacts,
    choose,
    device_tag,
    list_engines,
    mismatches,
    plan_name,
    plan_path,
    write_plan,
)
from toys import make_bundle, pointwise_graph, pointwise_manifest

PLAN = b"a plan"
HERE = Device("Orin", "87", "10.3.0", "12.6", "12.6", "36.4.0")


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    manifest = pointwise_manifest()
    return Bundle.open(
        make_bundle(tmp_path / "my models" / "toy.rsedge", manifest, pointwise_graph(manifest))
    )


def facts_of(bundle: Bundle, precision: str = "fp16", device: Device = HERE, plan: bytes = PLAN) -> PlanFacts:
    return PlanFacts(
        file=plan_name(precision, device),
        sha256=sha256(plan).hexdigest(),
        size_bytes=len(plan),
        precision=precision,
        onnx="model.fp32.onnx",
        onnx_sha256=bundle.sha256,
        device=device,
        batch=Batch(4),
        workspace_bytes=1 << 30,
        convolutions={"FP16": 50, "FP32": 2},
        layers={"FP16": 80, "FP32": 9},
        problem=None,
        rsedge_version="0.1.0",
        date="2026-11-20T00:00:00+00:00",
    )


def written(bundle: Bundle, precision: str = "fp16", device: Device = HERE) -> PlanFacts:
    facts = facts_of(bundle, precision, device)
    write_plan(bundle.path, PLAN, facts)
    return facts


def test_a_plan_is_written_plain_and_read_back(bundle: Bundle) -> None:
    facts = written(bundle)
    path = plan_path(bundle.path, facts)
    assert path.read_bytes() == PLAN  # no prefix: trtexec loads it
    assert path.name == "fp16-orin-sm87-trt10.3.0.plan"
    assert list_engines(bundle.path) == (facts,)
    assert mismatches(facts, bundle, HERE) == ()
    assert choose(bundle, "fp16", HERE) == choose(bundle, None, HERE) == facts


@pytest.mark.parametrize(
    ("here", "words"),
    [
        (replace(HERE, tensorrt="10.3.1"), "it was built for TensorRT 10.3.0, but this machine has 10.3.1"),
        (replace(HERE, sm="89"), "it was built for SM 87, but this machine has 89"),
        (replace(HERE, name="Thor"), "it was built for device Orin, but this machine has Thor"),
        (replace(HERE, cuda="13.0", driver_cuda="13.1", l4t=None), None),
    ],
)
def test_another_device_is_a_mismatch(bundle: Bundle, here: Device, words: str | None) -> None:
    assert mismatches(written(bundle), bundle, here) == ((words,) if words else ())


def test_a_changed_plan_is_a_mismatch(bundle: Bundle) -> None:
    facts = written(bundle)
    plan_path(bundle.path, facts).write_bytes(PLAN + b"!")
    (found,) = mismatches(facts, bundle, HERE)
    assert "changed after it was built" in found
    plan_path(bundle.path, facts).unlink()
    assert mismatches(facts, bundle, HERE) == ("the plan fp16-orin-sm87-trt10.3.0.plan is missing",)


def test_a_changed_model_is_a_mismatch(bundle: Bundle) -> None:
    facts = written(bundle)
    other = replace(bundle, artifacts={"model.fp32.onnx": "0" * 64})
    (found,) = mismatches(facts, other, HERE)
    assert found.startswith("its source model.fp32.onnx has changed (SHA-256 000000000000...")
    (found,) = mismatches(facts, replace(bundle, artifacts={}), HERE)
    assert found == "its source model.fp32.onnx is no longer in the bundle"


def test_every_difference_and_the_command_are_told(bundle: Bundle) -> None:
    facts = written(bundle)
    plan_path(bundle.path, facts).unlink()
    with pytest.raises(ModelError) as caught:
        choose(bundle, "fp16", Device("Thor", "110", "11.4.0", "13.0", "13.0"))
    message = str(caught.value)
    for words in (
        "is missing",
        "TensorRT 10.3.0, but this machine has 11.4.0",
        "SM 87, but this machine has 110",
        "Orin, but this machine has Thor",
    ):
        assert words in message
    assert message.endswith(f"rsedge export --trt --bundle '{bundle.path}' --precision fp16")


def test_what_was_asked_for_is_taken_and_nothing_guessed(bundle: Bundle) -> None:
    with pytest.raises(ModelError, match=r"no TensorRT engine \(it has none\).*rsedge export --trt --bundle"):
        choose(bundle, None, HERE)
    half, eighth = written(bundle, "fp16"), written(bundle, "int8")
    assert choose(bundle, "int8", HERE) == eighth
    assert choose(bundle, "fp16", HERE) == half
    with pytest.raises(InputError, match=r"several.*fp16-orin-sm87.*int8-orin-sm87.*--precision"):
        choose(bundle, None, HERE)
    with pytest.raises(
        ModelError, match=r"no TensorRT engine in fp32 \(it has fp16-orin-sm87.*--precision fp32"
    ):
        choose(bundle, "fp32", HERE)
    thor = Device("Thor", "110", "11.4.0", "13.0", "13.0")
    other = written(bundle, "fp16", thor)
    assert choose(bundle, None, thor) == other  # engines of several devices lie in one bundle


def test_an_interrupted_write_leaves_nothing_and_the_old_engine_stands(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> str:
        raise KeyboardInterrupt

    facts = facts_of(bundle)
    with monkeypatch.context() as patch:
        patch.setattr(PlanFacts, "to_json", interrupted)
        with pytest.raises(KeyboardInterrupt):
            write_plan(bundle.path, PLAN, facts)
    assert list((bundle.path / "engines").iterdir()) == []
    written(bundle)
    newer = b"a newer plan"
    with monkeypatch.context() as patch:
        patch.setattr(PlanFacts, "to_json", interrupted)
        with pytest.raises(KeyboardInterrupt):
            write_plan(bundle.path, newer, facts_of(bundle, plan=newer))
    assert choose(bundle, "fp16", HERE) == facts
    assert len(list((bundle.path / "engines").iterdir())) == 2


def test_a_crash_between_the_two_files_is_noticed(bundle: Bundle) -> None:
    facts = written(bundle)
    plan_path(bundle.path, facts).write_bytes(b"a newer plan")  # it takes its name first
    with pytest.raises(ModelError, match="changed after it was built"):
        choose(bundle, "fp16", HERE)


def test_a_disk_that_refuses_is_an_output_error(bundle: Bundle) -> None:
    (bundle.path / "engines").write_bytes(b"in the way")
    with pytest.raises(OutputError, match="cannot be written"):
        write_plan(bundle.path, PLAN, facts_of(bundle))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rsedge_plan_schema": 2}, "plan schema 2.*Upgrade rsedge"),
        ({"batch": {"min": 1, "max": 1}}, "was not written by rsedge"),
        ({"precision": "fp8"}, "precision 'fp8'"),
        ({"file": "../../evil.plan"}, "not the name of a plan"),
        ({"surprise": 1}, "was not written by rsedge"),
    ],
)
def test_a_damaged_sidecar_is_refused(bundle: Bundle, change: dict[str, object], words: str) -> None:
    sidecar = plan_path(bundle.path, written(bundle)).with_suffix(".json")
    sidecar.write_text(json.dumps({**json.loads(sidecar.read_text()), **change}))
    with pytest.raises(ModelError, match=words):
        list_engines(bundle.path)


def test_engines_do_not_become_artifacts_that_must_not_change(bundle: Bundle) -> None:
    """The manifest lists exported files only, because engines are added on devices."""
    before = (bundle.path / "manifest.json").read_bytes()
    written(bundle)
    assert (bundle.path / "manifest.json").read_bytes() == before
    assert Bundle.open(bundle.path).sha256 == bundle.sha256


def test_impossible_batches_are_refused() -> None:
    with pytest.raises(InputError, match="batch must be at least 1 tile, not 0"):
        Batch(0)


def test_plans_of_boards_with_one_sm_lie_side_by_side(bundle: Bundle) -> None:
    nano, agx = (
        replace(HERE, name=f"Orin (NVIDIA Jetson {kind} Developer Kit)") for kind in ("Orin Nano", "AGX Orin")
    )
    first, second = written(bundle, "fp16", nano), written(bundle, "fp16", agx)
    assert first.file == "fp16-orin-jetson-nano-sm87-trt10.3.0.plan"
    assert second.file == "fp16-orin-jetson-agx-sm87-trt10.3.0.plan"
    assert (choose(bundle, "fp16", nano), choose(bundle, "fp16", agx)) == (first, second)


@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("NVIDIA GeForce RTX 4090", "geforce-rtx-4090-sm89"),
        ("../x y", "x-y-sm89"),
        ("NVIDIA", "gpu-sm89"),
        ("\u738b", "gpu-sm89"),
    ],
)
def test_a_devices_name_is_fit_for_a_file(name: str, start: str) -> None:
    assert device_tag(replace(HERE, name=name, sm="89")) == f"{start}-trt10.3.0"


def test_the_artifact_that_an_engine_was_built_from(bundle: Bundle) -> None:
    assert replace(facts_of(bundle, "int8"), onnx="model.int8-trt8.onnx").source == "int8-trt8"
