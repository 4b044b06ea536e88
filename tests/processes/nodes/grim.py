"""Ends its process, or hangs, or reports out of turn, for tasks with certain values; adds one for all others."""

import ctypes
import os
import signal
import time

from scatterzmq.nodes import Batch, FieldFormat, Node, NodeArgs

VALUE = {"value": FieldFormat("long", ())}


class Grim(Node):
    """Add one, unless the value asks for the end."""

    pure = True

    def __init__(self, args: NodeArgs) -> None:
        self._exit = args.int("exit", default=-1)
        self._segfault = args.int("segfault", default=-1)
        self._kill = args.int("kill", default=-1)
        self._hang = args.int("hang", default=-1)
        self._once = args.str("once", default="")

    def inputs(self) -> dict[str, FieldFormat]:
        return VALUE

    def outputs(self) -> dict[str, dict[str, FieldFormat]]:
        return {"out": VALUE}

    def execute(self, batch: Batch) -> None:
        value = batch.uniform("value")
        numbers = value.tolist()
        if self._exit in numbers and self._first("exit"):
            os._exit(3)
        if self._segfault in numbers and self._first("segfault"):
            ctypes.string_at(0)
        if self._kill in numbers and self._first("kill"):
            os.kill(os.getpid(), signal.SIGKILL)
        if self._hang in numbers and self._first("hang"):
            time.sleep(3600)
        batch.emit("out", value=value + 1)

    def _first(self, what: str) -> bool:
        """With a folder `once`: only the first time, whichever process it was in."""
        if not self._once:
            return True
        try:
            os.close(os.open(os.path.join(self._once, what), os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
        return True
