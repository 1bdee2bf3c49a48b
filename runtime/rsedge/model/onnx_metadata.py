"""Metadata of ONNX files, read without the onnx package, which devices lack.

An ONNX file is a protobuf message (onnx.proto: ModelProto). Graphs are walked only to make sure that all weights
are in the file; weights are skipped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rsedge.errors import ModelError
from rsedge.model.protobuf import fields, text

METADATA_FIELD = 14  # of the model; each entry is a message of two strings
MOST_METADATA, MOST_METADATA_BYTES = 1000, 64 << 20
MOST_FIELDS = 200_000  # of all walked messages together; rsedge's largest network has some thousands
MOST_NESTED = 40
EXTERNAL_DATA, DATA_LOCATION, EXTERNAL = 13, 14, 1  # fields of a tensor for weights in another file
LOCATION = b"location"  # key that every tensor with weights in another file has
# Fields of a message that are messages which can hold tensors, and their kinds.
INNER: Mapping[str, Mapping[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}


def onnx_metadata(data: bytes, source: str) -> dict[str, str]:
    """Return ``metadata_props`` of an ONNX file; errors name ``source``.

    Raises ModelError if the data is not an ONNX file, or keeps weights in other files, which no hash covers.
    """
    try:
        metadata = dict(_entries(data))
        external = _is_external(memoryview(data), "model", [MOST_FIELDS], 0)
    except (IndexError, KeyError, ValueError) as error:
        raise ModelError(
            f"{source} is not an ONNX file ({error}). The file may be damaged or incomplete"
        ) from error
    if external:
        raise ModelError(
            f"{source} keeps weights in other files, which its hash does not cover. Store them in the file itself "
            "(onnx.save without external data) and export the model again"
        )
    return metadata


def _entries(data: bytes) -> Iterator[tuple[str, str]]:
    count = size_bytes = 0
    for number, value in _bounded(data, [MOST_FIELDS]):
        if number == METADATA_FIELD and not isinstance(value, int):
            count, size_bytes = count + 1, size_bytes + len(value)
            if count > MOST_METADATA or size_bytes > MOST_METADATA_BYTES:
                raise ValueError("it has more metadata than any model")
            entry = dict(_bounded(value, [MOST_METADATA]))
            yield text(entry[1]), text(entry.get(2))


def _bounded(data: bytes | memoryview, left: list[int]) -> Iterator[tuple[int, int | memoryview]]:
    """Yield the fields of a message, and count them off the budget ``left`` of all messages."""
    for item in fields(data):
        left[0] -= 1
        if left[0] < 0:
            raise ValueError("it has more fields than any model")
        yield item


def _is_external(message: memoryview, kind: str, left: list[int], depth: int) -> bool:
    """Return True if a tensor in a message has its weights in another file."""
    if depth > MOST_NESTED:
        raise ValueError("its graphs are nested deeper than any model's")
    if kind == "tensor":
        return any(
            number == EXTERNAL_DATA
            or (number == DATA_LOCATION and isinstance(value, int) and value & 0xFFFFFFFF == EXTERNAL)
            for number, value in _bounded(message, left)
        )
    # Most nodes hold no tensor, and searching a node is a hundred times faster than parsing it.
    if kind == "node" and LOCATION not in bytes(message):
        return False
    inner = INNER[kind]
    return any(
        number in inner and not isinstance(value, int) and _is_external(value, inner[number], left, depth + 1)
        for number, value in _bounded(message, left)
    )
