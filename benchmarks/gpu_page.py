"""Results of gpu.py as a short table and as a page of the docs. No I/O, nothing but the standard library."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

Facts = Mapping[str, Any]
MIB = 2**20
REHEARSAL = "**A rehearsal on a CPU with small networks: the figures mean nothing.**"


def summary(facts: Facts) -> str:
    """Return the main figures as plain lines."""
    return "\n\n".join(
        block for name in facts["parts"] for block in _part(name, facts["parts"][name]["found"])
    )


def page(facts: Facts) -> str:
    """Return Markdown with machine and method, then one section per part."""
    method, machine = facts["method"], facts["machine"]
    libraries = _libraries(facts)
    lines = ["# On a GPU", ""]
    if method["device"] == "cpu":
        lines += [REHEARSAL, ""]
    lines += [
        f"`python benchmarks/gpu.py --minutes {method['minutes']:g}` on {machine['date'][:10]}: "
        f"{machine.get('nvidia_smi', 'no GPU')}, {machine['cores']} cores{libraries}. One run.",
        "",
    ]
    for name, part in facts["parts"].items():
        lines += [f"## {TITLES[name]}", "", HOW[name].format(**method), ""]
        for block in _part(name, part["found"]):
            lines += [block, ""]
        if part["ended"] != "done":
            lines += [f"The part ended after {part.get('seconds', 0):g} s: {part['ended']}.", ""]
    return "\n".join(lines).rstrip() + "\n"


TITLES = {
    "onnx": "ONNX Runtime on CUDA",
    "memory": "A GPU whose memory is full",
    "eager": "Table 4 in torch",
    "train": "Training",
    "compile": "Table 4 after torch.compile",
    "rtx": "TensorRT for RTX",
}
HOW = {
    "onnx": "`rsedge verify` and `rsedge infer` on {bundle}, against fp32 in ONNX Runtime on the CPU of the same "
    "machine. \"Differ\" is the share of the mask's pixels with another class; errors are shares of the scores' range.",
    "memory": "GPU memory is filled by plain allocations until it holds only the batch named; then 8 tiles are asked "
    "for. The runtime halves what it asks for until it fits.",
    "eager": "Forward passes at batch {batch}, {tile} x {tile}, random weights, TF32 off. Weights and input of the "
    "type named; amp-bf16 is autocast over fp32. The paper's GPU was a TITAN RTX.",
    "train": "`rsedge distill` of {student}, crops of {crop} px, {steps} steps, {workers} workers. Steady figures "
    "leave out the first 20 steps.",
    "compile": "As above, after `torch.compile` with fixed shapes.",
    "rtx": "Its compiler knows compute capabilities 7.5, 8.0, 8.6, 8.9, 12.0 and 12.1.",
}


def _libraries(facts: Facts) -> str:
    found = facts["parts"].get("memory", {}).get("found", {}).get("machine", {})
    named = [
        f"{name} {found[name]}"
        for name in ("cpu", "torch", "cuda", "cudnn", "onnxruntime")
        if found.get(name)
    ]
    return "".join(f", {text.removeprefix('cpu ')}" for text in named)


def _part(name: str, found: Facts) -> Iterator[str]:
    """Yield the part's tables and failures."""
    yield from BLOCKS[name](found)
    if failed := [f"- {what} failed: {one['failed']}" for what, one in found.items() if "failed" in one]:
        yield "\n".join(failed)


def _table(head: str, rows: list[str]) -> Iterator[str]:
    if rows:
        yield "\n".join(
            [f"| {head} |", "|" + "---|" * (head.count("|") + 1), *(f"| {row} |" for row in rows)]
        )


def _good(found: Facts, begin: str) -> Iterator[tuple[str, Facts]]:
    for what, one in found.items():
        if what.startswith(begin) and "failed" not in one:
            yield what, one


def _onnx(found: Facts) -> Iterator[str]:
    rows = []
    for what, one in _good(found, "verify"):
        a = one["found"] or {}
        shares = " | ".join(_number(a.get(key), _percent) for key in ("agreement", "clear_agreement"))
        errors = " | ".join(_number(a.get(key), _scientific) for key in ("worst_error", "mean_error"))
        rows.append(f"{what} | {one['provider']} | {one['state']} | {shares} | {errors} | {_ms(one['p50_s'])} "
                    f"| {_ms(one['reference_p50_s'])}")  # fmt: skip
    yield from _table(
        "file | provider | verdict | same class | of clear pixels | worst error | mean | ms a tile | CPU's",
        rows,
    )
    rows = [
        f"{what} | {one['provider']} | {one['mpx_per_s']:.1f} | {_number(one.get('differ'), _scientific)} "
        f"| {one['process_s']:.1f} | {_mib(one['gpu_bytes'])}"
        for what, one in _good(found, "infer")
    ]
    yield from _table("run | provider | Mpx/s | differ | s with start | GPU MiB", rows)
    for what, one in _good(found, "CUDA"):
        yield f"{what}: runs on {one['provider']}."


def _memory(found: Facts) -> Iterator[str]:
    rows = [
        f"{what} | {_mib(one['bytes'])} | {one['first_s']:.2f}"
        for what, one in found.items()
        if "first_s" in one
    ]
    yield from _table("at once | MiB with the model | s, first call", rows)
    rows = [
        f"{what} | {_mib(one['free_bytes'])} | {one.get('batch', '-')} | {one.get('halved', len(one['said']))} "
        f"| {_number(one.get('differ'), _scientific)} | {one.get('error', '-')}"
        for what, one in _good(found, "room")
    ]
    yield from _table("room for | MiB free | batch settled on | halved | pixels that differ | error", rows)
    said = sorted({text for _, one in _good(found, "room") for text in one["said"]})
    if said:
        yield "What ONNX Runtime said:\n\n" + "\n".join(f"- `{text[:250]}`" for text in said[:8])


def _speeds(found: Facts) -> Iterator[str]:
    rows = [
        f"{what} | {one['fps']['p50']:.1f} ({one['fps']['p10']:.1f} to {one['fps']['p90']:.1f}) "
        f"| {_number(one['x_teacher'] and one['x_teacher']['p50'], _plain)} "
        f"| {_number(one['paper_x_teacher'], _plain)} | {one['ms_a_batch']:.1f} "
        f"| {_mib(one.get('device_peak_bytes'))} | {one['first_s']:.1f}"
        for what, one in _good(found, "")
    ]
    yield from _table(
        "network | FPS (p10 to p90) | x teacher | paper | ms a batch | GPU MiB | s, first pass", rows
    )


def _train(found: Facts) -> Iterator[str]:
    rows = [
        f"{what} | {one['batch']} | {_number(one.get('steady_images_per_s'), _plain)} "
        f"| {_number(one.get('steady_wait_share'), _percent)} | {one['seconds_per_step']:.3f} "
        f"| {_mib(one['gpu_bytes'])} | {one['loss'][0]:.3f} to {one['loss'][-1]:.3f}"
        for what, one in _good(found, "")
        if one.get("loss")
    ]
    yield from _table("run | batch | images/s | waiting | s a step, with the start | GPU MiB | loss", rows)
    for what, one in found.items():
        if "weights_apart" in one:
            stop = f", stopped with exit code {one['exit_code']}" if "exit_code" in one else ""
            bits = (
                "the same bits"
                if one["same_bits"]
                else f"weights {one['weights_apart']:.1e} of their norm apart"
            )
            losses = " and ".join(f"{loss:.5f}" for loss in one["last_loss"])
            yield f"{what}{stop}: {bits}, last losses {losses}."


def _rtx(found: Facts) -> Iterator[str]:
    for what, one in _good(found, "compute"):
        knows = "knows" if one["known"] else "does not know"
        yield f"{what}: {one['sm'] or 'none'}; the compiler {knows} it."
    for what, one in _good(found, "build"):
        yield f"{what}: {one['bytes'] / MIB:.1f} MiB in {one['seconds']:.1f} s by version {one['version']}."


BLOCKS: dict[str, Callable[[Facts], Iterator[str]]] = {
    "onnx": _onnx, "memory": _memory, "eager": _speeds, "train": _train, "compile": _speeds, "rtx": _rtx,
}  # fmt: skip


def _number(value: float | None, how: Callable[[float], str]) -> str:
    return "-" if value is None else how(value)


def _plain(value: float) -> str:
    return f"{value:.1f}"


def _percent(value: float) -> str:
    return f"{value:.2%}"


def _scientific(value: float) -> str:
    return f"{value:.1e}" if value else "0"


def _ms(seconds: float | None) -> str:
    return _number(seconds, lambda s: f"{1e3 * s:.1f}")


def _mib(size_bytes: float | None) -> str:
    return _number(size_bytes, lambda b: f"{b / MIB:.0f}")
