from __future__ import annotations

import io
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest

from artifacts import graph_of, make_artifacts
from rsedge.errors import ModelError
from rsedge.model.bundle import Bundle, write_bundle_manifest
from rsedge.verify.tiles import REFERENCE_NAME, ReferenceAnswer
from toys import TILE, pointwise_manifest


def arrays(count: int = 2) -> dict[str, np.ndarray]:
    pixels = np.random.default_rng(1).integers(0, 256, (count, 3, TILE, TILE), np.uint8)
    return {
        "pixels": pixels,
        "classes": pixels.argmax(1).astype(np.uint8),
        "scores": pixels[:, :, ::8, ::8] * np.float16(1),
    }


def packed(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return file.getvalue()


def stored(**changes: object) -> dict[str, bytes]:
    """As ``np.savez`` writes them; a change is an array or bytes."""
    found = {}
    for name, value in {**arrays(), **changes}.items():
        file = io.BytesIO()
        if isinstance(value, bytes):
            file.write(value)
        else:
            np.save(file, value)
        found[name] = file.getvalue()
    return found


def answer_of(tmp_path: Path, data: bytes) -> ReferenceAnswer | None:
    manifest = pointwise_manifest()
    folder = make_artifacts(tmp_path / "b.rsedge", manifest, {"fp32": graph_of(manifest)})
    (folder / REFERENCE_NAME).write_bytes(data)
    write_bundle_manifest(folder, manifest)
    return ReferenceAnswer.of(Bundle.open(folder))


def header(shape: tuple[int, ...], dtype: str) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
    )
    return file.getvalue()


def test_what_the_exporter_wrote(tmp_path: Path) -> None:
    found = answer_of(tmp_path, packed(stored()))
    assert found is not None
    for name, value in arrays().items():
        np.testing.assert_array_equal(getattr(found, name), value)
    assert found.scores.dtype == np.float32


ZEROS = zlib.compress(bytes(1000))
WRONG = {
    "no zip": b"PK\x03\x04" + bytes(100),
    "empty": b"",
    "cut": packed(stored())[:-40],
    "cut in the middle": packed(stored())[:2000] + packed(stored())[4000:],
    "one is missing": packed({k: v for k, v in stored().items() if k != "scores"}),
    "another shape": packed(stored(classes=np.zeros((2, TILE, TILE + 1), np.uint8))),
    "another kind": packed(stored(pixels=np.zeros((2, 3, TILE, TILE), np.float64))),
    "another number": packed(stored(classes=np.zeros((3, TILE, TILE), np.uint8))),
    "no tiles": packed(stored(**arrays(0))),
    "one number": packed(stored(scores=np.float32(1))),
    "objects": packed(stored(scores=np.array([None]))),
    "no array": packed(stored(scores=b"hello")),
    "a header that is no dict": packed(stored(scores=b"\x93NUMPY\x01\x00\x10\x00" + b"[" * 16)),
    "shorter than it says": packed(stored(classes=header((2, TILE, TILE), "u1") + b"\0")),
}


@pytest.mark.parametrize("data", WRONG.values(), ids=WRONG)
def test_a_damaged_one_is_a_model_error(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(ModelError, match=r"reference\.npz"):
        answer_of(tmp_path, data)


def test_what_would_unpack_to_gigabytes_is_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiles = 2_000_000  # 24 GB of pixels
    shapes = {"pixels": ((tiles, 3, TILE, TILE), "u1"), "classes": ((tiles, TILE, TILE), "u1"),
              "scores": ((tiles, 3, 8, 8), "f4")}  # fmt: skip
    bomb = packed({name: header(*facts) + bytes(1 << 20) for name, facts in shapes.items()})
    monkeypatch.setattr(np.lib.format, "read_array", None)
    with pytest.raises(ModelError, match="2000000 tiles"):
        answer_of(tmp_path, bomb)


def test_any_flipped_bit_is_an_answer_or_a_model_error(tmp_path: Path) -> None:
    data = packed(stored())
    manifest = pointwise_manifest()
    folder = make_artifacts(tmp_path / "b.rsedge", manifest, {"fp32": graph_of(manifest)})
    rng = np.random.default_rng(3)
    for place in [*range(0, 200, 3), *rng.integers(0, len(data), 60), *range(len(data) - 300, len(data), 3)]:
        flipped = bytearray(data)
        flipped[place] ^= 1 << int(rng.integers(8))
        (folder / REFERENCE_NAME).write_bytes(flipped)
        write_bundle_manifest(folder, manifest)
        try:
            assert ReferenceAnswer.of(Bundle.open(folder)) is not None
        except ModelError:
            continue
