"""Writes down what it begins, and waits until it may go on; a note on the door says that it is to fail, once."""

import os
import time
from pathlib import Path

from scatterzmq.nodes import Batch, FieldFormat, Node, NodeArgs

VALUE = {"value": FieldFormat("long", ())}
WAIT_S = 120.0


class Held(Node):
    """Add one, when there is a file `go` in the folder. With a file `fail` there it fails, and takes that away."""

    pure = True

    def __init__(self, args: NodeArgs) -> None:
        self._folder = Path(args.str("folder"))

    def inputs(self) -> dict[str, FieldFormat]:
        return VALUE

    def outputs(self) -> dict[str, dict[str, FieldFormat]]:
        return {"out": VALUE}

    def execute(self, batch: Batch) -> None:
        value = batch.uniform("value")
        with open(self._folder / "diary", "a") as diary:  # in one write: several processes do so
            diary.write("".join([f"{number} {os.getpid()}\n" for number in value.tolist()]))
        until_s = time.monotonic() + WAIT_S
        while not (self._folder / "go").exists():
            assert time.monotonic() < until_s, "nobody let it go on"
            time.sleep(0.005)
        try:
            (self._folder / "fail").unlink()
        except FileNotFoundError:
            batch.emit("out", value=value + 1)
        else:
            raise RuntimeError("as the note says")
