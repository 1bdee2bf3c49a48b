"""Gives the stub's objects their answers (see stub.cpp), slot numbers found by calling and reading its log."""

from __future__ import annotations

import contextlib
import ctypes
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Stub:
    """The stand-in for libnvinfer, as loaded by the bindings."""

    def __init__(self, library: Path, wide_dims: bool) -> None:
        self._lib = ctypes.CDLL(str(library))
        self._lib.stub_log.restype = ctypes.c_char_p
        self._lib.stub_answer.argtypes = (
            ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t,
        )  # fmt: skip
        self._wide_dims = wide_dims  # 64-bit sides, from TensorRT 10 on
        self._kept: list[Any] = []

    def log(self) -> list[str]:
        return str(self._lib.stub_log().decode()).split()

    def clear(self) -> None:
        self._lib.stub_clear()

    def slots(self, call: Callable[[], object]) -> list[str]:
        """The virtual calls that a call of the bindings leads to."""
        before = len(self.log())
        with contextlib.suppress(
            UnicodeDecodeError
        ):  # an object where text was expected, before it has its answer
            call()
        return self.log()[before:]

    def answer(self, call: Callable[[], object], value: object, when: object = None) -> None:
        """From now on, what ``call`` asks of the library is answered with ``value``.

        ``value``: int (bools, enums and null too), text, or a tuple: a shape. ``when``: only for this first argument.
        """
        for slot in dict.fromkeys(self.slots(call)):
            self.set(slot, value, when)

    def set(self, slot: str, value: object, when: object = None) -> None:
        name = None if when is None else str(when).encode()
        if isinstance(value, tuple):
            sides = (*value, *[0] * (8 - len(value)))
            data = struct.pack("<ixxxx8q" if self._wide_dims else "<i8i", len(value), *sides)
            self._lib.stub_answer(slot.encode(), name, 0, data, len(data))
            return
        if isinstance(value, str | bytes):
            self._kept.append(
                ctypes.create_string_buffer(value.encode() if isinstance(value, str) else value)
            )
            value = ctypes.addressof(self._kept[-1])
        self._lib.stub_answer(slot.encode(), name, value, None, 0)

    def tell_apart(self, call: Callable[[], object]) -> None:
        """From now on, ``call``'s slot answers each first argument with an object of its own."""
        (slot,) = dict.fromkeys(self.slots(call)[:1])
        self.set(slot, 0, "no such argument")

    def answer_memory(self, memory: Any, content: bytes) -> None:
        """What an IHostMemory holds."""
        size = self.slots(lambda: memory.nbytes)
        for slot in size:
            self.set(slot, 0)
        kind = self.slots(lambda: memory.dtype)
        for slot in kind:
            self.set(slot, 2)  # INT8: bytes
        data = [s for s in self.slots(lambda: bytes(memory)) if s not in {*size, *kind}]
        for slot in data:
            self.set(slot, content)
        for slot in size:
            self.set(slot, len(content))
