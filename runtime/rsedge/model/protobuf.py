"""Reader of protobuf messages, such as ONNX files, for devices without the onnx and protobuf packages."""

from __future__ import annotations

from collections.abc import Iterator


def fields(data: bytes | memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield the fields of a message as (number, value): numbers as int, messages, text and arrays as memory.

    Nothing is copied, so skipping weights costs nothing; fields of fixed width are left out. Raises ValueError
    or IndexError if the data is not a protobuf message.
    """
    data, at = memoryview(data), 0
    while at < len(data):
        key, at = _varint(data, at)
        if key > 0xFFFFFFFF:  # parsers disagree on such keys
            raise ValueError("a field number that is too large")
        number, wire_type = key >> 3, key & 7
        if number == 0:
            raise ValueError("field number 0")
        if wire_type == 0:
            value, at = _varint(data, at)
            yield number, value
        elif wire_type == 2:
            length, at = _varint(data, at)
            if at + length > len(data):
                raise ValueError("it ends in the middle of a field")
            yield number, data[at : at + length]
            at += length
        elif wire_type in {1, 5}:
            at += 8 if wire_type == 1 else 4
        else:
            raise ValueError(f"unknown wire type {wire_type}")


def messages(data: bytes | memoryview, number: int) -> Iterator[memoryview]:
    """Iterate over the nested messages (or texts) in field ``number`` of a message."""
    return (value for at, value in fields(data) if at == number and isinstance(value, memoryview))


def text(value: int | memoryview | None) -> str:
    """Return a field's value as text; "" if the field is missing. Raises ValueError if the value is a number."""
    if isinstance(value, int):
        raise ValueError(f"the number {value} where text was expected")  # noqa: TRY004  # of the file, not the call
    return "" if value is None else bytes(value).decode()


def _varint(data: memoryview, at: int) -> tuple[int, int]:
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
