"""A batch of tensors for a node, run without any peer."""

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from scatterzmq.graph.formats import FieldFormat, Format
from scatterzmq.ids import TaskId
from scatterzmq.nodes import Batch, CallSite, Node, Resources
from scatterzmq.nodes.batch import Answer, Rejection
from scatterzmq.nodes.registry import Registry
from scatterzmq.wire.tensors import Column, from_tensors, to_tensors

MakeBatch = Callable[..., Batch]


def tasks(count: int) -> list[TaskId]:
    return [TaskId(f"T{number:032x}") for number in range(count)]


@pytest.fixture
def make_batch() -> MakeBatch:
    """batch(inputs, outputs, columns or rows of tensors, count=None, **the rest of Batch)"""

    def make(
        inputs: Format,
        outputs: Mapping[str, Format],
        values: Mapping[str, Column | Sequence[Tensor]] | None = None,
        count: int | None = None,
        **rest: Any,
    ) -> Batch:
        columns = {
            name: value if isinstance(value, Column) else from_tensors(list(value))
            for name, value in (values or {}).items()
        }
        if count is None:
            count = next(iter(columns.values())).layout.rows
        return Batch(
            place="ns:main:node", task_ids=tasks(count), inputs=inputs, outputs=outputs, columns=columns, **rest
        )

    return make


@dataclass
class Ran:
    """What a node made of a batch."""

    answers: list[Answer]
    rejections: list[Rejection]

    def rows(self, output: str) -> dict[int, dict[str, Tensor]]:
        """row -> field -> tensor"""
        found: dict[int, dict[str, Tensor]] = {}
        for answer in self.answers:
            if answer.output == output:
                for index, row in enumerate(answer.rows):
                    found[row] = {name: to_tensors(column)[index] for name, column in answer.columns.items()}
        return found

    def field(self, output: str, name: str) -> list[list[object]]:
        """The values of a field, in the order of the rows."""
        return [values[name].tolist() for _, values in sorted(self.rows(output).items())]

    def texts(self, output: str, name: str) -> list[str]:
        return [bytes(values[name].tolist()).decode() for _, values in sorted(self.rows(output).items())]


class NoBlobs:
    """Fails when it is used."""


@dataclass
class Runner:
    """Makes and runs nodes of a kind."""

    make_batch: MakeBatch
    folder: Path
    registry: Registry = field(default_factory=Registry)
    memory: MutableMapping[str, object] = field(default_factory=dict)

    def node(self, kind: str, args: Mapping[str, object] | None = None, blobs: object = None) -> Node:
        node = self.registry.create(kind, args or {}, ns="ns", place="ns:main:node")
        node.load(
            Resources(
                blobs=blobs or NoBlobs(),  # type: ignore[arg-type]
                make_scratch=lambda: self.folder,
                device=torch.device("cpu"),
                memory=self.memory,
            )
        )
        return node

    def batch(self, node: Node, values: Mapping[str, Sequence[Tensor] | Column], count: int | None = None) -> Batch:
        calls: Sequence[CallSite] = node.calls()
        return self.make_batch(node.inputs(), node.outputs(), values, count, calls=calls)

    def run(self, node: Node, values: Mapping[str, Sequence[Tensor] | Column], count: int | None = None) -> Ran:
        batch = self.batch(node, values, count)
        with torch.no_grad():
            node.execute(batch)
        return Ran(*batch.finish())


@pytest.fixture
def runner(make_batch: MakeBatch, tmp_path: Path) -> Runner:
    return Runner(make_batch, tmp_path)


@pytest.fixture
def float_2() -> FieldFormat:
    return FieldFormat("float", (2,))
