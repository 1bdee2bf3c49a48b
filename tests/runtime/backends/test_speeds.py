from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from artifacts import graph_of, make_artifacts
from rsedge import InputError, machine, open_model
from rsedge.backends import speeds
from rsedge.backends.speeds import Machine, Speed, fitting, keep_speeds, load_speeds
from rsedge.machine import usable_cores
from rsedge.model.bundle import DEFAULT_BUNDLE, Bundle, write_bundle_manifest
from toys import pointwise_manifest

MANIFEST = pointwise_manifest()
DAY = "2026-11-20T10:00:00+00:00"


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "rsedge" / "speeds"


@pytest.fixture
def own(tmp_path: Path) -> Bundle:
    graphs = {p: graph_of(MANIFEST, p) for p in ("fp32", "int8")}
    return Bundle.open(make_artifacts(tmp_path / "b.rsedge", MANIFEST, graphs, report={"notes": []}))


@pytest.fixture
def version() -> str:
    import onnxruntime

    return onnxruntime.__version__


def speed(bundle: Bundle, device: str = "cpu", tile_ms: float = 10.0, **changes: object) -> Speed:
    found = Speed(
        bundle.precision, device, "P", "1.0", usable_cores(), tile_ms, 10.0, 1.0, bundle.sha256, DAY, Machine.here()
    )  # fmt: skip
    return replace(found, **changes)  # type: ignore[arg-type]


ELSEWHERE = replace(Machine.here(), cpu="another")


def write_protect(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing new in it, for root as well."""
    make = tempfile.mkdtemp

    def refuse(suffix: str, prefix: str, parent: Path) -> str:
        if parent == folder:
            raise PermissionError(13, "Permission denied")
        return make(suffix, prefix, parent)

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)


class TestTheFile:
    def test_it_lies_beside_the_report_and_disturbs_nothing(self, own: Bundle, cache: Path) -> None:
        found = (speed(own), speed(own, "openvino", 7.5))
        assert keep_speeds(own, found) == own.path / "speeds.json"
        assert load_speeds(own) == (found, None)
        assert not cache.exists()
        again = Bundle.open(own.path)
        assert again == own
        write_bundle_manifest(own.path, MANIFEST)
        assert Bundle.open(own.path).artifacts == own.artifacts
        assert again.report == {"notes": []}

    def test_a_newer_time_replaces_the_older_and_no_other(self, own: Bundle) -> None:
        kept = [speed(own, machine=ELSEWHERE), speed(own, threads=99), speed(own, "openvino")]
        keep_speeds(own, [speed(own, tile_ms=10), *kept])
        keep_speeds(own, [speed(own, tile_ms=20)])
        assert set(load_speeds(own)[0]) == {speed(own, tile_ms=20), *kept}

    def test_where_the_folder_takes_no_file_it_is_the_users_cache(
        self, own: Bundle, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write_protect(own.path, monkeypatch)
        path = keep_speeds(own, [speed(own)])
        assert path.parent == cache
        assert load_speeds(own) == ((speed(own),), None)
        assert not (own.path / "speeds.json").exists()

    def test_the_later_of_both_places_counts(self, own: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
        keep_speeds(own, [speed(own, tile_ms=10)])
        write_protect(own.path, monkeypatch)
        newer = speed(own, tile_ms=5, date="2026-11-21T10:00:00+00:00")
        keep_speeds(own, [newer])
        assert load_speeds(own) == ((newer,), None)

    def test_neither_place_is_an_error(
        self, own: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write_protect(own.path, monkeypatch)
        (tmp_path / "cache").write_text("no folder")
        with pytest.raises(OSError):
            keep_speeds(own, [speed(own)])

    def test_a_lone_file_and_the_installed_model_are_kept_in_the_cache(
        self, own: Bundle, cache: Path
    ) -> None:
        for bundle in (Bundle.open(own.artifact), Bundle.open(None)):
            assert keep_speeds(bundle, [speed(bundle)]).parent == cache
            assert load_speeds(bundle) == ((speed(bundle),), None)
        assert not (DEFAULT_BUNDLE / "speeds.json").exists()

    @pytest.mark.parametrize(
        "change",
        [
            lambda facts: "{",
            lambda facts: "[]",
            lambda facts: json.dumps({**facts, "rsedge_speeds_schema": 2}),
            lambda facts: json.dumps({**facts, "speeds": [{**facts["speeds"][0], "tile_ms": "fast"}]}),
            lambda facts: json.dumps({**facts, "speeds": [{**facts["speeds"][0], "tile_ms": 0}]}),
            lambda facts: json.dumps({**facts, "speeds": [{**facts["speeds"][0], "more": 1}]}),
            lambda facts: json.dumps({**facts, "speeds": [{**facts["speeds"][0], "machine": None}]}),
        ],
    )
    def test_a_damaged_one_is_passed_over_with_a_word(self, own: Bundle, change: Callable[..., str]) -> None:
        path = keep_speeds(own, [speed(own)])
        path.write_text(change(json.loads(path.read_text())))
        found, wrong = load_speeds(own)
        assert found == ()
        assert str(wrong).startswith(f"{path} is not a valid speeds file")
        with open_model(own.path) as model:
            assert str(model.why).startswith(f"{path} is not a valid speeds file")
            assert str(model.why).endswith("not measured on this machine; `rsedge verify` measures")


class TestWhatFits:
    def test_the_fastest_comes_first_by_its_time_over_the_references(self, own: Bundle) -> None:
        slow, fast = speed(own), speed(own, "openvino", 12, reference_ms=20)  # a busier hour
        assert fitting([slow, fast], own, None) == (fast, slow)

    def test_what_holds_for_something_else_is_passed_over(self, own: Bundle) -> None:
        others = [
            speed(own, machine=ELSEWHERE),
            speed(own, machine=replace(Machine.here(), cores=usable_cores() + 1)),
            speed(own, machine=replace(Machine.here(), device="another GPU")),
            speed(own, sha256="0" * 64),
            speed(own, precision="int8"),
            speed(own, threads=usable_cores() + 1),
            speed(own, "tensorrt", 1),
            speed(own, "ort-tensorrt", 1),
        ]
        assert fitting(others, own, None) == ()
        assert fitting(others, own, usable_cores() + 1) == (others[5],)

    def test_threads_of_the_cpu_do_not_matter_to_a_gpu(self, own: Bundle) -> None:
        assert fitting([speed(own, "cuda", threads=99)], own, None) == (speed(own, "cuda", threads=99),)

    def test_engines_only_when_a_precision_was_asked_for(
        self, own: Bundle, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(speeds, "_plans", lambda _: frozenset({"plan"}))
        engine, old = speed(own, "tensorrt", 1, sha256="plan"), speed(own, "tensorrt", 1, sha256="old")
        assert fitting([engine, old], own, None) == ()
        assert fitting([old, engine], own, None, engines=True) == (engine,)

    def test_a_number_beyond_all_is_passed_over(self, own: Bundle) -> None:
        keep_speeds(own, [speed(own)])
        path = own.path / "speeds.json"
        path.write_text(path.read_text().replace('"tile_ms": 10.0', f'"tile_ms": {10**400}'))
        found, wrong = load_speeds(own)
        assert found == ()
        assert "tile_ms: 1000" in str(wrong)
        assert "beyond what can be measured" in str(wrong)

    @pytest.mark.parametrize(
        "changes",
        [
            {"tile_ms": 0},
            {"reference_ms": -1},
            {"agreement": 1.1},
            {"tile_ms": math.inf},
            {"streams": 0},
            {"tile_ms": -1, "passed": False},
        ],
    )
    def test_impossible_numbers(self, own: Bundle, changes: dict[str, float]) -> None:
        with pytest.raises(InputError, match="are impossible"):
            speed(own, **changes)  # type: ignore[arg-type]

    def test_gpus_and_boards_are_part_of_the_machine(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(machine, "GPUS", tmp_path / "gpus")
        monkeypatch.setattr(machine, "BOARD", tmp_path / "model")
        assert Machine.here().device == ""
        (tmp_path / "gpus" / "0000:01:00.0").mkdir(parents=True)
        (tmp_path / "gpus" / "0000:01:00.0" / "information").write_text("Model: \t\t NVIDIA L4\nIRQ: 5\n")
        assert Machine.here().device == "NVIDIA L4"
        (tmp_path / "model").write_bytes(b"NVIDIA Jetson Orin Nano\0")
        assert Machine.here().device == "NVIDIA Jetson Orin Nano, NVIDIA L4"


class TestAuto:
    def test_unmeasured_is_the_cpu_and_says_so(self, own: Bundle) -> None:
        with open_model(own.path) as model:
            assert (model.name, model.why) == (
                "onnxruntime",
                "not measured on this machine; `rsedge verify` measures",
            )
        with open_model(own.path, "cpu") as model:
            assert model.why is None

    def test_openvino_where_it_was_faster(self, own: Bundle, version: str) -> None:
        pytest.importorskip("openvino")
        with open_model(own.path, "openvino") as model:
            ours = model.version
        cpu = speed(own, version=version)
        for tile_ms, name in ((9, "openvino"), (11, "onnxruntime")):
            keep_speeds(own, [cpu, speed(own, "openvino", tile_ms, version=ours)])
            with open_model(own.path) as model:
                assert (model.name, model.why) == (
                    name,
                    "fastest of 2 measured on this machine on 2026-11-20",
                )

    def test_int8_is_never_taken_for_fp32_though_it_is_faster(self, own: Bundle, version: str) -> None:
        int8 = Bundle.open(own.path, "int8")
        keep_speeds(own, [speed(own, version=version), speed(int8, tile_ms=1, version=version)])
        with open_model(own.path) as model:
            assert (model.bundle.precision, model.why) == (
                "fp32",
                "the only one measured on this machine on 2026-11-20",
            )
        with open_model(own.path, precision="int8") as model:
            assert (model.bundle.precision, model.why) == (
                "int8",
                "the only one measured on this machine on 2026-11-20",
            )

    def test_the_fastest_number_of_streams_is_taken_also_on_a_device_asked_for(
        self, own: Bundle, version: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(speeds, "usable_cores", lambda: 8)
        monkeypatch.setattr("rsedge.backends.usable_cores", lambda: 8)
        monkeypatch.setattr("rsedge.backends.ort.usable_cores", lambda: 8)
        found = [
            speed(own, version=version, threads=8, streams=n, tile_ms=ms)
            for n, ms in ((1, 9), (2, 7), (4, 8))
        ]
        keep_speeds(own, found)
        for device in ("auto", "cpu"):
            with open_model(own.path, device) as model:
                assert (model.streams, model.threads) == (2, 8)
            with open_model(own.path, device, streams=4) as model:
                assert model.streams == 4
            with open_model(
                own.path, device, streams=8
            ) as model:  # not measured: one stream ranks the devices
                assert model.streams == 8
            with open_model(own.path, device, threads=2) as model:  # measured with other threads
                assert model.streams == 1

    def test_what_failed_here_is_never_taken(self, own: Bundle, version: str) -> None:
        keep_speeds(own, [speed(own, version=version), speed(own, "openvino", 1, passed=False)])
        with open_model(own.path) as model:
            assert (model.name, model.why) == (
                "onnxruntime",
                "the only one measured on this machine on 2026-11-20",
            )

    def test_a_file_from_before_streams_were_counted_is_read(self, own: Bundle) -> None:
        path = keep_speeds(own, [speed(own)])
        facts = json.loads(path.read_text())
        for key in ("streams", "passed"):
            del facts["speeds"][0][key]
        path.write_text(json.dumps(facts))
        assert load_speeds(own) == ((speed(own),), None)

    def test_another_version_of_the_library_is_not_what_was_measured(self, own: Bundle, version: str) -> None:
        pytest.importorskip("openvino")
        keep_speeds(own, [speed(own, version=version), speed(own, "openvino", 1, version="2020.1.0")])
        with open_model(own.path) as model:
            assert model.name == "onnxruntime"
            assert str(model.why).startswith("fastest of 2 measured on this machine")
            assert "openvino was measured with version 2020.1.0, but 20" in str(model.why)

    def test_what_no_longer_starts_is_passed_over(
        self, own: Bundle, version: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        keep_speeds(own, [speed(own, "openvino", 1)])
        monkeypatch.setitem(__import__("sys").modules, "openvino", None)
        with open_model(own.path) as model:
            assert model.name == "onnxruntime"
            assert "openvino was measured, but does not start now" in str(model.why)
            assert str(model.why).endswith("not measured on this machine; `rsedge verify` measures")

    def test_a_cuda_that_was_not_measured_is_tried_first(
        self, own: Bundle, version: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Here it is offered and falls back, so what was measured counts."""
        import onnxruntime

        real, asked = onnxruntime.InferenceSession, list[object]()

        def session(path: str, options: object, providers: list[object], **more: object) -> object:
            asked.append(providers)
            return real(path, options, providers=["CPUExecutionProvider"], **more)

        monkeypatch.setattr(onnxruntime, "InferenceSession", session)
        monkeypatch.setattr(
            onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
        )
        keep_speeds(own, [speed(own, version=version)])
        with open_model(own.path) as model:
            assert model.why == "the only one measured on this machine on 2026-11-20"
        assert [len(providers) for providers in asked] == [2, 1]  # type: ignore[arg-type]
