"""A bundle: a folder of hashed artifacts with a manifest, or one lone ``.onnx`` with the same facts."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from rsedge.errors import ModelError
from rsedge.files import whole_or_nothing
from rsedge.manifest import Manifest

MANIFEST_NAME = "manifest.json"
METADATA_KEY = "rsedge"  # key of the manifest in an ONNX file's metadata_props
DEFAULT_BUNDLE = Path(__file__).parent / "models" / "landcover5-b0.rsedge"


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: the manifest and the artifact to run, its hash checked."""

    path: Path
    manifest: Manifest
    artifact: Path  # the ONNX file
    sha256: str
    precision: str  # of the artifact's arithmetic: "fp32", "fp16" or "int8"

    @classmethod
    def open(cls, path: Path | str | None = None, precision: str = "fp32") -> Bundle:
        """Open a bundle folder, a lone ``.onnx`` exported by rsedge, or (None) the default bundle.

        Raises ModelError when it is missing, foreign, edited (hash) or lacks the precision.
        """
        path = DEFAULT_BUNDLE if path is None else Path(path)
        if path.is_dir():
            return cls._open_folder(path, precision)
        if not path.exists():
            raise ModelError(
                f"no model at {path}; give a bundle folder (student.rsedge) or an .onnx exported by rsedge"
            )
        text = onnx_metadata(path).get(METADATA_KEY)
        if text is None:
            raise ModelError(
                f"{path} carries no rsedge metadata, so its bands, classes and tile are unknown; "
                "export it with rsedge"
            )
        manifest = Manifest.from_json(text, str(path))
        return cls(path, manifest, path, file_sha256(path), precision="fp32")

    @classmethod
    def _open_folder(cls, path: Path, precision: str) -> Bundle:
        manifest_path = path / MANIFEST_NAME
        if not manifest_path.is_file():
            raise ModelError(f"{path} is not a bundle: it has no {MANIFEST_NAME}")
        text = manifest_path.read_bytes()
        manifest = Manifest.from_json(text, str(manifest_path))
        artifacts = json.loads(text).get("artifacts")
        artifacts = artifacts if isinstance(artifacts, dict) else {}
        name = f"model.{precision}.onnx"
        if name not in artifacts:
            known = ", ".join(sorted(artifacts)) or "none"
            raise ModelError(f"{path} has no {name}; its artifacts: {known}")
        artifact = path / name
        if not artifact.is_file():
            raise ModelError(
                f"{path}: {name} is listed in {MANIFEST_NAME} but missing; copy the bundle again"
            )
        found = file_sha256(artifact)
        if found != artifacts[name]:
            raise ModelError(
                f"{artifact} is not the file its manifest names (SHA-256 {found[:12]}..., "
                f"expected {str(artifacts[name])[:12]}...); copy or export the bundle again"
            )
        return cls(path, manifest, artifact, found, precision)


def write_bundle_manifest(folder: Path, manifest: Manifest) -> None:
    """Write ``manifest.json`` beside the artifacts in ``folder``, naming each with its SHA-256."""
    artifacts = {
        p.relative_to(folder).as_posix(): file_sha256(p)
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name != MANIFEST_NAME
    }
    facts = {**json.loads(manifest.to_json()), "artifacts": artifacts}
    with whole_or_nothing(folder / MANIFEST_NAME) as partial:
        partial.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def onnx_metadata(path: Path) -> dict[str, str]:
    """``metadata_props`` of an ONNX file, read without the onnx package.

    An ONNX file is a protobuf message; its metadata are the top-level fields number 14, each a
    message of two strings (onnx.proto: StringStringEntryProto). Weights and graph are skipped.

    Raises ModelError when the file is not such a message.
    """
    try:
        fields = _protobuf_fields(path.read_bytes())
        entries = [dict(_protobuf_fields(value)) for number, value in fields if number == 14]
        return {e[1].decode(): e.get(2, b"").decode() for e in entries}
    except (IndexError, KeyError, ValueError) as error:
        raise ModelError(f"{path} is not an ONNX file ({error}); it may be damaged or incomplete") from error
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from error


def _protobuf_fields(data: bytes) -> list[tuple[int, bytes]]:
    """Length-delimited fields of a protobuf message as (number, bytes); other fields are skipped."""
    fields, at = [], 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire_type = key >> 3, key & 7
        if number == 0:
            raise ValueError("field number 0")
        if wire_type == 0:
            _, at = _varint(data, at)
        elif wire_type == 2:
            length, at = _varint(data, at)
            if at + length > len(data):
                raise ValueError("it ends in the middle of a field")
            fields.append((number, data[at : at + length]))
            at += length
        elif wire_type in {1, 5}:
            at += 8 if wire_type == 1 else 4
        else:
            raise ValueError(f"unknown wire type {wire_type}")
    return fields


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if shift > 63:
            raise ValueError("a number longer than 64 bits")
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7
