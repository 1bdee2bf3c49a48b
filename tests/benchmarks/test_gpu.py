"""benchmarks/gpu.py, gpu_kit.py: the rehearsal on a CPU with small networks, parts that die, pieces of packages."""

import json
import os
import random
import struct
import sys
import zipfile
from pathlib import Path

import pytest

from artifacts import graph_of, make_artifacts
from rsedge.backends.rtx import is_installed
from toys import pointwise_manifest

BENCHMARKS = str(Path(__file__).resolve().parents[2] / "benchmarks")
sys.path.append(BENCHMARKS)
try:
    import gpu
    import gpu_kit
    import gpu_page
    import gpu_tools
    import gpu_train
finally:
    sys.path.remove(BENCHMARKS)

MANIFEST = pointwise_manifest()
SMALL = {
    "networks": ["mobilenetv3_small_100"], "dtypes": ["fp32"], "tile": 32, "rounds": 2, "side": 80, "large_side": 96,
    "precisions": ["fp32"],
}  # fmt: skip


@pytest.fixture
def bundle(tmp_path):
    graphs = {precision: graph_of(MANIFEST, precision) for precision in ("fp32", "fp16")}
    return make_artifacts(tmp_path / "model.rsedge", MANIFEST, graphs)


def _run(monkeypatch, *words):
    monkeypatch.setattr(gpu, "REHEARSAL", {**gpu.REHEARSAL, **SMALL})
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--device", "cpu", *map(str, words)])
    gpu.main()


@pytest.mark.slow
def test_the_rehearsal_takes_the_way_that_a_gpu_takes(bundle, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    _run(monkeypatch, "--out", out, "--bundle", bundle, "--parts", "onnx", "memory", "eager")
    said = json.loads((out / "gpu.json").read_text())["parts"]
    assert {name: part["ended"] for name, part in said.items()} == dict.fromkeys(said, "done")
    found = {name: part["found"] for name, part in said.items()}
    assert found["onnx"]["verify fp16"]["state"] == "passed"
    assert found["onnx"]["infer fp16"]["differ"] == 0
    rooms = [found["memory"][f"room for {n} tiles"] for n in (4, 2, 1)]
    assert [(room["batch"], room["halved"], room["differ"]) for room in rooms] == [
        (4, 1, 0),
        (2, 2, 0),
        (1, 3, 0),
    ]
    assert "does not fit the memory" in found["memory"]["room for no tile"]["error"]
    assert found["eager"]["eager fp32 mobilenetv3_small_100"]["rounds"] == 2
    assert "failed" not in json.dumps(found)
    assert "mobilenetv3_small_100" in capsys.readouterr().out

    _run(monkeypatch, "--out", out, "--bundle", bundle, "--parts", "rtx", "--more")
    page = (out / "gpu.md").read_text()
    assert gpu_page.REHEARSAL in page
    assert page.index("## ONNX Runtime on CUDA") < page.index("## TensorRT for RTX")
    assert ("is not installed" in page) != is_installed()  # its compiler needs no GPU


@pytest.mark.slow
def test_training_is_timed_repeated_stopped_and_resumed(bundle, tmp_path, monkeypatch):
    _run(monkeypatch, "--out", tmp_path / "out", "--bundle", bundle, "--parts", "train")
    part = json.loads((tmp_path / "out/gpu.json").read_text())["parts"]["train"]
    assert part["ended"] == "done", part
    found = part["found"]
    assert not [what for what, one in found.items() if "failed" in one], found
    assert found["the same run again"]["same_bits"]
    assert found["stopped and resumed"]["same_bits"]
    for run in ("alone fp32", "distilled fp32"):
        assert found[run]["steady_images_per_s"] > 0
        assert found[run]["finite"]


STAND_IN = """
import json, sys, time
name = sys.argv[1]
print("not for us")
print(json.dumps({"what": "first", "number": 1}), flush=True)
if name == "memory":
    raise RuntimeError("no such thing")
time.sleep(60 if name == "onnx" else 0)
print(json.dumps({"what": "second", "failed": "it was full"}), flush=True)
"""


@pytest.mark.parametrize(
    ("name", "limit_s", "ended", "steps"),
    [
        ("onnx", 1.0, "out of time", ["first"]),
        ("memory", 60.0, "failed with 1: RuntimeError: no such thing", ["first"]),
        ("eager", 60.0, "done", ["first", "second"]),
    ],
)
def test_what_was_measured_stands_however_a_part_ends(
    name, limit_s, ended, steps, tmp_path, monkeypatch, capsys
):
    (tmp_path / "gpu_parts.py").write_text(STAND_IN)
    monkeypatch.setattr(gpu, "HERE", tmp_path)
    facts = {"parts": {}}
    gpu.run_part(name, {"limit_s": limit_s}, facts, dict(os.environ), tmp_path)
    part = json.loads((tmp_path / "gpu.json").read_text())["parts"][name]
    assert (part["ended"], list(part["found"])) == (ended, steps)
    assert part["seconds"] < 30
    assert ("second" in capsys.readouterr().out) == (name == "eager")


def test_a_step_that_fails_says_so_and_ends_nothing():
    def fails():
        raise OSError("disk full")

    assert gpu_tools.attempt("a", dict, [("b", 1)]) == {"what": "a", "b": 1}
    assert gpu_tools.attempt("a", fails) == {"what": "a", "failed": "OSError: disk full"}


def test_steady_figures_leave_out_the_first_row():
    # 20 steps of 8 in 10 s, of which 5 s of waiting; then 40 in 10 s with 1 s of waiting.
    rows = [
        {"step": 20, "images_per_s": 16.0, "wait_share": 0.5},
        {"step": 60, "images_per_s": 24.0, "wait_share": 0.3},
    ]
    steady = gpu_train._steady(rows, 8)
    assert steady == {
        "steady_images_per_s": pytest.approx(32.0),
        "steady_wait_share": pytest.approx(0.1),
    }
    assert gpu_train._steady(rows[:1], 8) == {}


def _container(*entries):
    """CUDA machine code as ``nvcc`` lays it out: kind, version, header, size, ..., compute capability at byte 28."""
    body = b""
    for sm, payload in entries:
        head = struct.pack("<HHIQIIHHI", 2, 0x101, 64, len(payload), 0, 0, 7, 1, sm)
        body += head + bytes(64 - len(head)) + payload
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(body)) + body


def test_of_machine_code_only_the_wanted_stays_and_nothing_else_moves():
    other = _container((75, b"c" * 40))
    before, after = b"begin" + gpu_kit.FATBIN + random.Random(1).randbytes(64), b"end"
    both = _container((80, b"a" * 24), (90, b"b" * 16), (120, b"d" * 8))
    code = bytearray(before + both + other + after)
    assert gpu_kit.only_sm(code, 90) == len(both) - len(_container((90, b"b" * 16)))
    kept = _container((90, b"b" * 16))
    assert code == before + kept + bytes(len(both) - len(kept)) + other + after
    assert gpu_kit.only_sm(code, 90) == 0


def _wheel(path, content):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("library/capi/library.so", content)
        archive.writestr("library/capi/libonnxruntime.so.1.30", content)
        archive.writestr("library/__init__.py", "answer = 42")
    return path


def test_a_tree_in_parts_appears_with_the_last(tmp_path, capsys):
    content = random.Random(0).randbytes(9000)
    packed = gpu_kit._repack(_wheel(tmp_path / "library-1-py3-none-any.whl", content), tmp_path, None)
    pieces = gpu_kit.Pieces(tmp_path / "kit", 4000)
    pieces.cut(packed)
    assert pieces.number == 3
    assert max(file.stat().st_size for file in (tmp_path / "kit").rglob("*-of-3")) <= 4000
    site = tmp_path / "site"
    gpu_kit.install([tmp_path / "kit/2", tmp_path / "kit/1"], site)
    assert "waits for library.tar.xz.3-of-3" in capsys.readouterr().out
    assert not (site / "library").exists()
    gpu_kit.install([tmp_path / "kit/3"], site)
    assert (site / "library/capi/library.so").read_bytes() == content
    assert not (site / "library/capi/libonnxruntime.so.1.30").exists()
    assert not list((site / ".parts").iterdir())


def test_wheels_fill_pieces_and_are_not_cut(tmp_path):
    files = [tmp_path / name for name in "abc"]
    for file in files:
        file.write_bytes(bytes(30))
    pieces = gpu_kit.Pieces(tmp_path / "kit", 70)
    for file in files:
        pieces.put(file)
    assert [sorted(f.name for f in (tmp_path / "kit" / str(n)).iterdir()) for n in (1, 2)] == [
        ["a", "b"],
        ["c"],
    ]
    (tmp_path / "d").write_bytes(bytes(71))
    with pytest.raises(ValueError, match="d has"):
        pieces.put(tmp_path / "d")


@pytest.mark.parametrize("wrong", [["--minutes", "0"], ["--parts", "table5"], ["--kit", "nowhere"]])
def test_wrong_usage_says_so(wrong, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        gpu._parse(["--out", str(tmp_path), *wrong])
    assert ended.value.code == 2
    assert wrong[0] in capsys.readouterr().err
