"""Packages that a rented GPU machine with torch but no network lacks, in pieces small enough to transfer.

    python benchmarks/gpu_kit.py make .gpu-kit [--sm 90] [--piece-mb 60] [--rtx]
    python3 benchmarks/gpu_kit.py install .gpu-kit/1 [.gpu-kit/2 ...] --target SITE

``make gpu-kit``, on a machine with a network, runs the first; the second runs on the GPU machine, which then takes
SITE as PYTHONPATH. Piece 1 holds the wheels for training, the others onnxruntime-gpu (for torch's CUDA 13 and
cuDNN 9) and, with --rtx, TensorRT for RTX: trees packed by xz and cut when a piece is full. Pieces can be
installed one by one, as they arrive; a tree appears with its last piece. Needs only the standard library and pip.

--sm 90   keep only ONNX Runtime's machine code for GPUs of compute capability 9.0: its CUDA provider
          then takes a quarter of the space. Without it, the kit fits every GPU that NVIDIA's libraries support
"""

from __future__ import annotations

import argparse
import lzma
import os
import platform
import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

PYTHON = "3.12"  # on the GPU machine
GLIBC = (28, 27, 24, 17)  # manylinux_2_N that wheels are published for
# The machine has torch, timm, typer, numpy, onnx and their dependencies.
WHEELS = (
    "rasterio>=1.4", "affine", "cligj", "hydra-core>=1.3", "omegaconf>=2.3,<2.4", "iopath>=0.1.9",
)  # fmt: skip
SOURCES = ("antlr4-python3-runtime==4.9.3", "sam2>=1.1")  # published without a wheel; both are pure Python
ONNXRUNTIME = "onnxruntime-gpu>=1.30"  # the first version on the index for CUDA 13
RTX = ("onnxruntime-ep-nv-tensorrt-rtx-cu13", "tensorrt-rtx-cu13-bindings")
# The C library, of which Python's module holds a copy, and TensorRT's provider, as the machine has no TensorRT.
NOT_NEEDED = ("capi/libonnxruntime.so", "libonnxruntime_providers_tensorrt.so")
MB = 10**6
CONTAINER, ENTRY = 16, 32  # bytes of a container's header, and the least of an entry's header
FATBIN = struct.pack("<IH", 0xBA55ED50, 1)  # first bytes of a container of CUDA machine code
XZ = [
    {"id": lzma.FILTER_X86},
    {"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": 64 << 20},
]


@dataclass
class Pieces:
    """Folders 1, 2, ... under ``out``, each of at most ``most_bytes``."""

    out: Path
    most_bytes: int
    number: int = 0
    left: int = field(default=0, init=False)

    def next(self) -> Path:
        """Start another piece."""
        self.number += 1
        self.left = self.most_bytes
        folder = self.out / str(self.number)
        folder.mkdir(parents=True)
        return folder

    def put(self, file: Path) -> None:
        """Store a file whole. Raises ValueError if no piece is large enough."""
        size = file.stat().st_size
        if size > self.most_bytes:
            raise ValueError(f"{file.name} has {size / MB:.0f} MB, a piece takes {self.most_bytes / MB:.0f}")
        folder = self.next() if size > self.left else self.out / str(self.number)
        shutil.copy(file, folder)
        self.left -= size

    def cut(self, file: Path) -> None:
        """Cut a file into as few parts as possible, each in a piece of its own and named ``NAME.K-of-N``."""
        size = file.stat().st_size
        count = -(-size // self.most_bytes)
        with file.open("rb") as source:
            for index in range(count):
                target = self.next() / f"{file.name}.{index + 1}-of-{count}"
                target.write_bytes(source.read(self.most_bytes))
        self.left = self.most_bytes - size % self.most_bytes


def make(out: Path, sm: int | None, piece_bytes: int, rtx: bool) -> None:
    """Gather everything into pieces, replacing an older kit."""
    shutil.rmtree(out, ignore_errors=True)
    pieces = Pieces(out, piece_bytes)
    with tempfile.TemporaryDirectory(prefix="rsedge-gpu-kit-") as folder:
        work = Path(folder)
        for file in (*_download(work / "wheels", WHEELS), *_build(work / "built", SOURCES)):
            pieces.put(file)
        for name in (ONNXRUNTIME, *(RTX if rtx else ())):
            (wheel,) = _download(work / "large", (name,))
            print(f"{wheel.name}: {wheel.stat().st_size / MB:.1f} MB, packs", file=sys.stderr, flush=True)
            packed = _repack(wheel, work, sm)
            wheel.unlink()
            pieces.cut(packed)
    for number in range(1, pieces.number + 1):
        files = sorted((out / str(number)).iterdir())
        total = sum(file.stat().st_size for file in files)
        print(f"{out / str(number)}: {total / MB:.1f} MB: {', '.join(file.name for file in files)}")


def install(pieces: Sequence[Path], target: Path) -> None:
    """Put the pieces' contents under ``target``; parts of a tree wait there until the others arrive."""
    waiting = target / ".parts"
    waiting.mkdir(parents=True, exist_ok=True)
    wheels = [str(file) for piece in pieces for file in sorted(piece.glob("*.whl"))]
    if wheels:
        quiet = ("--quiet", "--no-index", "--no-deps", "--no-compile", "--no-cache-dir", "--upgrade")
        pip(["install", *quiet, "--target", str(target), *wheels])
    for piece in pieces:
        for part in piece.glob("*-of-*"):
            shutil.copy(part, waiting)
    for first in sorted(waiting.glob("*.1-of-*")):
        stem, count = first.name.rsplit(".1-of-", 1)
        parts = [waiting / f"{stem}.{number}-of-{count}" for number in range(1, int(count) + 1)]
        if missing := [part.name for part in parts if not part.exists()]:
            print(f"{stem} waits for {', '.join(missing)}")
            continue
        _unpack(parts, target)
        print(f"{stem} is in {target}")
        for part in parts:
            part.unlink()


def pip(words: Sequence[str]) -> None:
    """Run this interpreter's pip."""
    subprocess.run([sys.executable, "-m", "pip", *words], check=True)


def only_sm(code: bytearray, sm: int) -> int:
    """Remove other GPUs' machine code from a library, in place, and return how many bytes became zeros.

    Each container keeps its place and begins with the kept code; a container without code for ``sm`` is unchanged.
    """
    blanked = 0
    for begin, end, entries in _containers(code):
        kept = [entry for entry in entries if entry[0] == sm]
        if not kept or len(kept) == len(entries):
            continue
        body = b"".join(bytes(code[start:stop]) for _, start, stop in kept)
        code[begin:end] = body + bytes(end - begin - len(body))
        struct.pack_into("<Q", code, begin - 8, len(body))
        blanked += end - begin - len(body)
    return blanked


def _containers(code: bytearray) -> Iterator[tuple[int, int, list[tuple[int, int, int]]]]:
    """Yield begin and end of each container's body, and its entries."""
    at = -1
    while (at := code.find(FATBIN, at + 1)) >= 0:
        if at + CONTAINER <= len(code):
            header, size = struct.unpack_from("<HQ", code, at + 6)
            begin, end = at + header, at + header + size
            entries = _entries(code, begin, end) if end <= len(code) else []
            if entries and entries[-1][2] == end:  # otherwise these are the bytes of some constant
                yield begin, end, entries
                at = end - 1


def _entries(code: bytearray, begin: int, end: int) -> list[tuple[int, int, int]]:
    """Return compute capability, begin and end of each piece of machine code, until an entry is invalid."""
    found = list[tuple[int, int, int]]()
    while begin + ENTRY <= end:
        header, length = struct.unpack_from("<IQ", code, begin + 4)
        if header < ENTRY or begin + header + length > end:
            break
        (sm,) = struct.unpack_from("<I", code, begin + 28)
        found.append((sm, begin, begin + header + length))
        begin += header + length
    return found


def _download(folder: Path, names: Sequence[str]) -> list[Path]:
    """Download wheels for the machine and return them smallest first."""
    machine = platform.machine()
    places = [f"manylinux_2_{n}_{machine}" for n in GLIBC] + [f"manylinux2014_{machine}"]
    wanted = [word for place in places for word in ("--platform", place)]
    kind = ("--no-deps", "--only-binary=:all:", "--python-version", PYTHON, "--implementation", "cp")
    pip(["download", "--quiet", *kind, *wanted, "--dest", str(folder), *names])
    return sorted(folder.glob("*.whl"), key=lambda file: file.stat().st_size)


def _build(folder: Path, names: Sequence[str]) -> list[Path]:
    """Build wheels of source packages. Raises ValueError if a wheel is specific to this machine."""
    os.environ["SAM2_BUILD_CUDA"] = "0"
    pip(["wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), *names])
    found = sorted(folder.glob("*.whl"))
    if bound := [file.name for file in found if not file.name.endswith("none-any.whl")]:
        raise ValueError(f"{bound[0]} is not a pure Python wheel")
    return found


def _repack(wheel: Path, work: Path, sm: int | None) -> Path:
    """Pack the wheel's tree as tar.xz, without unneeded files."""
    tree = work / wheel.name.split("-")[0]
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(
            tree, [name for name in archive.namelist() if not any(n in name for n in NOT_NEEDED)]
        )
    for library in tree.rglob("*_providers_cuda.so") if sm else ():
        code = bytearray(library.read_bytes())
        print(
            f"{library.name}: {only_sm(code, sm or 0) / MB:.0f} MB of {len(code) / MB:.0f} are not for SM {sm}"
        )
        library.write_bytes(code)
    packed = work / f"{tree.name}.tar.xz"
    with lzma.open(packed, "wb", filters=XZ) as file, tarfile.open(fileobj=file, mode="w") as archive:
        archive.add(tree, ".")
    shutil.rmtree(tree)
    return packed


def _unpack(parts: Sequence[Path], target: Path) -> None:
    with tempfile.TemporaryFile() as whole:
        for part in parts:
            with part.open("rb") as source:
                shutil.copyfileobj(source, whole)
        whole.seek(0)
        with tarfile.open(fileobj=whole, mode="r:xz") as archive:
            archive.extractall(target)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    maker = commands.add_parser("make")
    maker.add_argument("out", type=Path)
    maker.add_argument("--sm", type=int, help="compute capability of the one GPU, e.g. 90")
    maker.add_argument("--piece-mb", type=float, default=60.0)
    maker.add_argument("--rtx", action="store_true", help="TensorRT for RTX as well (about 150 MB)")
    installer = commands.add_parser("install")
    installer.add_argument("pieces", type=Path, nargs="+")
    installer.add_argument("--target", type=Path, required=True)
    args = parser.parse_args()
    if args.command == "make":
        make(args.out, args.sm, int(args.piece_mb * MB), args.rtx)
    else:
        install(args.pieces, args.target)


if __name__ == "__main__":
    main()
