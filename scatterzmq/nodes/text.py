"""Kinds that work on texts: str_concat."""

from ..graph.formats import FieldFormat, Format
from .args import NodeArgs
from .base import Node
from .batch import Batch

TEXT = FieldFormat("uint8", (None,))


class StrConcat(Node):
    """Join two texts with a delimiter between them."""

    pure = True
    thread_safe = True

    def __init__(self, args: NodeArgs) -> None:
        self._delimiter = args.str("delimiter").encode()

    def inputs(self) -> Format:
        return {"left": TEXT, "right": TEXT}

    def outputs(self) -> dict[str, Format]:
        return {"out": {"value": TEXT}}

    def execute(self, batch: Batch) -> None:
        delimiter = self._delimiter
        pairs = zip(batch.raw("left"), batch.raw("right"), strict=True)
        batch.emit("out", value=[left + delimiter + right for left, right in pairs])
