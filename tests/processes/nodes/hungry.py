"""Wants memory, and for certain tasks more than any machine has; nothing of it is ever touched."""

import os
import resource
from pathlib import Path

import torch

from scatterzmq.nodes import Batch, FieldFormat, Node, NodeArgs

VALUE = {"value": FieldFormat("long", ())}
ENDLESS_BYTES = 1 << 48
"""More than a process can name: refused at once."""
SPARE_BYTES, ROW_BYTES = 256 << 20, 20 << 20
ROWS_MAX = SPARE_BYTES // ROW_BYTES


class Hungry(Node):
    """Add one. Its process may have 256 MiB more than it has while 20 MiB per task are asked for, so whole batches do
    not fit. For `tensor` torch is asked for too much, for `bytes` Python. `diary`: gets "rows fit|refused" per run.
    """

    pure = True

    def __init__(self, args: NodeArgs) -> None:
        self._tensor = args.int("tensor")
        self._bytes = args.int("bytes")
        self._diary = Path(args.str("diary"))

    def inputs(self) -> dict[str, FieldFormat]:
        return VALUE

    def outputs(self) -> dict[str, dict[str, FieldFormat]]:
        return {"out": VALUE}

    def execute(self, batch: Batch) -> None:
        value = batch.uniform("value")
        numbers = value.tolist()
        if self._tensor in numbers:
            torch.empty(ENDLESS_BYTES, dtype=torch.uint8)
        if self._bytes in numbers:
            bytearray(ENDLESS_BYTES)
        self._tell(len(numbers), "wanted")
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        before = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + SPARE_BYTES, before[1]))
        try:
            torch.empty(len(numbers) * ROW_BYTES, dtype=torch.uint8)
        finally:
            resource.setrlimit(resource.RLIMIT_AS, before)
        self._tell(len(numbers), "had")
        batch.emit("out", value=value + 1)

    def _tell(self, rows: int, what: str) -> None:
        with open(self._diary, "a") as diary:  # in one write: several processes do so
            diary.write(f"{rows} {what} {os.getpid()}\n")
