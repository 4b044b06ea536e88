"""A node for demonstrations and tests: takes a while per task, and writes down when each began, in which process."""

import os
import time

from scatterzmq.nodes import Batch, FieldFormat, Node, NodeArgs

VALUE = {"value": FieldFormat("long", ())}


class Nap(Node):
    """Add one, after a nap per task."""

    pure = True

    def __init__(self, args: NodeArgs) -> None:
        self._nap_ms = args.float("nap_ms", default=1.0)
        self._diary = args.str("diary", default="")

    def inputs(self) -> dict[str, FieldFormat]:
        return VALUE

    def outputs(self) -> dict[str, dict[str, FieldFormat]]:
        return {"out": VALUE}

    def execute(self, batch: Batch) -> None:
        value = batch.uniform("value")
        if self._diary:
            lines = [f"{time.monotonic()} {number} {os.getpid()}\n" for number in value.tolist()]
            with open(self._diary, "a") as diary:  # in one write: several processes do so
                diary.write("".join(lines))
        time.sleep(self._nap_ms / 1000 * len(batch))
        batch.emit("out", value=value + 1)
