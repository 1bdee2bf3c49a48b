"""Reads protobuf messages, which ONNX files are, without a library: a device has neither onnx nor protobuf."""

from __future__ import annotations

from collections.abc import Iterator


def fields(data: bytes | memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Fields of a message as (number, value): numbers as int, nested messages, text and arrays as memory.

    Nothing is copied, so weights are passed over at no cost; fields of fixed width are left out. Raises ValueError
    or IndexError where it is no such message.
    """
    data, at = memoryview(data), 0
    while at < len(data):
        key, at = _varint(data, at)
        if key > 0xFFFFFFFF:  # readers differ in what they make of it
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
    """The nested messages (or texts) that are field ``number`` of a message."""
    return (value for at, value in fields(data) if at == number and isinstance(value, memoryview))


def text(value: int | memoryview | None) -> str:
    """A field's value as text; "" where the field is missing. Raises ValueError where it is none."""
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
