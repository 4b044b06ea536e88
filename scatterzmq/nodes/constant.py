"""Kinds that bring data of their own: load_constant."""

from torch import Tensor

from ..graph.formats import Format
from .args import NodeArgs
from .base import Node, Resources
from .batch import Batch


class LoadConstant(Node):
    """Give each task the same tensor out of a blob."""

    pure = True
    thread_safe = True

    def __init__(self, args: NodeArgs) -> None:
        self._data = args.data("data")
        self._info = args.info("ret")
        self._constant: Tensor | None = None

    def inputs(self) -> Format:
        return {}

    def outputs(self) -> dict[str, Format]:
        return {"out": {"value": self._info}}

    def load_cost(self) -> float:
        return float(self._data.length)

    def load(self, resources: Resources) -> None:
        self._constant = resources.blobs.tensor(str(self._data), self._info)

    def unload(self) -> None:
        self._constant = None

    def execute(self, batch: Batch) -> None:
        assert self._constant is not None, "loaded before it is executed"
        batch.emit("out", value=self._constant.expand(len(batch), *self._constant.shape))
