"""Kinds for tests of graphs: test_cache."""

from collections.abc import MutableMapping

from ..graph.formats import Format
from .args import NodeArgs
from .base import Node, Resources
from .batch import Batch
from .text import TEXT


class TestCache(Node):
    """Return a text as it is the first time it is seen in this process, with a postfix after that."""

    __test__ = False  # its name is the kind's: no test to collect

    # It is not: but only what says so is cached, and this is to show whether it was.
    pure = True

    def __init__(self, args: NodeArgs) -> None:
        self._postfix = args.str("postfix").encode()
        self._seed = args.str("seed")
        self._memory: MutableMapping[str, object] | None = None

    def inputs(self) -> Format:
        return {"text": TEXT}

    def outputs(self) -> dict[str, Format]:
        return {"out": {"text": TEXT}}

    def load(self, resources: Resources) -> None:
        self._memory = resources.memory

    def unload(self) -> None:
        self._memory = None

    def execute(self, batch: Batch) -> None:
        assert self._memory is not None, "loaded before it is executed"
        seen = self._memory.setdefault(f"seen:{self._seed}", set())
        assert isinstance(seen, set)
        answers = []
        for text in batch.raw("text"):
            answers.append(text + self._postfix if text in seen else text)
            seen.add(text)
        batch.emit("out", text=answers)
