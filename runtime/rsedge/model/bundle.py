"""Bundles: a folder of hashed artifacts with a manifest, or a single ``.onnx`` with the same facts."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from rsedge.documents import MOST_BYTES, odd_name, parse_json, read_bytes
from rsedge.errors import InputError, ModelError
from rsedge.files import whole_or_nothing
from rsedge.model.manifest import Manifest
from rsedge.model.onnx_metadata import onnx_metadata

MANIFEST_NAME = "manifest.json"
REPORT_NAME = "report.json"
SPEEDS_NAME = "speeds.json"  # measured by `rsedge verify` on each machine, so no manifest lists the file
METADATA_KEY = "rsedge"  # key of the manifest in an ONNX file's metadata_props
MOST_MODEL_BYTES = (1 << 31) - 1  # of an ONNX file, a protobuf message; engines are smaller, too
PRECISION_KEY = (
    "rsedge_precision"  # another key: one of PRECISIONS; missing in files of rsedge 0.1, which are fp32
)
MOST_PART_BYTES = 512 << 20  # of any other artifact
# Precisions of a graph's arithmetic. INT8 has a form for CPUs (uint8 activations), TensorRT 8 and TensorRT 10.
PRECISIONS = ("fp32", "fp16", "int8", "int8-trt8", "int8-trt10")
# The wheel holds the artifacts for CPUs; those for GPUs would triple its size and are in the repository.
DEFAULT_BUNDLE = Path(__file__).parents[1] / "models" / "landcover5-b0.rsedge"
FULL_BUNDLE = "runtime/models/landcover5-b0.rsedge"  # of a clone


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: the manifest and the artifact to run, whose hash was checked."""

    path: Path
    manifest: Manifest
    artifact: Path  # the ONNX file
    sha256: str
    precision: str  # of the artifact's arithmetic: one of PRECISIONS
    artifacts: Mapping[str, str] = field(
        default_factory=dict
    )  # name and SHA-256 of every file in the manifest
    _opened: list[bytes] = field(default_factory=list, init=False, repr=False, compare=False)

    @classmethod
    def open(cls, path: Path | str | None = None, precision: str | None = None) -> Bundle:
        """Open a bundle folder, a single ``.onnx`` exported by rsedge, or (None) the default bundle.

        ``precision`` None: fp32 of a folder, the file's own of a single file. Raises ModelError if the bundle is
        missing, foreign, edited (hash) or lacks the precision, InputError if the precision is unknown.
        """
        path = DEFAULT_BUNDLE if path is None else Path(path)
        if precision is not None and precision not in PRECISIONS:
            raise InputError(f"precision {precision!r} is unknown. Choose one of {', '.join(PRECISIONS)}")
        if path.is_dir():
            return cls._open_folder(path, precision or "fp32")
        if not path.exists():
            raise ModelError(
                f"{path} not found. Give a bundle folder (student.rsedge) or an .onnx exported by rsedge"
            )
        return cls._open_file(path, precision)

    @property
    def precisions(self) -> tuple[str, ...]:
        """Return the precisions that have an ONNX file, in the order of ``PRECISIONS``."""
        if self.artifact == self.path:
            return (self.precision,)
        return _precisions(self.artifacts)

    def sha256_of(self, precision: str) -> str | None:
        """Return the SHA-256 of a precision's ONNX file as listed; None if there is none."""
        return self.sha256 if precision == self.precision else self.artifacts.get(f"model.{precision}.onnx")

    @cached_property
    def report(self) -> dict[str, Any]:
        """The exporter's measurements, ``report.json``; {} if the file is missing or not a JSON object.

        Raises ModelError if the file's hash is not that of the manifest.
        """
        if REPORT_NAME not in self.artifacts or not (self.path / REPORT_NAME).is_file():
            return {}
        text = self.read(REPORT_NAME)
        try:
            facts = parse_json(text)
        except ValueError:
            return {}
        return facts if isinstance(facts, dict) else {}

    def record(self, precision: str | None = None) -> dict[str, Any]:
        """Return the report's entry for one artifact (None: the one to run); {} if it has none."""
        artifacts = self.report.get("artifacts")
        facts = (
            artifacts.get(f"model.{precision or self.precision}.onnx") if isinstance(artifacts, dict) else {}
        )
        return facts if isinstance(facts, dict) else {}

    def why_not(self, precision: str) -> str | None:
        """Return why no artifact's precision begins with ``precision``, from the report; None if one does.

        ``precision``: "fp16", "int8", or "int8-trt" for the artifacts that TensorRT takes.
        """
        if any(p.startswith(precision) for p in self.precisions):
            return None
        kind = precision.partition("-")[0].upper()
        said = list[str]()
        with suppress(AttributeError, KeyError, TypeError):  # a report in another format
            said += [str(note) for note in self.report.get("notes") or [] if kind in str(note)]
            for rung in self.report.get("ladder") or []:
                if any(p.startswith(precision) for p in rung["precisions"]) and not rung["passed"]:
                    said += map(str, rung["why"])
        return "; ".join(said) or elsewhere(self.path) or "it was not exported"

    def read(self, name: str) -> bytes:
        """Return the bytes, whose hash was checked, of one of the ``artifacts`` by its name.

        Raises ModelError if the artifact is not listed, missing or edited.
        """
        if name not in self.artifacts:
            known = ", ".join(sorted(self.artifacts)) or "none"
            raise ModelError(f"{self.path} has no {name} (its artifacts: {known})")
        path = self.path if self.artifact == self.path else self.path / name
        return _read_hashed(path, self.artifacts[name], MOST_PART_BYTES)

    def artifact_bytes(self) -> bytes:
        """Return the bytes of the artifact to run, so that a runtime cannot load a file that replaced it.

        The first call returns the bytes checked when the bundle was opened, and releases them; later calls read and
        check the file again. Raises ModelError if the file is missing or edited.
        """
        if self._opened:
            return self._opened.pop()
        return _read_hashed(self.artifact, self.sha256, MOST_MODEL_BYTES)

    @classmethod
    def _open_file(cls, path: Path, precision: str | None) -> Bundle:
        data = _read(path, MOST_MODEL_BYTES)
        metadata = onnx_metadata(data, str(path))
        if METADATA_KEY not in metadata:
            raise ModelError(
                f"{path} has no rsedge metadata, so its bands, classes and tile are unknown. "
                "Export the model with rsedge"
            )
        manifest = Manifest.from_json(metadata[METADATA_KEY], str(path))
        found = metadata.get(PRECISION_KEY, "fp32")
        if found not in PRECISIONS:
            raise ModelError(f"{path} has the unknown precision {found!r:.60}. Export the model again")
        if precision not in {None, found}:
            raise ModelError(
                f"{path} is {found}, not {precision}. Give the folder of its bundle, or leave --precision out"
            )
        digest = hashlib.sha256(data).hexdigest()
        opened = cls(path, manifest, path, digest, found, {path.name: digest})
        opened._opened.append(data)
        return opened

    @classmethod
    def _open_folder(cls, path: Path, precision: str) -> Bundle:
        manifest_path = path / MANIFEST_NAME
        if not manifest_path.is_file():
            raise ModelError(f"{path} is not a bundle: {MANIFEST_NAME} not found")
        text = _read(manifest_path)
        manifest = Manifest.from_json(text, str(manifest_path))
        artifacts = _artifacts(parse_json(text).get("artifacts"), manifest_path)
        name = f"model.{precision}.onnx"
        if name not in artifacts:
            known = ", ".join(sorted(artifacts)) or "none"
            has = ", ".join(_precisions(artifacts)) or "none"
            others = elsewhere(path) or "make others with `rsedge export`"
            raise ModelError(f"{path} has no {name} (artifacts: {known}; precisions: {has}); {others}")
        data = _read_hashed(path / name, artifacts[name], MOST_MODEL_BYTES)
        own = onnx_metadata(data, str(path / name)).get(METADATA_KEY)
        if own is not None and Manifest.from_json(own, name) != manifest:
            raise ModelError(
                f"{manifest_path} contradicts the metadata of {name}: one of them was edited. Copy or export the "
                "bundle again"
            )
        opened = cls(path, manifest, path / name, artifacts[name], precision, artifacts)
        opened._opened.append(data)
        return opened


def _artifacts(listed: Any, source: Path) -> dict[str, str]:
    """Return the names and hashes that a manifest lists. Raises ModelError if one is invalid."""
    if not isinstance(listed, dict):
        return {}
    for name, digest in listed.items():
        if (wrong := odd_name(name)) is not None:
            raise ModelError(f"{source}: the name of an artifact {wrong}. Copy or export the bundle again")
        if not (isinstance(digest, str) and re.fullmatch("[0-9a-f]{64}", digest)):
            raise ModelError(f"{source}: {name} has no SHA-256. Copy or export the bundle again")
    return listed


def _precisions(artifacts: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(p for p in PRECISIONS if f"model.{p}.onnx" in artifacts)


def elsewhere(path: Path) -> str:
    """Return where to find the files that the default bundle lacks; "" if ``path`` is another bundle."""
    if path.resolve() != DEFAULT_BUNDLE.resolve():
        return ""
    return f"the default model for GPUs and TensorRT is in a clone of rsedge: give its folder {FULL_BUNDLE}"


def _read(path: Path, most_bytes: int = MOST_BYTES) -> bytes:
    try:
        return read_bytes(path, most_bytes)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ModelError(f"{path} cannot be read: {error}. Copy or export the bundle again") from error


def _read_hashed(path: Path, expected: str, most_bytes: int) -> bytes:
    """Return the bytes of a file. Raises ModelError if the file is missing or its hash is not ``expected``."""
    if not path.is_file():
        raise ModelError(
            f"{path.parent}: {path.name} is listed in {MANIFEST_NAME} but missing. Copy the bundle again"
        )
    data = _read(path, most_bytes)
    found = hashlib.sha256(data).hexdigest()
    if found != expected:
        raise ModelError(
            f"{path} was changed (SHA-256 {found[:12]}..., expected {expected[:12]}...). Copy or export the bundle "
            "again"
        )
    return data


def write_bundle_manifest(folder: Path, manifest: Manifest) -> None:
    """Write ``manifest.json`` beside the artifacts in ``folder``, naming each with its SHA-256."""
    artifacts = {
        p.relative_to(folder).as_posix(): file_sha256(p)
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name not in {MANIFEST_NAME, SPEEDS_NAME}
    }
    facts = {**json.loads(manifest.to_json()), "artifacts": artifacts}
    with whole_or_nothing(folder / MANIFEST_NAME) as partial:
        partial.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, as hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
