"""Ends its process, or hangs, for tasks with certain values; adds one for all others."""

import ctypes
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from scatterzmq.nodes import Batch, FieldFormat, Node, NodeArgs

VALUE = {"value": FieldFormat("long", ())}


def hang() -> None:
    """For an hour, and with Python's lock held, so that no thread of the process does anything any more."""
    ctypes.PyDLL(None).sleep(3600)


WAYS: dict[str, Callable[[], object]] = {
    "exit": lambda: os._exit(3),
    "segfault": lambda: ctypes.string_at(0),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "hang": hang,
}
"""Killed: what the system does when memory runs out."""


class Grim(Node):
    """Add one, unless a value is named under one of the ways: then the process ends that way. With `once` only the
    first time, whichever process it is in. `diary`: gets a line "way value pid time" before each end, and the file
    `begun` beside it "time value pid" of whatever is begun.
    """

    pure = True

    def __init__(self, args: NodeArgs) -> None:
        self._ways = {value: way for way in WAYS for value in args.list_int(way, default=[])}
        self._once = set(args.list_int("once", default=[]))
        self._diary = Path(args.str("diary"))

    def inputs(self) -> dict[str, FieldFormat]:
        return VALUE

    def outputs(self) -> dict[str, dict[str, FieldFormat]]:
        return {"out": VALUE}

    def execute(self, batch: Batch) -> None:
        value = batch.uniform("value")
        numbers = value.tolist()
        began_s = time.monotonic()
        _append(self._diary.with_name("begun"), [f"{began_s} {number} {os.getpid()}\n" for number in numbers])
        for number in self._ways.keys() & set(numbers):
            way = self._ways[number]
            begins = f"{way} {number} "
            if number not in self._once or begins not in self._diary.read_text():
                _append(self._diary, [f"{begins}{os.getpid()} {time.monotonic()}\n"])
                WAYS[way]()
        batch.emit("out", value=value + 1)


def _append(path: Path, lines: Sequence[str]) -> None:
    """In one write: several processes do so."""
    with open(path, "a") as diary:
        diary.write("".join(lines))
