"""Makes much of little: results that are large, of tasks that are not."""

from scatterzmq.nodes import Batch, FieldFormat, Node, NodeArgs

ROW_FLOATS = 1 << 18
"""One MiB per task."""


class Swell(Node):
    """A number, a quarter of a million times. Waits `nap_ms` per batch before."""

    pure = True

    def __init__(self, args: NodeArgs) -> None:
        del args

    def inputs(self) -> dict[str, FieldFormat]:
        return {"value": FieldFormat("float", ())}

    def outputs(self) -> dict[str, dict[str, FieldFormat]]:
        return {"out": {"value": FieldFormat("float", (ROW_FLOATS,))}}

    def execute(self, batch: Batch) -> None:
        value = batch.uniform("value")
        batch.emit("out", value=value.reshape(-1, 1).expand(-1, ROW_FLOATS).contiguous())
