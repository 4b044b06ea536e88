"""A node whose memory on the device grows with its batch, and that says where it ran."""

import os
import time

import torch

from scatterzmq.nodes import Batch, FieldFormat, Node, NodeArgs

VALUE = {"value": FieldFormat("long", ())}
ENDS = {"value": FieldFormat("long", ()), "together": FieldFormat("long", ()), "pid": FieldFormat("long", ())}


class Hungry(Node):
    """Add one, with `bytes` of the device for each row and in `nap_s`. Says how many rows were together, and where."""

    pure = True

    def __init__(self, args: NodeArgs) -> None:
        self._bytes = args.int("bytes", default=0)
        self._nap_s = args.float("nap_s", default=0.0)

    def inputs(self) -> dict[str, FieldFormat]:
        return VALUE

    def outputs(self) -> dict[str, dict[str, FieldFormat]]:
        return {"out": ENDS}

    def execute(self, batch: Batch) -> None:
        value = batch.uniform("value")
        assert value.device.type == batch.device.type == "cuda"
        taken = torch.empty(self._bytes * len(batch), dtype=torch.uint8, device=batch.device)
        assert taken.is_cuda
        time.sleep(self._nap_s)
        batch.emit(
            "out",
            value=value + 1,
            together=torch.full_like(value, len(batch)),
            pid=torch.full_like(value, os.getpid()),
        )
