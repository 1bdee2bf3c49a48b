"""What an ONNX file says of itself, read without the onnx package: a device has none.

It is a protobuf message (onnx.proto: ModelProto). Graphs are walked only as far as it takes to know that all weights
are in the file; weights are passed over.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rsedge.errors import ModelError
from rsedge.model.protobuf import fields, text

METADATA_FIELD = 14  # of the model; each entry a message of two strings
MOST_METADATA, MOST_METADATA_BYTES = 1000, 64 << 20
MOST_FIELDS = 200_000  # of all messages that are walked; the largest network of rsedge has some thousands
MOST_NESTED = 40
EXTERNAL_DATA, DATA_LOCATION, EXTERNAL = 13, 14, 1  # of a tensor: where its numbers are, if not in it
LOCATION = b"location"  # the key without which no tensor's numbers are looked for elsewhere
# Which fields of a message are messages that can hold tensors, and of what kind.
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
    """``metadata_props`` of an ONNX file; ``source`` names it in errors.

    Raises ModelError when it is no such file, or keeps weights in other files: no hash covers those.
    """
    try:
        metadata = dict(_entries(data))
        external = _is_external(memoryview(data), "model", [MOST_FIELDS], 0)
    except (IndexError, KeyError, ValueError) as error:
        raise ModelError(
            f"{source} is not an ONNX file ({error}); it may be damaged or incomplete"
        ) from error
    if external:
        raise ModelError(
            f"{source} keeps weights in other files, which its hash does not cover; store them in the file itself "
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
    """Fields of a message, which are taken off those that are ``left`` to all of them."""
    for item in fields(data):
        left[0] -= 1
        if left[0] < 0:
            raise ValueError("it has more fields than any model")
        yield item


def _is_external(message: memoryview, kind: str, left: list[int], depth: int) -> bool:
    """Whether a tensor in a message has its numbers elsewhere."""
    if depth > MOST_NESTED:
        raise ValueError("its graphs are nested deeper than any model's")
    if kind == "tensor":
        return any(
            number == EXTERNAL_DATA
            or (number == DATA_LOCATION and isinstance(value, int) and value & 0xFFFFFFFF == EXTERNAL)
            for number, value in _bounded(message, left)
        )
    # Most nodes hold no tensor, and to search them is a hundred times as fast as to take them apart.
    if kind == "node" and LOCATION not in bytes(message):
        return False
    inner = INNER[kind]
    return any(
        number in inner and not isinstance(value, int) and _is_external(value, inner[number], left, depth + 1)
        for number, value in _bounded(message, left)
    )
