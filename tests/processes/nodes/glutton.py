"""Fills memory for one task, until the system puts an end to it; adds one for all others."""

import os
from pathlib import Path

from scatterzmq.nodes import Batch, FieldFormat, Node, NodeArgs

VALUE = {"value": FieldFormat("long", ())}
PIECE_BYTES = 16 << 20


class Glutton(Node):
    """Add one. For `greedy` it fills `eat_bytes` first, and fails if there was memory for all of that. `diary`: gets a
    line "pid" before.
    """

    pure = True

    def __init__(self, args: NodeArgs) -> None:
        self._greedy = args.int("greedy")
        self._eat_bytes = args.int("eat_bytes")
        self._diary = Path(args.str("diary"))

    def inputs(self) -> dict[str, FieldFormat]:
        return VALUE

    def outputs(self) -> dict[str, dict[str, FieldFormat]]:
        return {"out": VALUE}

    def execute(self, batch: Batch) -> None:
        value = batch.uniform("value")
        if self._greedy in value.tolist():
            with open(self._diary, "a") as diary:
                diary.write(f"{os.getpid()}\n")
            eaten = [b"x" * PIECE_BYTES for _ in range(self._eat_bytes // PIECE_BYTES)]
            raise AssertionError(f"there was memory for {len(eaten)} pieces")
        batch.emit("out", value=value + 1)
