from __future__ import annotations

import pytest

from rsedge.model.protobuf import fields, messages, text

MESSAGE = b"\x08\x96\x01" + b"\x15abcd" + b"\x1a\x02hi" + b"\x19abcdefgh" + b"\x1a\x03you"


def test_fields_of_a_message() -> None:
    assert [(n, v if isinstance(v, int) else bytes(v)) for n, v in fields(MESSAGE)] == [
        (1, 150), (3, b"hi"), (3, b"you"),
    ]  # fmt: skip
    assert [text(m) for m in messages(MESSAGE, 3)] == ["hi", "you"]
    assert list(messages(MESSAGE, 1)) == []
    assert text(None) == ""


@pytest.mark.parametrize(
    "data", [b"\x00\x01", b"\x1a\x05hi", b"\x1a", b"\x0b", b"\x08" + b"\xff" * 10 + b"\x01"]
)
def test_what_is_no_message(data: bytes) -> None:
    with pytest.raises((ValueError, IndexError)):
        list(fields(data))


def test_a_number_is_no_text() -> None:
    with pytest.raises(ValueError, match="the number 150"):
        text(150)
