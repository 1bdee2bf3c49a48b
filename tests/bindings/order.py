"""In which order the runner asks things of streams, events and the execution context."""

from __future__ import annotations

import fake_pycuda as cuda


class Noted:
    """The execution context, its calls noted among those of pycuda."""

    def __init__(self, context: object) -> None:
        self._context = context

    def __getattr__(self, name: str) -> object:
        method = getattr(self._context, name)

        def call(*args: object) -> object:
            cuda.calls.append(f"{name} {args[0]}")
            return method(*args)

        return call


def check_order(calls: list[str]) -> tuple[int, int]:
    """Of several batches: how many were executed, and how often the shape changed.

    One context has one scratch memory, so an execution on another stream waits for the event recorded right after the
    one before; and the shape changes only when the batch before is all done.
    """
    executed, shapes = 0, 0
    computed, done, waited, synchronized = None, None, set(), set()
    for at, call in enumerate(calls):
        words = call.split()
        if call.startswith("execute_async_v3"):
            stream = words[1]
            assert computed is None or (stream, computed) in waited, (
                f"{call} before event {computed}: {calls}"
            )
            executed += 1
            record = calls[at + 1].split()  # right behind, so that it stands for this execution
            assert (record[:2], record[-1]) == (["record", "event"], stream), calls
            computed = record[2]
        elif call.startswith("record event"):
            done = words[2]  # at last that behind the copies
        elif "waits for event" in call:
            waited.add((words[1], words[-1]))
        elif call.startswith("synchronize event"):
            synchronized.add(words[2])
        elif call.startswith("set_input_shape"):
            shapes += 1
            assert done is None or done in synchronized, f"{call} before event {done}: {calls}"
        if call.startswith("record event"):  # events are used again
            synchronized.discard(words[2])
            waited = {pair for pair in waited if pair[1] != words[2]}
    return executed, shapes
